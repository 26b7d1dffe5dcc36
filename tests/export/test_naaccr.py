"""Suggestions by NAACCR XML id: as the standard shapes them, and the same in CSV and XML."""

import csv
import datetime
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
from planted import plant, run_fake

from radlite_batch.errors import ArchiveError, UsageError
from radlite_batch.export.naaccr import OURS, write_naaccr
from radlite_batch.export.source import Source

# NAACCR base dictionary 26 (naaccr-dictionary-260.xml): id, number, length; all of them belong to a Tumor.
ITEMS = {
    "ajccTnmClinN": ("1002", 15),
    "ajccTnmClinM": ("1003", 15),
    "ajccTnmPathN": ("1012", 15),
    "ajccTnmPathM": ("1013", 15),
}
# NAACCR XML Data Exchange Standard, specification 1.8 (naaccr_data_1.8.xsd).
SPACE = "{http://naaccr.org/naaccrxml}"
ROOT = {"baseDictionaryUri", "recordType", "specificationVersion", "timeGenerated"}
RECORD_TYPES = {"A", "M", "C", "I"}
IDS = ["=1", '<&"\x07', "", "d", "e"]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = run_fake(tmp_path_factory.mktemp("run"), IDS, ("n_staging", "m_staging"))
    plant(
        out,
        {
            "n_staging": {row: {"stage": f"N{'0123X'[row]}", "confidence": 0.5 + row / 10} for row in range(5)},
            "m_staging": {row: {"stage": "M1" if row == 0 else "MX", "confidence": 0.99} for row in range(5)},
        },
    )
    return out


def read(folder: Path) -> list[dict[str, str]]:
    with open(folder / "suggestions.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def test_the_document_has_the_shape_of_the_standard(out: Path, tmp_path: Path) -> None:
    write_naaccr(Source(out), tmp_path, None, patients=False)
    root = ElementTree.parse(tmp_path / "suggestions.xml").getroot()
    assert root.tag == f"{SPACE}NaaccrData" and set(root.attrib) == ROOT
    assert root.attrib["baseDictionaryUri"] == "http://naaccr.org/naaccrxml/naaccr-dictionary-260.xml"
    assert root.attrib["recordType"] in RECORD_TYPES and root.attrib["specificationVersion"] == "1.8"
    assert datetime.datetime.fromisoformat(root.attrib["timeGenerated"]).tzinfo is not None
    assert {patient.tag for patient in root} == {f"{SPACE}Patient"} and len(root) == 4
    for patient in root:
        (tumor,) = patient
        assert tumor.tag == f"{SPACE}Tumor"
        items = [child for child in tumor if child.tag == f"{SPACE}Item"]
        assert list(tumor)[: len(items)] == items  # other namespaces stand behind the items
        assert {child.tag for child in tumor} == {f"{SPACE}Item", f"{{{OURS}}}suggestion"}
        for item in items:
            number, length = ITEMS[item.attrib["naaccrId"]]
            assert item.attrib["naaccrNum"] == number
            assert 0 < len(item.text or "") <= length


def test_stages_are_suggested_with_their_confidence(out: Path, tmp_path: Path) -> None:
    write_naaccr(Source(out), tmp_path, None, patients=False)
    rows = read(tmp_path)
    told = [(row["source_row"], row["naaccr_id"], row["value"], row["confidence"]) for row in rows]
    assert told == [
        ("0", "ajccTnmClinN", "cN0", "0.5000"),
        ("0", "ajccTnmClinM", "cM1", "0.9900"),
        ("1", "ajccTnmClinN", "cN1", "0.6000"),
        ("2", "ajccTnmClinN", "cN2", "0.7000"),
        ("3", "ajccTnmClinN", "cN3", "0.8000"),
    ]
    assert {row["status"] for row in rows} == {"preliminary"} and {row["model"] for row in rows} == {"fake"}
    assert [row["report_id"] for row in rows] == ["'=1", "'=1", '<&"\x07', "", "d"]


def test_the_two_files_say_the_same(out: Path, tmp_path: Path) -> None:
    write_naaccr(Source(out), tmp_path, None, patients=True)
    root = ElementTree.parse(tmp_path / "suggestions.xml").getroot()
    items = [(item.attrib["naaccrId"], item.text) for item in root.iter(f"{SPACE}Item")]
    assert items == [(row["naaccr_id"], row["value"]) for row in read(tmp_path)]
    notes = [note.attrib for note in root.iter(f"{{{OURS}}}suggestion")]
    for note, row in zip(notes, read(tmp_path), strict=True):
        assert note["naaccrId"] == row["naaccr_id"] and note["status"] == "preliminary"
        assert (note["sourceRow"], note["confidence"]) == (row["source_row"], row["confidence"])
        assert (note["patientId"], note["studyDate"]) == (row["patient_id"], row["study_date"])
    assert [note.get("reportId") for note in notes[1:4]] == ["=1", '<&"\ufffd', None]
    assert [(row["patient_id"], row["study_date"]) for row in read(tmp_path)[1:3]] == [
        ("P0", "2025-01-01"),
        ("P0", "2025-01-02"),
    ]


def test_less_sure_answers_are_not_suggested(out: Path, tmp_path: Path) -> None:
    told = write_naaccr(Source(out, min_confidence=0.75), tmp_path, None, patients=False)
    assert [row["value"] for row in read(tmp_path)] == ["cM1", "cN3"]
    assert told == [f"{tmp_path}/suggestions.{kind}  2 suggestions" for kind in ("csv", "xml")]
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_patients_are_told_only_of_the_archive_that_was_answered(tmp_path: Path) -> None:
    out = run_fake(tmp_path, ["a", "b"], ("n_staging",))
    archive, kept = tmp_path / "reports.csv", tmp_path / "kept"
    shutil.move(archive, kept)
    with pytest.raises(ArchiveError, match=r"reports.csv: No such file"):
        list(Source(out).reports(patients=True))
    archive.write_bytes(kept.read_bytes().replace(b"P0", b"P1"))
    with pytest.raises(ArchiveError, match=r"reports.csv: its bytes changed since the run was planned"):
        list(Source(out).reports(patients=True))
    shutil.move(kept, archive)
    assert [(r.patient_id, r.study_date) for r in Source(out).reports(patients=True)] == [
        ("P0", "2025-01-01"),
        ("P0", "2025-01-02"),
    ]


def test_an_archive_without_patients_or_legible_dates(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    out = run_fake(tmp_path / "other", ["a"], ("n_staging",), patient_column="who")
    with pytest.raises(UsageError, match="the job names no patient_id column"):
        list(Source(out).reports(patients=True))
    out = run_fake(tmp_path, ["a"], ("n_staging",), date="{:02d}/02/2025")
    assert [(r.patient_id, r.study_date) for r in Source(out).reports(patients=True)] == [("P0", "")]
