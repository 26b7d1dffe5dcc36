# Everything runs in .venv, which the first target that needs it makes. Needs Python 3.11+, make and a C++ compiler.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export HF_HUB_OFFLINE := 1

.PHONY: demo test faults clean

demo: $(VENV)/.run
	@rm -rf out/demo
	$(BIN)/radlite run jobs/demo.toml
	@$(BIN)/python sample_data/show.py out/demo

test: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist loadfile

faults: $(VENV)/.dev
	@rm -f out/faults.jsonl
	RADLITE_FAULTS=full $(BIN)/python -m pytest tests/faults
	@$(BIN)/python tests/faults/table.py

clean:
	rm -rf $(VENV) build *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --editable '.[smol]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --editable '.[smol,dev,training]'
	@touch $@ $(VENV)/.run
