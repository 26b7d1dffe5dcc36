"""The sample of a benchmark is distinct, even, complete and private."""

import csv
import stat
from pathlib import Path

import pytest

from radlite_batch.archive import ArchiveSpec
from radlite_batch.bench.sample import choose, read_sample, write_sample
from radlite_batch.errors import ArchiveError
from radlite_batch.tasks.registry import TASKS


def archive(tmp_path: Path, rows: list[dict[str, str]]) -> ArchiveSpec:
    path = tmp_path / "archive.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return ArchiveSpec((str(path),))


def numbered(n: int) -> list[dict[str, str]]:
    return [{"report_id": f"{i}", "text": f"Nodule of {i} mm. Follow-up in {i} weeks."} for i in range(n)]


def test_the_chosen_reports_are_evenly_spaced(tmp_path: Path) -> None:
    chosen = choose(archive(tmp_path, numbered(100)), 5)
    assert [report.source_row for report in chosen] == [0, 20, 40, 60, 80]


def test_no_two_reports_share_an_input(tmp_path: Path) -> None:
    rows = numbered(6)
    rows[2]["text"] = rows[0]["text"]
    rows[4]["text"] = rows[1]["text"] + " The rest is another text."  # the same premise and hypothesis
    rows[5]["text"] = "  "
    chosen = choose(archive(tmp_path, rows), 100)
    assert [report.source_row for report in chosen] == [0, 1, 3]


def test_every_task_finds_its_inputs(tmp_path: Path) -> None:
    sample = write_sample(archive(tmp_path, numbered(10)), 4, tmp_path / "sample.parquet")
    reports = read_sample(sample)
    assert [(task.name, i) for task in TASKS.values() for i, r in enumerate(reports) if task.blocks(r) is None] == []
    assert reports[1].fields["prior_text"] == reports[0].text
    assert reports[0].fields["premise"] == "Nodule of 0 mm."
    assert reports[0].fields["hypothesis"] == "Follow-up in 0 weeks."


def test_fields_of_the_archive_stay(tmp_path: Path) -> None:
    given = {"findings": "Clear lungs.", "prior_text": "Old.", "premise": "A.", "hypothesis": "B.", "question": "C?"}
    (report,) = read_sample(write_sample(archive(tmp_path, [numbered(1)[0] | given]), 1, tmp_path / "sample.parquet"))
    assert {key: report.fields[key] for key in given} == given


def test_the_sample_is_its_owners_alone(tmp_path: Path) -> None:
    write_sample(archive(tmp_path, numbered(3)), 3, tmp_path / "sample.parquet")
    assert stat.S_IMODE((tmp_path / "sample.parquet").stat().st_mode) == 0o600


def test_an_archive_without_text_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="no report with a text"):
        write_sample(archive(tmp_path, [{"report_id": "1", "text": ""}]), 3, tmp_path / "sample.parquet")
