"""Reads many parts of an output at once, with polars; a process that answers reports needs none of it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pyarrow as pa

from radlite_batch.results.manifest import is_whole, parts_of, proofs
from radlite_batch.results.tables import damaged

_UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, pa.ArrowException, OSError)


def scan(parts: Iterable[Path]) -> pl.LazyFrame:
    """The rows of these parts, in order. Collect it where readable() says what is damaged."""
    return pl.scan_parquet(list(parts), glob=False)  # a folder's name may hold [ or *


@contextmanager
def readable(*outs: Path) -> Iterator[None]:
    """Where parts of these outputs are read. Raises OutputError naming the one that cannot be."""
    try:
        yield
    except _UNREADABLE:
        for part in (part for out in outs for part in _damaged_parts(out)):
            raise damaged(part) from None
        raise


def _damaged_parts(out: Path) -> Iterator[Path]:
    for entry in (entry for proof in proofs(out) for entry in parts_of(proof)):
        part = out / entry["path"]
        if not part.exists() or not is_whole(part, entry):
            yield part
