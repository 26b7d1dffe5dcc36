"""Archives: find the files, survey them once, then stream the rows of any shard.

A survey reads each file from end to end: it counts records, notes where each shard begins and takes the checksum, so
that the plan is reconciled with the physical file before anything starts. No row is ever dropped: one that cannot be
read arrives as a Report with a `problem`.

What becomes of oddities: ids stay strings, as written; a missing id is null and its row goes on; duplicate ids keep
both rows, told apart by source_row; NUL and control characters are text; a byte order mark is removed; blank lines
are no records; a line with too few or too many fields, broken quoting or undecodable bytes is a row with a problem;
a quote that never closes, broken quoting in a field that may go on, or a carriage return that alone ends a line, ends
the survey with an error, because the rows behind it cannot be told apart. Where a filter asks for dates, a row without
one is outside it, and a row whose date cannot be read has a problem.

Files of a remote archive are read from copies on this host's disk (see storage); plans and messages name their URL.
"""

import datetime
import difflib
import glob
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from radlite_batch.errors import ArchiveError
from radlite_batch.records import Report, Shard
from radlite_batch.rows import KINDS, FileRows, open_rows
from radlite_batch.storage import is_remote, listed, local, plain, shown

FIELDS = (
    "findings", "impression", "prior_text", "premise", "hypothesis", "question", "patient_id", "study_date", "modality",
)  # fmt: skip
_FACTS = ("patient_id", "study_date", "modality")  # fields that are no text
ENCODINGS = ("utf-8", "latin-1", "cp1252")
_PACKED = (".gz", ".bz2", ".xz", ".zip", ".zst")
_DAY = re.compile(r"\s*(\d{4}-\d\d-\d\d|\d{8}(?=\D|\d{6}|$))")  # DICOM writes 20241231, with a time 20241231235959


@dataclass(frozen=True, slots=True)
class Filter:
    """Rows outside it are not part of the run. Dates are written 2024-12-31, both ends included."""

    modality: tuple[str, ...] = ()
    date_from: str = ""
    date_to: str = ""

    def admits(self, report: Report) -> bool:
        if not self._is_of_modality(report.fields):
            return False
        if not self.dated:
            return True
        day = day_of(report.fields.get("study_date", ""))
        return day is not None and (self.date_from or day) <= day <= (self.date_to or day)

    def problem(self, fields: Mapping[str, str]) -> str | None:
        """Why it cannot be told whether a row of these fields is inside."""
        date = fields.get("study_date", "")
        if self.dated and self._is_of_modality(fields) and date.strip() and day_of(date) is None:
            return "study_date: not a date like 2024-12-31 or 20241231, which the filter needs"
        return None

    def _is_of_modality(self, fields: Mapping[str, str]) -> bool:
        return not self.modality or fields.get("modality") in self.modality

    @property
    def dated(self) -> bool:
        return bool(self.date_from or self.date_to)

    @property
    def reversed(self) -> bool:
        """Whether no day can lie inside."""
        return bool(self.date_to) and self.date_from > self.date_to


def day_of(value: str) -> str | None:
    """The day that a date or a time begins with, as 2024-12-31; None where it is written neither so nor 20241231."""
    with suppress(ValueError):
        return datetime.date.fromisoformat(found[1]).isoformat() if (found := _DAY.match(value)) else None
    return None


@dataclass(frozen=True, slots=True)
class ArchiveSpec:
    """Where the rows are and what their columns mean. columns: column of each input field, where named otherwise."""

    paths: tuple[str, ...]
    report_id: str = "report_id"
    text: tuple[str, ...] = ("text",)
    columns: dict[str, str] = field(default_factory=dict)
    encoding: str = "utf-8"
    filter: Filter = Filter()

    @property
    def text_columns(self) -> set[str]:
        """Columns of what a report says."""
        return {*self.text, *(self.columns.get(key, key) for key in FIELDS if key not in _FACTS)}


@dataclass(frozen=True, slots=True)
class SurveyedFile:
    """One file of the plan. shard_starts: CSV byte offset of every shard's first record, else empty."""

    path: str
    size: int
    sha256: str
    rows: int
    shard_starts: tuple[int, ...] = ()


def discover(paths: Sequence[str], output: Path | None = None) -> list[Path]:
    """The archive's files in planned order: as given, folders and globs sorted by path, without those in `output`.

    A file that is named by several links is one. Of remote files it gives their copies, brought up to date. Raises
    ArchiveError, also where nothing but files of the output is left of a path."""
    found: dict[Path, Path] = {}  # by what they are behind all links
    for given in paths:
        files = _files(given)
        if not files:
            raise ArchiveError(f"{given}: no CSV or Parquet file there")
        if output is not None:
            own = _real(output)
            files = [file for file in files if not _real(file).is_relative_to(own)]
            if not files:
                raise ArchiveError(f"{given}: lies in the output folder {shown(output)}; name another output")
        for file in files:
            # A link keeps its name: what it leads to may have one that does not say what it is.
            name, real = file if is_remote(given) else _real(file.parent) / file.name, _real(file)
            if not is_utf8(str(name)):
                raise ArchiveError(f"{os.fsencode(name)!r}: its name is not UTF-8; rename it")
            if file.suffix.lower() not in KINDS:
                raise ArchiveError(f"{file}: not a .csv or .parquet file")
            if name == real or real not in found:
                found[real] = name
    return list(found.values())


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _files(given: str) -> list[Path]:
    """The files that a path, folder, glob or URL stands for. Raises ArchiveError where it cannot be looked into."""
    if is_remote(given):
        return _copies(given)
    path = Path(plain(given))
    try:
        if path.is_file():
            return [path]
        matched = [path] if path.is_dir() else map(Path, glob.glob(plain(given), recursive=True))
        return sorted(file for each in matched for file in (_below(each) if each.is_dir() else _itself(each)))
    except OSError as error:
        raise ArchiveError(f"{error.filename or given}: {error.strerror}") from None


def _itself(path: Path) -> list[Path]:
    """A file, or a link to one: a broken one is named when it is to be read."""
    return [path] if path.is_file() or path.is_symlink() else []


def _below(folder: Path) -> Iterator[Path]:
    """A folder's files, those behind links too, hidden ones left out.

    Raises OSError where a folder cannot be read, ArchiveError where a file would be read if it were unpacked."""
    walked = {_real(folder)}  # links may lead in a circle
    for parent, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        inside = {_real(Path(parent, name)): name for name in sorted(folders) if not name.startswith(".")}
        folders[:] = [name for real, name in inside.items() if real not in walked]
        walked.update(inside)
        for path in (file for name in names if not name.startswith(".") for file in _itself(Path(parent, name))):
            if path.suffix.lower() in KINDS:
                yield path
            elif path.suffix.lower() in _PACKED and Path(path.stem).suffix.lower() in KINDS:
                raise ArchiveError(f"{path}: packed; unpack it, or move it out of the folder")


def _raise(error: OSError) -> None:
    raise error


def _copies(url: str) -> list[Path]:
    """Copies of the files that a URL, of a file, a folder or a glob, names."""
    names = [name for name in listed(url) if glob.has_magic(url) or Path(name).suffix.lower() in KINDS]
    for name in names:
        if Path(name).suffix.lower() not in KINDS:
            raise ArchiveError(f"{name}: not a .csv or .parquet file")
    return [local(name, fresh=True) for name in names]


def survey(path: Path, spec: ArchiveSpec, needs_text: bool, shard_rows: int, max_rows: int | None) -> SurveyedFile:
    """Reads the file once; at most max_rows of its rows are planned. Raises ArchiveError naming file and line."""
    try:
        with open(path, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        size = path.stat().st_size
    except OSError as error:
        raise ArchiveError(f"{path}: {error.strerror}") from None
    with _named(path):
        rows_of = _open(path, spec)
        _Binding(rows_of, spec, path, needs_text)
        rows, starts = rows_of.survey(shard_rows)
    if max_rows is not None and rows > max_rows:
        rows, starts = max_rows, starts[: -(-max_rows // shard_rows)]
    return SurveyedFile(shown(path), size, sha256, rows, tuple(starts))


def plan_shards(files: Sequence[SurveyedFile], shard_rows: int, number: int, first_row: int) -> list[Shard]:
    """Fixed runs of at most shard_rows rows, numbered from `number`; a shard never spans two files."""
    shards: list[Shard] = []
    for file in files:
        # A file without rows has a shard too, so that its tables are there, empty.
        for i, start in enumerate(range(0, max(file.rows, 1), shard_rows)):
            rows = min(shard_rows, file.rows - start)
            offset = file.shard_starts[i] if file.shard_starts else None
            shards.append(Shard(number + len(shards), file.path, start, rows, first_row + start, offset))
        first_row += file.rows
    return shards


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """What is wrong with a copy is said of the file that it is the copy of."""
    try:
        yield
    except ArchiveError as error:
        raise ArchiveError(str(error).replace(str(path), shown(path))) from None


def _open(path: Path, spec: ArchiveSpec) -> FileRows:
    return open_rows(path, spec.encoding, {spec.report_id, *spec.text, *(spec.columns.get(key, key) for key in FIELDS)})


class ArchiveReader:
    """Streams shards. Keeps the last Parquet file open, so that shards read in order decode it once."""

    def __init__(self, spec: ArchiveSpec, needs_text: bool = True):
        self._spec, self._needs_text = spec, needs_text
        self._path: str | None = None
        self._rows: FileRows | None = None

    def reports(self, shard: Shard) -> Iterator[Report]:
        """The shard's rows in order, one Report each, whatever the filter. Raises ArchiveError if some are gone."""
        path, row = local(shard.path), -1
        with _named(path):
            if self._rows is None or self._path != shard.path:
                self._rows, self._path = _open(path, self._spec), shard.path
            binding = _Binding(self._rows, self._spec, path, self._needs_text)
            for row, (values, problem) in enumerate(self._rows.read(shard)):
                yield binding.report(shard.first_row + row, values, problem)
        if row + 1 != shard.rows:
            raise ArchiveError(f"{shard.path}: {row + 1} rows from row {shard.start} on, {shard.rows} were planned")


class _Binding:
    """Which column feeds which part of a Report, in one file."""

    def __init__(self, rows: FileRows, spec: ArchiveSpec, path: Path, needs_text: bool):
        self._names = names = rows.names
        if not all(map(is_utf8, rows.available)):
            raise ArchiveError(f"{path}: {_without('', spec, rows.available)}")
        named = {key: spec.columns.get(key, key) for key in FIELDS}
        filtered = [named["modality"]] if spec.filter.modality else []
        filtered += [named["study_date"]] if spec.filter.dated else []
        for name in [spec.report_id, *(spec.text if needs_text else ()), *spec.columns.values(), *filtered]:
            if name not in names:
                raise ArchiveError(f"{path}: {_without(name, spec, rows.available)}")
        for name in {spec.report_id, *spec.text, *named.values()}:
            if names.count(name) > 1:
                raise ArchiveError(f"{path}: two columns are named {name!r}")
        self._id = names.index(spec.report_id)
        self._text = [(name, names.index(name)) for name in spec.text if name in names]
        self._fields = {key: names.index(name) for key, name in named.items() if name in names}
        self._encoding, self._filter = spec.encoding, spec.filter

    def report(self, source_row: int, values: Sequence[str | None], problem: str | None) -> Report:
        if problem is None and any(value and not is_utf8(value) for value in values):
            names = [n for n, value in zip(self._names, values, strict=True) if value and not is_utf8(value)]
            problem = f"column {names[0]}: bytes that are not {self._encoding}"
        raw_id = values[self._id] if self._id < len(values) else None
        report_id = raw_id.encode("utf-8", "backslashreplace").decode() if raw_id else None
        fields = {} if problem else {key: values[i] or "" for key, i in self._fields.items()}
        problem = problem or self._filter.problem(fields)
        if problem is not None:
            # What stands where the id should be may be a piece of the text.
            likely = report_id if report_id and len(report_id) <= 64 and len(report_id.split()) == 1 else None
            return Report(source_row, likely, "", problem=problem)
        parts = [(name, values[i]) for name, i in self._text]
        if len(parts) == 1:
            text = parts[0][1] or ""
        else:
            text = "\n".join(f"{name.upper()}: {value}" for name, value in parts if value)
        return Report(source_row, report_id, text, fields)


def _without(name: str, spec: ArchiveSpec, available: Sequence[str]) -> str:
    """What is wrong with a file that has no column of this name, and how to mend it."""
    if not available:
        return "empty; a CSV file begins with a header line"
    if any("\0" in column or not is_utf8(column) for column in available):
        return f"its header line is not {spec.encoding}; save it as UTF-8, or name its archive.encoding"
    if len(available) == 1 and any(sign in available[0] for sign in ";\t|"):
        return "its header line holds no comma; save it with commas between the fields"
    # Only a near miss is named: where a file has no header, its "columns" are a report.
    if near := difflib.get_close_matches(name, available, n=1):
        return f"no column {name!r}; did you mean {near[0]!r}?"
    named = "--id-column or archive.report_id" if name == spec.report_id else "archive.columns"
    named = "--text-column or archive.text" if name in spec.text else named
    return f"no column {name!r} among its {len(available)}; name the right one with {named}"


def is_utf8(value: str) -> bool:
    """False for lone surrogates: what surrogateescape leaves of bad bytes, or what no UTF-8 can hold."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
