"""The calls that change the disk, in one place, so that tests can make each of them fail or be the last."""

import os
from pathlib import Path


def create(path: Path) -> int:
    """A handle on a new, empty file; an old one of that name loses its content."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)


def append(path: Path) -> int:
    """A handle at the end of a file, which is made where there is none."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)


def cut(path: Path, size: int) -> None:
    """Leaves the first `size` bytes of a file."""
    os.truncate(path, size)


def write(handle: int, data: memoryview) -> int:
    """Bytes taken, which may be fewer than given."""
    return os.write(handle, data)


def sync(handle: int) -> None:
    """Content of a file, or names in a folder, onto the disk itself."""
    os.fsync(handle)


def rename(source: Path, target: Path) -> None:
    os.rename(source, target)


def make_folder(path: Path) -> None:
    path.mkdir(exist_ok=True)


def remove(path: Path) -> None:
    path.unlink(missing_ok=True)
