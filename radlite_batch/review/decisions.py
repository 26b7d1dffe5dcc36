"""Decisions of people on a run's answers: read from CSV, by the page or filled in by hand, and checked against the run.

No error quotes a cell: where a line is out of step, a text stands where a label should be.
"""

import csv
import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from radlite_batch.errors import UsageError
from radlite_batch.results.csv import safe_cell
from radlite_batch.review.answers import legal_labels, read_answers
from radlite_batch.tasks.registry import TASKS

WORDS = ("accept", "correct", "reject")
_NEEDED = ("task", "source_row", "column", "decision", "correction")
_LISTED = 20  # labels that an error still names
_DIGITS = 18  # of a number that 64 bits hold

Place = tuple[str, int, str, int | None, int | None]  # task, source_row, column, start, end


@dataclass(frozen=True, slots=True)
class Decision:
    """One person's decision on one answer. where: file and line that it comes from.

    answer: the model's, None where it is in words. correction: what it is instead, where the decision is `correct`.
    reviewer: None where the file names none."""

    task: str
    source_row: int
    report_id: str | None
    column: str
    start: int | None
    end: int | None
    answer: str | None
    decision: str
    correction: str | None
    reviewer: str | None
    time: datetime.datetime
    where: str

    @property
    def place(self) -> Place:
        return self.task, self.source_row, self.column, self.start, self.end


def read_decisions(files: Sequence[Path], run: str, parts: Mapping[str, Sequence[Path]]) -> list[Decision]:
    """The decisions of files in order, each with the run's own id and answer, and labels as their task spells them.

    run: its name (see answers). parts: of each task. Raises UsageError, naming file and line, for a line that makes no
    sense or does not fit the run."""
    return list(_checked([line for path in files for line in _read(path, run, parts)], parts))


def agreed(decisions: Iterable[Decision]) -> list[Decision]:
    """The last decision of every reviewer on every answer, in the order of tasks and rows.

    Raises UsageError, naming file and line, where two reviewers decide otherwise."""
    last = {(each.place, each.reviewer): each for each in sorted(decisions, key=lambda each: each.time)}
    first: dict[Place, Decision] = {}
    for each in last.values():
        other = first.setdefault(each.place, each)
        if (each.decision, each.correction) != (other.decision, other.correction):
            raise UsageError(f"{each.where}: on this answer another reviewer decided otherwise, in {other.where}")
    return sorted(last.values(), key=_order)


def _order(of: Decision) -> tuple[int, int, str, int, str]:
    start = -1 if of.start is None else of.start
    return list(TASKS).index(of.task), of.source_row, of.column, start, of.reviewer or ""


def _read(path: Path, run: str, parts: Mapping[str, Any]) -> Iterator[Decision]:
    """The lines of a file that hold a decision, each sound by itself."""
    for line, cells in _cells(path):
        where = f"{path} line {line}"
        decision, correction = cells["decision"].casefold(), cells["correction"]
        if not decision and not correction:
            continue
        if cells.get("run") not in (run, "", None):
            raise UsageError(f"{where}: it was decided on the answers of another run")
        if cells["task"] not in parts:
            raise UsageError(f"{where}: its task is none of the run's ({', '.join(parts)})")
        if decision not in WORDS:
            raise UsageError(f"{where}: its decision is none of {', '.join(WORDS)}")
        if (decision == "correct") != bool(correction):
            what = "needs one" if decision == "correct" else "has none"
            raise UsageError(f"{where}: a correction stands with the decision `correct` only, and {decision} {what}")
        row = _number(where, "source_row", cells["source_row"])
        start, end = (_number(where, key, cells[key]) if cells.get(key) else None for key in ("start", "end"))
        yield Decision(
            cells["task"], row, None, cells["column"], start, end, cells.get("answer"), decision, correction or None,
            cells.get("reviewer") or None, _time(where, path, cells.get("time")), where,
        )  # fmt: skip


def _cells(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, cells by column) of each record; a spreadsheet may have put semicolons or tabs for the commas."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            delimiter = max(",;\t", key=first.count)
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            names = next(reader, [])
            if missing := [name for name in _NEEDED if name not in names]:
                raise UsageError(f"{path}: it has no column {', '.join(missing)}")
            line = reader.line_num + 1
            for values in reader:
                if len(values) > len(names):
                    raise UsageError(f"{path} line {line}: {len(values)} fields where the header has {len(names)}")
                padded = values + [""] * (len(names) - len(values))
                yield line, {name: value.strip() for name, value in zip(names, padded, strict=True)}
                line = reader.line_num + 1
    except csv.Error:
        raise UsageError(f"{path} line {reader.line_num}: broken quoting") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: it is not UTF-8") from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None


def _number(where: str, name: str, cell: str) -> int:
    if not (cell.isascii() and cell.isdigit() and len(cell) <= _DIGITS):
        raise UsageError(f"{where}: its {name} is no whole number")
    return int(cell)


def _time(where: str, path: Path, cell: str | None) -> datetime.datetime:
    """When it was decided; where a line does not say, its file's last change."""
    if not cell:
        return datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC)
    try:
        return datetime.datetime.fromisoformat(cell).astimezone(datetime.UTC)
    except (ValueError, OverflowError):  # the latter where it leaves the years 1 to 9999 in UTC
        raise UsageError(f"{where}: its time is not like 2026-01-31T07:30:00Z") from None


def _checked(lines: Sequence[Decision], parts: Mapping[str, Sequence[Path]]) -> Iterator[Decision]:
    rows: dict[str, set[int]] = {}
    for line in lines:
        rows.setdefault(line.task, set()).add(line.source_row)
    known: dict[Place, tuple[str | None, str, str]] = {}
    for task, asked in rows.items():
        there = read_answers(TASKS[task], parts[task]).filter(pl.col("source_row").is_in(sorted(asked)))
        place, found = ("source_row", "column", "start", "end"), ("report_id", "status", "answer")
        for each in there.select(*place, *found).collect(engine="streaming").iter_rows():
            known[task, *each[:4]] = each[4:]
    for line in lines:
        if line.place not in known:
            raise UsageError(f"{line.where}: the run has no such answer (row, column, and of a span start and end)")
        report_id, status, answer = known[line.place]
        if status != "ok":
            raise UsageError(f"{line.where}: row {line.source_row} is {status}, there is no answer to decide on")
        yield _with_labels(replace(line, report_id=report_id), answer)


def _with_labels(line: Decision, answer: str) -> Decision:
    task = TASKS[line.task]
    legal = legal_labels(task, line.column)
    if not legal:
        return replace(line, answer=None, correction=_plain(line.correction))
    if line.answer not in (answer, "", None):
        said = answer or "no span"
        raise UsageError(f"{line.where}: the answer that was decided on is not the run's, which is {said}")
    if line.correction is None:
        return replace(line, answer=answer)
    if not answer:
        raise UsageError(f"{line.where}: a row without spans can be accepted or rejected; spans cannot be put in")
    spelt = {label.casefold(): label for label in legal}.get(line.correction.casefold())
    if spelt is None:
        known = f"none of {', '.join(legal)}" if len(legal) <= _LISTED else f"no label of {task.name}"
        raise UsageError(f"{line.where}: its correction is {known}")
    if spelt == answer:
        return replace(line, answer=answer, decision="accept", correction=None)
    return replace(line, answer=answer, correction=spelt)


def _plain(cell: str | None) -> str | None:
    """Words without the apostrophe that keeps them from being taken for a formula."""
    return cell[1:] if cell and cell.startswith("'") and safe_cell(cell[1:]) == cell else cell
