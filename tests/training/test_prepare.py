"""From sources to what training reads: whole or not at all, the same each time, counted."""

import json
from pathlib import Path

import pytest

pytest.importorskip("datasets", reason="datasets is not installed; the training extra brings it")

from datasets import load_from_disk

from radlite_batch.errors import ArchiveError, UsageError
from training.datasets.mix import Mix
from training.datasets.picture import can_draw
from training.prepare import COLUMNS, prepare, prepared_sha256, read_prepared, summary_lines


def reports(folder: Path, split: str, *words: str) -> None:
    tokens = [{"background": [], "findings": word.split(), "impression": ["Seen", "."]} for word in words]
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in tokens))


def pairs(folder: Path, name: str, *premises: str, label: str = "neutral") -> None:
    read = [{"sentence1": premise, "sentence2": "There is a mass.", "gold_label": label} for premise in premises]
    (folder / name).write_text("".join(json.dumps(line) + "\n" for line in read))


@pytest.fixture
def mix(tmp_path: Path) -> Mix:
    reports(tmp_path, "train", "A small cyst", "No change", "Large heart", "Clear lungs")
    reports(tmp_path, "dev", "no  CHANGE")
    pairs(tmp_path, "radnli_dev_v1.jsonl", *(f"Premise {i}." for i in range(20)))
    pairs(tmp_path, "radnli_test_v1.jsonl", "A premise.", label="entailment")
    return Mix({"zhang2018": tmp_path, "radnli": tmp_path}, caps={"impression_generation": 2, "radiology_nli": 480})


def test_prepared_samples_are_those_of_the_sources(mix: Mix, tmp_path: Path) -> None:
    document = prepare(mix, tmp_path / "out")
    train, dev, test = (read_prepared(tmp_path / "out", split) for split in ("train", "dev", "test"))
    texts = {s.text for s in train if s.source == "zhang2018"}
    assert len(texts) == 2 and "FINDINGS: No change\nIMPRESSION: Seen." not in texts
    assert [s.id for s in dev if s.source == "zhang2018"] == ["dev:1"]
    (held_out,) = test
    assert held_out.fields == {"premise": "A premise.", "hypothesis": "There is a mass."}
    assert held_out.targets == {"radiology_nli": {"label": "entailment"}} and held_out.split == "test"
    assert sum(s.source == "radnli" for s in (*train, *dev)) == 20
    assert document["dropped"] == {"text held out": 1, "over the caps": 1}
    assert load_from_disk(str(tmp_path / "out"))["train"].column_names == list(COLUMNS)


def test_what_was_prepared_is_counted(mix: Mix, tmp_path: Path) -> None:
    document = prepare(mix, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "prepare.json").read_text()) == document
    nli = document["tasks"]["radiology_nli"]
    assert nli["test"] == {"samples": 1, "sources": {"radnli": 1}, "labels": {"label": {"entailment": 1}}}
    assert nli["train"]["samples"] + nli.get("dev", {"samples": 0})["samples"] == 20
    assert document["sources"]["zhang2018"] | {"folder": ""} == {
        "folder": "", "terms": "those of the reports", "weight": 1.0, "read": 5, "kept": 3,
    }  # fmt: skip
    assert document["weights"]["radiology_nli"] == 3.0
    lines = summary_lines(document)
    assert any(line.startswith("radiology_nli") and line.endswith("3x") for line in lines)
    assert any(line.startswith("radnli") and "PhysioNet" in line for line in lines)
    assert lines[-1] == "dropped: 1 text held out; 1 over the caps"


def test_the_same_mix_prepares_the_same(mix: Mix, tmp_path: Path) -> None:
    for name in ("one", "two"):
        prepare(mix, tmp_path / name)
    assert read_prepared(tmp_path / "one", "train") == read_prepared(tmp_path / "two", "train")


def test_a_mix_is_named_by_its_samples_and_not_by_its_place(mix: Mix, tmp_path: Path) -> None:
    prepare(mix, tmp_path / "one")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in tmp_path.glob("*.jsonl"):
        path.rename(elsewhere / path.name)
    moved = Mix(dict.fromkeys(mix.sources, elsewhere), caps=mix.caps)
    prepare(moved, tmp_path / "two")
    assert prepared_sha256(tmp_path / "one") == prepared_sha256(tmp_path / "two")
    pairs(elsewhere, "radnli_test_v1.jsonl", "Another premise.", label="entailment")
    prepare(moved, tmp_path / "three")
    assert prepared_sha256(tmp_path / "one") != prepared_sha256(tmp_path / "three")


def test_what_an_earlier_version_prepared_has_no_name(tmp_path: Path) -> None:
    (tmp_path / "prepare.json").write_text('{"seed": 0}')
    with pytest.raises(UsageError, match="an earlier version prepared it; prepare it again"):
        prepared_sha256(tmp_path)
    (tmp_path / "prepare.json").write_text('{"seed')
    with pytest.raises(UsageError, match=r"prepare\.json: damaged"):
        prepared_sha256(tmp_path)


def test_a_picture_is_drawn_where_it_can_be(mix: Mix, tmp_path: Path) -> None:
    prepare(mix, tmp_path / "out")
    picture = tmp_path / "out" / "prepare.png"
    assert picture.exists() == can_draw()
    assert not can_draw() or picture.read_bytes().startswith(b"\x89PNG")


def test_a_split_without_samples_is_empty(mix: Mix, tmp_path: Path) -> None:
    prepare(Mix({"zhang2018": mix.sources["zhang2018"]}), tmp_path / "out")
    assert read_prepared(tmp_path / "out", "test") == []
    with pytest.raises(UsageError, match="unknown split 'training'; did you mean 'train'"):
        read_prepared(tmp_path / "out", "training")
    with pytest.raises(UsageError, match="nothing prepared is here"):
        read_prepared(tmp_path / "other", "train")


def test_a_fault_in_a_source_leaves_nothing_behind(mix: Mix, tmp_path: Path) -> None:
    pairs(tmp_path, "radnli_test_v1.jsonl", "A premise.", label="maybe")
    before = set(tmp_path.iterdir())
    with pytest.raises(ArchiveError, match=r"radnli_test_v1\.jsonl: line 1: field 'gold_label'"):
        prepare(mix, tmp_path / "out")
    assert set(tmp_path.iterdir()) == before


def test_a_sample_without_its_input_is_named(mix: Mix, tmp_path: Path) -> None:
    pairs(tmp_path, "radnli_test_v1.jsonl", "")
    with pytest.raises(
        ArchiveError, match="radnli sample radnli_test_v1:1: radiology_nli has a target but not its input"
    ):
        prepare(mix, tmp_path / "out")


def test_nothing_is_overwritten_and_nothing_is_prepared_from_nothing(mix: Mix, tmp_path: Path) -> None:
    prepare(mix, tmp_path / "out")
    with pytest.raises(UsageError, match="out: is there already"):
        prepare(mix, tmp_path / "out")
    reports(tmp_path, "train")
    reports(tmp_path, "dev")
    with pytest.raises(UsageError, match="hold no sample"):
        prepare(Mix({"zhang2018": tmp_path}), tmp_path / "empty")
