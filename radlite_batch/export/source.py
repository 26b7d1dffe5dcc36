"""What an export reads: the committed answers of a run, report by report, with one shard in memory at a time."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from radlite_batch.archive import ArchiveReader, day_of
from radlite_batch.errors import ArchiveError, OutputError, UsageError
from radlite_batch.plan import planned_job
from radlite_batch.records import Shard
from radlite_batch.report import answer_columns
from radlite_batch.results.manifest import Manifest, read_committed, read_manifest, read_receipts
from radlite_batch.results.parts import readable, scan
from radlite_batch.results.tables import part_path, read_rows
from radlite_batch.storage import local, shown
from radlite_batch.tasks.base import Task
from radlite_batch.tasks.registry import tasks_named


@dataclass(frozen=True, slots=True)
class Answer:
    """One thing that a task says of a report: a label, or a span with its label.

    confidence: None where there is none. text, start, end: of a span, offsets in code points; else None."""

    task: str
    column: str
    label: str
    confidence: float | None
    model: str
    text: str | None = None
    start: int | None = None
    end: int | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """A report's answers, in the order of tasks and columns. time: when its shard was answered.

    file: sha256 of its file. patient_id, study_date (YYYY-MM-DD): from the archive, "" where not asked for or absent.
    """

    report_id: str | None
    source_row: int
    file: str
    time: datetime
    answers: Sequence[Answer]
    patient_id: str = ""
    study_date: str = ""


class Source:
    """The committed part of a run. min_confidence: answers that are less sure, or that do not say, are left out."""

    def __init__(self, out: Path, partial: bool = False, min_confidence: float | None = None):
        """Raises UsageError where no run is, or an unfinished one that is not asked for; OutputError for damage."""
        self.out, self.min_confidence = out, min_confidence
        self.manifest, self.shards = _committed(out, partial)
        self.tasks: tuple[Task, ...] = tasks_named(task for tasks in self.manifest.routes.values() for task in tasks)

    def engine(self, model: str) -> str:
        """What answered, in words."""
        identity = self.manifest.identity
        sha256 = identity["models"][model]["sha256"]
        return f"radlite-batch {identity['version']}, pack {identity['pack']}, model {model} sha256 {sha256}"

    def wide(self) -> Iterator[pl.DataFrame]:
        """The wide table, part by part. Raises OutputError."""
        for shard in self.shards:
            with readable(self.out):
                part = pl.read_parquet(part_path(self.out, "wide", shard.number), glob=False)
            yield part

    def hold(self, of_ids: pl.Expr) -> bool:
        """Whether this is true of the column report_id. Raises OutputError."""
        parts = [part_path(self.out, "wide", shard.number) for shard in self.shards]
        ids = scan(parts) if parts else pl.LazyFrame(schema={"report_id": pl.String})
        with readable(self.out):
            return bool(ids.select(of_ids).collect(engine="streaming").item())

    def reports(self, patients: bool = False) -> Iterator[Answered]:
        """Every report, whether it has answers or not. patients: also read patient ids and dates from the archive.

        Raises ArchiveError where the archive is not what was answered, UsageError where it names no patients."""
        files = {file.path: file.sha256 for file in self.manifest.files}
        archived = _Archive(self.out, files) if patients else None
        for shard in self.shards:
            parts = {task.name: read_rows(self.out, task.name, shard.number) for task in self.tasks}
            first = parts[self.tasks[0].name]
            known = archived.fields(shard) if archived else [{} for _ in first]
            time = self._time(shard)
            for i, (row, named) in enumerate(zip(first, known, strict=True)):
                answers = [a for task in self.tasks for a in _answers(task, parts[task.name][i]) if self._admits(a)]
                yield Answered(row["report_id"], row["source_row"], files[shard.path], time, answers, **named)

    def _time(self, shard: Shard) -> datetime:
        receipts = read_receipts(self.out, self.manifest.items_of(shard)).values()
        end: float = max(receipt["begin"] + sum(receipt["seconds"].values()) for receipt in receipts)
        return datetime.fromtimestamp(int(end), UTC)

    def _admits(self, answer: Answer) -> bool:
        least = self.min_confidence
        return least is None or (answer.confidence is not None and answer.confidence >= least)


class _Archive:
    """Patient ids and study dates of the very rows that were answered."""

    def __init__(self, out: Path, files: Mapping[str, str]):
        """files: sha256 of each. Raises ArchiveError where one is gone or another."""
        self._spec = planned_job(out).archive
        self._reader = ArchiveReader(self._spec, needs_text=False)
        for path, sha256 in files.items():
            try:
                with open(local(path, fresh=True), "rb") as file:
                    now = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise ArchiveError(f"{path}: {error.strerror}") from None
            if now != sha256:
                raise ArchiveError(f"{path}: its bytes changed since the run was planned")

    def fields(self, shard: Shard) -> list[dict[str, str]]:
        """patient_id and study_date of each of a shard's rows."""
        reports = [r for r in self._reader.reports(shard) if r.problem or self._spec.filter.admits(r)]
        if any(not r.problem and "patient_id" not in r.fields for r in reports):
            raise UsageError(f"{shard.path}: the job names no patient_id column, so there are no patients to export")
        days = [day_of(r.fields.get("study_date", "")) or "" for r in reports]
        return [
            {"patient_id": r.fields.get("patient_id", ""), "study_date": day}
            for r, day in zip(reports, days, strict=True)
        ]


def _committed(out: Path, partial: bool) -> tuple[Manifest, list[Shard]]:
    manifest = read_manifest(out)
    if manifest is None:
        raise UsageError(f"{shown(out)}: no run was planned there")
    finished = read_committed(out, manifest).shards
    shards = [shard for shard in manifest.shards if shard.number in finished]
    complete = (out / "_SUCCESS").exists()
    if complete and len(shards) < len(manifest.shards):
        raise OutputError(f"{shown(out)}: parts are damaged or gone; see `radlite verify`")
    if not complete and not partial:
        done = f"with --partial the {len(shards)} of {len(manifest.shards)} shards that are committed are exported"
        raise UsageError(f"{shown(out)}: the run is not finished; {done}")
    return manifest, shards


def _answers(task: Task, row: Mapping[str, Any]) -> Iterator[Answer]:
    """What a row of the task's table says; nothing of a task that writes free text."""
    if row["status"] != "ok":
        return
    for column in answer_columns(task):
        value = row[column.name]
        if column.type.startswith("spans:"):
            _, text, label = column.type.split(":")
            for span in value:
                place = (span[text], span["start"], span["end"])
                yield Answer(task.name, column.name, span[label], row["confidence"], row["model"], *place)
        else:
            sure = row.get(f"{column.name}_confidence", row["confidence"])
            yield Answer(task.name, column.name, value, sure, row["model"])
