"""A run's answers one by one, as people judge them, and what else may be answered.

An answer is what one decision is made on: a label, one of several flags, one span, or a text in words. It is named by
its place: task, source_row, column and, of a span, start and end. A row without spans is one answer too, "".
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from radlite_batch.errors import UsageError
from radlite_batch.report import answer_columns
from radlite_batch.results.manifest import Manifest, read_manifest, run_folder
from radlite_batch.results.parts import scan
from radlite_batch.storage import shown
from radlite_batch.tasks.base import Choice, Column, Spans, Task
from radlite_batch.tasks.rads_assignment import RadsAssignment
from radlite_batch.tasks.rads_systems import NI_RADS_NECK, NO_SYSTEM, SYSTEMS, format_label

_ALTERNATIVES = pl.List(pl.Struct({"label": pl.String, "probability": pl.Float32}))


def review_folder(out: Path) -> Path:
    return run_folder(out) / "review"


def planned(out: Path) -> Manifest:
    """The manifest of a run. Raises UsageError where none was planned."""
    manifest = read_manifest(out)
    if manifest is None:
        raise UsageError(f"{shown(out)}: no run was planned there")
    return manifest


def run_name(manifest: Manifest) -> str:
    """What decisions on different runs are told apart by. Files added to the archive do not change it."""
    files = [file.sha256 for file in manifest.files[:1]]
    # It begins with a letter, or a spreadsheet might take it for a number.
    return "r" + hashlib.sha256(json.dumps([manifest.identity, files], sort_keys=True).encode()).hexdigest()[:15]


def reviewed_columns(task: Task) -> tuple[Column, ...]:
    """The columns that decisions are made on."""
    return answer_columns(task) or (task.headline_column,)


def label_key(column: Column) -> str | None:
    """The member of a span's struct that holds its label; None where a column holds no spans."""
    return column.type.rpartition(":")[2] if column.type.startswith("spans:") else None


def legal_labels(task: Task, column: str) -> tuple[str, ...]:
    """What may be answered in a column; nothing where the answer is in words."""
    if isinstance(task, RadsAssignment):
        return _RADS_LABELS
    output = next(question.output for question in task.questions if question.name == column)
    return output.labels if isinstance(output, Choice | Spans) else ()


def _rads_labels() -> Iterator[str]:
    yield NO_SYSTEM
    for system in SYSTEMS:
        for category in system.categories:
            yield format_label(system.name, category.name)
            necks = NI_RADS_NECK if system.name == "NI-RADS" else ()
            yield from (format_label(system.name, category.name, neck) for neck in necks)


_RADS_LABELS = tuple(_rads_labels())


def read_answers(task: Task, parts: Sequence[Path], key: str = "source_row") -> pl.LazyFrame:
    """A row for each answer: source_row, report_id, status, column, order (of the columns), start, end, answer,
    confidence, alternatives. A row of the run that is not ok is one answer, its status in brackets.

    key: report_id leaves out rows whose id is missing or another row's too."""
    rows = scan(parts)
    if key == "report_id":
        rows = rows.filter(pl.col(key).is_not_null() & pl.col(key).is_unique())
    names = {column.name for column in task.columns}
    alternatives = pl.col("alternatives") if "alternatives" in names else pl.lit(None, _ALTERNATIVES)
    frames = []
    for order, column in enumerate(reviewed_columns(task)):
        sure = f"{column.name}_confidence" if f"{column.name}_confidence" in names else "confidence"
        apart, start, end, answer = _apart(column, rows)
        said = pl.when(pl.col("status") == "ok").then(answer).otherwise(pl.format("({})", "status"))
        frames.append(
            apart.select(
                "source_row", "report_id", "status", column=pl.lit(column.name), order=pl.lit(order), start=start,
                end=end, answer=said, confidence=sure, alternatives=alternatives,
            )
        )  # fmt: skip
    return pl.concat(frames)


def _apart(column: Column, rows: pl.LazyFrame) -> tuple[pl.LazyFrame, pl.Expr, pl.Expr, pl.Expr]:
    """A row for each answer of a column; and its start, end and answer there."""
    label = label_key(column)
    if label is None:
        nowhere = pl.lit(None, pl.Int64)
        return rows, nowhere, nowhere, pl.col(column.name)
    spans = pl.col(column.name)
    filled = rows.with_columns(pl.when(spans.list.len() > 0).then(spans))  # of an empty list one row stays, null
    member = spans.struct.field
    return filled.explode(column.name), member("start"), member("end"), member(label).fill_null("")
