"""MIMIC-CXR and what was made from it, and CheXpert, in their own formats, invented."""

from pathlib import Path
from typing import Any

import pytest
from written import document, lines, table

from radlite_batch.errors import ArchiveError
from radlite_batch.tasks.abnormality_detection import LABELS
from training.datasets import chexpert, mimic_cxr, ms_cxr_t, radialog, radnli
from training.datasets.base import Sample


def labels(**states: str) -> dict[str, str]:
    return {column: states.get(label, "") for label, column in chexpert.COLUMNS.items()}


def test_the_columns_are_those_the_labeller_writes() -> None:
    assert list(chexpert.COLUMNS.values()) == [
        "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
        "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture",
        "Support Devices", "No Finding",
    ]  # fmt: skip


def test_chexpert_reads_every_state(tmp_path: Path) -> None:
    found = labels(atelectasis="-1.0", pleural_effusion="1.0", edema="0.0")
    table(tmp_path / chexpert.LABELLED, [{"Report Impression": "Effusion, perhaps atelectasis, no edema.", **found}])
    (sample,) = chexpert.read(tmp_path)
    flags = sample.targets["abnormality_detection"]
    states = {label: flags[label] for label in ("atelectasis", "pleural_effusion", "edema", "fracture", "no_finding")}
    assert list(states.values()) == ["uncertain", "positive", "negative", "absent", "absent"]
    assert tuple(flags) == LABELS


def test_chexpert_names_a_state_that_is_none(tmp_path: Path) -> None:
    table(tmp_path / chexpert.LABELLED, [{"Report Impression": "Edema.", **labels(edema="2")}])
    with pytest.raises(ArchiveError, match=r"labeled_reports\.csv: row 1: field 'Edema' is none of"):
        list(chexpert.read(tmp_path))


def plus_row(image: str, findings: str, impression: str) -> dict[str, str]:
    named = {"path_to_image": image, "split": "train", "deid_patient_id": "p"}
    return named | {"section_findings": findings, "section_impression": impression}


def test_chexpert_plus_reads_a_study_once(tmp_path: Path) -> None:
    study = "train/patient7/study1"
    rows = [plus_row(f"{study}/view{i}.jpg", "Effusion.", "Left effusion.") for i in (1, 2)]
    table(tmp_path / chexpert.PLUS, [*rows, plus_row("train/patient7/study2/view1.jpg", "", "")])
    found: dict[str, Any] = dict.fromkeys(chexpert.COLUMNS.values()) | {"Pleural Effusion": 1.0, "Edema": float("nan")}
    images = (f"{study}/view1.jpg", f"{study}/view2.jpg", "train/patient7/study2/view1.jpg")
    lines(tmp_path / chexpert.PLUS_LABELS, [{"path_to_image": image, **found} for image in images])
    (sample,) = chexpert.read_plus(tmp_path)
    assert (sample.id, sample.group, sample.split) == ("patient7/study1", "chexpert:patient7", "train")
    assert sample.targets["abnormality_detection"]["pleural_effusion"] == "positive"
    assert sample.targets["impression_generation"] == {"impression": "Left effusion."}


def test_chexpert_plus_names_a_study_without_labels(tmp_path: Path) -> None:
    table(tmp_path / chexpert.PLUS, [plus_row("train/patient7/study1/view1.jpg", "Effusion.", "")])
    lines(tmp_path / chexpert.PLUS_LABELS, [])
    with pytest.raises(ArchiveError, match="row 1: field 'path_to_image' names no study of"):
        list(chexpert.read_plus(tmp_path))


def section(study: str, findings: str = "", impression: str = "", last: str = "") -> dict[str, str]:
    sections = {"impression": impression, "findings": findings, "last_paragraph": last, "comparison": ""}
    return {"study": f"s{study}", **sections}


@pytest.fixture
def mimic(tmp_path: Path) -> Path:
    sections = [
        section("501", "FINDINGS: Left effusion.", "Worsening effusion."),
        section("502", "Pulmonary edema is stable."),
        section("503", last="No change."),
        section("504", "Nothing."),
    ]
    table(tmp_path / mimic_cxr.SECTIONS, sections)
    states = [{"subject_id": "9", "study_id": study, **labels(edema="1.0")} for study in ("501", "502", "503")]
    table(tmp_path / mimic_cxr.LABELLED, states)
    named = (("501", "9", "train"), ("502", "9", "train"), ("503", "8", "validate"))
    splits = [{"dicom_id": f"d{s}", "study_id": s, "subject_id": p, "split": part} for s, p, part in named]
    table(tmp_path / mimic_cxr.SPLIT, splits)
    return tmp_path


def test_mimic_labels_go_with_the_section_that_was_labelled(mimic: Path) -> None:
    samples = {sample.id: sample for sample in mimic_cxr.read(mimic)}
    assert {name: (s.text, s.split) for name, s in samples.items()} == {
        "s501": ("FINDINGS: Left effusion.\nIMPRESSION: Worsening effusion.", "train"),
        "s501:labels": ("IMPRESSION: Worsening effusion.", "train"),
        "s502:labels": ("FINDINGS: Pulmonary edema is stable.", "train"),
        "s503:labels": ("No change.", "dev"),
    }
    assert samples["s501"].targets == {"impression_generation": {"impression": "Worsening effusion."}}
    assert samples["s503:labels"].targets["abnormality_detection"]["edema"] == "positive"
    assert {s.group for s in samples.values()} == {"mimic:8", "mimic:9"}


def test_mimic_names_a_study_that_is_none(mimic: Path) -> None:
    table(mimic / mimic_cxr.SECTIONS, [{**section("1"), "study": "501.txt"}])
    with pytest.raises(ArchiveError, match=r"mimic_cxr_sectioned\.csv: row 1: field 'study' is no study"):
        list(mimic_cxr.read(mimic))


def change_row(study: str, **progression: str) -> dict[str, str]:
    names = ("consolidation", "edema", "pleural_effusion", "pneumonia", "pneumothorax")
    columns = {f"{name}_progression": progression.get(name, "") for name in names}
    return {"subject_id": "9", "study_id": study, "dicom_id": "d", **columns}


def ms_cxr_t_folder(folder: Path, category: str) -> None:
    changes = [
        change_row("501", pleural_effusion="worsening", pneumonia="stable"),
        change_row("502", edema="stable"),
        change_row("503", edema="improving"),
    ]
    table(folder / ms_cxr_t.IMAGES, changes)
    pair = {"sentence_1": "Effusion is larger.", "sentence_2": "Effusion has grown.", "category": category}
    table(folder / ms_cxr_t.SENTENCES, [pair])


def changed(sample: Sample) -> list[tuple[str, str]]:
    return [(sample.text[a:b], label) for a, b, label in sample.targets["temporal_comparison"]["changes"]]


def test_ms_cxr_t_lays_a_change_on_the_finding_that_the_report_names(mimic: Path) -> None:
    ms_cxr_t_folder(mimic, "paraphrase")
    *reports, pair = ms_cxr_t.read(mimic)
    assert {s.id: changed(s) for s in reports} == {
        "s501": [("effusion", "worsened")], "s502": [("Pulmonary edema", "unchanged")],
    }  # fmt: skip
    assert {s.fields["labelled_only"] for s in reports} == {"spans"} and reports[0].group == "mimic:9"
    assert pair.targets == {"radiology_nli": {"label": "entailment"}} and pair.blocks("radiology_nli")
    assert {s.split for s in (*reports, pair)} == {"test"}


def test_ms_cxr_t_names_a_category_that_is_none(mimic: Path) -> None:
    ms_cxr_t_folder(mimic, "neutral")
    with pytest.raises(ArchiveError, match="row 1: field 'category' is none of 'paraphrase', 'contradiction'"):
        list(ms_cxr_t.read(mimic))


def nli(premise: str, label: str) -> dict[str, str]:
    return {"pair_id": "r1", "sentence1": premise, "sentence2": "There is a large effusion.", "gold_label": label}


def test_radnli_keeps_the_pairs_of_a_premise_together(tmp_path: Path) -> None:
    pairs = [nli("No effusion.", "contradiction"), nli("no effusion. ", "neutral"), nli("Clear.", "entailment")]
    lines(tmp_path / "radnli_dev_v1.jsonl", pairs)
    lines(tmp_path / "radnli_test_v1.jsonl", pairs[:1])
    samples = list(radnli.read(tmp_path))
    assert [s.split for s in samples] == [None, None, None, "test"]
    assert samples[0].group == samples[1].group != samples[2].group
    assert [s.targets["radiology_nli"]["label"] for s in samples[:3]] == ["contradiction", "neutral", "entailment"]
    assert samples[0].fields == {"premise": "No effusion.", "hypothesis": "There is a large effusion."}


def test_radnli_names_a_label_that_is_none(tmp_path: Path) -> None:
    lines(tmp_path / "radnli_dev_v1.jsonl", [nli("Clear.", "-")])
    with pytest.raises(ArchiveError, match=r"radnli_dev_v1\.jsonl: line 1: field 'gold_label' is none of"):
        list(radnli.read(tmp_path))


def item(dicom: str, output: str) -> dict[str, str]:
    asked = {"gt_report": "Left effusion.", "task": "Is there an effusion?", "input": "", "output": output}
    return asked | {"dicom": dicom, "task_type": "CPbQA"}


def test_radialog_asks_about_the_report_of_a_patient(mimic: Path) -> None:
    document(mimic / "instruct_large_CPbQA.json", [item("d503", "yes"), item("d501", "")])
    document(mimic / "instruct_large_EL.json", [item("d501", "Water in the chest.")])
    (sample,) = radialog.read(mimic)
    assert (sample.text, sample.group, sample.split) == ("FINDINGS: Left effusion.", "mimic:8", "dev")
    assert sample.fields == {"question": "Is there an effusion?"}
    assert sample.targets == {"radiology_qa": {"answer": "yes"}}


def test_radialog_names_an_unknown_image(mimic: Path) -> None:
    document(mimic / "instruct_large_RE.json", [item("d999", "left")])
    with pytest.raises(ArchiveError, match=r"instruct_large_RE\.json: item 1: field 'dicom' names no image"):
        list(radialog.read(mimic))
