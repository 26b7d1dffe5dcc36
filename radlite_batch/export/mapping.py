"""Mapping tables: CSV files that say what an answer becomes. Each ships with the package, to be copied and edited.

The first three columns name answers: task, column, label, where the label * is any that has no row of its own. The
others are the target's. A line that begins with # is a comment.
"""

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from radlite_batch.errors import UsageError, did_you_mean
from radlite_batch.export.source import Answer
from radlite_batch.report import answer_columns
from radlite_batch.tasks.registry import TASKS

ANY = "*"
_KEYS = ("task", "column", "label")

Row = dict[str, str]


@dataclass(frozen=True, slots=True)
class Target:
    """What tables of one kind are like. columns: those beside the keys. needed: answers are left out where it is empty.

    fault: what is wrong with a row, or ""."""

    name: str
    columns: tuple[str, ...]
    needed: str
    fault: Callable[[Row], str]


class Table:
    """A mapping table's rows, by task, column and label."""

    def __init__(self, target: Target, path: Path | None = None):
        """path: the user's own table. Raises UsageError naming file and line."""
        self.path = path or shipped(target.name)
        self._target, self._columns = target, (*_KEYS, *target.columns)
        self._rows: dict[tuple[str, str, str], Row] = {}
        try:
            with open(self.path, encoding="utf-8-sig", newline="") as file:
                self._read(file)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise UsageError(f"{self.path}: {reason}") from None
        except csv.Error as error:
            raise UsageError(f"{self.path}: {error}") from None

    def row(self, answer: Answer) -> Row | None:
        """What the answer becomes; None where it is left out."""
        key = (answer.task, answer.column)
        row = self._rows.get((*key, answer.label)) or self._rows.get((*key, ANY))
        return row if row and row[self._target.needed] else None

    def _read(self, lines: Iterable[str]) -> None:
        reader = csv.reader(lines, strict=True)
        header: list[str] | None = None
        for values in reader:
            if not any(values) or values[0].startswith("#"):
                continue
            place = f"{self.path} line {reader.line_num}"
            if header is None:
                header = self._header(values, place)
                continue
            if len(values) != len(header):
                raise UsageError(f"{place}: {len(values)} fields where the header has {len(header)}")
            row = {name: value.strip() for name, value in zip(header, values, strict=True)}
            key = (row["task"], row["column"], row["label"])
            _check(place, *key)
            fault = f"a second row for {' '.join(key)}" if key in self._rows else self._target.fault(row)
            if fault:
                raise UsageError(f"{place}: {fault}")
            self._rows[key] = row
        if header is None:
            raise UsageError(f"{self.path}: no header line; its columns are {', '.join(self._columns)}")

    def _header(self, names: Sequence[str], place: str) -> list[str]:
        header = [name.strip() for name in names]
        for name in header:
            if name not in self._columns:
                raise UsageError(f"{place}: unknown column {name!r}{did_you_mean(name, self._columns)}")
        for name in self._columns:
            if header.count(name) != 1:
                raise UsageError(f"{place}: column {name!r} must be there once")
        return header


def not_number(row: Row, *names: str) -> str:
    """The fault of a row with something else than a whole number, or nothing, in one of these columns."""
    return next((f"{name} is no whole number" for name in names if row[name] and not row[name].isdecimal()), "")


def shipped(name: str) -> Path:
    """The table that comes with the package."""
    return Path(__file__).parent / "mappings" / f"{name}.csv"


def _check(place: str, task: str, column: str, label: str) -> None:
    """Whether such answers can be."""
    if task not in TASKS:
        raise UsageError(f"{place}: unknown task {task!r}{did_you_mean(task, TASKS)}")
    columns = {each.name: each for each in answer_columns(TASKS[task])}
    if column not in columns:
        raise UsageError(f"{place}: {task} has no labels in a column {column!r}{did_you_mean(column, columns)}")
    labels = columns[column].vocabulary
    if labels and label != ANY and label not in labels:
        raise UsageError(f"{place}: {column} is never {label!r}{did_you_mean(label, labels)}")
