"""What a person is to see of a run: the answers that were asked for, and what they were read from.

Texts are read from the archive when they are asked for, after its bytes were found to be those that were planned.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from radlite_batch.archive import ArchiveReader
from radlite_batch.diff import same_files
from radlite_batch.engine.formats import file_sha256
from radlite_batch.errors import RunChanged, UsageError, did_you_mean
from radlite_batch.plan import planned_job
from radlite_batch.records import Report
from radlite_batch.report import committed_parts
from radlite_batch.results.commit import commit, make_folder
from radlite_batch.results.csv import safe_table
from radlite_batch.results.manifest import Manifest
from radlite_batch.results.parts import readable
from radlite_batch.review.answers import legal_labels, planned, read_answers, reviewed_columns, run_name
from radlite_batch.storage import local, shown
from radlite_batch.tasks.base import Task
from radlite_batch.tasks.rads_systems import SYSTEMS
from radlite_batch.tasks.registry import TASKS

_ORDER = ("confidence", "source_row", "order", "start")  # the least sure first
_LISTED = 40  # labels that an error still names


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which answers. Of tasks and labels, all where none is named. below: confidence. against: a run that disagrees.

    limit: at most so many, the least sure."""

    tasks: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    below: float | None = None
    against: Path | None = None
    limit: int = 500


@dataclass(frozen=True, slots=True)
class Answer:
    """alternatives: (label, probability), the chosen one first. other: what the other run says, None without one."""

    task: str
    column: str
    source_row: int
    report_id: str | None
    start: int | None
    end: int | None
    answer: str
    confidence: float | None
    alternatives: tuple[tuple[str, float], ...]
    other: str | None


@dataclass(frozen=True, slots=True)
class Case:
    """An answer and what it was read from. blocks: (name, text). marks: (start, end) in code points of the first."""

    answer: Answer
    blocks: tuple[tuple[str, str], ...]
    marks: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Selection:
    """run: its short name. found: answers that were wanted, of which the cases are the least sure. unknown: those that
    `below` left out because they carry no confidence."""

    run: str
    cases: Sequence[Case]
    found: int
    unknown: int


def select(out: Path, wanted: Wanted) -> Selection:
    """The wanted answers with their texts: by task, and the row with the least sure answer first.

    Raises UsageError, ArchiveError, OutputError where a part is damaged or gone, and RunChanged where the archive's
    bytes are not those that were planned."""
    manifest = planned(out)
    parts = committed_parts(out, manifest)
    tasks = _wanted_tasks(wanted, parts)
    key, others = _other_run(manifest, wanted.against)
    tables: list[pl.DataFrame] = []
    found = unknown = 0
    for number, task in enumerate(tasks):
        if wanted.against is None:
            rows = read_answers(task, parts[task.name]).with_columns(other=pl.lit(None, pl.String))
        elif task.name in others:
            rows = _differing(task, key, parts[task.name], others[task.name])
        else:
            continue
        known, without = _chosen(rows, wanted)
        with readable(out, *([wanted.against] if wanted.against else [])):
            n, unsure, least = pl.collect_all(
                [known.select(pl.len()), without.select(pl.len()), _least_sure(known, wanted.limit)],
                engine="streaming",
            )
        found, unknown = found + n.item(), unknown + unsure.item()
        tables.append(least.with_columns(task=pl.lit(task.name), number=pl.lit(number)))
    if not tables and wanted.against is not None:
        raise UsageError(f"{shown(wanted.against)}: it has answered none of the tasks")
    chosen = _in_order(pl.concat(tables), wanted.limit)
    return Selection(run_name(manifest), _cases(out, manifest, chosen), found, unknown)


def _least_sure(known: pl.LazyFrame, limit: int) -> pl.LazyFrame:
    return known.sort(*_ORDER, nulls_last=True).head(limit)


def _wanted_tasks(wanted: Wanted, parts: Mapping[str, Sequence[Path]]) -> list[Task]:
    there = [name for name in TASKS if name in parts]
    if not there:
        raise UsageError("there is nothing to review: no row is answered yet")
    for name in wanted.tasks:
        if name not in there:
            raise UsageError(f"the run has no task {name!r}{did_you_mean(name, there)}")
    tasks = [TASKS[name] for name in there if name in wanted.tasks or not wanted.tasks]
    legal = {label for task in tasks for column in reviewed_columns(task) for label in legal_labels(task, column.name)}
    for label in wanted.labels:
        if label not in legal:
            hint = did_you_mean(label, legal) if len(legal) < _LISTED else "; see `radlite tasks`"
            raise UsageError(f"no answer can be {label!r}{hint}")
    return tasks


def _other_run(manifest: Manifest, against: Path | None) -> tuple[str, Mapping[str, Sequence[Path]]]:
    """The column that rows of both runs are matched by, and the other run's parts."""
    if against is None:
        return "source_row", {}
    other = planned(against)
    return "source_row" if same_files(other, manifest) else "report_id", committed_parts(against, other)


def _differing(task: Task, key: str, parts: Sequence[Path], others: Sequence[Path]) -> pl.LazyFrame:
    """Answers that the other run does not give, and what it says there."""
    mine, theirs = read_answers(task, parts, key), read_answers(task, others, key)
    place = [key, "column", "start", "end"]
    both = mine.join(theirs, on=key, how="semi").join(
        theirs.select(*place, other="answer"), on=place, how="left", nulls_equal=True
    )
    elsewhere = pl.when(pl.col("start").is_null()).then(pl.lit("spans")).otherwise(pl.lit("no such span"))
    return both.with_columns(pl.col("other").fill_null(elsewhere)).filter(pl.col("answer") != pl.col("other"))


def _chosen(rows: pl.LazyFrame, wanted: Wanted) -> tuple[pl.LazyFrame, pl.LazyFrame]:
    """The wanted answers, and those of which nobody knows whether they are below the wanted confidence."""
    rows = rows.filter(pl.col("status") == "ok")
    if wanted.labels:
        rows = rows.filter(pl.col("answer").is_in(wanted.labels))
    if wanted.below is None:
        return rows, rows.clear()
    unsure = pl.col("confidence") < pl.lit(wanted.below, pl.Float32)
    return rows.filter(unsure), rows.filter(pl.col("confidence").is_null())


def _in_order(least: pl.DataFrame, limit: int) -> list[Answer]:
    """The least sure of all, so that the answers of a task stand together, and in it those of a row."""
    table = least.sort(*_ORDER, nulls_last=True).head(limit)
    table = table.with_columns(least=pl.col("confidence").min().over("number", "source_row"))
    table = table.sort("number", "least", "source_row", "order", "start", nulls_last=True)
    return [
        Answer(
            each["task"], each["column"], each["source_row"], each["report_id"], each["start"], each["end"],
            each["answer"], each["confidence"],
            tuple((a["label"], a["probability"]) for a in each["alternatives"] or ()), each["other"],
        )
        for each in table.iter_rows(named=True)
    ]  # fmt: skip


def _cases(out: Path, manifest: Manifest, chosen: Sequence[Answer]) -> list[Case]:
    reports = read_reports(out, manifest, {answer.source_row for answer in chosen})
    cases = []
    for answer in chosen:
        blocks = TASKS[answer.task].blocks(reports[answer.source_row])
        assert blocks is not None  # without its inputs a row is not ok
        if answer.start is None or answer.end is None:
            marks = mentions(answer.task, answer.column, blocks[0].text)
        else:
            marks = ((answer.start, answer.end),)
        cases.append(Case(answer, tuple((block.name, block.text) for block in blocks), marks))
    return cases


def read_reports(out: Path, manifest: Manifest, rows: Collection[int]) -> dict[int, Report]:
    """These rows of the archive. Raises ArchiveError, or RunChanged where it is not what the run was planned for."""
    shards = [s for s in manifest.shards if any(s.first_row <= row < s.first_row + s.rows for row in rows)]
    needed = {shard.path for shard in shards}
    for file in (file for file in manifest.files if file.path in needed):
        path = local(file.path, fresh=True)
        if not path.is_file() or file_sha256(path) != file.sha256:
            what = "its bytes changed" if path.is_file() else "gone"
            raise RunChanged(f"{file.path}: {what} since {shown(out)} was planned; its texts cannot be shown")
    uses_text = any(TASKS[name].uses_text for names in manifest.routes.values() for name in names)
    reader = ArchiveReader(planned_job(out).archive, uses_text)
    return {r.source_row: r for shard in shards for r in reader.reports(shard) if r.source_row in rows}


_RADS = "|".join(system.name.removesuffix("-RADS") for system in SYSTEMS)
_SUBJECTS = {
    "rads_assignment": re.compile(rf"(?i:\b(?:{_RADS})[- ]?RADS\b)(?:[\s:]*(?:[Cc]ategory\s*)?[0-6][A-Cabc]?\b)?"),
    "n_staging": re.compile(
        r"(?i:\b(?:lymph\s+)?nod(?:es?|al)\b|\b\w*adenopath(?:y|ies)\b)|(?<![A-Za-z])[ycp]{0,2}N[0-3X][a-c]?(?=[TM]|\b)"
    ),
    "m_staging": re.compile(r"(?i:\b\w*metasta\w+\b)|(?<![A-Za-z])[ycp]{0,2}M[01X][a-c]?\b"),
}


def mentions(task: str, column: str, text: str) -> tuple[tuple[int, int], ...]:
    """Where a text names what is asked: a RADS system, nodes, metastases, a flag; found by spelling alone.

    It is no evidence of the model's, which gives none for a decision."""
    subject = _SUBJECTS.get(task)
    if task == "abnormality_detection":
        subject = re.compile(r"\b" + r"\s+".join(column.split("_")) + r"s?\b", re.IGNORECASE)
    return tuple(match.span() for match in subject.finditer(text)) if subject else ()


_CELLS = {
    "run": pl.String, "task": pl.String, "source_row": pl.Int64, "report_id": pl.String, "column": pl.String,
    "start": pl.Int64, "end": pl.Int64, "answer": pl.String, "confidence": pl.Float32, "alternatives": pl.String,
    "other": pl.String, "decision": pl.String, "correction": pl.String, "reviewer": pl.String, "time": pl.String,
    "text": pl.String,
}  # fmt: skip


def write_csv(selection: Selection, path: Path) -> None:
    """A line for each case: its answer, columns to fill in by hand, and its text, marked \u00bb...\u00ab.

    Raises OutputError."""
    lines = [
        (
            selection.run, a.task, a.source_row, a.report_id, a.column, a.start, a.end, a.answer, a.confidence,
            "; ".join(f"{label} {p:.3f}" for label, p in a.alternatives), a.other, None, None, None, None,
            "\n".join(_marked(case)),
        )
        for case in selection.cases
        for a in (case.answer,)
    ]  # fmt: skip
    table = safe_table(pl.DataFrame(lines, _CELLS, orient="row"))
    make_folder(path.parent)
    # A byte order mark: without one, a spreadsheet takes the file for Windows-1252.
    commit(path, path.parent, table.write_csv(include_bom=True).encode())


def _marked(case: Case) -> Iterator[str]:
    """The case's blocks; several are told apart by name."""
    for number, (name, text) in enumerate(case.blocks):
        for start, end in reversed(case.marks) if number == 0 else ():
            text = f"{text[:start]}\u00bb{text[start:end]}\u00ab{text[end:]}"
        yield f"{name.upper()}: {text}" if len(case.blocks) > 1 else text
