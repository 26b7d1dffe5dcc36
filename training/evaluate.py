"""Scores the output of `radlite run` against reference labels: what is measured is what ships.

A reference is a Parquet file with `report_id`, unique, and the columns of REFERENCE_COLUMNS; null means not labelled.
Span offsets count in the text that the run read. A task is scored over the reports that the reference labels and the
output holds; a row whose status is not `ok` has no answer and is wrong.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from radlite_batch.errors import UsageError
from radlite_batch.tasks.abnormality_detection import LABELS, STATES, AbnormalityDetection
from radlite_batch.tasks.base import ChoiceTask, Spans, Task
from radlite_batch.tasks.rads_assignment import RadsAssignment
from radlite_batch.tasks.rads_systems import format_label, parse_label
from radlite_batch.tasks.registry import TASKS
from radlite_batch.tasks.spans import SpanTask
from training import scoring
from training.scoring import Score, Span, Tally, score

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
            raise UsageError(f"{reference}: column {missing[0]!r} is missing, {name} needs it")
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
    """The labelled reports of a task: report_id, the reference's columns, and `found X` for the task's columns.

    Sorted by id, so that the same labels and answers give the same resamples, and so the same interval."""
    labelled = labels.filter(pl.any_horizontal(pl.col(columns).is_not_null())).select("report_id", *columns)
    found = (pl.when(pl.col("status") == "ok").then(pl.col(c.name)).alias(f"found {c.name}") for c in task.columns)
    try:
        rows = labelled.lazy().join(pl.scan_parquet(parts, glob=False).select("report_id", *found), on="report_id")
        joined = rows.sort("report_id").collect()
    except (OSError, pl.exceptions.PolarsError):
        raise UsageError(f"{parts[0].parent}: not readable as the output of a run") from None
    _refuse_duplicates(joined["report_id"], parts[0].parent)
    return joined


def _scores(task: Task, columns: Sequence[str], rows: pl.DataFrame, path: Path) -> list[Score]:
    """The scores of one task, by its kind."""
    found = {column.name: rows[f"found {column.name}"].to_list() for column in task.columns}
    labels = partial(_labels, rows, path)
    if isinstance(task, AbnormalityDetection):
        flags = _by_report([labels(column, partial(_one_of, STATES), " | ".join(STATES)) for column in columns])
        answers, usual = _by_report([found[column] for column in columns]), scoring.flag_majority(flags)
        return [score(task.name, name, f(flags, answers), f(flags, usual)) for name, f in _FLAG_METRICS.items()]
    (column,) = columns
    if isinstance(task, RadsAssignment):
        rads = labels(column, parse_label, "a RADS label")
        whole, systems = [format_label(*label) for label in rads], [label[0] for label in rads]
        return [
            _label_score(task, "accuracy", scoring.accuracy, whole, found["label"]),
            _label_score(task, "system_accuracy", scoring.accuracy, systems, found["system"]),
        ]
    if isinstance(task, ChoiceTask):
        legal = task.choice.labels
        stated = labels(column, partial(_one_of, legal), " | ".join(legal))
        return [_label_score(task, name, f, stated, found[task.column]) for name, f in _LABEL_METRICS.items()]
    if isinstance(task, SpanTask):
        spans = labels(column, partial(_spans, task), f"a list of spans with {task.label_key}, start, end")
        named = [_spans(task, value or []) for value in found[task.column]]
        return [
            score(task.name, "exact_f1", scoring.span_f1(spans, named)),
            score(task.name, "relaxed_f1", scoring.span_f1(spans, named, relaxed=True)),
        ]
    texts = labels(column, _text, "text")
    return [score(task.name, "rouge_l", scoring.rouge_l(texts, found[task.headline]))]


_LABEL_METRICS = {"accuracy": scoring.accuracy, "macro_f1": scoring.macro_f1}
_FLAG_METRICS = {
    "micro_f1": scoring.flag_micro_f1,
    "macro_f1": scoring.flag_macro_f1,
    "per_label_accuracy": scoring.flag_accuracy,
}


def _label_score(
    task: Task, name: str, metric: Callable[..., Tally], gold: Sequence[str], answers: Sequence[str | None]
) -> Score:
    return score(task.name, name, metric(gold, answers), metric(gold, scoring.majority(gold)))


def _labels(rows: pl.DataFrame, path: Path, column: str, read: Callable[[Any], Any], wanted: str) -> list[Any]:
    """A reference column, each label read; null stays None. A label no run can answer is the reference's mistake."""
    labels = []
    for report_id, label in rows.select("report_id", column).iter_rows():
        try:
            labels.append(None if label is None else read(label))
        except (KeyError, TypeError, ValueError):
            raise UsageError(f"{path}: {column} of report {report_id!r} is not {wanted}") from None
    return labels


def _one_of(legal: Sequence[str], label: Any) -> str:
    if label not in legal:
        raise ValueError
    return str(label)


def _text(label: Any) -> str:
    if not isinstance(label, str):
        raise TypeError
    return label


def _spans(task: SpanTask, value: Any) -> list[Span]:
    output = task.questions[0].output
    assert isinstance(output, Spans)
    return [(int(span["start"]), int(span["end"]), _one_of(output.labels, span[task.label_key])) for span in value]


def _by_report(columns: Sequence[Sequence[str | None]]) -> scoring.Flags:
    """Columns, one per flag, as rows, one per report."""
    return list(zip(*columns, strict=True))
