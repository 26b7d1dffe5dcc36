"""The written corpus keeps its promises: every label in it and every composed report is one the tasks know."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from radlite_batch.errors import ArchiveError
from radlite_batch.tasks.rads_systems import SYSTEMS, parse_label
from training.datasets import composed, corpus
from training.datasets.base import Sample

FOLDER = Path(corpus.__file__).parent.parent / "corpus"
_PRINTED = re.compile(r"RADS(?:\s+category)?\W{0,3}\d|\bLR-?\d|\bTR\d\b", re.IGNORECASE)


@pytest.fixture(scope="module")
def written() -> list[Sample]:
    return list(corpus.read(FOLDER))


def test_it_is_as_large_as_the_readme_says(written: list[Sample]) -> None:
    reports = Counter(s.split for s in written if "radiology_qa" not in s.targets and "radiology_nli" not in s.targets)
    pairs = Counter(s.split for s in written if "radiology_nli" in s.targets)
    assert reports["train"] >= 1000 and reports["dev"] >= 300
    readme = " ".join((FOLDER.parents[1] / "README.md").read_text("utf-8").split())
    assert f"{reports['train']:,} reports and {pairs['train']:,} sentence pairs to train on" in readme
    assert f"and {reports['dev']} and {pairs['dev']} held out" in readme
    assert f"The {reports['test']} staging reports of `test/`" in readme


def test_no_text_stands_on_both_sides(written: list[Sample]) -> None:
    trained = [s for s in written if s.split == "train"]
    held = [s for s in written if s.split != "train"]
    assert not {s.text for s in trained if s.text} & {s.text for s in held}
    assert not {s.group for s in trained} & {s.group for s in held}


@pytest.mark.parametrize("split", ["train", "dev"])
def test_every_category_is_trained_and_most_are_tested(written: list[Sample], split: str) -> None:
    labels = [s.targets["rads_assignment"] for s in written if s.split == split and "rads_assignment" in s.targets]
    seen = {(label["system"], label.get("category")) for label in labels}
    for system in SYSTEMS:
        named = {category for name, category in seen if name == system.name}
        assert named <= {category.name for category in system.categories}
        assert len(named) >= (1.0 if split == "train" else 0.6) * len(system.categories), system.name


def test_the_category_is_never_printed(written: list[Sample]) -> None:
    for sample in written:
        if sample.targets.get("rads_assignment", {}).get("system", "none") != "none":
            assert not _PRINTED.search(sample.text), sample.id


@pytest.mark.parametrize(("part", "share"), [("train", 0.02), ("heldout", 1.0), ("test", 1.0)])
def test_facts_of_metastases_stand_beside_m_stages(part: str, share: float) -> None:
    lines = [line for path in (FOLDER / part).glob("*.jsonl") for line in path.read_text("utf-8").splitlines()]
    staged = [record for record in map(json.loads, lines) if "m" in record]
    stages = Counter(record["m"] for record in staged if "metastases" in record.get("facts", {}))
    assert sum(stages.values()) >= share * len(staged) and set(stages) == {"M0", "M1", "MX"}


def test_a_hypothesis_alone_tells_nothing(written: list[Sample]) -> None:
    for split in ("train", "dev"):
        labels: dict[str, list[str]] = {}
        for s in written:
            if s.split == split and "radiology_nli" in s.targets:
                labels.setdefault(s.fields["hypothesis"], []).append(s.targets["radiology_nli"]["label"])
        assert labels and all(len(set(of)) == 3 for of in labels.values())


def test_marks_become_spans_of_the_plain_text() -> None:
    text, entities, changes = corpus.plain("A {small effusion|present,worsened} at the {left base|anatomy}.")
    assert text == "A small effusion at the left base."
    assert [(text[a:b], label) for a, b, label in entities] == [
        ("small effusion", "observation_present"), ("left base", "anatomy"),
    ]  # fmt: skip
    assert [(text[a:b], label) for a, b, label in changes] == [("small effusion", "worsened")]


@pytest.mark.parametrize(
    ("record", "named"),
    [
        ({"id": "x", "text": "{a|b}"}, "unknown mark 'b'"),
        ({"id": "x", "text": "{a"}, "a brace outside a mark"),
        ({"id": "x", "text": "a", "label": "x", "colour": 1}, "unknown key 'colour'"),
        ({"id": "x", "text": "a", "flags": {"edema": "positive", "no_finding": "positive"}}, "beside a finding"),
        ({"id": "x", "text": "a", "rads": "TI-RADS 1", "facts": {
            "composition": "solid", "echogenicity": "isoechoic", "shape": "wider", "margin": "smooth", "foci": []}},
         "do not give"),
        ({"id": "x", "text": "a", "m": "M0", "facts": {"metastases": ["liver"], "distant_assessed": True}},
         "facts of x do not give M0"),
        ({"text": "a"}, "no 'id'"),
    ],
)  # fmt: skip
def test_a_fault_is_named_with_file_and_line(tmp_path: Path, record: dict[str, object], named: str) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.jsonl").write_text("\n".join([json.dumps({"id": "ok", "text": "b"}), json.dumps(record)]))
    with pytest.raises(ArchiveError, match=f"a.jsonl, line 2: .*{named}"):
        list(corpus.read(tmp_path))


@pytest.fixture(scope="module")
def recombined() -> list[Sample]:
    return list(composed.read(FOLDER))


def test_composed_labels_are_balanced(recombined: list[Sample]) -> None:
    labels = Counter(
        (t["system"], t["category"]) for s in recombined if (t := s.targets.get("rads_assignment", {})).get("category")
    )
    assert set(labels.values()) == {composed.PER_LABEL, 2 * composed.PER_LABEL}  # LI-RADS 1 to 3: CT and ultrasound
    assert {system for system, _ in labels} == {system.name for system in SYSTEMS}


def test_composed_reports_differ_and_none_holds_a_slot(recombined: list[Sample]) -> None:
    texts = [s.text for s in recombined if s.text]
    assert len(set(texts)) > 0.98 * len(texts)
    assert not any("{" in text or "}" in text for text in texts)


def test_a_printed_category_is_the_right_one(recombined: list[Sample]) -> None:
    printed = 0
    for sample in recombined:
        target = sample.targets.get("rads_assignment", {})
        found = re.search(r"\b(\w+-RADS) (?:category )?(\d\w?)\b[.)]?\s*$", sample.text)
        if found and "category" in target:
            assert parse_label(f"{found[1]} {found[2]}")[:2] == (target["system"], target["category"])
            printed += 1
    assert printed > 100


def test_the_same_bank_gives_the_same_reports(recombined: list[Sample]) -> None:
    again = composed.read(FOLDER)
    assert all(a == b for a, b in zip(recombined[:300], again, strict=False))


def test_composed_spans_stand_on_words(recombined: list[Sample]) -> None:
    seen = 0
    for sample in recombined:
        for task, question in (("radiology_ner", "entities"), ("temporal_comparison", "changes")):
            for start, end, _ in sample.targets.get(task, {}).get(question, []):
                assert sample.text[start:end].strip() == sample.text[start:end] != ""
                seen += 1
    assert seen > 1000
