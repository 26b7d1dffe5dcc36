"""Durable files: a name appears only with its whole content, and stays after a power cut."""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from radlite_batch.errors import OutputLocked


def commit(target: Path, staging: Path, write: Callable[[Path], object]) -> tuple[str, int]:
    """Has `write` fill a file under `staging`, then gives it its name: fsync, rename, fsync of the folder.

    staging lies on the same file system and is no folder that readers look into. Returns (sha256, bytes)."""
    make_folder(target.parent)
    temporary = staging / f"{target.parent.name}-{target.name}.{os.getpid()}"
    write(temporary)
    with open(temporary, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
        os.fsync(file.fileno())
    os.rename(temporary, target)
    _sync_folder(target.parent)
    return digest, size


def commit_json(target: Path, staging: Path, document: Any) -> None:
    """Commits a JSON document, keys in the order given."""
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    commit(target, staging, lambda path: path.write_text(text, encoding="utf-8"))


def make_folder(path: Path) -> None:
    """Makes a folder and its parents, durably."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock for as long as this process lives; raises OutputLocked if another one does."""
    with open(path, "a") as file:  # not inherited: Python's descriptors close on exec
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputLocked(f"{path.parent.parent}: another run holds this output") from None
        yield


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock now."""
    try:
        with locked(path):
            return False
    except OutputLocked:
        return True
