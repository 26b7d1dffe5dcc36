"""Scores the output of `radlite run` against reference labels: what is measured is what ships.

A task is scored over the reports that the reference (see training/reference.py) labels and the output holds; a row
whose status is not `ok` has no answer and is wrong. Intervals are over patients where the reference names them.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from radlite_batch.errors import UsageError
from radlite_batch.records import Report
from radlite_batch.tasks.base import Task
from radlite_batch.tasks.rads_assignment import RadsAssignment
from radlite_batch.tasks.registry import TASKS
from training import baselines, confidence
from training.measures import Answers, Closed, closed, decisions, measures, stated_in_full, sureness, systems_of
from training.reference import REFERENCE_COLUMNS, gold, read_reference, refuse_duplicates
from training.scoring import Difference, Groups, Score, Tally, difference, in_favour, mcnemar, score

_BY_REPORT = ("accuracy", "system_accuracy", "exact_match")  # one answer of each report, right or wrong
_NO_ANSWER = "no answer"


@dataclass(frozen=True, slots=True)
class _Rows:
    """The labelled reports of a task, in the order of their ids, so that the same labels and answers give the same
    resamples. found: the columns of the task's table, and its confidence."""

    task: Task
    ids: Sequence[str]
    gold: Sequence[Any]
    groups: Groups
    found: Answers

    @property
    def is_sure(self) -> bool:
        """Whether the answers carry confidences; written ones do not."""
        return any(value is not None for value in self.found["confidence"])


def evaluate(
    out: Path, reference: Path, archive: Path | None = None, known: Collection[str] | None = None
) -> list[Score]:
    """The scores of every task that both the output and the reference hold, in the order of the tasks.

    archive: the reports, for the baselines by rule. known: text_sha of texts to leave out; the others then count once
    each. Raises UsageError where there is nothing to compare or the reference cannot be trusted."""
    reports = baselines.read_archive(archive) if archive else None
    scores: list[Score] = []
    for rows in _read(out, reference, known):
        ruled = None if reports is None else baselines.answers(rows.task, _reports(rows, reports, archive), rows.gold)
        for (metric, of), measure in measures(rows.task, rows.gold).items():
            constant = measure.tally(measure.constant)
            rule = measure.tally(ruled) if ruled else None
            tally = measure.tally(rows.found)
            if tally.n:  # of a severity there may be no report left
                scores.append(score(rows.task.name, metric, tally, constant, rule, of, rows.groups))
        scores += _sureness(rows) if rows.is_sure else []
    return scores


def _reports(rows: _Rows, reports: baselines.Archive, path: Path | None) -> list[Report]:
    for report_id in rows.ids:
        if report_id not in reports:
            raise UsageError(f"{path}: report_id {report_id!r}, which is labelled, is not there")
    return [reports[report_id] for report_id in rows.ids]


def _sureness(rows: _Rows) -> Iterator[Score]:
    """With ece comes ece_if_calibrated: what calibrated confidences would show by chance, its range as interval."""
    for (metric, of), tally in sureness(rows.task, rows.gold).items():
        measured = score(rows.task.name, metric, tally(rows.found), of=of, groups=rows.groups)
        yield measured
        if metric == "ece":
            asked = decisions(stated_in_full(rows.task, rows.gold), rows.found)
            value, low, high = confidence.error_if_calibrated(asked.confidence)
            yield Score(rows.task.name, "ece_if_calibrated", value, measured.n, low, high, None)


def compare(out: Path, against: Path, reference: Path) -> list[Difference]:
    """Every metric of one output less that of another, over the reports that both hold. Raises UsageError."""
    others = {rows.task.name: rows for rows in _read(against, reference)}
    found: list[Difference] = []
    for one in _read(out, reference):
        if one.task.name in others:
            found += _differences(*_shared(one, others[one.task.name]))
    if not found:
        raise UsageError(f"{against}: shares no labelled report with {out} for a task that was run")
    return found


def _shared(one: _Rows, other: _Rows) -> tuple[_Rows, _Rows]:
    ids = set(one.ids) & set(other.ids)
    return _only(one, ids), _only(other, ids)


def _only(rows: _Rows, ids: Collection[str]) -> _Rows:
    kept = [i for i, report_id in enumerate(rows.ids) if report_id in ids]
    found = {name: [column[i] for i in kept] for name, column in rows.found.items()}
    return _Rows(rows.task, [rows.ids[i] for i in kept], [rows.gold[i] for i in kept], rows.groups[kept], found)


def _differences(one: _Rows, other: _Rows) -> Iterator[Difference]:
    if not one.ids:
        return
    tallies = {key: measure.tally for key, measure in measures(one.task, one.gold).items()}
    if one.is_sure and other.is_sure:
        tallies |= sureness(one.task, one.gold)
    for (metric, of), tally in tallies.items():
        a, b = tally(one.found), tally(other.found)
        if not (a.n and b.n):
            continue
        p = mcnemar(_right(a), _right(b)) if metric in _BY_REPORT else None
        yield difference(one.task.name, metric, of, a, b, one.groups, p)


def _right(tally: Tally) -> Any:
    return tally.addends[:, 0] > 0


def confusion(out: Path, reference: Path) -> dict[str, dict[str, dict[str, int]]]:
    """For each closed column, "task.column": how often each answer was given, by the label of the reference."""
    tables: dict[str, dict[str, dict[str, int]]] = {}
    for rows in _read(out, reference):
        questions = closed(rows.task, rows.gold)
        if isinstance(rows.task, RadsAssignment):
            questions.append(Closed("system", "confidence", systems_of(rows.gold)))
        for question in questions:
            table = tables.setdefault(f"{rows.task.name}.{question.column}", {})
            for allowed, answer in zip(question.allowed, rows.found[question.column], strict=True):
                if allowed is not None:
                    (stated,) = in_favour([allowed], [answer])
                    counts = table.setdefault(stated, {})
                    counts[answer or _NO_ANSWER] = counts.get(answer or _NO_ANSWER, 0) + 1
    return tables


def score_lines(scores: Sequence[Score], details: bool = False) -> list[str]:
    """The scores as a plain table; details: those of single labels, systems, classes and shares too."""
    lines = [f"{'task':<24}{'metric':<30}{'n':>7}{'score':>8}  {'95 % interval':<16}{'majority':>8}{'by rule':>9}"]
    for s in scores:
        if details or not s.of:
            interval, majority, baseline = f"[{s.low:.3f}, {s.high:.3f}]", _number(s.majority), _number(s.baseline)
            name = f"{s.metric} {s.of}".strip()
            lines.append(f"{s.task:<24}{name:<30}{s.n:>7}{s.value:>8.3f}  {interval:<16}{majority:>8}{baseline:>9}")
    return lines


def difference_lines(differences: Sequence[Difference], details: bool = False) -> list[str]:
    lines = [f"{'task':<24}{'metric':<30}{'n':>7}{'score':>8}{'against':>9}{'diff.':>8}  {'95 % interval':<18}{'p':>8}"]
    for d in differences:
        if details or not d.of:
            interval, name = f"[{d.low:+.3f}, {d.high:+.3f}]", f"{d.metric} {d.of}".strip()
            values = f"{d.value:>8.3f}{d.other:>9.3f}{d.difference:>+8.3f}"
            lines.append(f"{d.task:<24}{name:<30}{d.n:>7}{values}  {interval:<18}{_number(d.p):>8}")
    return lines


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _read(out: Path, reference: Path, known: Collection[str] | None = None) -> Iterator[_Rows]:
    """The rows of every task that both sides hold; there may be none beside known texts. Raises UsageError."""
    parts = {name: sorted((out / name).glob("part-*.parquet")) for name in TASKS}
    if not any(parts.values()):
        raise UsageError(f"{out}: no output of a run is here")
    labels, some = read_reference(reference), False
    if known is not None and "text_sha" not in labels.columns:
        raise UsageError(f"{reference}: column 'text_sha' is missing, so known texts cannot be told")
    for name, task in TASKS.items():
        columns = REFERENCE_COLUMNS[name]
        missing = [column for column in columns if column not in labels.columns]
        if not parts[name] or len(missing) == len(columns):
            continue
        if missing:
            raise UsageError(f"{reference}: column {missing[0]!r} is missing, {name} needs it")
        labelled = labels.filter(pl.any_horizontal(pl.col(columns).is_not_null())).sort("report_id")
        if known is not None:
            if labelled["text_sha"].has_nulls():
                raise UsageError(f"{reference}: column 'text_sha' has gaps, so known texts cannot be told")
            labelled = labelled.filter(~pl.col("text_sha").is_in(list(known)))
            labelled = labelled.unique("text_sha", keep="first", maintain_order=True)
        rows = _join(labelled, columns, task, parts[name])
        if rows.height:
            some = True
            found = {column: rows[f"found {column}"].to_list() for column in _columns(task)}
            yield _Rows(task, rows["report_id"].to_list(), gold(task, rows, reference), _groups(rows), found)
    if not some and known is None:
        raise UsageError(f"{reference}: labels no report of {out} for a task that was run")


def _columns(task: Task) -> tuple[str, ...]:
    return ("confidence", *(column.name for column in task.columns))


def _groups(rows: pl.DataFrame) -> Groups:
    """A report without a patient stands for itself."""
    ids = "report " + rows["report_id"]
    if "patient_id" not in rows.columns:
        patients = ids
    else:
        named = rows["patient_id"].cast(pl.String).str.strip_chars().replace("", None)
        patients = ("patient " + named).fill_null(ids)
    groups: Groups = np.unique(patients.to_numpy(), return_inverse=True)[1]
    return groups


def _join(labelled: pl.DataFrame, columns: Sequence[str], task: Task, parts: list[Path]) -> pl.DataFrame:
    """report_id, the reference's columns, and `found X` for the task's columns, sorted by id."""
    kept = ["report_id", *columns, *({"patient_id"} & {*labelled.columns})]
    found = (pl.when(pl.col("status") == "ok").then(pl.col(name)).alias(f"found {name}") for name in _columns(task))
    try:
        answered = pl.scan_parquet(parts, glob=False).select("report_id", *found)
        joined = labelled.lazy().select(kept).join(answered, on="report_id").sort("report_id").collect()
    except (OSError, pl.exceptions.PolarsError):
        raise UsageError(f"{parts[0].parent}: not readable as the output of a run") from None
    refuse_duplicates(joined["report_id"], parts[0].parent)
    return joined
