"""Two runs over the same reports, answer by answer: what changed, from which label to which, and how sure it is.

Rows are matched by source_row where both runs are of the same files, else by report_id where it is unique in both.
Neither the report nor an answer in words is shown: of texts it says that they differ, of spans where they stand.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from radlite_batch.errors import UsageError
from radlite_batch.report import answer_columns, committed_parts, identity_changes
from radlite_batch.results.commit import commit, make_folder
from radlite_batch.results.csv import safe_cells
from radlite_batch.results.manifest import Manifest, read_manifest
from radlite_batch.results.parts import readable, scan
from radlite_batch.storage import shown
from radlite_batch.tasks.base import Column, Task
from radlite_batch.tasks.registry import TASKS

STEPS = 21  # bins of the change of confidence, equal and from -1 to 1; the middle one holds no change
_KEPT = ("report_id", "source_row", "status", "confidence")


@dataclass(frozen=True, slots=True)
class Flow:
    """count: rows, or spans, whose answer to `column` went from before to after; "(empty)": status instead of one."""

    column: str
    before: str
    after: str
    count: int


@dataclass(frozen=True, slots=True)
class TaskDiff:
    """rows: compared. steps: rows by bin of their change of confidence. mean_step: None where there is none.

    changes: a row for each changed one, with what differs in words: report_id, source_row, before, after,
    confidence_before, confidence_after."""

    task: str
    rows: int
    flows: Sequence[Flow]
    steps: Counter[int]
    mean_step: float | None
    changes: pl.DataFrame


@dataclass(frozen=True, slots=True)
class Diff:
    """key: the column that rows are matched by. unmatched: rows of the two runs that have no partner.

    identity: (key, before, after) of what the runs' rows depend on and is not the same, beside the archive."""

    before: Path
    after: Path
    identity: Sequence[tuple[str, str, str]]
    key: str
    unmatched: tuple[int, int]
    tasks: Sequence[TaskDiff]


def compare(before: Path, after: Path) -> Diff:
    """Compares the tasks that both runs have. Raises UsageError where there are none, or no rows to compare;
    OutputError where a part is damaged or gone."""
    manifests = (_manifest(before), _manifest(after))
    parts = tuple(committed_parts(out, manifest) for out, manifest in zip((before, after), manifests, strict=True))
    names = [name for name in TASKS if name in parts[0] and name in parts[1]]
    if not names:
        raise UsageError(f"{shown(before)} and {shown(after)}: no task that both have answered")
    key = "source_row" if same_files(*manifests) else "report_id"
    with readable(before, after):
        tasks = [_task_diff(TASKS[name], key, parts[0][name], parts[1][name]) for name in names]
        totals = [scan(of[names[0]]).select(pl.len()).collect().item() for of in parts]
    matched = tasks[0].rows
    if not matched:
        raise UsageError(f"{shown(before)} and {shown(after)}: no report is in both")
    changes = identity_changes(*manifests)
    return Diff(before, after, changes, key, (totals[0] - matched, totals[1] - matched), tasks)


def same_files(before: Manifest, after: Manifest) -> bool:
    """Whether a source_row is the same report in both: the archives are the same as far as the shorter goes."""
    pairs = list(zip(before.files, after.files, strict=False))
    same = all(a.sha256 == b.sha256 for a, b in pairs)
    return bool(pairs) and same and all(a.rows == b.rows for a, b in pairs[:-1])


def write_csv(diff: Diff, folder: Path) -> list[Path]:
    """changes.csv (a line per task and changed row) and flows.csv. Raises OutputError."""
    changes = pl.concat(
        [each.changes.select(pl.lit(each.task).alias("task"), pl.all()) for each in diff.tasks], how="vertical"
    ).with_columns(safe_cells("report_id"))
    flows = pl.DataFrame(
        [(each.task, flow.column, flow.before, flow.after, flow.count) for each in diff.tasks for flow in each.flows],
        {"task": pl.String, "column": pl.String, "before": pl.String, "after": pl.String, "count": pl.Int64},
        orient="row",
    )
    make_folder(folder)
    written = []
    for name, table in (("changes.csv", changes), ("flows.csv", flows)):
        commit(folder / name, folder, table.write_csv().encode())
        written.append(folder / name)
    return written


def diff_lines(diff: Diff) -> list[str]:
    """For a terminal: a line per task."""
    lines = [f"matched by {diff.key}; without a partner: {diff.unmatched[0]} before, {diff.unmatched[1]} after"]
    for each in diff.tasks:
        line = f"{each.task:<24}{each.changes.height:,} of {each.rows:,} rows changed"
        if each.flows:
            most = each.flows[0]
            line += f", most: {flow_name(most)} {most.count:,}"
        if each.mean_step is not None:
            line += f"; confidence {each.mean_step:+.3f}"
        lines.append(line)
    return lines


def flow_name(flow: Flow) -> str:
    column = f"{flow.column}: " if flow.column else ""
    return f"{column}{flow.before} \u2192 {flow.after}"


def _manifest(out: Path) -> Manifest:
    manifest = read_manifest(out)
    if manifest is None:
        raise UsageError(f"{shown(out)}: no run was planned there")
    return manifest


def _task_diff(task: Task, key: str, before: Sequence[Path], after: Sequence[Path]) -> TaskDiff:
    columns = answer_columns(task) or (task.headline_column,)
    names = [column.name for column in columns]
    joined = _answers(columns, key, before).join(_answers(columns, key, after), on=key, suffix="_after")
    if key == "report_id":
        joined = joined.with_columns(source_row=pl.col("source_row_after"))
    else:
        joined = joined.with_columns(report_id=pl.col("report_id_after"))
    step = pl.col("confidence_after").cast(pl.Float64) - pl.col("confidence").cast(pl.Float64)
    by_step = joined.group_by(((step + 1) / 2 * STEPS).floor().clip(0, STEPS - 1).cast(pl.Int64).alias("bin")).agg(
        pl.len().alias("n"), step.sum().alias("sum")
    )
    differs = pl.any_horizontal(pl.col(name).ne_missing(pl.col(f"{name}_after")) for name in names)
    steps, changed = pl.collect_all([by_step, joined.filter(differs)], engine="streaming")
    moved = steps.drop_nulls("bin")
    spelt = _spelt(task, columns, changed.sort("source_row"))
    return TaskDiff(
        task.name, int(steps["n"].sum()), _flows(task, columns, spelt),
        Counter(dict(zip(moved["bin"], moved["n"], strict=True))),
        float(moved["sum"].sum()) / int(moved["n"].sum()) if moved.height else None, _changes(columns, spelt),
    )  # fmt: skip


def _answers(columns: Sequence[Column], key: str, parts: Sequence[Path]) -> pl.LazyFrame:
    """The rows that can be matched, with an answer in words, or a status in brackets, under each column's name."""
    rows = scan(parts)
    if key == "report_id":
        rows = rows.filter(pl.col("report_id").is_not_null() & pl.col("report_id").is_unique())
    status = pl.concat_str(pl.lit("("), "status", pl.lit(")"))
    answers = (
        pl.when(pl.col("status") == "ok").then(_words(column)).otherwise(status).alias(column.name)
        for column in columns
    )
    return rows.select(*_KEPT, *answers)


def _words(column: Column) -> pl.Expr:
    """Spans as `start-end label; ...`, all else as it is."""
    if not column.type.startswith("spans:"):
        return pl.col(column.name)
    span = pl.element().struct
    label = span.field(column.type.rpartition(":")[2])
    place = pl.concat_str(span.field("start"), pl.lit("-"), span.field("end"), pl.lit(" "), label)
    return pl.col(column.name).list.eval(place).list.join("; ")


def _spelt(task: Task, columns: Sequence[Column], changed: pl.DataFrame) -> pl.DataFrame:
    """Changed rows without answers in words: how many words there are stands for them."""
    if answer_columns(task):
        return changed
    name = columns[0].name
    return changed.with_columns(
        pl.when(pl.col(f"status{side}") == "ok")
        .then(pl.format("{} word(s)", pl.col(f"{name}{side}").str.split(" ").list.len()))
        .otherwise(f"{name}{side}")
        .alias(f"{name}{side}")
        for side in ("", "_after")
    )


def _flows(task: Task, columns: Sequence[Column], changed: pl.DataFrame) -> list[Flow]:
    """The commonest first."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for column in columns:
        both = changed.select(before=column.name, after=f"{column.name}_after")
        if column.type.startswith("spans:"):
            both = _span_pairs(both)
        elif not answer_columns(task):
            both = both.select(pl.col("before", "after").str.replace(r"^\d+ word\(s\)$", "text"))
            both = both.with_columns(after=pl.col("after").str.replace("^text$", "another text"))
        pairs = both.filter(pl.col("before") != pl.col("after")).group_by("before", "after").len()
        named = column.name if len(columns) > 1 else ""
        counts.update({(named, before, after): n for before, after, n in pairs.iter_rows()})
    return [Flow(*flow, n) for flow, n in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))]


def _span_pairs(both: pl.DataFrame) -> pl.DataFrame:
    """before, after: labels of each span that either run has; "no span" where one has none at this place."""
    answered = both.filter(~pl.any_horizontal(pl.col("before", "after").str.starts_with("("))).with_row_index()
    sides = []
    for side in ("before", "after"):
        spans = answered.select("index", span=pl.col(side).str.split("; ")).explode("span").filter(pl.col("span") != "")
        parted = pl.col("span").str.split_exact(" ", 1).struct
        sides.append(spans.select("index", parted.field("field_0").alias("place"), parted.field("field_1").alias(side)))
    matched = sides[0].join(sides[1], on=["index", "place"], how="full", coalesce=True)
    return matched.select(pl.col("before", "after").fill_null("no span"))


def _changes(columns: Sequence[Column], changed: pl.DataFrame) -> pl.DataFrame:
    return changed.select(
        "report_id", "source_row", before=_differing(columns, ""), after=_differing(columns, "_after"),
        confidence_before="confidence", confidence_after="confidence_after",
    )  # fmt: skip


def _differing(columns: Sequence[Column], side: str) -> pl.Expr:
    """What one of the two runs says where they differ: of several columns those that do, of spans those that do."""
    name, other = f"{columns[0].name}{side}", f"{columns[0].name}{'' if side else '_after'}"
    if len(columns) > 1:
        differ = (
            pl.when(pl.col(column.name) != pl.col(f"{column.name}_after")).then(
                pl.concat_str(pl.lit(f"{column.name} "), f"{column.name}{side}")
            )
            for column in columns
        )
        return pl.concat_str(list(differ), separator="; ", ignore_nulls=True)
    if columns[0].type.startswith("spans:"):
        own, others = (pl.col(each).str.split("; ") for each in (name, other))
        start = pl.element().str.extract(r"^(\d+)").cast(pl.Int64)
        return own.list.set_difference(others).list.eval(pl.element().sort_by(start)).list.join("; ")
    return pl.col(name)
