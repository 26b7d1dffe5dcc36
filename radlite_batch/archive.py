"""Archives: find the files, survey them once, then stream the rows of any shard.

A survey reads each file from end to end: it counts records, notes where each shard begins and takes the checksum, so
that the plan is reconciled with the physical file before anything starts. No row is ever dropped: one that cannot be
read arrives as a Report with a `problem`.

What becomes of oddities: ids stay strings, as written; a missing id is null and its row goes on; duplicate ids keep
both rows, told apart by source_row; NUL and control characters are text; a byte order mark is removed; blank lines
are no records; a line with too few or too many fields, broken quoting or undecodable bytes is a row with a problem;
a quote that never closes ends the survey with an error, because the rows behind it cannot be told apart.
"""

import csv
import glob
import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from radlite_batch.errors import ArchiveError, did_you_mean
from radlite_batch.records import Report, Shard

FIELDS = (
    "findings", "impression", "prior_text", "premise", "hypothesis", "question", "patient_id", "study_date", "modality",
)  # fmt: skip
ENCODINGS = ("utf-8", "latin-1", "cp1252")

csv.field_size_limit(sys.maxsize)


@dataclass(frozen=True, slots=True)
class Filter:
    """Rows outside it are not part of the run. Dates are ISO strings, both ends included."""

    modality: tuple[str, ...] = ()
    date_from: str = ""
    date_to: str = ""

    def admits(self, report: Report) -> bool:
        if self.modality and report.fields.get("modality") not in self.modality:
            return False
        date = report.fields.get("study_date", "")[:10]
        if (self.date_from or self.date_to) and not date:
            return False
        return (not self.date_from or date >= self.date_from) and (not self.date_to or date <= self.date_to)


@dataclass(frozen=True, slots=True)
class ArchiveSpec:
    """Where the rows are and what their columns mean. columns: column of each input field, where named otherwise."""

    paths: tuple[str, ...]
    report_id: str = "report_id"
    text: tuple[str, ...] = ("text",)
    columns: dict[str, str] = field(default_factory=dict)
    encoding: str = "utf-8"
    filter: Filter = Filter()


@dataclass(frozen=True, slots=True)
class SurveyedFile:
    """One file of the plan. shard_starts: CSV byte offset of every shard's first record, else empty."""

    path: str
    size: int
    sha256: str
    rows: int
    shard_starts: tuple[int, ...] = ()


def discover(paths: Sequence[str]) -> list[Path]:
    """The archive's files in planned order: as given, folders and globs sorted by path. Raises ArchiveError."""
    found: dict[Path, None] = {}
    for given in paths:
        path = Path(given)
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.suffix.lower() in _KINDS and p.is_file())
        elif path.is_file():
            files = [path]
        else:
            files = sorted(Path(p) for p in glob.glob(given, recursive=True) if Path(p).is_file())
        if not files:
            raise ArchiveError(f"{given}: no CSV or Parquet file there")
        for file in files:
            if file.suffix.lower() not in _KINDS:
                raise ArchiveError(f"{file}: not a .csv or .parquet file")
            found[file.resolve()] = None
    return list(found)


def survey(path: Path, spec: ArchiveSpec, needs_text: bool, shard_rows: int, max_rows: int | None) -> SurveyedFile:
    """Reads the file once; at most max_rows of its rows are planned. Raises ArchiveError naming file and line."""
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    size = path.stat().st_size
    rows_of = _rows(path, spec)
    _Binding(rows_of, spec, path, needs_text)
    rows, starts = rows_of.survey(shard_rows)
    if max_rows is not None and rows > max_rows:
        rows, starts = max_rows, starts[: -(-max_rows // shard_rows)]
    return SurveyedFile(str(path), size, sha256, rows, tuple(starts))


def plan_shards(files: Sequence[SurveyedFile], shard_rows: int, number: int, first_row: int) -> list[Shard]:
    """Fixed runs of at most shard_rows rows, numbered from `number`; a shard never spans two files."""
    shards: list[Shard] = []
    for file in files:
        for i, start in enumerate(range(0, file.rows, shard_rows)):
            rows = min(shard_rows, file.rows - start)
            offset = file.shard_starts[i] if file.shard_starts else None
            shards.append(Shard(number + len(shards), file.path, start, rows, first_row + start, offset))
        first_row += file.rows
    return shards


class ArchiveReader:
    """Streams shards. Keeps the last Parquet file open, so that shards read in order decode it once."""

    def __init__(self, spec: ArchiveSpec, needs_text: bool = True):
        self._spec, self._needs_text = spec, needs_text
        self._path: str | None = None
        self._rows: _Rows | None = None

    def reports(self, shard: Shard) -> Iterator[Report]:
        """The shard's rows in order, one Report each, whatever the filter. Raises ArchiveError if some are gone."""
        if self._rows is None or self._path != shard.path:
            self._rows, self._path = _rows(Path(shard.path), self._spec), shard.path
        binding = _Binding(self._rows, self._spec, Path(shard.path), self._needs_text)
        row = -1
        for row, (values, problem) in enumerate(self._rows.read(shard)):
            yield binding.report(shard.first_row + row, values, problem)
        if row + 1 != shard.rows:
            raise ArchiveError(f"{shard.path}: {row + 1} rows from row {shard.start} on, {shard.rows} were planned")


class _Binding:
    """Which column feeds which part of a Report, in one file."""

    def __init__(self, rows: "_Rows", spec: ArchiveSpec, path: Path, needs_text: bool):
        self._names = names = rows.names
        wanted = [spec.report_id, *(spec.text if needs_text else ()), *spec.columns.values()]
        for name in wanted:
            if name not in names:
                raise ArchiveError(f"{path}: no column {name!r}{did_you_mean(name, rows.available)}")
        self._id = names.index(spec.report_id)
        self._text = [(name, names.index(name)) for name in spec.text if name in names]
        named = {key: spec.columns.get(key, key) for key in FIELDS}
        self._fields = {key: names.index(name) for key, name in named.items() if name in names}
        self._encoding = spec.encoding

    def report(self, source_row: int, values: Sequence[str | None], problem: str | None) -> Report:
        if problem is None and any(value and _undecodable(value) for value in values):
            names = [n for n, value in zip(self._names, values, strict=True) if value and _undecodable(value)]
            problem = f"column {names[0]}: bytes that are not {self._encoding}"
        raw_id = values[self._id] if self._id < len(values) else None
        report_id = raw_id.encode("utf-8", "backslashreplace").decode() if raw_id else None
        if problem is not None:
            return Report(source_row, report_id, "", problem=problem)
        parts = [(name, values[i]) for name, i in self._text]
        if len(parts) == 1:
            text = parts[0][1] or ""
        else:
            text = "\n".join(f"{name.upper()}: {value}" for name, value in parts if value)
        return Report(source_row, report_id, text, {key: values[i] or "" for key, i in self._fields.items()})


def _undecodable(value: str) -> bool:
    """Whether a value holds lone surrogates: what surrogateescape leaves of bad bytes, or what no UTF-8 can hold."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


class _Rows(Protocol):
    names: list[str]  # of the values that read() yields
    available: list[str]  # all the file has

    def survey(self, shard_rows: int) -> tuple[int, list[int]]:
        """Rows of the file, and the byte offset of each shard's first record."""
        ...

    def read(self, shard: Shard) -> Iterator[tuple[Sequence[str | None], str | None]]:
        """(values, problem) of each row of the shard."""
        ...


def _rows(path: Path, spec: ArchiveSpec) -> _Rows:
    return _KINDS[path.suffix.lower()](path, spec)


class _CsvRows:
    def __init__(self, path: Path, spec: ArchiveSpec):
        self._path, self._encoding = path, spec.encoding
        with open(path, "rb") as file:
            lines = _Lines(file, self._encoding)
            self.names = next((row for row, _, _ in self._records(lines) if row), [])
            self._body = lines.consumed
        self.available = self.names
        if len(set(self.names)) != len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise ArchiveError(f"{path}: two columns are named {twice!r}")

    def survey(self, shard_rows: int) -> tuple[int, list[int]]:
        rows, starts = 0, []
        with open(self._path, "rb") as file:
            file.seek(self._body)
            for _, _, offset in self._records(_Lines(file, self._encoding, self._body)):
                if rows % shard_rows == 0:
                    starts.append(offset)
                rows += 1
        return rows, starts

    def read(self, shard: Shard) -> Iterator[tuple[Sequence[str | None], str | None]]:
        assert shard.byte_offset is not None
        with open(self._path, "rb") as file:
            file.seek(shard.byte_offset)
            records = self._records(_Lines(file, self._encoding, shard.byte_offset))
            for _, (values, problem, _) in zip(range(shard.rows), records, strict=False):
                if problem is None and len(values) != len(self.names):
                    problem = f"{len(values)} fields where the header has {len(self.names)}"
                yield values, problem

    def _records(self, lines: "_Lines") -> Iterator[tuple[list[str], str | None, int]]:
        """(values, problem, byte offset) of each record; blank lines are none."""
        # strict: otherwise broken quoting is guessed at, and a quote left open swallows the rest of the file.
        reader = csv.reader(lines, strict=True)
        while True:
            offset, line = lines.consumed, lines.number + 1
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if "unexpected end of data" in str(error):
                    raise ArchiveError(f"{self._path} line {line}: a quoted field is never closed") from None
                yield [], "broken quoting", offset
                continue
            if values:
                yield values, None, offset


class _Lines:
    """Decoded lines of a binary file, with the number of bytes and lines handed out so far."""

    def __init__(self, file: BinaryIO, encoding: str, consumed: int = 0):
        self._file, self._encoding = file, encoding
        self.consumed, self.number = consumed, 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._file.readline()
        if not line:
            raise StopIteration
        start = self.consumed == 0
        self.consumed += len(line)
        self.number += 1
        if start and line.startswith(b"\xef\xbb\xbf"):
            line = line[3:]
        return line.decode(self._encoding, "surrogateescape")


class _ParquetRows:
    """Reads forward through one file; going back opens it anew."""

    def __init__(self, path: Path, spec: ArchiveSpec):
        self._path = path
        wanted = {spec.report_id, *spec.text, *(spec.columns.get(key, key) for key in FIELDS)}
        self._file = self._open()
        self.available = list(self._file.schema_arrow.names)
        self.names = [name for name in self.available if name in wanted]
        self._batches: Iterator[pa.RecordBatch] | None = None
        self._batch: list[list[str | None]] = []
        self._position = 0  # file row of _batch[0]

    def _open(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self._path, buffer_size=1 << 20)
        except (pa.ArrowException, OSError) as error:
            raise ArchiveError(f"{self._path}: not a readable Parquet file ({type(error).__name__})") from None

    def survey(self, shard_rows: int) -> tuple[int, list[int]]:
        return self._file.metadata.num_rows, []

    def read(self, shard: Shard) -> Iterator[tuple[Sequence[str | None], str | None]]:
        if self._batches is None or shard.start < self._position:
            self._batches = self._file.iter_batches(1024, columns=self.names)
            self._batch, self._position = [], 0
        row = shard.start
        while row < shard.start + shard.rows:
            while row >= self._position + len(self._batch):
                batch = next(self._batches, None)
                if batch is None:
                    return
                self._position += len(self._batch)
                columns = [_strings(batch.column(name)) for name in self.names]
                self._batch = [list(values) for values in zip(*columns, strict=True)]
            yield self._batch[row - self._position], None
            row += 1


def _strings(column: pa.Array) -> list[str | None]:
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        return [None if v is None else v.decode("utf-8", "surrogateescape") for v in column.to_pylist()]
    text = column.cast(pa.string())
    try:
        values: list[str | None] = text.to_pylist()
        return values
    except UnicodeDecodeError:  # a writer that did not check its strings
        return _strings(text.view(pa.binary()))


_KINDS: dict[str, Callable[[Path, ArchiveSpec], _Rows]] = {".csv": _CsvRows, ".parquet": _ParquetRows}
