"""A job: what to run on what, from TOML, fully checked before anything starts. Unknown keys are errors.

Relative paths in a job file count from the file's own folder, so that cron may start it anywhere.
"""

import datetime
import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from radlite_batch import storage
from radlite_batch.archive import ENCODINGS, FIELDS, ArchiveSpec, Filter, is_utf8
from radlite_batch.engine.formats import FORMATS
from radlite_batch.errors import JobError, did_you_mean
from radlite_batch.tasks.registry import tasks_named

BACKENDS = ("local", "dask")
_MOST_HOURS = 100_000
OVERLONG = ("too_long", "cut_end")  # cut_end: keep the beginning that fits; offsets stay true


@dataclass(frozen=True, slots=True)
class Workers:
    """processes, threads per process, reports_in_hand (whose prompts form one trie); 0 lets the plan choose.

    memory: MiB that a worker may take for itself, beside the weights it maps; 0: an equal share of what is free. One
    that holds more than half of it is replaced between two work items. format: number format that models run in whose
    pack lets them be converted; "": the fastest here. scheduler: address of the Dask scheduler whose
    workers run the job, a process for every `threads` (1, if not given) of theirs; "": those of this host."""

    processes: int = 0
    threads: int = 0
    reports_in_hand: int = 0
    backend: str = "local"
    memory: int = 0
    scheduler: str = ""
    format: str = ""


@dataclass(frozen=True, slots=True)
class RunLimits:
    """until: local time "HH:MM" after which no work is begun. overlong: what becomes of a report over the limit.

    record_seconds: how long a model may stand still, and a row that is tried alone may take, until it is given up."""

    until: str = ""
    max_hours: float = 0.0
    max_rows: int | None = None
    overlong: str = "too_long"
    record_seconds: float = 300.0


@dataclass(frozen=True, slots=True)
class Output:
    """path: the folder, or the mirror of a remote one. private: files 0600, folders 0700.

    shard_rows: rows of a part, the unit of work and of loss in a crash."""

    path: Path
    private: bool = True
    shard_rows: int = 256


@dataclass(frozen=True, slots=True)
class Storage:
    """endpoint_url: of an S3 that is not Amazon's; "" leaves it to the environment, as credentials always are."""

    endpoint_url: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    archive: ArchiveSpec
    tasks: tuple[str, ...]
    output: Output
    pack: str = "smol"
    workers: Workers = field(default_factory=Workers)
    limits: RunLimits = field(default_factory=RunLimits)
    storage: Storage = field(default_factory=Storage)

    def __post_init__(self) -> None:
        tasks_named(self.tasks)
        checks = (
            (bool(self.archive.paths) and all(map(storage.plain, self.archive.paths)), "archive.paths names no file"),
            (bool(self.archive.text), "archive.text names no column"),
            (self.archive.report_id not in self.archive.text_columns,
             f"archive.report_id or --id-column: {self.archive.report_id!r} is a column of text; name that of the ids"),
            (not self.archive.filter.reversed, "archive.filter.date_from lies after date_to"),
            (self.archive.encoding in ENCODINGS, f"archive.encoding must be one of {', '.join(ENCODINGS)}"),
            (self.limits.overlong in OVERLONG, f"limits.overlong must be one of {', '.join(OVERLONG)}"),
            (self.limits.max_rows is None or self.limits.max_rows > 0, "limits.max_rows must be above 0"),
            (0 <= self.limits.max_hours <= _MOST_HOURS, f"limits.max_hours must lie between 0 and {_MOST_HOURS:,}"),
            (0 < self.limits.record_seconds < math.inf, "limits.record_seconds must be above 0, and not endless"),
            (self.workers.backend in BACKENDS, f"workers.backend must be one of {', '.join(BACKENDS)}"),
            (self.workers.backend == "dask" or not self.workers.scheduler, "workers.scheduler needs backend = 'dask'"),
            (not (self.workers.scheduler and self.workers.processes),
             "workers.processes counts on this host; with a scheduler, its Dask workers' threads are split instead"),
            (not self.workers.scheduler or not self._remote,
             "workers.scheduler needs an archive and an output folder that all nodes share; neither may be a URL"),
            (min(self.workers.processes, self.workers.threads, self.workers.reports_in_hand, self.workers.memory) >= 0,
             "workers.processes, threads, reports_in_hand and memory must not be negative"),
            (self.workers.format in ("", *FORMATS), f"workers.format must be one of {', '.join(FORMATS)}"),
            (self.output.shard_rows > 0, "output.shard_rows must be above 0"),
            (is_utf8(str(self.output.path)), "output.path: its name is not UTF-8"),
            (not any(map(os.path.isfile, (self.output.path, *self.output.path.parents))),
             f"output.path: a file is in the way of {self.output.path}; name another folder"),
        )  # fmt: skip
        for holds, sentence in checks:
            if not holds:
                raise JobError(sentence)
        for key in self.archive.columns:
            if key not in FIELDS:
                raise JobError(f"archive.columns: unknown field {key!r}{did_you_mean(key, FIELDS)}")
        if self.limits.until:
            parse_until(self.limits.until)

    @property
    def _remote(self) -> bool:
        return storage.url_of(self.output.path) is not None or any(map(storage.is_remote, self.archive.paths))


def parse_until(until: str) -> datetime.time:
    """A local time of day from "HH:MM". Raises JobError."""
    try:
        return datetime.datetime.strptime(until, "%H:%M").time()
    except ValueError:
        raise JobError(f"limits.until: {until!r} is not a time like 06:00") from None


def load_job(path: Path) -> Job:
    """Reads and checks a job file. Raises JobError naming file and key."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        hint = "give a job's .toml file, or --input, --tasks and --output"
        raise JobError(f"{path}: {error.strerror}; {hint}") from None
    except UnicodeDecodeError as error:
        raise JobError(f"{path}: not a TOML file (byte {error.start} is not UTF-8; save it as UTF-8)") from None
    except tomllib.TOMLDecodeError as error:
        raise JobError(f"{path}: not a TOML file ({error})") from None
    try:
        return _job(document, path.resolve().parent)
    except JobError as error:
        raise JobError(f"{path}: {error}") from None


def _job(document: Mapping[str, Any], folder: Path) -> Job:
    top = _table(document, "", ("archive", "tasks", "pack", "workers", "output", "limits", "storage"))
    archive = _table(top.get("archive"), "archive", ("paths", "report_id", "text", "columns", "encoding", "filter"))
    rows = _table(archive.get("filter"), "archive.filter", ("modality", "date_from", "date_to"))
    tasks = _table(top.get("tasks"), "tasks", ("run",))
    pack = _table(top.get("pack"), "pack", ("name",))
    output = _table(top.get("output"), "output", ("path", "private", "shard_rows"))
    elsewhere = _table(top.get("storage"), "storage", ("endpoint_url",))
    name = _get(pack, "pack.name", str, "smol")
    return Job(
        archive=ArchiveSpec(
            paths=tuple(_placed(folder, path) for path in _strings(archive, "archive.paths")),
            report_id=_get(archive, "archive.report_id", str, "report_id"),
            text=_strings(archive, "archive.text", ("text",)),
            columns=_columns(_get(archive, "archive.columns", dict, {})),
            encoding=_get(archive, "archive.encoding", str, "utf-8"),
            filter=Filter(
                _strings(rows, "archive.filter.modality", ()),
                _date(rows, "archive.filter.date_from"),
                _date(rows, "archive.filter.date_to"),
            ),
        ),
        tasks=_strings(tasks, "tasks.run"),
        output=Output(
            _folder(output, folder),
            _get(output, "output.private", bool, True),
            _get(output, "output.shard_rows", int, 256),
        ),
        pack=str(folder / name) if name.endswith(".toml") else name,
        workers=_workers(top.get("workers")),
        limits=_limits(top.get("limits")),
        storage=Storage(_get(elsewhere, "storage.endpoint_url", str, "")),
    )


def _placed(folder: Path, name: str) -> str:
    path = storage.plain(name)
    return name if storage.is_remote(name) or not path else str(folder / path)


def _folder(table: Mapping[str, Any], folder: Path) -> Path:
    name = _get(table, "output.path", str)
    if not storage.plain(name):
        raise JobError("output.path names no folder")
    return storage.folder(name, folder)


def _columns(table: Mapping[str, Any]) -> dict[str, str]:
    return {key: _get(table, f"archive.columns.{key}", str) for key in table}


def _date(table: Mapping[str, Any], name: str) -> str:
    value = table.get(name.rpartition(".")[2], "")
    try:
        return str(datetime.date.fromisoformat(str(value))) if value != "" else ""
    except ValueError:
        raise JobError(f"{name} must be a date like 2024-12-31") from None


def _workers(table: Any) -> Workers:
    names = ("processes", "threads", "reports_in_hand", "backend", "memory", "scheduler", "format")
    keys = _table(table, "workers", names)
    return Workers(
        _get(keys, "workers.processes", int, 0),
        _get(keys, "workers.threads", int, 0),
        _get(keys, "workers.reports_in_hand", int, 0),
        _get(keys, "workers.backend", str, "local"),
        _get(keys, "workers.memory", int, 0),
        _get(keys, "workers.scheduler", str, ""),
        _get(keys, "workers.format", str, ""),
    )


def _limits(table: Any) -> RunLimits:
    keys = _table(table, "limits", ("until", "max_hours", "max_rows", "overlong", "record_seconds"))
    return RunLimits(
        _get(keys, "limits.until", str, ""),
        float(_get(keys, "limits.max_hours", (int, float), 0.0)),
        _get(keys, "limits.max_rows", int, None),
        _get(keys, "limits.overlong", str, "too_long"),
        float(_get(keys, "limits.record_seconds", (int, float), 300.0)),
    )


def _table(value: Any, name: str, keys: tuple[str, ...]) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise JobError(f"{name} must be a table, [{name}], with {', '.join(keys)}")
    for key in value:
        if key not in keys:
            raise JobError(f"unknown key {f'{name}.{key}'.lstrip('.')!r}{did_you_mean(key, keys)}")
    return value


_MISSING: Any = object()
_KINDS: dict[Any, str] = {
    str: "a string", int: "a whole number", (int, float): "a number", bool: "true or false", dict: "a table",
}  # fmt: skip


def _get(table: Mapping[str, Any], name: str, kind: type | tuple[type, ...], default: Any = _MISSING) -> Any:
    key = name.rpartition(".")[2]
    if key not in table:
        if default is _MISSING:
            raise JobError(f"{name} is missing")
        return default
    value = table[key]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise JobError(f"{name} must be {_KINDS[kind]}")
    return value


def _strings(table: Mapping[str, Any], name: str, default: Any = _MISSING) -> tuple[str, ...]:
    key = name.rpartition(".")[2]
    if key not in table:
        if default is _MISSING:
            raise JobError(f"{name} is missing")
        return tuple(default)
    value = [table[key]] if isinstance(table[key], str) else table[key]
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise JobError(f"{name} must be a list of strings")
    return tuple(str(v) for v in value)
