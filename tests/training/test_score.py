"""Every held-out source is run and scored apart, and a second call changes nothing."""

import json
from pathlib import Path

import polars as pl
import pytest

pytest.importorskip("datasets", reason="datasets is not installed; the training extra brings it")

from radlite_batch.errors import RunChanged, UsageError
from radlite_batch.pack import load_pack
from training import score as scoring
from training.datasets.base import Sample
from training.datasets.mix import Mix
from training.prepare import prepare
from training.score import score_pack

RECORDS = [
    {"id": "a", "text": "One node in the hilum.", "n": "N1", "m": "M0"},
    {"id": "b", "text": "No nodes.", "n": "N0"},
    {"id": "c", "premise": "A node.", "hypothesis": "No node.", "label": "contradiction"},
]


def test_sources_are_scored_apart_and_once(tmp_path: Path) -> None:
    for part in ("train", "heldout"):
        (tmp_path / "corpus" / part).mkdir(parents=True)
        lines = [json.dumps({**record, "id": f"{part}-{record['id']}"}) for record in RECORDS[: 3 if part > "i" else 2]]
        (tmp_path / "corpus" / part / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    prepare(Mix({"corpus": tmp_path / "corpus"}), tmp_path / "mix")
    said: list[str] = []
    assert score_pack("fake", tmp_path / "mix", tmp_path / "out", said.append) == 0
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())["corpus"]["all"]
    assert {(s["task"], s["n"]) for s in scores if s["metric"] == "accuracy"} == {("n_staging", 2), ("m_staging", 1)}
    assert "corpus" in said
    runs = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").rglob("*.parquet")}
    assert score_pack("fake", tmp_path / "mix", tmp_path / "out", said.append) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").rglob("*.parquet")} == runs
    with pytest.raises(RunChanged):
        score_pack("smol-zero", tmp_path / "mix", tmp_path / "out", said.append)


def test_the_test_part_of_a_source_is_scored_apart_and_nothing_is_an_error(tmp_path: Path) -> None:
    def sample(split: str, subset: str = "") -> Sample:
        targets = {"n_staging": {"stage": "N0"}}
        return Sample(
            "made", f"{split}{subset}", split, f"No nodes, {split}.", targets=targets, split=split, subset=subset
        )

    parts = {"dev": [sample("dev")], "test": [sample("test"), sample("test", "old")]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "read_prepared", lambda prepared, split: parts.get(split, []))
        assert score_pack("fake", tmp_path / "mix", tmp_path / "out", lambda line: None) == 0
        assert set(json.loads((tmp_path / "out" / "scores.json").read_text())) == {"made", "made-test", "made-old-test"}
        parts.clear()
        with pytest.raises(UsageError, match="mix: nothing is held out there"):
            score_pack("fake", tmp_path / "mix", tmp_path / "none", lambda line: None)


def test_tasks_that_the_pack_does_not_serve_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "corpus" / "heldout").mkdir(parents=True)
    (tmp_path / "corpus" / "train").mkdir()
    (tmp_path / "corpus" / "train" / "a.jsonl").write_text(json.dumps({"id": "t", "text": "Node.", "n": "N1"}))
    lines = [json.dumps({"id": str(i), "text": f"No nodes, {i}.", "n": "N0", "m": "M0"}) for i in range(3)]
    (tmp_path / "corpus" / "heldout" / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    prepare(Mix({"corpus": tmp_path / "corpus"}), tmp_path / "mix")
    fake = load_pack("fake").path.read_text(encoding="utf-8")
    for task, said in (("m_staging", "corpus"), ("radiology_qa", "has no model for its tasks")):
        (tmp_path / "some.toml").write_text(fake.partition("[routes]")[0] + f'[routes]\n{task} = "fake"\n')
        lines = []
        assert score_pack(str(tmp_path / "some.toml"), tmp_path / "mix", tmp_path / task, lines.append) == 0
        assert said in lines[0]
    scores = json.loads((tmp_path / "m_staging" / "scores.json").read_text())["corpus"]["all"]
    assert {s["task"] for s in scores} == {"m_staging"}


def test_a_limit_draws_the_same_reports_at_every_call(tmp_path: Path) -> None:
    for part in ("train", "heldout"):
        (tmp_path / "corpus" / part).mkdir(parents=True)
        lines = [json.dumps({"id": f"{part}-{i}", "text": f"{part} {i}", "n": "N0"}) for i in range(9)]
        (tmp_path / "corpus" / part / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    prepare(Mix({"corpus": tmp_path / "corpus"}), tmp_path / "mix")
    chosen = []
    for out in (tmp_path / "one", tmp_path / "two"):
        assert score_pack("fake", tmp_path / "mix", out, lambda line: None, limit=4) == 0
        chosen.append(pl.read_parquet(out / "archives" / "corpus" / "reports.parquet")["report_id"].to_list())
    assert len(chosen[0]) == 4 and chosen[0] == chosen[1]
    with pytest.raises(UsageError, match="archives: holds other samples"):
        score_pack("fake", tmp_path / "mix", tmp_path / "one", lambda line: None, limit=3)
