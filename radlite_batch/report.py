"""The figures of a run, gathered from its output alone: manifest, receipts, log and task tables."""

import datetime
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from radlite_batch.errors import OutputError
from radlite_batch.results.manifest import Manifest, read_manifest, read_receipts, run_folder
from radlite_batch.results.parts import readable, scan
from radlite_batch.results.summary import RunSummary, read_summary
from radlite_batch.status import read_status
from radlite_batch.storage import shown
from radlite_batch.tasks.base import Column, FreeText, Task
from radlite_batch.tasks.registry import TASKS

BINS = 20  # of confidence, equal and from 0 to 1


@dataclass(slots=True)
class TaskFigures:
    """One task's rows by status; of its answers, counts by column and label, and confidence: counts by bin, and sum."""

    status: Counter[str] = field(default_factory=Counter)
    labels: dict[str, Counter[str]] = field(default_factory=dict)
    confidence: Counter[int] = field(default_factory=Counter)
    confidence_sum: float = 0.0

    @property
    def mean_confidence(self) -> float | None:
        return self.confidence_sum / self.confidence.total() if self.confidence else None


@dataclass(slots=True)
class Sample:
    """What runs are compared by. lengths: texts of n to 2n - 1 code points, by n; empty where it was not recorded."""

    tasks: dict[str, TaskFigures] = field(default_factory=dict)
    lengths: Counter[int] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Work:
    """A work item: when it began and ended (seconds since the epoch), its rows, its process and that one's PSS."""

    begin: float
    end: float
    rows: int
    pid: int
    pss: int


@dataclass(frozen=True, slots=True)
class Execution:
    """A stretch in which the run was worked on. end: last sign of it; state: None where it ended without a word."""

    begin: float
    end: float
    state: str | None
    exit_code: int | None


@dataclass(frozen=True, slots=True)
class Failure:
    """Rows of task tables that are failed or unparsed for one reason."""

    reason: str
    status: str
    rows: int
    tasks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RunFigures:
    """status: as `radlite status` gives it. summary: the run's own document, {} before its first end."""

    out: Path
    status: Mapping[str, Any]
    manifest: Manifest
    totals: RunSummary
    summary: Mapping[str, Any]
    sample: Sample
    failures: Sequence[Failure]
    work: Sequence[Work]
    executions: Sequence[Execution]


def gather(out: Path) -> RunFigures:
    """Everything the page shows of a run, whether it is complete, stopped or running.

    Raises UsageError where no run was planned, OutputError where something of it is damaged or gone."""
    status = read_status(out)
    manifest = read_manifest(out)
    assert manifest is not None
    totals = RunSummary(status["state"], status["exit_code"] or 0, manifest.rows, status["shards"], 0)
    lengths: Counter[int] = Counter()
    failures: Counter[tuple[str, str, str]] = Counter()
    work: list[Work] = []
    for receipts in receipts_by_shard(out, manifest):
        totals.add(receipts)
        lengths.update({int(n): count for n, count in receipts[0].get("lengths", {}).items()})
        for receipt in receipts:
            failures.update((failure["reason"], failure["status"], failure["task"]) for failure in receipt["failures"])
            work.append(_work(receipt))
    parts = committed_parts(out, manifest)
    with readable(out):
        tasks = {name: _task_figures(TASKS[name], entry.status, parts[name]) for name, entry in totals.tasks.items()}
    return RunFigures(
        out, status, manifest, totals, read_summary(out) or {}, Sample(tasks, lengths), _failures(failures),
        sorted(work, key=lambda item: item.begin), _executions(out),
    )  # fmt: skip


def receipts_by_shard(out: Path, manifest: Manifest) -> Iterator[list[dict[str, Any]]]:
    """The receipts of each shard that has some, one shard at a time: a million rows have thousands."""
    for shard in manifest.shards:
        if receipts := list(read_receipts(out, manifest.items_of(shard)).values()):
            yield receipts


def committed_parts(out: Path, manifest: Manifest) -> dict[str, list[Path]]:
    """The Parquet parts of each task that have a receipt. Raises OutputError where one is gone."""
    parts: dict[str, list[Path]] = {}
    for receipts in receipts_by_shard(out, manifest):
        for task, entry in (pair for receipt in receipts for pair in receipt["tasks"].items()):
            path = out / entry["path"]
            if not path.exists():
                raise OutputError(f"{shown(path)}: a receipt names this part, but it is not there")
            parts.setdefault(task, []).append(path)
    return parts


def answer_columns(task: Task) -> tuple[Column, ...]:
    """The columns that hold the task's labels: its headline, or one for each of its questions; none for free text."""
    if any(isinstance(question.output, FreeText) for question in task.questions):
        return ()
    headline = tuple(column for column in task.columns if column.name == task.headline)
    return headline or tuple(column for column in task.columns if column.vocabulary)


def pooled(samples: Iterable[Sample]) -> Sample:
    """Several runs' counts as those of one."""
    total = Sample()
    for sample in samples:
        total.lengths.update(sample.lengths)
        for name, figures in sample.tasks.items():
            task = total.tasks.setdefault(name, TaskFigures())
            task.status.update(figures.status)
            task.confidence.update(figures.confidence)
            task.confidence_sum += figures.confidence_sum
            for column, counts in figures.labels.items():
                task.labels.setdefault(column, Counter()).update(counts)
    return total


def identity_changes(before: Manifest, now: Manifest) -> list[tuple[str, str, str]]:
    """(key, before, now) of whatever the rows depend on and is not the same, beside the archive's bytes."""
    old, new = dict(_flat("", before.identity)), dict(_flat("", now.identity))
    keys = dict.fromkeys((*old, *new))
    return [(key, old.get(key, "-"), new.get(key, "-")) for key in keys if old.get(key) != new.get(key)]


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}".lstrip("."), inner)
    else:
        yield name, str(value)


def _task_figures(task: Task, status: Mapping[str, int], parts: Sequence[Path]) -> TaskFigures:
    answered = scan(parts).filter(pl.col("status") == "ok")
    sure = pl.col("confidence").cast(pl.Float64)
    by_bin = (
        answered.select(sure).drop_nulls()
        .group_by((sure * BINS).floor().clip(0, BINS - 1).cast(pl.Int64).alias("bin"))
        .agg(pl.len().alias("n"), sure.sum().alias("sum"))
    )  # fmt: skip
    columns = answer_columns(task)
    bins, *labels = pl.collect_all([by_bin, *_label_counts(columns, answered)], engine="streaming")
    counts: dict[str, Counter[str]] = {column.name: Counter() for column in columns}
    for column, label, n in (row for table in labels for row in table.iter_rows()):
        counts[column][label] = n
    return TaskFigures(
        Counter(status), counts, Counter(dict(zip(bins["bin"], bins["n"], strict=True))), float(bins["sum"].sum())
    )


def _label_counts(columns: Sequence[Column], answered: pl.LazyFrame) -> list[pl.LazyFrame]:
    """One table of (column, label, n); none where there is no column."""
    if not columns:
        return []
    long = answered.select(*map(_label, columns)).unpivot(variable_name="of_column", value_name="of_label")
    return [long.drop_nulls().group_by("of_column", "of_label").agg(pl.len())]


def _label(column: Column) -> pl.Expr:
    """A column's labels; of a column of spans, those of all its spans."""
    if not column.type.startswith("spans:"):
        return pl.col(column.name)
    return pl.col(column.name).explode().struct.field(column.type.rpartition(":")[2]).alias(column.name)


def _work(receipt: Mapping[str, Any]) -> Work:
    end = receipt["begin"] + sum(receipt["seconds"].values())
    return Work(receipt["begin"], end, receipt["rows"], receipt["pid"], receipt["memory"].get("pss", 0))


def _failures(counts: Counter[tuple[str, str, str]]) -> list[Failure]:
    """The commonest first."""
    together: dict[tuple[str, str], dict[str, int]] = {}
    for (reason, status, task), n in counts.items():
        together.setdefault((reason, status), {})[task] = n
    found = [Failure(*key, max(tasks.values()), tuple(tasks)) for key, tasks in together.items()]
    return sorted(found, key=lambda failure: (-failure.rows, failure.reason))


def _executions(out: Path) -> list[Execution]:
    """From the log. One without an end was killed, or is running: its last line is its last sign."""
    found: list[Execution] = []
    for line in _log(out):
        at = datetime.datetime.fromisoformat(line["time"]).timestamp()
        if line["event"] == "begin":
            found.append(Execution(at, at, None, None))
        elif found:
            state, code = (line["state"], line["exit_code"]) if line["event"] == "end" else (None, None)
            found[-1] = Execution(found[-1].begin, at, state, code)
    return found


def _log(out: Path) -> Iterator[dict[str, Any]]:
    path = run_folder(out) / "log.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:  # a killed run may leave half a line
            continue
