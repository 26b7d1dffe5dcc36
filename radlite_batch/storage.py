"""Storage elsewhere: archives and outputs named by a URL (s3://bucket/prefix, or whatever fsspec knows).

A name with a scheme is remote. Only then is fsspec imported and a socket opened; plain paths and file:// stay on the
disk. Credentials and endpoint are those that the storage's own library finds in the environment; none stands in a URL.

What is remote is worked on in copies on this host's disk, and a path says by itself, in any process, what it copies:

CACHE/archives/KEY/NAME    a file of an archive; NAME.version: which version of it
CACHE/outputs/KEY/...      an output's mirror
CACHE/*/KEY.url            the remote folder that KEY stands for

Copies hold what the remote files hold, reports too; their folders are open to their owner only.
"""

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from radlite_batch.errors import ArchiveError, OutputError, RadliteError, UsageError

_KINDS = ("archives", "outputs")
_SCHEME = re.compile(r"(?!file:)[A-Za-z][A-Za-z0-9+.-]*://")
_PASSWORD = re.compile(r"[^/]*://[^/@]*:[^/@]*@")
_FLAT = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")  # no folder has to be made there
_VERSIONS = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "modified", "created")
_REASONS = {  # what a person can do something about; the messages of storage libraries may quote a signed URL
    FileNotFoundError: "not there", PermissionError: "access denied", TimeoutError: "no answer in time",
    FileExistsError: "there already",
}  # fmt: skip


def cache_folder() -> Path:
    """RADLITE_CACHE, or radlite in the user's cache folder."""
    given = os.environ.get("RADLITE_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "radlite"


def is_remote(name: str) -> bool:
    return _SCHEME.match(name) is not None


def plain(name: str) -> str:
    """A path as it is, also where it is written file://."""
    return name.removeprefix("file://")


def use_endpoint(url: str) -> None:
    """Where this process and its children find S3; "" leaves it to the environment."""
    if url:
        os.environ["AWS_ENDPOINT_URL"] = url


def filesystem(url: str) -> tuple[Any, str]:
    """(fsspec's file system, the path on it). Raises UsageError where there is none."""
    scheme = url.partition("://")[0]
    if _PASSWORD.match(url):
        raise UsageError(f"{scheme}://...: a URL must not hold a password; the environment does")
    try:
        from fsspec.core import url_to_fs

        store, path = url_to_fs(url, use_listings_cache=False)
    except (ImportError, ValueError):
        hint = "pip install 'radlite-batch[remote]' brings s3://, fsspec's documentation names others"
        raise UsageError(f"{scheme}://...: no library here reads it; {hint}") from None
    return store, path


@contextmanager
def explained(url: str, kind: type[RadliteError] = OutputError) -> Iterator[None]:
    """Turns whatever a storage library raises into one line."""
    try:
        yield
    except RadliteError:
        raise
    except Exception as error:
        raise kind(f"{url}: {_reason(error)}") from None


def status(error: Exception) -> int | None:
    """The HTTP status that S3 answered with, where that is what an error comes from."""
    answer = getattr(error.__cause__, "response", None) or {}
    found: int | None = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return found


def _reason(error: Exception) -> str:
    for kind, reason in _REASONS.items():
        if isinstance(error, kind):
            return reason
    if (code := status(error)) is not None:
        return f"the storage answered {code}"
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else type(error).__name__


def folder(name: str, base: Path = Path()) -> Path:
    """The folder to work in for an output of this name: itself, counted from `base`, or its mirror."""
    return _copies("outputs", name.rstrip("/")) if is_remote(name) else Path(os.path.normpath(base / plain(name)))


def url_of(path: Path) -> str | None:
    """What a path is the copy of; None for one that is no copy."""
    cache = os.path.abspath(cache_folder())
    try:
        kind, key, *rest = Path(os.path.abspath(path)).relative_to(cache).parts
    except ValueError:
        return None
    return "/".join([_names(Path(cache, kind, key)).read_text("utf-8"), *rest]) if kind in _KINDS else None


def shown(path: Path) -> str:
    """The name by which people know a file or folder."""
    return url_of(path) or str(path)


def title(out: Path) -> str:
    """What an output is called in a heading: its URL, or its folder's own name."""
    return url_of(out) or out.resolve().name


def _names(copies: Path) -> Path:
    return copies.with_name(f"{copies.name}.url")


def _copies(kind: str, url: str) -> Path:
    """The folder for copies of what lies in a remote folder."""
    path = Path(os.path.abspath(cache_folder()), kind, hashlib.sha256(url.encode()).hexdigest()[:16])
    if not _names(path).exists():
        filesystem(url)  # a name that nothing here understands leaves no folder
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        growing = path.with_name(f"{path.name}.{os.getpid()}")
        growing.write_text(url, "utf-8")
        os.rename(growing, _names(path))
    return path


def listed(url: str) -> list[str]:
    """URLs of the files that a URL names, sorted: itself, all below a folder, or what a glob matches."""
    store, path = filesystem(url)
    with explained(url, ArchiveError):
        found = store.glob(path) if re.search(r"[*?\[]", path) else store.find(path)
        return [str(store.unstrip_protocol(name)) for name in sorted(found) if not name.endswith("/")]


def local(name: str, fresh: bool = False) -> Path:
    """A file of an archive on this host's disk: itself, or its copy, which is fetched where there is none.

    fresh: a copy of what is there now; otherwise of what was there when it was fetched, so that a run reads the same
    bytes from its plan to its end. Raises ArchiveError."""
    if not is_remote(name):
        return Path(plain(name))
    parent, _, file = name.rpartition("/")
    path = _copies("archives", parent) / file
    if fresh or not path.exists():
        with open(_names(path.parent)) as lock, explained(name, ArchiveError):
            fcntl.flock(lock, fcntl.LOCK_EX)  # one process fetches, the others wait for it
            _fetch_version(name, path, fresh)
    return path


def _fetch_version(url: str, path: Path, fresh: bool) -> None:
    store, remote = filesystem(url)
    note = path.with_name(f"{path.name}.version")
    version = _version(store.info(remote))
    if path.exists() and (not fresh or (note.exists() and note.read_text("utf-8") == version)):
        return
    growing = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        store.get_file(remote, str(growing))
        if _version(store.info(remote)) != version:
            raise ArchiveError(f"{url}: it changed while it was read")
        note.unlink(missing_ok=True)
        os.rename(growing, path)
        note.write_text(version, "utf-8")
    finally:
        growing.unlink(missing_ok=True)


def _version(info: dict[str, Any]) -> str:
    """What changes with a file's content, as far as its storage says."""
    return f"{info['size']} {next((info[key] for key in _VERSIONS if info.get(key)), '')}"


def put(path: Path, data: "bytes | memoryview") -> None:
    """Gives a file of a mirror this content in the storage too; does nothing with any other file.

    S3 shows a file with its whole content or not at all; so do most, but not all, storages. Raises OutputError."""
    if (url := url_of(path)) is None:
        return
    store, remote = filesystem(url)
    with explained(url):
        try:
            store.pipe_file(remote, bytes(data))
        except FileNotFoundError:
            if url.partition("://")[0] in _FLAT:
                raise
            store.makedirs(remote.rpartition("/")[0], exist_ok=True)
            store.pipe_file(remote, bytes(data))


def drop(path: Path) -> None:
    """Removes the file that a file of a mirror is the copy of; it may be gone. Raises OutputError."""
    if (url := url_of(path)) is None:
        return
    store, remote = filesystem(url)
    with explained(url), suppress(FileNotFoundError):
        store.rm_file(remote)


def listing(mirror: Path) -> dict[str, int]:
    """Name below the mirror and size of every remote file of its output. Raises OutputError."""
    url = shown(mirror)
    store, root = filesystem(url)
    with explained(url):
        try:
            found = store.find(root, detail=True)
        except FileNotFoundError:
            return {}
    start = len(root.rstrip("/")) + 1
    return {name[start:]: info["size"] for name, info in found.items() if len(name) > start and info["type"] == "file"}


def fetch(mirror: Path, names: Sequence[str]) -> bool:
    """Copies remote files into a mirror, each whole or not at all; False where one has gone. Raises OutputError."""
    if not names:
        return True
    url = shown(mirror)
    store, root = filesystem(url)
    growing = mirror.with_name(f"{mirror.name}.fetched")  # who changes a mirror holds its lock
    shutil.rmtree(growing, ignore_errors=True)
    for name in names:
        for path in (growing / name, mirror / name):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with explained(url):
        try:
            store.get([f"{root.rstrip('/')}/{name}" for name in names], [str(growing / name) for name in names])
        except FileNotFoundError:
            return False
        for name in names:
            os.replace(growing / name, mirror / name)
    return True
