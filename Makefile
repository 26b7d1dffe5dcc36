# Everything runs in .venv, which the first target that needs it makes. Needs Python 3.11+, make and a C++ compiler.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export HF_HUB_OFFLINE := 1

ROUNDS ?= 6# of training, each from the adapter of the one before
RECIPE ?= smol# or a copy of it that keeps its name

.PHONY: demo test faults adapter clean

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

# DATA: the folder of the open sources' files. Goes on where it was, if it is made again after a kill.
adapter: $(VENV)/.dev
	test -d out/mix || $(BIN)/radlite-train prepare $(RECIPE) --data $(DATA) --output out/mix
	@begin=; for n in $$(seq $(ROUNDS)); do \
		$(BIN)/radlite-train fit $(RECIPE) --data out/mix --output out/fit-$$n $$begin && \
		$(BIN)/radlite-train export $(RECIPE) --fit out/fit-$$n --output out/fit-$$n || exit 1; \
		fits="$$last --fit out/fit-$$n"; last="--fit out/fit-$$n"; begin="--begin-with out/fit-$$n/smol.gguf"; \
	done; $(BIN)/radlite-train export $(RECIPE) $$fits --output out/pack
	$(BIN)/radlite-train calibrate out/pack/smol.toml out/mix --output out/calibration.json --write
	$(BIN)/radlite-train score out/pack/smol.toml out/mix --output out/scores

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
