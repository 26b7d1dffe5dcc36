"""What a run needs of this machine, checked one by one, each with the way to mend it."""

import importlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

from radlite_batch import machine
from radlite_batch.errors import RadliteError
from radlite_batch.job import Workers
from radlite_batch.pack import load_pack
from radlite_batch.placement import place
from radlite_batch.plan import REPORTS_IN_HAND
from radlite_batch.storage import cache_folder

_LEAST_MEMORY, _LEAST_DISK = 2 << 30, 1 << 30
_LIBRARY = "llama-cpp-python"
_COMPILERS = ("c++", "g++", "clang++")


@dataclass(frozen=True, slots=True)
class Finding:
    """needed: whether a run cannot do without it."""

    name: str
    ok: bool
    what: str
    needed: bool = True

    @property
    def mark(self) -> str:
        return "ok" if self.ok else "MISS" if self.needed else "-"


def examine(pack_name: str, say: Callable[[str], None] = lambda line: None) -> list[Finding]:
    """All findings, good and bad; raises nothing that it can report."""
    findings = [*_python(), *_machine()]
    if any(finding.needed and not finding.ok for finding in findings):
        return [*findings, Finding("pack", False, "not checked before what is missing above is there")]
    return [*findings, *_pack(pack_name, say)]


def _python() -> Iterator[Finding]:
    yield Finding("python", sys.version_info >= (3, 11), f"{sys.version.split()[0]} (3.11 or later is needed)")
    extras = _requirements()
    for name, requirement in extras.pop("").items():
        found = _version(name)
        yield Finding("package", bool(found), f"{name} {found}" if found else _to_install([requirement]))
    yield from _library()
    extras.pop("dev")  # what the tests need
    for extra, packages in extras.items():
        missing = [requirement for name, requirement in packages.items() if not _version(name)]
        shown = ", ".join(f"{name} {_version(name)}" for name in packages)
        yield Finding("extra", not missing, f"{extra}: {_to_install(missing) if missing else shown}", needed=False)


def _requirements() -> dict[str, dict[str, str]]:
    """What to ask pip for, by extra and package; the extra "" is what everybody needs."""
    found: dict[str, dict[str, str]] = {"": {}, "dev": {}}
    for line in requires("radlite-batch") or ():
        requirement, _, marker = line.partition(";")
        extra = re.search(r"""extra == ["']([\w-]+)""", marker)
        name = re.split(r"[^\w.-]", requirement.strip())[0]
        found.setdefault(extra[1] if extra else "", {})[name] = requirement.strip()
    return found


def _version(name: str) -> str:
    """Of an installed package, else empty."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _to_install(requirements: list[str]) -> str:
    return "not installed; pip install " + " ".join(f"'{requirement}'" for requirement in requirements)


def _library() -> Iterator[Finding]:
    """Whether llama.cpp can be loaded; pip builds it, so where it is missing a compiler is needed."""
    if not _version(_LIBRARY):
        found = next(filter(shutil.which, _COMPILERS), "")
        what = found or f"no C++ compiler, and pip builds {_LIBRARY} with one; apt install g++"
        yield Finding("compiler", bool(found), what)
        return
    try:
        importlib.import_module("radlite_batch.engine.llama")
    except (ImportError, OSError, RuntimeError) as error:
        again = f"apt install libgomp1, or pip install --force-reinstall --no-cache-dir {_LIBRARY}"
        yield Finding("llama.cpp", False, f"cannot be loaded ({error}); {again}")


def _machine() -> Iterator[Finding]:
    cores, free = machine.cores(), machine.memory_available()
    yield Finding("cores", True, f"{len(cores)} of {os.cpu_count()} x {machine.cpu_name()}")
    yield Finding(
        "memory", free > _LEAST_MEMORY, f"{free >> 20} MiB available ({_LEAST_MEMORY >> 30} GiB is the least)"
    )
    cache, elsewhere = cache_folder(), "set RADLITE_CACHE to a folder elsewhere"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        disk = shutil.disk_usage(cache).free
    except OSError as error:
        yield Finding("cache", False, f"{cache}: {error.strerror}; {elsewhere}")
        return
    if not os.access(cache, os.W_OK):
        yield Finding("cache", False, f"{cache} cannot be written; {elsewhere}")
    elif disk < _LEAST_DISK:
        yield Finding("cache", False, f"{cache}: {disk >> 20} MiB free, 1 GiB is the least; {elsewhere}")
    else:
        yield Finding("cache", True, f"{cache}, {disk >> 20} MiB free (1 GiB is the least)")


def _pack(name: str, say: Callable[[str], None]) -> Iterator[Finding]:
    try:
        pack = load_pack(name)
        writing = pack.writing(pack.routes)
        for model in pack.models:
            file, prepared = pack.prepare(model, say)
            yield Finding("pack", True, f"{pack.name}.{model} {file.sha256[:12]}")
            if prepared is not None and prepared.speeds:
                lines = [*prepared.measured(), f"runs as {prepared.form}"]
                yield from (Finding("speed", True, line) for line in lines)
            yield from (Finding("workers", True, line) for line in place(Workers(), {model: file}, writing, say).why)
        yield Finding("workers", True, f"{REPORTS_IN_HAND} reports in hand a process")
    except RadliteError as error:
        yield Finding("pack", False, str(error))
