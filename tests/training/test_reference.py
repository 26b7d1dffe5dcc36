"""Prepared samples as an archive that a run reads, and labels that a reference may hold."""

from pathlib import Path

import polars as pl
import pytest

from radlite_batch.archive import ArchiveReader, ArchiveSpec, plan_shards, survey
from radlite_batch.errors import ArchiveError, UsageError
from radlite_batch.tasks.abnormality_detection import LABELS
from radlite_batch.tasks.registry import TASKS
from training.datasets.base import Sample
from training.reference import REFERENCE_COLUMNS, REPORT_COLUMNS, gold, read_reference, text_sha, write_archive

TEXT = "FINDINGS: New effusion.\nIMPRESSION: Effusion."
NOT_CODED = ["negative", "uncertain", "absent"]
SAMPLES = [
    Sample(
        "chest", "1", "patient 1", TEXT, {"findings": "New effusion.", "impression": "Effusion."},
        {
            "abnormality_detection": {"pleural_effusion": "positive", "edema": NOT_CODED},
            "rads_assignment": {"system": "none"},
            "n_staging": {"stage": "NX"},
            "radiology_ner": {"entities": [[14, 22, "observation_present"]]},
            "temporal_comparison": {"changes": [[14, 22, "new"]]},
            "impression_generation": {"impression": "Effusion."},
        },
    ),
    Sample("chest", "1-q", "patient 1", TEXT, {"question": "Is there fluid?"}, {"radiology_qa": {"answer": "yes"}}),
    Sample(
        "pairs", "2", "2", "", {"premise": "No mass.", "hypothesis": "A mass."},
        {"radiology_nli": {"label": "contradiction"}},
    ),
    Sample(
        "neck", "3", "3", "Neck CT.",
        targets={"rads_assignment": {"system": "NI-RADS", "category": "2a", "neck": "1"}},
    ),
    Sample("neck", "4", "4", "Breast.", targets={"rads_assignment": {"system": "BI-RADS"}}),
    Sample(
        "words", "5", "5", "A cyst.", {"labelled_only": "spans"},
        {"radiology_ner": {"entities": [[2, 6, "observation_present"]]}},
    ),
]  # fmt: skip


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    assert write_archive(SAMPLES, tmp_path / "archive") == ["chest", "pairs", "neck"]
    return tmp_path / "archive"


def labels(archive: Path, source: str) -> list[dict[str, object]]:
    rows = pl.read_parquet(archive / source / "labels.parquet").rows(named=True)
    return [{name: label for name, label in row.items() if label is not None} for row in rows]


def test_labels_are_those_of_the_samples(archive: Path) -> None:
    report, question = labels(archive, "chest")
    assert report == {
        "report_id": "1", "patient_id": "patient 1", "text_sha": text_sha(SAMPLES[0]),
        "rads_label": "none", "n_stage": "NX", "pleural_effusion": "positive", "edema": "negative|uncertain|absent",
        "entities": [{"text": "effusion", "label": "observation_present", "start": 14, "end": 22}],
        "changes": [{"finding": "effusion", "change": "new", "start": 14, "end": 22}],
        "impression": "Effusion.",
    }  # fmt: skip
    assert question.keys() == {"report_id", "patient_id", "text_sha", "answer"}
    assert labels(archive, "pairs")[0]["nli_label"] == "contradiction"


def test_a_label_that_no_answer_can_equal_is_left_out(archive: Path) -> None:
    (only,) = labels(archive, "neck")  # the second has a system without a category, nothing else
    assert only["rads_label"] == "NI-RADS 2a // 1"
    assert pl.read_parquet(archive / "neck" / "reports.parquet")["report_id"].to_list() == ["3"]
    assert not (archive / "words").exists()  # of a report with some words labelled the others are not known


def test_the_columns_are_those_of_every_task(archive: Path) -> None:
    columns = pl.read_parquet(archive / "pairs" / "labels.parquet").columns
    assert columns == [
        "report_id",
        "patient_id",
        "text_sha",
        *(c for names in REFERENCE_COLUMNS.values() for c in names),
    ]
    assert list(REFERENCE_COLUMNS) == list(TASKS)


@pytest.mark.parametrize(("source", "numbers"), [("chest", (0, 1)), ("pairs", (2,)), ("neck", (3,))])
def test_a_run_reads_the_inputs_of_the_samples(archive: Path, source: str, numbers: tuple[int, ...]) -> None:
    path, spec = archive / source / "reports.parquet", ArchiveSpec(("reports",))
    assert tuple(pl.read_parquet(path).columns) == REPORT_COLUMNS
    (shard,) = plan_shards([survey(path, spec, True, 10, None)], 10, 0, 0)
    reports = list(ArchiveReader(spec).reports(shard))
    for number, report in zip(numbers, reports, strict=True):
        for name in SAMPLES[number].targets:
            assert TASKS[name].blocks(report) == SAMPLES[number].blocks(name)


def test_the_same_inputs_have_the_same_sha() -> None:
    again = Sample("other", "9", "9", TEXT.upper().replace(" ", "  "))
    assert text_sha(again) == text_sha(SAMPLES[0])
    assert len({text_sha(sample) for sample in SAMPLES}) == len(SAMPLES)


def test_an_archive_is_not_written_over_and_a_wrong_label_is_named(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is there already"):
        write_archive(SAMPLES, archive)
    wrong = Sample("neck", "6", "6", "Breast.", targets={"rads_assignment": {"system": "BI-RADS", "category": "4X"}})
    with pytest.raises(ArchiveError, match="neck sample 6: BI-RADS has no such category"):
        write_archive([wrong], tmp_path / "wrong")


def read(tmp_path: Path, task: str, column: str, labels: list[object]) -> list[object]:
    path = tmp_path / "labels.parquet"
    pl.DataFrame({"report_id": [str(i) for i in range(len(labels))], column: labels}).write_parquet(path)
    return gold(TASKS[task], read_reference(path), path)


def test_labels_with_bars_between_are_all_allowed(tmp_path: Path) -> None:
    assert read(tmp_path, "n_staging", "n_stage", ["N1|N2", "N0"]) == [("N1", "N2"), ("N0",)]
    rads = read(tmp_path, "rads_assignment", "rads_label", ["birads 4|BI-RADS 4A", "ni-rads 2a"])
    assert rads[0] == ("BI-RADS 4", "BI-RADS 4A")
    # Without a category of the neck, whatever a run says of it is right.
    assert isinstance(rads[1], tuple) and {"NI-RADS 2a", "NI-RADS 2a // 0", "NI-RADS 2a // 3"} < {*rads[1]}
    assert all(label.startswith("NI-RADS 2a") for label in rads[1])


@pytest.mark.parametrize("label", ["N1|", "N1|N9", "N1 N2", "|"])
def test_one_wrong_label_among_several_is_refused(tmp_path: Path, label: str) -> None:
    with pytest.raises(UsageError, match="n_stage of report '0' is not N0"):
        read(tmp_path, "n_staging", "n_stage", [label])


def test_flags_are_read_by_report(archive: Path) -> None:
    path = archive / "chest" / "labels.parquet"
    first, second = gold(TASKS["abnormality_detection"], read_reference(path), path)
    known = dict(zip(LABELS, first, strict=True))
    assert known["edema"] == ("negative", "uncertain", "absent") and known["pleural_effusion"] == ("positive",)
    assert known["fracture"] is None and set(second) == {None}
