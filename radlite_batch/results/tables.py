"""Writes the Parquet parts: one per task and shard, then the wide and failure parts of a finished shard."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from radlite_batch.errors import OutputError
from radlite_batch.results.commit import commit
from radlite_batch.results.schemas import FAILURES, task_schema, wide_schema
from radlite_batch.storage import shown
from radlite_batch.tasks.base import Task


def part_path(out: Path, folder: str, shard: int) -> Path:
    return out / folder / f"part-{shard:05d}.parquet"


def staging_folder(out: Path) -> Path:
    """Where files grow before they get their names; no reader of the tables looks here."""
    return out / "_run" / "staging"


def count_labels(task: Task, rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """How often each label stands in each column of a closed vocabulary; never of free text."""
    labels: dict[str, dict[str, int]] = {}
    for column in task.columns:
        if column.vocabulary and column.type == "string":
            labels[column.name] = dict(Counter(row[column.name] for row in rows if row[column.name] is not None))
        elif column.vocabulary:
            key = column.type.rpartition(":")[2]
            labels[column.name] = dict(Counter(span[key] for row in rows for span in row[column.name] or ()))
    return labels


def table_of(part: bytes) -> pa.Table:
    """A part's table, read by this thread alone: one of Arrow's that outlives the interpreter aborts the process."""
    return pq.ParquetFile(pa.BufferReader(part)).read(use_threads=False)


def read_part(path: Path) -> pa.Table:
    """Raises OutputError where it cannot be read."""
    try:
        return table_of(path.read_bytes())
    except (pa.ArrowException, OSError):
        raise damaged(path) from None


def damaged(part: Path) -> OutputError:
    return OutputError(f"{shown(part)}: damaged; see `radlite verify`")


def read_rows(out: Path, folder: str, shard: int) -> list[dict[str, Any]]:
    """The rows of a part, in order. Raises OutputError."""
    path = part_path(out, folder, shard)
    try:
        rows: list[dict[str, Any]] = read_part(path).to_pylist()
        return rows
    except UnicodeDecodeError:
        raise damaged(path) from None


def write_task_part(
    out: Path, task: Task, shard: int, rows: Sequence[Mapping[str, Any]], metadata: Mapping[str, str]
) -> dict[str, Any]:
    """Commits a task's rows; returns the part's entry for the receipt: path, rows, sha256, bytes."""
    return _write(out, task.name, shard, pa.Table.from_pylist(list(rows), schema=task_schema(task, metadata)))


def write_wide_part(out: Path, tasks: Sequence[Task], shard: int, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Commits one row per report from the shard's task parts."""
    return _write(out, "wide", shard, wide_table(out, tasks, shard, metadata))


def wide_table(out: Path, tasks: Sequence[Task], shard: int, metadata: Mapping[str, str]) -> pa.Table:
    """One row per report: the headline and the confidence of each task's part. Raises OutputError."""
    columns: dict[str, Any] = {}
    for task in tasks:
        table = read_part(part_path(out, task.name, shard))
        columns.setdefault("report_id", table["report_id"])
        columns.setdefault("source_row", table["source_row"])
        columns[task.name] = [task.headline_of(row) for row in table.to_pylist()]
        columns[f"{task.name}_confidence"] = table["confidence"]
    return pa.table(columns, wide_schema(tasks, metadata))


def write_failures_part(
    out: Path, shard: int, failures: Sequence[Mapping[str, Any]], metadata: Mapping[str, str]
) -> dict[str, Any]:
    """Commits the shard's failed and unparsed rows, with reasons."""
    return _write(
        out, "failures", shard, pa.Table.from_pylist(list(failures), schema=FAILURES.with_metadata(dict(metadata)))
    )


def _write(out: Path, folder: str, shard: int, table: pa.Table) -> dict[str, Any]:
    path, sink = part_path(out, folder, shard), pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    sha256, size = commit(path, staging_folder(out), memoryview(sink.getvalue()))
    return {"path": str(path.relative_to(out)), "rows": table.num_rows, "sha256": sha256, "bytes": size}
