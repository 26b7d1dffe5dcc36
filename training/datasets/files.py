"""Reading the files of a source; every complaint names the file, the record and the field, and quotes no text."""

import csv
import gzip
import json
import sys
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, TypeVar

from radlite_batch.errors import ArchiveError

T = TypeVar("T")

# Whatever a source calls its splits.
SPLITS = {
    "train": "train", "dev": "dev", "val": "dev", "valid": "dev", "validate": "dev", "validation": "dev",
    "test": "test",
}  # fmt: skip

csv.field_size_limit(sys.maxsize)
_WRITER = json.JSONEncoder(ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a file. where: the file and the record's place in it, as a complaint names them."""

    where: str
    values: Mapping[str, Any]

    def of(self, name: str, kind: type[T]) -> T:
        """The field, which must be of this type."""
        if name not in self.values:
            raise ArchiveError(f"{self.where}: no field {name!r}")
        value = self.values[name]
        if not isinstance(value, kind):
            raise ArchiveError(f"{self.where}: field {name!r} is no {kind.__name__}")
        if not _is_unicode(value):
            raise ArchiveError(f"{self.where}: field {name!r} is not valid Unicode")
        return value

    def text(self, name: str) -> str:
        return self.of(name, str).strip()

    def one_of(self, name: str, meanings: Mapping[str, T]) -> T:
        """What the field's value means, numbers and nulls spelt as Python spells them."""
        value = str(self.of(name, object)).strip()
        if value not in meanings:
            raise ArchiveError(f"{self.where}: field {name!r} is none of {', '.join(map(repr, meanings))}")
        return meanings[value]


def find(folder: Path, name: str) -> Path:
    """The file of this name, plain or gzipped. Raises ArchiveError."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise ArchiveError(f"{folder / name}: no such file")


def present(folder: Path, names: Collection[str]) -> list[Path]:
    """Those of the files that are there, in the order of the names. Raises ArchiveError where none is."""
    paths = [path for name in names for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
    if not paths:
        raise ArchiveError(f"{folder}: none of {', '.join(names)} is here")
    return paths


def rows(path: Path, columns: Sequence[str], delimiter: str = ",", quoting: bool = True) -> Iterator[Record]:
    """The rows of a table with a header, counted from 1; these columns must be there."""
    with _opened(path) as file:
        # Unless strict, a quote that is not closed takes all rows after it into its field.
        reader = csv.DictReader(
            file, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE, strict=True
        )
        place = "header"
        try:
            missing = [column for column in columns if column not in (reader.fieldnames or ())]
            if missing:
                raise ArchiveError(f"{path}: no column {missing[0]!r}")
            place = "row 1"
            for number, values in enumerate(reader, 1):
                if None in values or None in values.values():
                    raise ArchiveError(f"{path}: {place} has more or fewer fields than the header")
                yield Record(f"{path}: {place}", values)
                place = f"row {number + 1}"
        except csv.Error:
            raise ArchiveError(f"{path}: {place}: a quote is not closed, or one inside is not doubled") from None


def json_lines(path: Path) -> Iterator[Record]:
    """The objects of a file that holds one a line."""
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                where = f"{path}: line {number}"
                yield record(where, _parsed(where, line))


def json_file(path: Path, kind: type[T]) -> T:
    """A whole JSON file, an object or a list."""
    with _opened(path) as file:
        document = _parsed(str(path), file.read())
    if not isinstance(document, kind):
        raise ArchiveError(f"{path}: no JSON {kind.__name__}")
    return document


def record(where: str, value: Any) -> Record:
    if not isinstance(value, dict):
        raise ArchiveError(f"{where} is no JSON object")
    return Record(where, value)


def _parsed(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ArchiveError(f"{where}: no JSON ({error.msg})") from None
    except (ValueError, RecursionError) as error:  # a number too long, brackets too deep
        raise ArchiveError(f"{where}: not readable ({type(error).__name__})") from None


def _is_unicode(value: Any) -> bool:
    """Whether all of a field can be written: an escape of JSON may name half a character."""
    try:
        _WRITER.encode(value).encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", newline="", encoding="utf-8-sig") as file:
            yield file
    except FileNotFoundError:
        raise ArchiveError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise ArchiveError(f"{path}: not UTF-8") from None
    except (OSError, EOFError, zlib.error) as error:
        raise ArchiveError(f"{path}: not readable ({type(error).__name__})") from None
