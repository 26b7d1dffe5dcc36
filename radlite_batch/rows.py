"""One CSV or Parquet file as rows of strings, from any row on, in bounded memory.

A row that cannot be read comes with a problem instead of values; what the oddities become is said in archive.
"""

import csv
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from radlite_batch.errors import ArchiveError
from radlite_batch.records import Shard

csv.field_size_limit(sys.maxsize)


class FileRows(Protocol):
    """One file as rows of strings."""

    names: list[str]  # of the values that read() yields
    available: list[str]  # all the file has

    def survey(self, shard_rows: int) -> tuple[int, list[int]]:
        """Rows of the file, and the byte offset of each shard's first record."""
        ...

    def read(self, shard: Shard) -> Iterator[tuple[Sequence[str | None], str | None]]:
        """(values, problem) of each row of the shard."""
        ...


def open_rows(path: Path, encoding: str, wanted: Collection[str]) -> FileRows:
    """The rows of a file of one of the KINDS. wanted: the columns to read, where that saves work.

    Raises ArchiveError."""
    try:
        return KINDS[path.suffix.lower()](path, encoding, wanted)
    except OSError as error:
        raise ArchiveError(f"{path}: {error.strerror}") from None


class _CsvRows:
    def __init__(self, path: Path, encoding: str, wanted: Collection[str]):
        self._path, self._encoding = path, encoding
        with open(path, "rb") as file:
            lines = _Lines(file, self._encoding)
            self.names, problem, _ = next(self._records(lines), ([], None, 0))
            if problem:
                raise ArchiveError(f"{path} line {lines.number}: {problem} in the header")
            self._body, self._body_line = lines.consumed, lines.number
        self.available = self.names

    def survey(self, shard_rows: int) -> tuple[int, list[int]]:
        rows, starts = 0, []
        with open(self._path, "rb") as file:
            file.seek(self._body)
            for _, _, offset in self._records(_Lines(file, self._encoding, self._body, self._body_line)):
                if rows % shard_rows == 0:
                    starts.append(offset)
                rows += 1
        return rows, starts or [self._body]

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
            lines.quotes = 0
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if "unexpected end of data" in str(error):
                    raise ArchiveError(f"{self._path} line {line}: a quoted field is never closed") from None
                if "new-line character seen in unquoted field" in str(error):  # it would take rows for one
                    said = "a carriage return alone ends a line; save it with LF or CRLF"
                    raise ArchiveError(f"{self._path} line {lines.number}: {said}") from None
                if not lines.seem_closed(line):
                    said = "broken quoting in a field that may go on; where the next row begins cannot be told"
                    raise ArchiveError(f"{self._path} line {line}: {said}") from None
                yield [], "broken quoting", offset
                continue
            if values:
                yield values, None, offset


class _Lines:
    """Decoded lines of a binary file, with the number of bytes and lines handed out so far.

    quotes: signs handed out since somebody set it to 0."""

    def __init__(self, file: BinaryIO, encoding: str, consumed: int = 0, number: int = 0):
        self._file, self._encoding = file, encoding
        self.consumed, self.number, self.quotes, self._last = consumed, number, 0, b""

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._file.readline()
        if not line:
            raise StopIteration
        start = self.consumed == 0
        self.consumed += len(line)
        self.number += 1
        self.quotes += line.count(b'"')
        self._last = line
        if start and line.startswith(b"\xef\xbb\xbf"):
            line = line[3:]
        return line.decode(self._encoding, "surrogateescape")

    def seem_closed(self, first: int) -> bool:
        """Whether a record with broken quoting, from line `first` on, ends with the last line: it is one line, whose
        quotes are paired or which ends in one. Otherwise it may go on, or has swallowed the rows behind it."""
        return self.number == first and (self.quotes % 2 == 0 or self._last.rstrip(b"\r\n").endswith(b'"'))


class _ParquetRows:
    """Reads forward through one file; going back opens it anew."""

    def __init__(self, path: Path, encoding: str, wanted: Collection[str]):
        self._path = path
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
        for name in self.names:
            kind = self._file.schema_arrow.types[self.available.index(name)]
            if not _is_readable(kind):
                raise ArchiveError(f"{self._path}: column {name!r} holds {kind}, not text")
        return self._file.metadata.num_rows, []

    def read(self, shard: Shard) -> Iterator[tuple[Sequence[str | None], str | None]]:
        if self._batches is None or shard.start < self._position:
            self._batches = self._file.iter_batches(1024, columns=self.names, use_threads=False)
            self._batch, self._position = [], 0
        row = shard.start
        while row < shard.start + shard.rows:
            while row >= self._position + len(self._batch):
                row_now = self._position + len(self._batch)
                try:
                    batch = next(self._batches, None)
                    if batch is None:
                        return
                    columns = [_strings(column) for column in batch.columns]
                except (pa.ArrowException, OSError) as error:
                    reason = type(error).__name__
                    raise ArchiveError(f"{self._path}: rows from {row_now} on cannot be read ({reason})") from None
                self._position = row_now
                self._batch = [list(values) for values in zip(*columns, strict=True)]
            yield self._batch[row - self._position], None
            row += 1


def _is_readable(kind: pa.DataType) -> bool:
    """Whether _strings takes a column of this type."""
    if pa.types.is_nested(kind):
        return False
    try:
        _strings(pa.nulls(0, kind))
    except pa.ArrowException:
        return False
    return True


def _strings(column: pa.Array) -> list[str | None]:
    if pa.types.is_dictionary(column.type):  # taken word by word: a cast would check them as UTF-8
        return _strings(column.dictionary.take(column.indices))
    if isinstance(column.type, pa.BaseExtensionType):  # UUIDs
        return [None if v is None else str(v) for v in column.to_pylist()]
    if pa.types.is_floating(column.type):  # ids of a table with missing ones; NaN is missing too
        return [None if v is None or v != v else str(int(v)) if v.is_integer() else str(v) for v in column.to_pylist()]
    if any(is_bytes(column.type) for is_bytes in _BYTES):
        return [None if v is None else v.decode("utf-8", "surrogateescape") for v in column.to_pylist()]
    text = column.cast(pa.string())
    try:
        values: list[str | None] = text.to_pylist()
        return values
    except UnicodeDecodeError:  # a writer that did not check its strings
        return _strings(text.view(pa.binary()))


_BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
KINDS: dict[str, Callable[[Path, str, Collection[str]], FileRows]] = {".csv": _CsvRows, ".parquet": _ParquetRows}
