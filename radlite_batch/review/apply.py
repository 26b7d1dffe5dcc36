"""Lays decisions beside a run's answers.

    OUT/_run/review/decisions.parquet               every reviewer's last decision on each answer
    OUT/_run/review/reviewed/TASK/part-N.parquet    the task's table, and columns reviewed_* behind its own

The model's output is only read. Applying a file twice is applying it once.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from radlite_batch.errors import OutputError
from radlite_batch.report import committed_parts
from radlite_batch.results.commit import commit, locked_here, make_folder
from radlite_batch.results.schemas import arrow_type
from radlite_batch.review.answers import label_key, planned, review_folder, reviewed_columns, run_name
from radlite_batch.review.decisions import Decision, agreed, read_decisions
from radlite_batch.storage import shown
from radlite_batch.tasks.base import Column, Task
from radlite_batch.tasks.rads_assignment import RadsAssignment
from radlite_batch.tasks.registry import TASKS

_TIME = pa.timestamp("us", "UTC")
_SCHEMA = pa.schema(
    [
        ("task", pa.string()), ("source_row", pa.int64()), ("report_id", pa.string()), ("column", pa.string()),
        ("start", pa.int64()), ("end", pa.int64()), ("answer", pa.string()), ("decision", pa.string()),
        ("correction", pa.string()), ("reviewer", pa.string()), ("time", _TIME),
    ]
)  # fmt: skip


def apply(out: Path, files: Sequence[Path]) -> list[Decision]:
    """Adds the decisions of these files to those there are, writes the tables, and returns all decisions that hold.

    A reviewer's later decision on an answer replaces the earlier one. Raises UsageError, naming file and line, where a
    line does not fit or two reviewers decide otherwise; OutputLocked while others are applied."""
    manifest = planned(out)
    parts = committed_parts(out, manifest)
    new = read_decisions(files, run_name(manifest), parts)
    folder = review_folder(out)
    make_folder(folder)
    with locked_here(folder / "lock"):
        held = agreed([*_kept(folder / "decisions.parquet"), *new])
        rows = [{key: value for key, value in asdict(each).items() if key != "where"} for each in held]
        _write(folder / "decisions.parquet", folder, pa.Table.from_pylist(rows, _SCHEMA))
        for task in {decision.task: None for decision in held}:
            by_row = _by_row(each for each in held if each.task == task)
            for part in parts[task]:
                table = _reviewed(TASKS[task], pq.read_table(part, use_threads=False), by_row)
                _write(folder / "reviewed" / task / part.name, folder, table)
    return held


def _kept(path: Path) -> list[Decision]:
    """The decisions of earlier files."""
    try:
        rows = pq.read_table(path, schema=_SCHEMA).to_pylist() if path.exists() else []
    except (pa.ArrowException, OSError) as error:
        raise OutputError(f"{shown(path)}: not readable ({type(error).__name__})") from None
    return [Decision(**row, where=shown(path)) for row in rows]


def _by_row(decisions: Iterable[Decision]) -> dict[int, list[Decision]]:
    found: dict[int, list[Decision]] = {}
    for decision in decisions:
        found.setdefault(decision.source_row, []).append(decision)
    return found


def _write(path: Path, staging: Path, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    commit(path, staging, memoryview(sink.getvalue()))


def _reviewed(task: Task, table: pa.Table, by_row: Mapping[int, Sequence[Decision]]) -> pa.Table:
    """A task's table with what review made of its answers; null where it was not reviewed, or rejected."""
    chosen = [i for i, row in enumerate(table["source_row"].to_pylist()) if row in by_row]
    rows = table.take(pa.array(chosen, pa.int64())).to_pylist()
    decided = [by_row[row["source_row"]] for row in rows]

    def append(name: str, kind: pa.DataType, about: str, values: Sequence[Any]) -> None:
        nonlocal table
        column = [None] * table.num_rows
        for i, value in zip(chosen, values, strict=True):
            column[i] = value
        field = pa.field(name, kind, metadata={"description": about})
        table = table.append_column(field, pa.array(column, kind))

    for column in reviewed_columns(task):
        of_column = ([d for d in each if d.column == column.name] for each in decided)
        outcomes = [_outcome(task, column, row, each) for row, each in zip(rows, of_column, strict=True)]
        for filled in _filled(task, column):
            about = f"{filled.name} after review; null where it was rejected or not reviewed"
            append(f"reviewed_{filled.name}", _type(filled), about, [values.get(filled.name) for values, _ in outcomes])
        about = f"accept, correct or reject: what was decided on {column.name}; null where nothing was"
        append(f"reviewed_{column.name}_decision", pa.string(), about, [word for _, word in outcomes])
    people = [sorted({d.reviewer for d in each if d.reviewer}) for each in decided]
    append("reviewed_by", pa.list_(pa.string()), "initials of the reviewers", people)
    times = [max(d.time for d in each) for each in decided]
    append("reviewed_at", _TIME, "when the last of the row's decisions was made", times)
    return table


def _filled(task: Task, column: Column) -> tuple[Column, ...]:
    """The columns that a decision on this one fills: a RADS label has its system and category beside it."""
    return tuple(c for c in task.columns if c.type == "string") if isinstance(task, RadsAssignment) else (column,)


def _type(column: Column) -> pa.DataType:
    kind = arrow_type(column)
    if label_key(column) is None:
        return kind
    return pa.list_(pa.struct([*kind.value_type, pa.field("decision", pa.string())]))


def _outcome(
    task: Task, column: Column, row: Mapping[str, Any], decisions: Sequence[Decision]
) -> tuple[Mapping[str, Any], str | None]:
    """(values by column, decision) of one row."""
    if not decisions:
        return {}, None
    if label_key(column) and row[column.name]:
        return _span_outcome(column, row[column.name], decisions)
    last = decisions[-1]
    if last.decision == "accept":
        return row, "accept"
    if last.correction is None:
        return {}, "reject"
    if isinstance(task, RadsAssignment):
        return task.parse(last.correction, ()).values, "correct"
    return {column.name: last.correction}, "correct"


def _span_outcome(
    column: Column, spans: Sequence[Mapping[str, Any]], decisions: Sequence[Decision]
) -> tuple[Mapping[str, Any], str]:
    """The row's spans, without rejected ones; those that nobody decided on stay, their decision null."""
    label = label_key(column) or ""
    by_place = {(d.start, d.end): d for d in decisions}
    kept = []
    for span in spans:
        decided = by_place.get((span["start"], span["end"]))
        word = decided.decision if decided else None
        changed = {label: decided.correction} if decided and decided.correction else {}
        if word != "reject":
            kept.append({**span, **changed, "decision": word})
    same = all(d.decision == "accept" for d in decisions)
    return {column.name: kept}, "accept" if same else "correct"
