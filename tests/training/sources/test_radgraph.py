"""RadGraph's marks become offsets; RadGraph2's changes stand at the findings they modify."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from written import document, lines

from radlite_batch.errors import ArchiveError
from training.datasets import radgraph
from training.datasets.base import Sample


def entity(token: int, label: str, *relations: list[str]) -> dict[str, Any]:
    return {"tokens": "", "label": label, "start_ix": token, "end_ix": token, "relations": list(relations)}


def report(text: str, **entities: dict[str, Any]) -> dict[str, Any]:
    return {"text": text, "entities": {key.strip("e"): value for key, value in entities.items()}}


def marked(sample: Sample, task: str, question: str) -> list[tuple[str, str]]:
    return [(sample.text[a:b], label) for a, b, label in sample.targets[task][question]]


def test_entities_stand_where_the_tokens_stand(tmp_path: Path) -> None:
    two = {**entity(1, "OBS-DP"), "end_ix": 2}
    path = "p99/p99000001/s50000001.txt"
    document(tmp_path / "train.json", {path: report("No pleural effusion .", e2=two, e1=entity(0, "ANAT-DP"))})
    document(tmp_path / "MIMIC-CXR_graphs.json", {"of a model": report("x", e1=entity(0, "OBS-DP"))})
    (sample,) = radgraph.read(tmp_path)
    found = [("No", "anatomy"), ("pleural effusion", "observation_present")]
    assert marked(sample, "radiology_ner", "entities") == found
    assert (sample.group, sample.split, set(sample.targets)) == ("mimic:99000001", "train", {"radiology_ner"})


def test_the_first_of_two_readers_counts(tmp_path: Path) -> None:
    first, second = ({"entities": {"1": entity(0, label)}} for label in ("OBS-DA", "OBS-U"))
    both = {"text": "Effusion .", "labeler_1": first, "labeler_2": second, "data_split": "test"}
    document(tmp_path / "test.json", {"chexpert/1.txt": both})
    (sample,) = radgraph.read(tmp_path)
    assert marked(sample, "radiology_ner", "entities") == [("Effusion", "observation_absent")]
    assert (sample.group, sample.split) == ("radgraph:chexpert/1.txt", "test")


def test_changes_stand_at_what_they_modify(tmp_path: Path) -> None:
    marks = {
        "e1": entity(0, "CHAN-WOR", ["modify", "2"]),
        "e2": entity(1, "OBS-DP"),
        "e3": entity(3, "CHAN-NC"),
        "e4": entity(5, "CHAN-DEV-DISA", ["modify", "5"]),
        "e5": entity(6, "OBS-DA"),
    }
    text = "Larger effusion , otherwise unchanged removed tube"
    document(tmp_path / "radgraph_change_train_joint_final.json", {"r1": report(text, **marks)})
    (sample,) = radgraph.read_radgraph2(tmp_path)
    assert marked(sample, "temporal_comparison", "changes") == [
        ("effusion", "worsened"), ("otherwise", "unchanged"), ("tube", "resolved"),
    ]  # fmt: skip
    assert marked(sample, "radiology_ner", "entities") == [
        ("effusion", "observation_present"), ("tube", "observation_absent"),
    ]  # fmt: skip
    assert sample.split == "train"


@pytest.mark.parametrize(
    ("label", "change"),
    [
        ("CHAN-CON-AP", "new"), ("CHAN-DEV-AP", "new"), ("CHAN-CON-RES", "resolved"), ("CHAN-IMP", "improved"),
        ("CHAN-AP", "new"), ("CHAN-DISA", "resolved"), ("CHAN-NC", "unchanged"), ("CHAN-WOR", "worsened"),
    ],
)  # fmt: skip
def test_every_class_of_change_has_a_meaning(tmp_path: Path, label: str, change: str) -> None:
    document(tmp_path / "dev.json", {"r1": report("Word", e1=entity(0, label))})
    (sample,) = radgraph.read_radgraph2(tmp_path)
    assert marked(sample, "temporal_comparison", "changes") == [("Word", change)]


@pytest.mark.parametrize("label", ["CHAN-DEV-PLACE", "CHAN-DISP"])
def test_a_device_that_was_moved_is_none_of_the_changes(tmp_path: Path, label: str) -> None:
    marks = {"e1": entity(1, label, ["modify", "2"]), "e2": entity(0, "OBS-DP")}
    document(tmp_path / "dev.json", {"r1": report("Tube advanced", **marks)})
    (sample,) = radgraph.read_radgraph2(tmp_path)
    assert sample.targets["temporal_comparison"] == {"changes": []}
    assert marked(sample, "radiology_ner", "entities") == [("Tube", "observation_present")]


def test_radgraph_xl_reads_the_lines_of_dygie(tmp_path: Path) -> None:
    line = {
        "doc_key": "r1",
        "sentences": [["Liver", "cyst"], ["2", "cm", "."]],
        "ner": [
            [[0, 0, "Anatomy::definitely present"], [1, 1, "Observation::definitely absent"]],
            [[2, 3, "Observation::measurement::definitely present"]],
        ],
        "relations": [[[1, 1, 0, 0, "located_at"]], []],
    }
    lines(tmp_path / "xl_dev.jsonl", [line])
    (sample,) = radgraph.read_radgraph_xl(tmp_path)
    assert marked(sample, "radiology_ner", "entities") == [
        ("Liver", "anatomy"), ("cyst", "observation_absent"), ("2 cm", "observation_present"),
    ]  # fmt: skip
    assert sample.split == "dev"


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (entity(9, "OBS-DP"), "report r1: an entity's indices lie outside the text"),
        (entity(0, "OBS-XX"), "report r1: an entity's label is none of RadGraph's"),
        ({"label": "OBS-DP"}, "report r1: entity 1: no field 'start_ix'"),
        (entity(0, "OBS-DP") | {"relations": [["modify"]]}, "report r1: entity 1: field 'relations' holds no pairs"),
    ],
)
def test_what_is_wrong_with_a_report_is_named(tmp_path: Path, broken: dict[str, Any], said: str) -> None:
    document(tmp_path / "train.json", {"r1": report("Effusion .", e1=broken)})
    with pytest.raises(ArchiveError, match=rf"train\.json: {said}"):
        list(radgraph.read(tmp_path))


def test_lines_that_are_not_of_dygie_are_named(tmp_path: Path) -> None:
    line = {"doc_key": "r1", "sentences": [["a"]], "ner": [], "relations": []}
    for broken in ({"ner": [[[0, 0]]]}, {"ner": [[["0", "x", "OBS-DP"]]]}, {"sentences": [5]}):
        lines(tmp_path / "xl.jsonl", [line | broken])
        with pytest.raises(ArchiveError, match=r"xl\.jsonl: line 1: .* are not those of DyGIE"):
            list(radgraph.read_radgraph_xl(tmp_path))


def test_gzipped_lines_are_found(tmp_path: Path) -> None:
    line = {"doc_key": "r1", "sentences": [["a"]], "ner": [], "relations": []}
    (tmp_path / "xl.jsonl.gz").write_bytes(gzip.compress(json.dumps(line).encode()))
    assert len(list(radgraph.read_radgraph_xl(tmp_path))) == 1
