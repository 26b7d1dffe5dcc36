"""A disk on which the Nth operation fails, or is the last of its process.

What was written but not synced is known, so that a power cut can take it away again.
"""

import errno
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from radlite_batch.results import disk

OPERATIONS = ("create", "append", "cut", "write", "sync", "rename", "make_folder", "remove")
FAULTS = {  # and the operations that each fits
    "stop": OPERATIONS,  # the process ends before the operation
    "torn": ("write",),  # it ends in the middle of a write
    "no names": OPERATIONS,  # a power cut takes names and content that were not synced
    "no tables": OPERATIONS,  # it takes only those of the tables' folders, and receipts stay
    "no content": OPERATIONS,  # it takes the content only
    "EIO": OPERATIONS,
    "ENOSPC": ("create", "append", "write", "rename", "make_folder"),  # from here on
    "short": ("write",),  # a write takes only half of what is given
    "bad sync": ("sync",),  # it fails, and what was to be synced is lost
}


class Ended(BaseException):
    """The process is gone; nothing it might still do reaches the disk."""


class FaultyDisk:
    """Stands before the disk; the first operation that fits the fault, from the one numbered `at` on, meets it.

    at: counts from 1; at 0 nothing happens. names: the operations so far. struck: whether the fault was met."""

    def __init__(self, at: int = 0, fault: str = "stop"):
        self.names: list[str] = []
        self.struck = False
        self._at, self._fault, self._over = at, fault, False
        self._real: dict[str, Callable[..., Any]] = {name: getattr(disk, name) for name in OPERATIONS}
        self._unsynced: set[Path] = set()  # files whose content may be lost
        self._undo: list[tuple[Path, Callable[[], object]]] = []  # by folder: how its change of names is lost

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in OPERATIONS:
            monkeypatch.setattr(disk, name, partial(self._operation, name))

    def _operation(self, name: str, *arguments: Any) -> Any:
        if self._over:
            raise Ended
        self.names.append(name)
        due = 0 < self._at <= len(self.names) and name in FAULTS[self._fault]
        if due and (self._fault == "ENOSPC" or not self.struck):
            self.struck = True
            arguments = self._meet(arguments)
        undo = _undoing(name, arguments)
        result = self._real[name](*arguments)
        self._note(name, arguments, undo)
        return result

    def _meet(self, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """The fault; what comes back are the arguments with which the operation goes on."""
        if self._fault == "short":
            handle, data = arguments
            return handle, data[: (len(data) + 1) // 2]
        if self._fault == "EIO":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if self._fault == "ENOSPC":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self._fault == "bad sync":
            path = _path(arguments[0])
            self._lose_names({path})
            self._lose_content({path})
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if self._fault == "torn":
            handle, data = arguments
            self._real["write"](handle, data[: len(data) // 2])
        if self._fault == "no names":
            self._lose_names({folder for folder, _ in self._undo})
        if self._fault == "no tables":
            self._lose_names({folder for folder, _ in self._undo if "_run" not in folder.parts})
        if self._fault in ("no names", "no tables", "no content"):
            self._lose_content(self._unsynced)
        self._over = True
        raise Ended

    def _lose_names(self, folders: set[Path]) -> None:
        for folder, undo in reversed(self._undo):
            if folder in folders:
                undo()

    def _lose_content(self, files: set[Path]) -> None:
        for path in files & self._unsynced:
            if path.exists():
                os.truncate(path, path.stat().st_size // 2)

    def _note(self, name: str, arguments: tuple[Any, ...], undo: Callable[[], object] | None) -> None:
        """What the operation left unsynced, or what it synced."""
        if name == "write":
            self._unsynced.add(_path(arguments[0]))
        elif name == "sync":
            synced = _path(arguments[0])
            self._unsynced.discard(synced)
            self._undo = [entry for entry in self._undo if entry[0] != synced]
        elif undo is not None:
            self._undo.append((arguments[-1].parent, undo))
            if name == "rename" and arguments[0] in self._unsynced:
                self._unsynced = self._unsynced - {arguments[0]} | {arguments[1]}


def _undoing(name: str, arguments: tuple[Any, ...]) -> Callable[[], object] | None:
    """What brings back the names as they are now, before the operation."""
    if name == "make_folder":
        return partial(shutil.rmtree, arguments[0])
    if name not in ("rename", "remove"):
        return None
    path: Path = arguments[-1]
    old = path.read_bytes() if path.exists() else None

    def undo() -> None:
        if name == "rename":
            os.rename(path, arguments[0])
        if old is not None:
            path.write_bytes(old)

    return undo


def _path(handle: int) -> Path:
    return Path(os.readlink(f"/proc/self/fd/{handle}"))
