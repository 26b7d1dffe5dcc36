"""Durable files: a name appears only with its whole content, and stays after a power cut.

In the mirror of a remote output the storage is told last of what appears, and first of what goes away.

JSON documents carry a checksum of themselves as their last key, so that a flipped bit is not taken for a fact.
"""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from radlite_batch import lease, storage
from radlite_batch.errors import OutputError, OutputLocked
from radlite_batch.results import disk

_LOG_DIGITS = 16  # of the checksum that ends a line of a log
_PROBE = 0.05  # seconds; longer than it takes to see whether a lock is held


def commit(target: Path, staging: Path, data: "bytes | memoryview") -> tuple[str, int]:
    """Gives a name to data, once it is whole: write under `staging`, fsync, rename, fsync of the folder.

    staging lies on the same file system and is no folder that readers look into. Returns (sha256, bytes).
    Raises OutputError."""
    make_folder(target.parent)
    temporary = staging / f"{target.parent.name}-{target.name}.{os.getpid()}"
    view = memoryview(data)
    with _explained(target), _gone_on_failure(temporary):
        handle = disk.create(temporary)
        try:
            _write(handle, view)
            disk.sync(handle)
        finally:
            os.close(handle)
        disk.rename(temporary, target)
    _sync_folder(target.parent)
    storage.put(target, view)
    return hashlib.sha256(view).hexdigest(), view.nbytes


def commit_json(target: Path, staging: Path, document: Mapping[str, Any]) -> None:
    """Commits a JSON document, keys in the order given, then `sha256`: that of the text before it."""
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    commit(target, staging, _sealed(text.removesuffix("\n}").encode(), b",\n ", b"\n}\n"))


def read_json(path: Path) -> dict[str, Any]:
    """A committed document, its `sha256` included. Raises OutputError where it is damaged or not there."""
    with _explained(path):
        raw = path.read_bytes()
    if raw != _sealed(raw[: -len(_sealed(b"", b",\n ", b"\n}\n"))], b",\n ", b"\n}\n"):
        raise OutputError(f"{storage.shown(path)}: damaged, its checksum is another")
    document: dict[str, Any] = json.loads(raw)
    return document


def append_log(path: Path, facts: Mapping[str, Any]) -> None:
    """Appends a line to a log; only the last one can be torn, by a crash. Raises OutputError."""
    line = _sealed(json.dumps(facts).removesuffix("}").encode(), b", ", b"}\n", _LOG_DIGITS)
    with _explained(path):
        handle = disk.append(path)
        try:
            _write(handle, memoryview(line))
            disk.sync(handle)
        finally:
            os.close(handle)


def upload(path: Path) -> None:
    """Stores a file of a mirror that grows, a log, as it is now. Raises OutputError."""
    storage.put(path, path.read_bytes())


def mend_log(path: Path) -> None:
    """Cuts off a last line that was not written to its end."""
    if path.exists():
        whole = path.read_bytes().rpartition(b"\n")
        with _explained(path):
            disk.cut(path, len(whole[0] + whole[1]))


def damaged_lines(path: Path) -> list[int]:
    """Numbers, from 1, of a log's lines whose checksum is another."""
    tail = len(_sealed(b"", b", ", b"}\n", _LOG_DIGITS))
    lines = path.read_bytes().splitlines(keepends=True)
    return [n for n, line in enumerate(lines, 1) if line != _sealed(line[:-tail], b", ", b"}\n", _LOG_DIGITS)]


def _write(handle: int, data: memoryview) -> None:
    while data:
        data = data[disk.write(handle, data) :]


def _sealed(body: bytes, joint: bytes, end: bytes, digits: int = 64) -> bytes:
    return body + joint + b'"sha256": "' + hashlib.sha256(body).hexdigest()[:digits].encode() + b'"' + end


def remove(path: Path) -> None:
    """Takes a name away, durably; it may be gone already. Raises OutputError."""
    storage.drop(path)
    with _explained(path):
        disk.remove(path)
    _sync_folder(path.parent)


def make_folder(path: Path) -> None:
    """Makes a folder and its parents, durably. Raises OutputError."""
    if path.is_dir():
        return
    make_folder(path.parent)
    with _explained(path):
        disk.make_folder(path)
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    with _explained(path):
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            disk.sync(handle)
        finally:
            os.close(handle)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{storage.shown(path)}: {error.strerror}") from None


@contextmanager
def _gone_on_failure(temporary: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:  # a signal too
        with suppress(OSError):  # what went wrong first is what is said
            disk.remove(temporary)
        raise


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an output's lock, and that of what it is a mirror of; raises OutputLocked if another process does."""
    with locked_here(path), lease.held(path.parent.parent):
        yield


@contextmanager
def waited_for(path: Path) -> Iterator[None]:
    """Holds an exclusive lock of this host, once whoever else holds it lets go."""
    with _explained(path):
        file = open(path, "a")  # noqa: SIM115
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def locked_here(path: Path) -> Iterator[None]:
    """Holds an exclusive lock for as long as this process lives; raises OutputLocked if another one does."""
    with _explained(path):
        file = open(path, "a")  # noqa: SIM115  not inherited: Python's descriptors close on exec
    with file:
        for _ in range(3):
            if _take(file):
                break
            time.sleep(_PROBE)
        else:
            raise OutputLocked(f"{storage.shown(path.parent.parent)}: another run holds this output")
        yield


def is_locked(path: Path) -> bool:
    """Whether some process, here or elsewhere, holds the lock now; writes nothing."""
    return is_locked_here(path) or lease.is_held(path.parent.parent)


def is_locked_here(path: Path) -> bool:
    """Whether some process of this host holds the lock now; writes nothing."""
    if not path.exists():
        return False
    with open(path, "rb") as file:
        return not _take(file)


def _take(file: IO[Any]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
