"""Files of any size that appear under their names once they are whole, and that only their owner can read."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from radlite_batch.errors import OutputError
from radlite_batch.results import disk


@contextmanager
def growing(path: Path) -> Iterator[IO[str]]:
    """A UTF-8 text file to write; where the block ends in an error, an old file of that name stays.

    Raises OutputError where the disk refuses."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        os.makedirs(path.parent, mode=0o700, exist_ok=True)
        disk.remove(temporary)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(handle, "w", encoding="utf-8", newline="") as file:
                yield file
                file.flush()
                disk.sync(handle)
            disk.rename(temporary, path)
        finally:
            disk.remove(temporary)
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror}") from None
