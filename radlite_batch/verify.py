"""Checks an output against itself and against the archive it was made from; writes nothing.

Every byte is vouched for: those of a part by its receipt, or by what is said of its finished shard; those of the
manifest, receipts, summary and log by checksums of their own.
"""

import hashlib
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from radlite_batch.archive import ArchiveReader, ArchiveSpec, survey
from radlite_batch.errors import ArchiveError, OutputError, OutputLocked, UsageError
from radlite_batch.plan import planned_job
from radlite_batch.records import STATUSES, Report, Shard, WorkItem
from radlite_batch.results.commit import damaged_lines, is_locked, read_json
from radlite_batch.results.manifest import Manifest, finished_path, lock_path, read_manifest, receipt_path, run_folder
from radlite_batch.results.schemas import FAILURES, task_schema, wide_schema
from radlite_batch.results.summary import RunSummary
from radlite_batch.results.tables import count_labels, part_path, table_of, wide_table
from radlite_batch.storage import local, shown
from radlite_batch.tasks.base import Task
from radlite_batch.tasks.registry import TASKS, tasks_named

_ANSWERED = ("ok", "unparsed", "too_long", "failed")  # what may become of a row that has what its task needs


@dataclass(slots=True)
class Verdict:
    """findings: a line for each thing that is wrong. complete: whether every row has its outcome."""

    complete: bool
    parts: int = 0
    bytes: int = 0
    rows: int = 0
    findings: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        return 1 if self.findings else 0 if self.complete else 3


def verify(out: Path) -> Verdict:
    """Checks bytes, schemas, counts and vocabularies, and reconciles them with the archive.

    Raises UsageError where no run was planned, OutputLocked while one goes on, OutputError without a whole manifest."""
    if is_locked(lock_path(out)):
        raise OutputLocked(f"{shown(out)}: a run is going on here; verify it when it has ended")
    manifest = read_manifest(out)
    if manifest is None:
        raise UsageError(f"{out}: no run was planned there")
    return _Check(out, manifest).verdict()


class _Check:
    def __init__(self, out: Path, manifest: Manifest):
        self._out, self._manifest = out, manifest
        self._spec: ArchiveSpec = planned_job(out).archive
        self._tasks = tasks_named(task for tasks in manifest.routes.values() for task in tasks)
        self._reader = ArchiveReader(self._spec, self._needs_text)
        self._verdict = Verdict((out / "_SUCCESS").exists())
        self._totals = RunSummary("", 0, manifest.rows, len(manifest.shards), 0)
        self._seen: set[Path] = set()  # parts that something vouches for

    @property
    def _needs_text(self) -> bool:
        return any(task.uses_text for task in self._tasks)

    def verdict(self) -> Verdict:
        changed = dict(self._changed_files())
        self._verdict.findings += changed.values()
        for shard in self._manifest.shards:
            self._verdict.findings += self._shard(shard, shard.path not in changed)
        self._verdict.findings += (*self._strays(), *self._summary(), *self._log())
        return self._verdict

    def _changed_files(self) -> Iterator[tuple[str, str]]:
        """(path, finding) of files of the archive that are not what was planned."""
        most, before = self._manifest.identity["max_rows"], 0
        for file in self._manifest.files:
            left = None if most is None else most - before
            before += file.rows
            try:
                path, size = local(file.path, fresh=True), self._manifest.identity["shard_rows"]
                now = survey(path, self._spec, self._needs_text, size, left)
            except OSError as error:
                yield file.path, f"{file.path}: {error.strerror}"
            except ArchiveError as error:
                yield file.path, str(error)
            else:
                if now.sha256 != file.sha256:
                    yield file.path, f"{file.path}: its bytes changed since the run was planned"
                elif now != file:
                    yield file.path, f"{file.path}: {now.rows} rows, {file.rows} were planned"

    def _shard(self, shard: Shard, archived: bool) -> Iterator[str]:
        items = self._manifest.items_of(shard)
        reports = self._reports(shard) if archived else None
        receipts: dict[str, dict[str, Any]] = {}
        whole = True
        for item in items:
            path = receipt_path(self._out, item)
            if self._verdict.complete or path.exists():
                receipt = yield from _document(path)
                found = list(self._item(item, receipt, reports)) if receipt else []
                yield from found
                whole = whole and not found
                receipts |= {item.name: receipt} if receipt else {}
        if len(receipts) == len(items) and whole:
            self._totals.add(receipts.values())
            self._verdict.rows += shard.rows
        if self._verdict.complete or finished_path(self._out, shard.number).exists():
            yield from self._finished(shard, receipts, whole)

    def _reports(self, shard: Shard) -> list[Report]:
        return [r for r in self._reader.reports(shard) if r.problem or self._spec.filter.admits(r)]

    def _item(self, item: WorkItem, receipt: Mapping[str, Any], reports: Sequence[Report] | None) -> Iterator[str]:
        path, shard = receipt_path(self._out, item), item.shard
        if (receipt["item"], receipt["shard"], tuple(receipt["tasks"])) != (item.name, shard.number, item.tasks):
            yield f"{path}: it is the receipt of other work"
            return
        if receipt["rows"] + receipt["filtered"] != shard.rows:
            yield f"{path}: {receipt['rows']} rows and {receipt['filtered']} filtered, {shard.rows} were planned"
        unanswered: list[tuple[Any, ...]] | None = []
        for name, entry in receipt["tasks"].items():
            task = TASKS[name]
            table = yield from self._part(entry, name, shard, task_schema(task, {}), item.model)
            if table is None:
                unanswered = None
                continue
            rows = table.to_pylist()
            if unanswered is not None:
                bad = (row for row in rows if row["status"] in ("failed", "unparsed"))
                unanswered += [(row["source_row"], name, row["status"]) for row in bad]
            wrong = [*_wrong_rows(task, item, rows, entry), *_unreconciled(task, rows, reports)]
            yield from (f"{self._out / entry['path']}: {each}" for each in wrong)
        told = [(f["source_row"], f["task"], f["status"]) for f in receipt["failures"]]
        if unanswered is not None and unanswered != told:
            yield f"{path}: its failures are not those of its parts"

    def _part(
        self, entry: Mapping[str, Any], folder: str, shard: Shard, schema: pa.Schema, model: str | None = None
    ) -> Generator[str, None, pa.Table | None]:
        """Findings of one part; returns its table, or None where it cannot be trusted."""
        path = part_path(self._out, folder, shard.number)
        self._seen.add(path)
        if entry["path"] != str(path.relative_to(self._out)):
            yield f"{path}: vouched for under another name"
            return None
        if not path.exists():
            yield f"{path}: gone"
            return None
        data = path.read_bytes()
        self._verdict.parts += 1
        self._verdict.bytes += len(data)
        if (len(data), hashlib.sha256(data).hexdigest()) != (entry["bytes"], entry["sha256"]):
            yield f"{path}: damaged, its checksum is another; `radlite retry` makes it again"
            return None
        table = table_of(data)
        if not table.schema.equals(schema):
            yield f"{path}: its columns are not those of the schema"
            return None
        if table.num_rows != entry["rows"]:
            yield f"{path}: {table.num_rows} rows, {entry['rows']} are vouched for"
        identity = self._manifest.identity
        expected = {"version": identity["version"], "pack": identity["pack"]}
        expected |= {"model_sha256": identity["models"][model]["sha256"]} if model else {}
        for key, value in expected.items():
            if table.schema.metadata.get(f"radlite.{key}".encode()) != value.encode():
                yield f"{path}: its {key} is not the manifest's"
        return table

    def _finished(self, shard: Shard, receipts: Mapping[str, Mapping[str, Any]], whole: bool) -> Iterator[str]:
        """What is said of a finished shard. whole: whether its task parts can be relied on."""
        path = finished_path(self._out, shard.number)
        finished = yield from _document(path)
        if finished is None:
            return
        if finished["receipts"] != {name: receipt["sha256"] for name, receipt in receipts.items()}:
            if self._verdict.complete:  # else it is made again when the run goes on
                yield f"{path}: made from other receipts than there are"
            return
        entries = {Path(entry["path"]).parent.name: entry for entry in finished["parts"]}
        failures = [failure for receipt in receipts.values() for failure in receipt["failures"]]
        if list(entries) != ["wide", "failures"][: 1 + bool(failures)]:
            yield f"{path}: vouches for other parts than a wide one, and failures where there are some"
            return
        wide = yield from self._part(entries["wide"], "wide", shard, wide_schema(self._tasks, {}))
        if whole and wide is not None and not wide.equals(wide_table(self._out, self._tasks, shard.number, {})):
            yield f"{self._out / entries['wide']['path']}: its rows are not those of the task tables"
        if failures:
            table = yield from self._part(entries["failures"], "failures", shard, FAILURES)
            if table is not None and table.to_pylist() != failures:
                yield f"{self._out / entries['failures']['path']}: its rows are not those of the receipts"

    def _strays(self) -> Iterator[str]:
        """Files among the parts that nothing vouches for. A run under way may have parts without a receipt yet."""
        folders = [*(task.name for task in self._tasks), "wide", "failures"]
        pending = {part_path(self._out, folder, shard.number) for folder in folders for shard in self._manifest.shards}
        for folder in folders:
            for path in sorted((self._out / folder).glob("*")):
                if path not in self._seen and (self._verdict.complete or path not in pending):
                    yield f"{path}: nothing vouches for it"

    def _summary(self) -> Iterator[str]:
        path = run_folder(self._out) / "summary.json"
        if not (path.exists() or self._verdict.complete):
            return
        summary = yield from _document(path)
        if summary is None or not self._verdict.complete:
            return
        counted, totals = ("rows_done", "rows_filtered", "missing_ids", "tasks"), self._totals.document()
        for key in counted if not self._verdict.findings else ():
            if summary[key] != totals[key]:
                yield f"{path}: its {key} are not those of the receipts"
        if summary["state"] != "complete":
            yield f"{path}: the run did not complete, and _SUCCESS says it did"

    def _log(self) -> Iterator[str]:
        path = run_folder(self._out) / "log.jsonl"
        for number in damaged_lines(path) if path.exists() else ():
            yield f"{path} line {number}: damaged, its checksum is another"


def _document(path: Path) -> Generator[str, None, dict[str, Any] | None]:
    try:
        return read_json(path)
    except OutputError as error:
        yield str(error)
        return None


def _wrong_rows(
    task: Task, item: WorkItem, rows: Sequence[Mapping[str, Any]], entry: Mapping[str, Any]
) -> Iterator[str]:
    """What in a task's rows breaks the contract, or differs from what the receipt counted."""
    places = [row["source_row"] for row in rows]
    if places != sorted(set(places)) or not set(places) <= set(item.source_rows):
        yield "its source rows are not those of the shard"
    if dict(Counter(row["status"] for row in rows)) != entry["status"]:
        yield "its statuses are not those of the receipt"
    labels = count_labels(task, rows)
    if labels != entry["labels"]:
        yield "its labels are not those of the receipt"
    for column in task.columns:
        if not set(labels.get(column.name, ())) <= set(column.vocabulary):
            yield f"column {column.name} has labels outside its vocabulary"
    for row in rows:
        answered = any(row[column.name] is not None for column in task.columns)
        if row["status"] not in STATUSES or (answered and row["status"] != "ok"):
            yield f"row {row['source_row']}: its status does not fit its answer"
        if row["model"] != item.model or not 0 <= (row["confidence"] or 0) <= 1:
            yield f"row {row['source_row']}: its model or confidence cannot be"


def _unreconciled(task: Task, rows: Sequence[Mapping[str, Any]], reports: Sequence[Report] | None) -> Iterator[str]:
    """Where a task's rows are not those of the archive. reports: None where the archive is not what it was."""
    if reports is None:
        return
    if [(r.source_row, r.report_id) for r in reports] != [(row["source_row"], row["report_id"]) for row in rows]:
        yield "its rows are not those of the archive"
        return
    for row, report in zip(rows, reports, strict=True):
        allowed = ("failed",) if report.problem else _ANSWERED if task.blocks(report) else ("empty", "failed")
        if row["status"] not in allowed:
            yield f"row {row['source_row']}: {row['status']}, which its report in the archive is not"
