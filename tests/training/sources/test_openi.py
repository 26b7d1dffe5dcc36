"""Open-i and Rad-ReStruct: codes become partial flags, reports without a cancer become negatives, questions few."""

from pathlib import Path
from typing import Any

import pytest
from written import lines, table

from radlite_batch.errors import ArchiveError
from training.datasets import openi, radrestruct

REST = ["negative", "uncertain", "absent"]
COLUMNS = (
    "atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia", "pneumothorax",
    "consolidation", "edema", "emphysema", "fibrosis", "pleural_thickening", "normal",
)  # fmt: skip


def row(uid: str, findings: str, impression: str, codes: str = "", **flags: str) -> dict[str, str]:
    sections = {"uid": uid, "indication": "", "comparison": "", "findings": findings, "impression": impression}
    return sections | {"MeSH": codes, "Problems": ""} | {column: flags.get(column, "0") for column in COLUMNS}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    reports = [
        row("1", "Small effusion.", "Effusion.", "Pleural Effusion/left;Infiltrate/lung", effusion="1"),
        row("5", "Lungs are clear.", "", "normal", normal="1"),
        row("6", "", "Known lung cancer, a mass.", "Mass/lung;Fractures, Bone/rib;Opacity/retrocardiac", mass="1"),
        row("7", "Clear.", "Normal.", "No Indexing"),
        row("8", "", ""),
    ]
    table(tmp_path / "openi_train.csv", reports)
    return tmp_path


def test_reports_without_a_text_are_left_out_and_every_fifth_is_held_out(folder: Path) -> None:
    samples = list(openi.read(folder))
    assert [(s.id, s.group, s.split) for s in samples] == [
        ("1", "openi:1", "train"), ("5", "openi:5", "dev"), ("6", "openi:6", "train"), ("7", "openi:7", "train"),
    ]  # fmt: skip
    assert samples[0].text == "FINDINGS: Small effusion.\nIMPRESSION: Effusion."
    assert samples[1].text == "FINDINGS: Lungs are clear."


def test_codes_and_columns_name_findings_and_leave_the_rest_open(folder: Path) -> None:
    flags = [dict(s.targets.get("abnormality_detection", {})) for s in openi.read(folder)]
    coded = [{label for label, state in report.items() if state == "positive"} for report in flags]
    assert coded == [{"pleural_effusion", "lung_opacity"}, {"no_finding"}, {"lung_lesion", "fracture"}, set()]
    assert flags[0]["cardiomegaly"] == REST and flags[0]["no_finding"] == "absent"
    assert "enlarged_cardiomediastinum" not in flags[0]
    assert flags[1]["lung_opacity"] == REST and "lung_opacity" not in flags[2]  # an opacity, maybe of the lung
    assert flags[3] == {}  # nobody indexed it


def test_only_reports_that_name_no_cancer_have_nothing_to_stage(folder: Path) -> None:
    targets: list[dict[str, Any]] = [dict(s.targets) for s in openi.read(folder)]
    nothing = {"rads_assignment": {"system": "none"}, "n_staging": {"stage": "NX"}, "m_staging": {"stage": "MX"}}
    assert [nothing.items() <= report.items() for report in targets] == [True, True, False, True]
    assert not targets[2].keys() & nothing.keys()
    assert [report.get("impression_generation") for report in targets] == [
        {"impression": "Effusion."}, None, None, {"impression": "Normal."},
    ]  # fmt: skip


def test_a_flag_that_is_none_is_named(tmp_path: Path) -> None:
    table(tmp_path / "openi_train.csv", [row("1", "Clear.", "", effusion="yes")])
    with pytest.raises(ArchiveError, match=r"openi_train\.csv: row 1: field 'effusion' is none of '0', '1'"):
        list(openi.read(tmp_path))


def question(uid: str, text: str, answer: str) -> dict[str, Any]:
    return {"uid": uid, "split": "val", "question": text, "answer": [answer], "options": ["yes", "no"]}


def test_few_questions_of_a_report_are_asked_of_both_answers(folder: Path) -> None:
    asked = [question("1", f"Are there any signs in the {part}?", "no") for part in ("lung", "breast", "thorax")]
    asked.append(question("1", "Are there any diseases in the pleura?", "yes"))
    asked.append(question("8", "Are there any foreign objects?", "no"))
    asked.append(question("5", "Are there any foreign objects?", "no"))
    lines(folder / "radrestruct_train.jsonl.gz", asked)
    samples = list(radrestruct.read(folder))
    answers = [(s.group, s.split, s.targets["radiology_qa"]["answer"]) for s in samples]
    assert sorted(answers) == [
        ("openi:1", "train", "no"), ("openi:1", "train", "no"), ("openi:1", "train", "yes"), ("openi:5", "dev", "no"),
    ]  # fmt: skip
    assert {s.text for s in samples if s.group == "openi:5"} == {"FINDINGS: Lungs are clear."}
    assert all(s.blocks("radiology_qa") for s in samples) and len({s.id for s in samples}) == 4


def test_a_question_about_no_report_is_named(folder: Path) -> None:
    lines(folder / "radrestruct_train.jsonl", [question("99", "Are there any foreign objects?", "no")])
    with pytest.raises(ArchiveError, match=r"line 1: field 'uid' names no report of openi_train\.csv"):
        list(radrestruct.read(folder))
