"""Writes the Parquet parts: one per task and shard, then the wide and failure parts of a finished shard."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from radlite_batch.results.commit import commit
from radlite_batch.results.schemas import FAILURES, task_schema, wide_schema
from radlite_batch.tasks.base import Task


def part_path(out: Path, folder: str, shard: int) -> Path:
    return out / folder / f"part-{shard:05d}.parquet"


def staging_folder(out: Path) -> Path:
    """Where files grow before they get their names; no reader of the tables looks here."""
    return out / "_run" / "staging"


def write_task_part(
    out: Path, task: Task, shard: int, rows: Sequence[Mapping[str, Any]], metadata: Mapping[str, str]
) -> dict[str, Any]:
    """Commits a task's rows; returns the part's entry for the receipt: path, rows, sha256, bytes."""
    return _write(out, task.name, shard, pa.Table.from_pylist(list(rows), schema=task_schema(task, metadata)))


def write_wide_part(out: Path, tasks: Sequence[Task], shard: int, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Commits one row per report from the shard's task parts."""
    columns: dict[str, Any] = {}
    for task in tasks:
        table = pq.read_table(part_path(out, task.name, shard))
        columns.setdefault("report_id", table["report_id"])
        columns.setdefault("source_row", table["source_row"])
        columns[task.name] = [task.headline_of(row) for row in table.to_pylist()]
        columns[f"{task.name}_confidence"] = table["confidence"]
    return _write(out, "wide", shard, pa.table(columns, wide_schema(tasks, metadata)))


def write_failures_part(
    out: Path, shard: int, failures: Sequence[Mapping[str, Any]], metadata: Mapping[str, str]
) -> dict[str, Any]:
    """Commits the shard's failed and unparsed rows, with reasons."""
    return _write(
        out, "failures", shard, pa.Table.from_pylist(list(failures), schema=FAILURES.with_metadata(dict(metadata)))
    )


def _write(out: Path, folder: str, shard: int, table: pa.Table) -> dict[str, Any]:
    path = part_path(out, folder, shard)
    sha256, size = commit(path, staging_folder(out), lambda p: pq.write_table(table, p, compression="zstd"))
    return {"path": str(path.relative_to(out)), "rows": table.num_rows, "sha256": sha256, "bytes": size}
