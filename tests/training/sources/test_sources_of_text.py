"""TCGA, NegEx, MedQA, CT-RATE, Merlin, LLaVA-Med and Zhang 2018 in their own formats, invented."""

from pathlib import Path
from zipfile import ZipFile

import pytest
from written import document, lines, table

from radlite_batch.errors import ArchiveError
from training.datasets import ct_rate, llava_med, medqa, merlin, negex, tcga, zhang2018

REST = ["negative", "uncertain", "absent"]


def stage_row(patient: str, n: str, m: str, printed: str = "0") -> dict[str, str]:
    stages = {"ajcc_pathologic_n": n, "ajcc_pathologic_m": m, "explicit_pN_in_text": printed}
    return {"patient_filename": f"{patient}.0a-1", **stages, "text": "Nodes."}


def test_tcga_stages_collapse_and_blanks_are_not_asked(tmp_path: Path) -> None:
    rows = [
        stage_row("TCGA-A", "N2b", ""),
        stage_row("TCGA-B", "", ""),
        stage_row("TCGA-C", "N0 (i-)", "cM0 (i+)", "1"),
    ]
    table(tmp_path / tcga.FILE, rows)
    samples = list(tcga.read(tmp_path))
    assert [(s.group, dict(s.targets)) for s in samples] == [
        ("tcga:TCGA-A", {"n_staging": {"stage": "N2"}}),
        ("tcga:TCGA-C", {"n_staging": {"stage": "N0"}, "m_staging": {"stage": "M0"}}),
    ]
    assert [s.subset for s in samples] == ["", "printed"]


def test_tcga_holds_out_half_of_the_patients(tmp_path: Path) -> None:
    table(tmp_path / tcga.FILE, [stage_row(f"TCGA-{i // 2}", "N1", "") for i in range(800)])
    splits: dict[str, set[str | None]] = {}
    for sample in tcga.read(tmp_path):
        splits.setdefault(sample.group, set()).add(sample.split)
    assert all(len(of_patient) == 1 for of_patient in splits.values())
    assert 160 < sum(of_patient == {"dev"} for of_patient in splits.values()) < 240


def test_tcga_names_a_stage_that_is_none(tmp_path: Path) -> None:
    table(tmp_path / tcga.FILE, [stage_row("TCGA-A", "nodes", "")])
    with pytest.raises(ArchiveError, match="row 1: field 'ajcc_pathologic_n' is no stage"):
        list(tcga.read(tmp_path))


def negex_file(path: Path, *rows: tuple[str, str, str, str]) -> None:
    head = "line number\tCondition\tsentence\tnegation_status (negated, affirmed, possible)\t"
    head += "temporality (historical, recent, hypothetical)\texperiencer (patient, other)"
    body = [f"{i}\t{c}\t{s}\t{status}\tRecent\t{of}" for i, (c, s, status, of) in enumerate(rows, 1)]
    path.write_text("\n".join([head, *body]) + "\n", encoding="utf-8")


def test_negex_writes_the_marked_concept_as_it_is_named(tmp_path: Path) -> None:
    rows = [
        ("pleural effusion", 'No "effusion", and no  PLEURAL EFFUSION now.', "Negated", "Patient"),
        ("edema", "Edema is gone; EDEMA of the legs.", "Affirmed", "Patient"),
        ("SURGICAL CHANGES", "CHEST:     1.", "Affirmed", "Patient"),
        ("angina", "His father has ANGINA.", "Affirmed", "Family member"),
    ]
    negex_file(tmp_path / negex.FILE, *rows)
    samples = list(negex.read(tmp_path))
    assert [s.text for s in samples] == [
        'No "effusion", and no pleural effusion now.',
        "Edema is gone; edema of the legs.",
    ]
    (first,), (second,) = (s.targets["radiology_ner"]["entities"] for s in samples)
    assert samples[0].text[first[0] : first[1]] == "pleural effusion" and first[2] == "observation_absent"
    assert second == [15, 20, "observation_present"]
    assert {s.fields["labelled_only"] for s in samples} == {"spans"}


def test_negex_keeps_a_sentence_with_two_concepts_together(tmp_path: Path) -> None:
    rows = [("fever", "FEVER and cough.", "Affirmed", "Patient"), ("cough", "Fever and COUGH.", "Affirmed", "Patient")]
    negex_file(tmp_path / negex.FILE, *rows)
    one, other = negex.read(tmp_path)
    assert one.group == other.group and one.id != other.id


def test_negex_names_a_status_that_is_none(tmp_path: Path) -> None:
    negex_file(tmp_path / negex.FILE, ("fever", "FEVER.", "perhaps", "Patient"))
    with pytest.raises(ArchiveError, match=r"negex_assertion\.tsv: row 1: field 'negation_status .*' is none of"):
        list(negex.read(tmp_path))


QUESTION = {
    "question": "A man, 60 y.o., coughs. An X-ray shows a mass. Which is the next step?",
    "options": {"B": "CT", "A": "Rest"}, "answer": "CT", "answer_idx": "B",
}  # fmt: skip


def test_medqa_asks_the_last_sentence_of_the_case(tmp_path: Path) -> None:
    lines(tmp_path / "test.jsonl", [QUESTION])
    lines(tmp_path / "medqa_dev.jsonl.gz", [QUESTION | {"question": "Which is the next step?"}])
    whole, short = medqa.read(tmp_path)
    assert whole.text == "CASE: A man, 60 y.o., coughs. An X-ray shows a mass.\nOPTIONS: A. Rest; B. CT"
    assert whole.fields == {"question": "Which is the next step?"} and whole.split == "test"
    assert whole.targets == {"radiology_qa": {"answer": "CT"}}
    assert short.text == "OPTIONS: A. Rest; B. CT" and short.split is None and short.blocks("radiology_qa")


def test_medqa_names_a_missing_answer(tmp_path: Path) -> None:
    lines(tmp_path / "train.jsonl", [QUESTION, {key: QUESTION[key] for key in ("question", "options")}])
    with pytest.raises(ArchiveError, match=r"train\.jsonl: line 2: no field 'answer'"):
        list(medqa.read(tmp_path))


CT_COLUMNS = (
    "Medical material", "Arterial wall calcification", "Cardiomegaly", "Pericardial effusion",
    "Coronary artery wall calcification", "Hiatal hernia", "Lymphadenopathy", "Emphysema", "Atelectasis",
    "Lung nodule", "Lung opacity", "Pulmonary fibrotic sequela", "Pleural effusion", "Mosaic attenuation pattern",
    "Peribronchial thickening", "Consolidation", "Bronchiectasis", "Interlobular septal thickening",
)  # fmt: skip


def ct_flags(*there: str) -> dict[str, str]:
    return {column: str(int(column in there)) for column in CT_COLUMNS}


def test_the_ct_rate_development_set_is_all_held_out(tmp_path: Path) -> None:
    found = ct_flags("Lung nodule", "Emphysema")
    table(tmp_path / ct_rate.DEV_FILE, [{"AccessionNo": "train_1", "report_text": "A nodule.", **found}])
    (sample,) = ct_rate.read_dev(tmp_path)
    flags = sample.targets["abnormality_detection"]
    assert (sample.split, sample.group, sample.text) == ("dev", "ct_rate:train_1", "A nodule.")
    assert flags["lung_lesion"] == "positive" and flags["atelectasis"] == REST and len(flags) == 7


def ct_rate_folder(folder: Path, train: list[tuple[str, str, str]]) -> None:
    valid = [("valid_1_a_1.nii.gz", "Clear lungs.", "Normal.")]
    for reports, labels, scans in (("train", "train", train), ("validation", "valid", valid)):
        texts = [{"VolumeName": v, "Findings_EN": f, "Impressions_EN": i} for v, f, i in scans]
        table(folder / ct_rate.REPORTS / f"{reports}_reports.csv", texts)
        flags = [{"VolumeName": v, **ct_flags("Cardiomegaly")} for v, _, _ in scans if "unlabelled" not in v]
        table(folder / ct_rate.PREDICTED / f"{labels}_predicted_labels.csv", flags)


def test_ct_rate_reads_a_scan_once(tmp_path: Path) -> None:
    train = [
        ("train_1_a_1.nii.gz", "Large heart.", "Cardiomegaly."),
        ("train_1_a_2.nii.gz", "Large heart.", "Cardiomegaly."),
        ("train_1_b_1.nii.gz", "Large heart still.", "Not given."),
        ("train_2_a_1.nii.gz", "Not given.", ""),
    ]
    ct_rate_folder(tmp_path, train)
    samples = list(ct_rate.read(tmp_path))
    assert [(s.id, s.group, s.split) for s in samples] == [
        ("train_1_a", "ct_rate:train_1", "train"), ("train_1_b", "ct_rate:train_1", "train"),
        ("valid_1_a", "ct_rate:valid_1", "dev"),
    ]  # fmt: skip
    assert samples[0].targets["impression_generation"] == {"impression": "Cardiomegaly."}
    assert samples[1].text == "FINDINGS: Large heart still." and "impression_generation" not in samples[1].targets


def test_ct_rate_names_a_report_without_labels(tmp_path: Path) -> None:
    ct_rate_folder(tmp_path, [("train_1_a_1.nii.gz", "Clear.", ""), ("unlabelled_1_a_1.nii.gz", "Clear.", "")])
    with pytest.raises(ArchiveError, match=r"train_reports\.csv: row 2: field 'VolumeName' has no row"):
        list(ct_rate.read(tmp_path))


MERLIN = [
    {
        "study id": "AC1",
        "Findings": "FINDINGS: Liver: normal. IMPRESSION: Normal abdomen.",
        "Split": "val",
        "Few Shot": "",
    },
    {"study id": "AC2", "Findings": "Liver: normal.", "Split": "train", "Few Shot": ""},
]


def test_merlin_gives_findings_to_write_the_impression_from(tmp_path: Path) -> None:
    table(tmp_path / "reports_final.csv", MERLIN)
    (sample,) = merlin.read(tmp_path)
    assert sample.fields == {"findings": "Liver: normal.", "impression": "Normal abdomen."}
    assert sample.targets == {"impression_generation": {"impression": "Normal abdomen."}}
    assert (sample.group, sample.split) == ("merlin:AC1", "dev")


def test_merlin_reads_its_workbook(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl", reason="openpyxl is not installed")
    book = openpyxl.Workbook()
    for cells in (list(MERLIN[0]), list(MERLIN[0].values()), ["AC3", None, "test", None]):
        book.active.append(cells)
    book.save(tmp_path / "reports_final.xlsx")
    (from_book,) = merlin.read(tmp_path)
    table(tmp_path / "reports_final.csv", MERLIN)
    assert [from_book] == list(merlin.read(tmp_path))


@pytest.mark.parametrize(("sheet", "error"), [(b"<worksheet><sheetData><row", "ParseError"), (None, "AttributeError")])
def test_merlin_names_a_damaged_workbook(tmp_path: Path, sheet: bytes | None, error: str) -> None:
    openpyxl = pytest.importorskip("openpyxl", reason="openpyxl is not installed")
    openpyxl.Workbook().save(tmp_path / "whole.xlsx")
    with ZipFile(tmp_path / "whole.xlsx") as whole, ZipFile(tmp_path / "reports_final.xlsx", "w") as damaged:
        for name in whole.namelist():
            content = sheet if name == "xl/worksheets/sheet1.xml" else whole.read(name)
            if content is not None:
                damaged.writestr(name, content)
    with pytest.raises(ArchiveError, match=rf"reports_final\.xlsx: no Excel workbook \({error}\)"):
        list(merlin.read(tmp_path))


def test_merlin_names_a_split_that_is_none(tmp_path: Path) -> None:
    table(tmp_path / "reports_final.csv", [MERLIN[0] | {"Split": "other"}])
    with pytest.raises(ArchiveError, match=r"reports_final\.csv: row 1: field 'Split' is none of"):
        list(merlin.read(tmp_path))


def llava_folder(folder: Path) -> None:
    flags = {"chest_xray": False, "mri": False, "histology": False, "gross": False, "ct_scan": False}
    figures = {
        "ct": [
            {"pair_id": f"1_F{i}", "fig_caption": "CT with a cyst.", "domain": flags | {"ct_scan": True}}
            for i in (1, 2)
        ],
        "histology": [{"pair_id": "2_F1", "fig_caption": "Cells.", "domain": flags | {"histology": True}}],
    }
    document(folder / llava_med.CAPTIONS, figures)


def turns(*said: tuple[str, str]) -> list[dict[str, str]]:
    return [{"from": speaker, "value": value} for speaker, value in said]


def test_llava_med_asks_of_captions_of_radiology(tmp_path: Path) -> None:
    llava_folder(tmp_path)
    talk = turns(("human", "What is it?\n<image>"), ("gpt", "A cyst."), ("human", "Where?"), ("gpt", "In the liver."))
    items = [{"id": "1_F1", "conversations": talk}, {"id": "2_F1", "conversations": talk}]
    document(tmp_path / "llava_med_instruct_10k.json", items)
    samples = list(llava_med.read(tmp_path))
    assert [(s.fields["question"], s.targets["radiology_qa"]["answer"]) for s in samples] == [
        ("What is it?", "A cyst."), ("Where?", "In the liver."),
    ]  # fmt: skip
    assert {s.text for s in samples} == {"CT with a cyst."}


def test_llava_med_keeps_the_figures_of_an_article_together(tmp_path: Path) -> None:
    llava_folder(tmp_path)
    talk = turns(("human", "What is it?"), ("gpt", "A cyst."))
    items = [{"id": figure, "conversations": talk} for figure in ("1_F1", "1_F2")]
    document(tmp_path / "llava_med_instruct_10k.json", items)
    assert [s.group for s in llava_med.read(tmp_path)] == ["llava_med:1", "llava_med:1"]


def test_llava_med_names_an_unknown_speaker(tmp_path: Path) -> None:
    llava_folder(tmp_path)
    document(tmp_path / "llava_med_instruct_60k.json", [{"id": "1_F1", "conversations": turns(("user", "What?"))}])
    with pytest.raises(ArchiveError, match=r"llava_med_instruct_60k\.json: item 1: turn 1: field 'from' is none of"):
        list(llava_med.read(tmp_path))


def test_zhang2018_writes_its_tokens_as_a_text(tmp_path: Path) -> None:
    report = {
        "background": ["HISTORY", ":", "pain"],
        "findings": ["FINDINGS", ":", "no", "effusion", "(", "see", "above", ")", "."],
        "impression": ["normal", "."],
    }
    lines(tmp_path / "train.jsonl", [report, report | {"impression": []}])
    (sample,) = zhang2018.read(tmp_path)
    assert sample.text == "FINDINGS: no effusion (see above).\nIMPRESSION: normal."
    assert sample.split == "train" and sample.targets == {"impression_generation": {"impression": "normal."}}


def test_zhang2018_names_a_section_that_is_no_list(tmp_path: Path) -> None:
    lines(tmp_path / "dev.jsonl", [{"findings": "no effusion", "impression": []}])
    with pytest.raises(ArchiveError, match=r"dev\.jsonl: line 1: field 'findings' is no list"):
        list(zhang2018.read(tmp_path))
