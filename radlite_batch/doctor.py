"""What a run needs of this machine, checked one by one, each with the way to mend it."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from radlite_batch import machine
from radlite_batch.engine.formats import Prepared, cache_folder
from radlite_batch.errors import RadliteError
from radlite_batch.job import Workers
from radlite_batch.pack import load_pack
from radlite_batch.placement import place

_NEEDED = ("llama-cpp-python", "polars", "pyarrow", "joblib", "click", "tqdm", "numpy")


@dataclass(frozen=True, slots=True)
class Finding:
    name: str
    ok: bool
    what: str


def examine(pack_name: str, say: Callable[[str], None] = lambda line: None) -> list[Finding]:
    """All findings, good and bad; raises nothing that it can report."""
    findings = [Finding("python", sys.version_info >= (3, 11), f"{sys.version.split()[0]} (3.11 or later is needed)")]
    findings += [_package(name) for name in _NEEDED]
    cores, free = machine.cores(), machine.memory_available()
    findings.append(Finding("cores", True, f"{len(cores)} x {machine.cpu_name()}"))
    findings.append(Finding("memory", free > 2 << 30, f"{free >> 20} MiB available (2 GiB is the least)"))
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    disk = shutil.disk_usage(cache).free
    findings.append(Finding("cache", disk > 1 << 30, f"{cache}, {disk >> 20} MiB free (1 GiB is the least)"))
    try:
        pack = load_pack(pack_name)
        for model in pack.models:
            file, prepared = pack.prepare(model, say)
            findings.append(Finding("pack", True, f"{pack.name}.{model} {file.sha256[:12]}"))
            findings += [Finding("speed", True, line) for line in _speeds(prepared)]
            findings += [Finding("workers", True, line) for line in place(Workers(), {model: file}, say).why]
    except RadliteError as error:
        findings.append(Finding("pack", False, str(error)))
    return findings


def _speeds(prepared: Prepared | None) -> list[str]:
    """What was measured of the number formats."""
    if prepared is None or not prepared.speeds:
        return []
    shown = {
        "prompt tokens/s on one thread": prepared.speeds,
        "with private repacked copies (no run uses them)": prepared.repacked,
    }
    lines = [f"{what}: {', '.join(f'{form} {x:,.0f}' for form, x in speeds.items())}" for what, speeds in shown.items()]
    lines += [f"{form} gives {share:.1%} of bf16's labels" for form, share in prepared.agreement.items()]
    return [*lines, f"runs as {prepared.form}"]


def _package(name: str) -> Finding:
    try:
        return Finding("package", True, f"{name} {version(name)}")
    except PackageNotFoundError:
        return Finding("package", False, f"{name} is not installed; pip install radlite-batch brings it")
