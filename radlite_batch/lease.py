"""The lock of a remote output: `_run/lock.json`, which names its holder.

It is taken, renewed and given back by conditional writes (S3's If-None-Match and If-Match), so that of several that
try at once one succeeds. The holder renews it every RENEW seconds. One that is silent for DEAD seconds, by the clock of
the storage itself, is dead, and the next run takes the lock over; at once, where the local lock of the same mirror says
that the holder has ended. A holder that finds the lock in other hands ends. No storage refuses what a holder writes
that slept through its own death; so workers begin no writing when their run was silent for half of that time.

Where a storage has no conditional writes, or ignores the conditions, a lock counts when it is read back unchanged
SETTLE seconds after it was written. That keeps two runs apart unless one takes longer than SETTLE from looking to
writing; and silence counts by the hosts' clocks, which must agree within minutes.
"""

import datetime
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Protocol

from radlite_batch import storage
from radlite_batch.errors import OutputError, OutputLocked

RENEW, DEAD, SETTLE = 60.0, 600.0, 2.0  # seconds
NAME = "_run/lock.json"  # under the output; in its mirror: which lock a process of this host took


@dataclass(frozen=True, slots=True)
class Seen:
    """A lock as it was found. version: changes with every write. silent: seconds since the last one."""

    data: bytes
    version: str
    silent: float

    @property
    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.data)
        return document

    @property
    def alive(self) -> bool:
        return not self.document["released"] and self.silent < DEAD


class _Register(Protocol):
    """A small object that processes on several hosts write in turn."""

    def look(self) -> Seen | None: ...

    def write(self, data: bytes, over: str | None, settle: float = 0.0) -> str | None:
        """The version written, None where the object is no longer the version `over` (None: not there)."""
        ...


class _Conditional:
    """On S3."""

    def __init__(self, store: Any, path: str):
        bucket, key, _ = store.split_path(path)
        self._store, self._path, self._place = store, path, {"Bucket": bucket, "Key": key}

    def look(self) -> Seen | None:
        try:
            head = self._store.call_s3("head_object", **self._place)
            data = self._store.cat_file(self._path)
        except FileNotFoundError:
            return None
        now = parsedate_to_datetime(head["ResponseMetadata"]["HTTPHeaders"]["date"])
        return Seen(data, head["ETag"], (now - head["LastModified"]).total_seconds())

    def write(self, data: bytes, over: str | None, settle: float = 0.0) -> str | None:
        condition = {"IfNoneMatch": "*"} if over is None else {"IfMatch": over}
        try:
            return str(self._store.call_s3("put_object", Body=data, **self._place, **condition)["ETag"])
        except OSError as error:
            if storage.status(error) not in (404, 409, 412):
                raise
        # The first answer may have been lost, and the condition refused on a second try of the library's own.
        seen = self.look()
        return seen.version if seen and seen.data == data else None


class _Settled:
    """On any other file system."""

    def __init__(self, store: Any, path: str):
        self._store, self._path = store, path

    def look(self) -> Seen | None:
        try:
            data: bytes = self._store.cat_file(self._path)
        except FileNotFoundError:
            return None
        return Seen(data, data.decode(), time.time() - json.loads(data)["time"])

    def write(self, data: bytes, over: str | None, settle: float = 0.0) -> str | None:
        seen = self.look()
        if (seen.version if seen else None) != over:
            return None
        try:
            self._store.pipe_file(self._path, data)
        except FileNotFoundError:  # of a storage with real folders
            self._store.makedirs(self._path.rpartition("/")[0], exist_ok=True)
            self._store.pipe_file(self._path, data)
        time.sleep(settle)
        seen = self.look()
        return seen.version if seen and seen.data == data else None


@dataclass(slots=True)
class _Lease:
    """A lock that this process holds. renewed: when, in seconds since the epoch, asleep or awake."""

    url: str
    register: _Register
    token: str
    version: str
    renewed: float


_held: dict[Path, _Lease] = {}


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Holds the lock of the output that `out` is a mirror of; nothing for a local one. Raises OutputLocked."""
    if storage.url_of(out) is None:
        yield
        return
    lease = _held[out] = _take(out)
    try:
        yield
    finally:
        del _held[out]
        with suppress(OutputError, OutputLocked):  # a lock that cannot be given back dies, at once on this very host
            _write(lease, released=True)
            (out / NAME).unlink(missing_ok=True)


def is_held(out: Path) -> bool:
    """Whether a living run, on any host, holds the output that `out` is a mirror of; False for a local one."""
    if (url := storage.url_of(out)) is None:
        return False
    with storage.explained(url):
        seen = _register(url).look()
        return seen is not None and seen.alive


def renew(out: Path) -> bool:
    """Renews the lock that this process holds, if that is due; says whether it was. Raises OutputLocked where it is
    another's."""
    lease = _held.get(out)
    if lease is None or time.time() - lease.renewed < RENEW:
        return False
    _write(lease, released=False)
    os.utime(out / NAME)
    return True


def check(out: Path) -> None:
    """Raises OutputLocked in a worker process whose parent, the run, has not renewed the lock for long."""
    note = out / NAME
    with suppress(FileNotFoundError):
        ours = json.loads(note.read_bytes())["pid"] in (os.getpid(), os.getppid())
        silent = time.time() - note.stat().st_mtime
        if ours and silent > DEAD / 2:
            raise OutputLocked(f"{storage.shown(out)}: its lock was not renewed for {silent:.0f} s, nothing is written")


def _register(url: str) -> _Register:
    store, path = storage.filesystem(f"{url}/{NAME}")
    return _Conditional(store, path) if "s3" in store.protocol else _Settled(store, path)


def _take(out: Path) -> _Lease:
    """Raises OutputLocked where the lock is another's, OutputError where the storage fails."""
    url = storage.shown(out)
    register, token = _register(url), secrets.token_hex(16)
    with storage.explained(url):
        seen = register.look()
        if seen and seen.alive and seen.document["token"] != _left(out):
            holder = "process {pid} on {host}".format(**seen.document)
            raise OutputLocked(f"{url}: another run holds this output ({holder}, heard of {seen.silent:.0f} s ago)")
        version = _begin(register, url, token, seen)
        note = out / NAME
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps({"token": token, "pid": os.getpid()}), "utf-8")
        if isinstance(register, _Conditional) and register.write(_document(token), None) is not None:
            # What is there could be created: the storage takes no notice of conditions.
            register = _Settled(*storage.filesystem(f"{url}/{NAME}"))
            version = _begin(register, url, token, register.look())
    return _Lease(url, register, token, version, time.time())


def _begin(register: _Register, url: str, token: str, over: Seen | None) -> str:
    version = register.write(_document(token), over.version if over else None, SETTLE)
    if version is None:
        raise OutputLocked(f"{url}: another run has just taken this output")
    return version


def _write(lease: _Lease, released: bool) -> None:
    with storage.explained(lease.url):
        version = lease.register.write(_document(lease.token, released), lease.version)
    if version is None:
        raise OutputLocked(f"{lease.url}: another run took this output over, for this one was silent too long")
    lease.version, lease.renewed = version, time.time()


def _left(out: Path) -> str | None:
    """The token of a run that worked on this mirror; who asks holds the mirror's local lock, so it has ended."""
    try:
        return str(json.loads((out / NAME).read_bytes())["token"])
    except (OSError, ValueError):
        return None


def _document(token: str, released: bool = False) -> bytes:
    now = time.time()
    at = datetime.datetime.fromtimestamp(now, datetime.UTC).isoformat(timespec="seconds")
    facts = {"host": socket.gethostname(), "pid": os.getpid(), "token": token, "time": now, "at": at}
    return json.dumps(facts | {"released": released}).encode()
