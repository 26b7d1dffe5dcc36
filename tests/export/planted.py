"""A small fake run in this process, whose answers a test can choose: everything vouches for them as for the model's."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from radlite_batch import run as main_path
from radlite_batch.archive import ArchiveSpec
from radlite_batch.job import Job, Output, RunLimits, Workers
from radlite_batch.results.commit import commit_json, read_json
from radlite_batch.results.manifest import read_manifest, receipt_path, write_finished
from radlite_batch.results.tables import read_rows, staging_folder, write_task_part, write_wide_part
from radlite_batch.tasks.registry import TASKS, tasks_named
from radlite_batch.worker import run_shard

CANARY = "zanzibar"  # stands in every report
SHARD_ROWS = 4

Values = Mapping[str, Any]


def run_fake(
    folder: Path,
    ids: Sequence[str],
    tasks: Sequence[str] = tuple(TASKS),
    shards: int | None = None,
    patient_column: str = "patient_id",
    date: str = "2025-01-{:02d}",
) -> Path:
    """OUT of a run over one report for each id. shards: it ends after so many. date: of row n - 1."""
    with open(folder / "reports.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["report_id", "text", patient_column, "study_date", "question", "premise", "hypothesis"])
        for row, named in enumerate(ids):
            text = f"{CANARY} small effusion {row}"
            writer.writerow([named, text, f"P{row // 2}", date.format(row + 1), "Where?", f"Left {row}.", "Right."])
    out = folder / "out"
    limits = RunLimits() if shards is None else RunLimits(max_hours=1)
    job = Job(
        ArchiveSpec((str(folder / "reports.csv"),)), tuple(tasks), Output(out, shard_rows=SHARD_ROWS), "fake",
        Workers(1, 1), limits,
    )  # fmt: skip

    def execute(setting: Any, items: Any, placement: Any, receive: Any, *_: Any) -> None:
        for item in list(items)[:shards]:
            receive(run_shard(setting, item))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main_path, "execute", execute)
        main_path.run(job)
    return out


def plant(out: Path, answers: Mapping[str, Mapping[int, Values]]) -> None:
    """Puts columns of these tasks and source rows in the place of the model's."""
    manifest = read_manifest(out)
    assert manifest is not None
    tasks = tasks_named(task for names in manifest.routes.values() for task in names)
    for shard in manifest.shards:
        receipts = {}
        for item in manifest.items_of(shard):
            path = receipt_path(out, item)
            receipt = {key: value for key, value in read_json(path).items() if key != "sha256"}
            for name in item.tasks:
                chosen = answers.get(name, {})
                rows = [{**row, **chosen.get(row["source_row"], {})} for row in read_rows(out, name, shard.number)]
                receipt["tasks"][name] |= write_task_part(out, TASKS[name], shard.number, rows, {})
            commit_json(path, staging_folder(out), receipt)
            receipts[item.name] = read_json(path)
        write_finished(out, shard.number, [write_wide_part(out, tasks, shard.number, {})], receipts)


def span(start: int, text: str, label: str, kind: str = "text:label") -> dict[str, Any]:
    """One member of a span column. kind: the names of its text and its label."""
    named, labelled = kind.split(":")
    return {named: text, labelled: label, "start": start, "end": start + len(text)}
