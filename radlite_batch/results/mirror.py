"""Outputs that lie elsewhere: a run works in a mirror of them on this host's disk, and the storage holds the truth.

Whoever commits a file puts it into the storage as soon as it has its name in the mirror; what is removed goes from the
storage first (see commit). So the storage never holds a proof without its parts, nor one that the run's own mirror does
not know of. What runs of other hosts did is brought here when a run or a reader begins: the parts only where their
checksums, which the proofs give, differ. Nothing here does anything to a local output.
"""

import hashlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from radlite_batch import lease, storage
from radlite_batch.errors import OutputError
from radlite_batch.results.commit import is_locked_here, make_folder, upload, waited_for
from radlite_batch.results.manifest import lock_path, parts_of, proofs, run_folder

_TRIES = 5  # where another host's run removes files while they are fetched
_BATCH = 256  # files
_OWN = ("_run/lock", "_run/staging/", "_run/slots/")  # of the processes of one host; the lock is lease's to look at


def refresh(out: Path, tables: bool = True, anew: bool = False) -> None:
    """Makes a mirror equal to its output, for readers; not while a run of this host works on it, which is ahead.

    tables: False leaves out the tables. anew: even what has the right checksum. Raises OutputError."""
    if storage.url_of(out) is None:
        return
    make_folder(run_folder(out))
    with _alone(out):
        if not is_locked_here(lock_path(out)):
            _pull(out, tables, anew)


def pull(out: Path) -> None:
    """The same for the run that holds the mirror's lock; it waits for readers that are at it."""
    if storage.url_of(out) is not None:
        with _alone(out):
            _pull(out, tables=True, anew=False)


def _alone(out: Path) -> AbstractContextManager[None]:
    """One at a time, in turn. It is not the run's lock: who only reads must not keep a run from its work."""
    return waited_for(lock_path(out).with_name("lock.mirror"))


def _pull(out: Path, tables: bool, anew: bool) -> None:
    if not any(_pulled(out, tables, anew) for _ in range(_TRIES)):
        raise OutputError(f"{storage.shown(out)}: its files change faster than they can be read")


def _pulled(out: Path, tables: bool, anew: bool) -> bool:
    there = {name: size for name, size in storage.listing(out).items() if not _is_own(name)}
    for path in [path for path in out.rglob("*") if path.is_file()]:
        name = path.relative_to(out).as_posix()
        if name not in there and not _is_own(name):
            path.unlink()
    documents = [name for name in there if not _is_part(name)]
    if not _fetched(out, documents):
        return False
    if not tables:
        return True
    vouched = {entry["path"]: entry for proof in proofs(out) for entry in parts_of(proof)}
    parts = [name for name in there if _is_part(name)]
    return _fetched(out, [n for n in parts if anew or not _is_same(out / n, there[n], vouched.get(n))])


def _is_own(name: str) -> bool:
    return name.startswith(_OWN)


def _is_part(name: str) -> bool:
    return "/" in name and not name.startswith("_run/")


def _fetched(out: Path, names: list[str]) -> bool:
    for start in range(0, len(names), _BATCH):
        lease.renew(out)
        if not storage.fetch(out, names[start : start + _BATCH]):
            return False
    return True


def _is_same(path: Path, size: int, entry: Mapping[str, Any] | None) -> bool:
    """Whether a part in the mirror is what its proof says, and the storage's seems to be so too."""
    if entry is None or size != entry["bytes"] or not path.exists():
        return False
    same: bool = hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]
    return same


def keep(out: Path) -> None:
    """Called now and then by who holds the lock: renews it, and stores the log, when a minute has passed."""
    if lease.renew(out):
        upload(run_folder(out) / "log.jsonl")
