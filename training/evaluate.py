"""Scores the output of `radlite run` against reference labels: what is measured is what ships.

A reference is a Parquet file with `report_id`, unique, and the columns of REFERENCE_COLUMNS; null means not labelled.
Span offsets count in the text that the run read. A task is scored over the reports that the reference labels and the
output holds; a row whose status is not `ok` has no answer and is wrong.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from radlite_batch.errors import UsageError
from radlite_batch.tasks.abnormality_detection import LABELS, STATES, AbnormalityDetection
from radlite_batch.tasks.base import ChoiceTask, Task, TextTask
from radlite_batch.tasks.rads_assignment import RadsAssignment
from radlite_batch.tasks.rads_systems import format_label, parse_label
from radlite_batch.tasks.registry import TASKS
from radlite_batch.tasks.spans import SpanTask
from training import scoring
from training.scoring import Score, Span, score

REFERENCE_COLUMNS: dict[str, tuple[str, ...]] = {
    "rads_assignment": ("rads_label",),
    "n_staging": ("n_stage",),
    "m_staging": ("m_stage",),
    "abnormality_detection": LABELS,
    "radiology_ner": ("entities",),
    "temporal_comparison": ("changes",),
    "impression_generation": ("impression",),
    "radiology_qa": ("answer",),
    "radiology_nli": ("nli_label",),
}


def evaluate(out: Path, reference: Path) -> list[Score]:
    """The scores of every task that both the output and the reference hold, in the order of the tasks.

    Raises UsageError where there is nothing to compare or the reference cannot be trusted."""
    parts = {name: sorted((out / name).glob("part-*.parquet")) for name in TASKS}
    if not any(parts.values()):
        raise UsageError(f"{out}: no output of a run is here")
    labels = _read_reference(reference)
    scores: list[Score] = []
    for name, task in TASKS.items():
        columns = REFERENCE_COLUMNS[name]
        missing = [column for column in columns if column not in labels.columns]
        if not parts[name] or len(missing) == len(columns):
            continue
        if missing:
            raise UsageError(f"{reference}: column {missing[0]!r} is missing; {name} needs all {len(columns)} of its own")
        rows = _join(labels, columns, task, parts[name])
        if rows.height:
            scores += _scores(task, columns, rows, reference)
    if not scores:
        raise UsageError(f"{reference}: labels no report of {out} for a task that was run")
    return scores


def score_lines(scores: Sequence[Score]) -> list[str]:
    """The scores as a plain table."""
    lines = [f"{'task':<24}{'metric':<20}{'n':>8}{'score':>8}  {'95 % interval':<16}{'majority':>8}"]
    for s in scores:
        interval, majority = f"[{s.low:.3f}, {s.high:.3f}]", "-" if s.majority is None else f"{s.majority:.3f}"
        lines.append(f"{s.task:<24}{s.metric:<20}{s.n:>8}{s.value:>8.3f}  {interval:<16}{majority:>8}")
    return lines


def _read_reference(path: Path) -> pl.DataFrame:
    try:
        labels = pl.read_parquet(path, glob=False)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except (OSError, pl.exceptions.PolarsError):
        raise UsageError(f"{path}: not readable as a Parquet file") from None
    if "report_id" not in labels.columns:
        raise UsageError(f"{path}: column 'report_id' is missing")
    ids = labels["report_id"].cast(pl.String)
    if ids.null_count():
        raise UsageError(f"{path}: a row has no report_id")
    _refuse_duplicates(ids, path)
    return labels.with_columns(ids)


def _refuse_duplicates(ids: pl.Series, path: Path) -> None:
    twice = ids.filter(ids.is_duplicated())
    if len(twice):
        raise UsageError(f"{path}: report_id {twice[0]!r} stands in more than one row")


def _join(labels: pl.DataFrame, columns: Sequence[str], task: Task, parts: list[Path]) -> pl.DataFrame:
    """The labelled reports of a task: report_id, the reference's columns, and `found X` for the task's columns."""
    labelled = labels.filter(pl.any_horizontal(pl.col(columns).is_not_null())).select("report_id", *columns)
    found = (pl.when(pl.col("status") == "ok").then(pl.col(c.name)).alias(f"found {c.name}") for c in task.columns)
    try:
        rows = labelled.lazy().join(pl.scan_parquet(parts, glob=False).select("report_id", *found), on="report_id")
        joined = rows.collect()
    except (OSError, pl.exceptions.PolarsError):
        raise UsageError(f"{parts[0].parent}: not readable as the output of a run") from None
    _refuse_duplicates(joined["report_id"], parts[0].parent)
    return joined


def _scores(task: Task, columns: Sequence[str], rows: pl.DataFrame, path: Path) -> list[Score]:
    """The scores of one task, by its kind."""
    found = {column.name: rows[f"found {column.name}"].to_list() for column in task.columns}
    if isinstance(task, AbnormalityDetection):
        one_of = _one_of(STATES)
        gold = _by_report([_labels(rows, column, one_of, " | ".join(STATES), path) for column in columns])
        answers, constant = _by_report([found[label] for label in columns]), scoring.flag_majority(gold)
        return [score(task.name, m, f(gold, answers), f(gold, constant)) for m, f in _FLAG_METRICS.items()]
    [column] = columns
    if isinstance(task, RadsAssignment):
        rads = _labels(rows, column, parse_label, "a RADS label", path)
        return [
            _accuracy(task, "accuracy", [format_label(*label) for label in rads], found["label"]),
            _accuracy(task, "system_accuracy", [system for system, _, _ in rads], found["system"]),
        ]
    if isinstance(task, ChoiceTask):
        legal = task.choice.labels
        labels = _labels(rows, column, _one_of(legal), " | ".join(legal), path)
        answers, constant = found[task.column], scoring.majority(labels)
        return [score(task.name, m, f(labels, answers), f(labels, constant)) for m, f in _LABEL_METRICS.items()]
