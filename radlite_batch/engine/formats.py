"""The number format a base runs in: converted once into a cache, the fastest on this machine whose labels are true.

bf16, f16 and the file as shipped keep every weight to within its own rounding. Coarser formats compete only if the
labels stay those of bf16. Which is fastest differs by machine, so it is measured, once.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from radlite_batch import machine
from radlite_batch.engine.speed import prompt_speed
from radlite_batch.errors import PackError
from radlite_batch.storage import cache_folder

AS_SHIPPED = "as shipped"
_FAITHFUL = (AS_SHIPPED, "bf16", "f16")
_COARSE = ("q8_0", "q4_0")
CONVERTED = ("bf16", "f16", *_COARSE)  # what a base can be converted to
FORMATS = (AS_SHIPPED, *CONVERTED)
_REPACKED = (AS_SHIPPED, *_COARSE)
_LEAST_AGREEMENT = 0.995
_MEASURED_TOKENS = 256
_MEASURED_SECONDS, _ROUNDS = 0.5, 2
_KEPT = ("sha256", "form", "speeds", "repacked", "agreement")  # of a choice, as in Prepared

Agree = Callable[[Path, Path], float]  # share of equal labels of two files


@dataclass(frozen=True, slots=True)
class Prepared:
    """A base as it will run. speeds: prompt tokens per second of each format on one thread, where measured.

    repacked: the same with a private repacked copy of the weights in every process, which no run uses; for
    comparison. agreement: share of labels equal to those of bf16, of the coarse formats for which it was asked."""

    path: Path
    sha256: str
    form: str
    speeds: dict[str, float] = field(default_factory=dict)
    repacked: dict[str, float] = field(default_factory=dict)
    agreement: dict[str, float] = field(default_factory=dict)

    def measured(self) -> list[str]:
        """Why it runs in this format, in lines for a person; none where nothing was measured."""
        shown = {
            "prompt tokens/s on one thread": self.speeds,
            "with private repacked copies (no run uses them)": self.repacked,
        }
        lines = [
            f"{what}: {', '.join(f'{form} {speed:,.0f}' for form, speed in speeds.items())}"
            for what, speeds in shown.items()
            if speeds
        ]
        return lines + [f"{form} gives {share:.1%} of bf16's labels" for form, share in self.agreement.items()]


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fastest(
    base: Path, base_sha256: str, judge: str, agree: Agree, say: Callable[[str], None] = lambda line: None
) -> Prepared:
    """The base in this machine's fastest format; converts and measures at first use. Raises PackError.

    judge: stands for all that `agree` depends on beside the two files; a choice holds for its judge alone. The cached
    file is checked against its checksum each time, and converted again where it is missing."""
    folder = cache_folder() / base_sha256[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        choice = folder / f"formats-{machine_key()}-{judge}.json"
        record = _chosen(choice)
        if not record:
            say(f"preparing {base.name} for this machine (once, about half a minute)")
            record = _choose(base, base_sha256, folder, agree)
            keep(choice, record)
        path = base if record["form"] == AS_SHIPPED else _convert(base, folder, record["form"])
    if file_sha256(path) != record["sha256"]:
        raise PackError(f"{path}: not the file that was measured; delete {folder} and run again")
    return Prepared(path, *(record[key] for key in _KEPT))


def in_form(base: Path, base_sha256: str, form: str) -> Path:
    """The base in one of the FORMATS, which somebody chose, in the cache; converted at first use."""
    if form in (AS_SHIPPED, _form(base)):
        return base
    folder = cache_folder() / base_sha256[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        keep(folder / f"formats-{form}.json", {"form": form})  # so that no choice removes the file
        return _convert(base, folder, form)


def _chosen(choice: Path) -> dict[str, Any]:
    """What a choice file says; nothing where there is none, or a damaged one."""
    record = kept(choice)
    known = record.get("form") in FORMATS
    return record if known and record.keys() >= set(_KEPT) else {}


def _choose(base: Path, base_sha256: str, folder: Path, agree: Agree) -> dict[str, Any]:
    files = _converted(base, folder)
    speeds = _speeds(files)
    repacked = _speeds({form: files[form] for form in _REPACKED if form in files}, repack=True)
    agreement: dict[str, float] = {}
    for best in sorted(speeds, key=lambda form: -speeds[form]):
        if best in _FAITHFUL:
            break
        agreement[best] = round(agree(files.get("bf16", base), files[best]), 4)
        if agreement[best] >= _LEAST_AGREEMENT:
            break
    # Other machines that share the cache, and other packs and jobs, have choices of their own.
    chosen = [kept(choice).get("form") for choice in folder.glob("formats-*.json")]
    for form, path in files.items():
        if form not in (AS_SHIPPED, best, *chosen):
            path.unlink()
    sha256 = base_sha256 if best == AS_SHIPPED else file_sha256(files[best])
    return {
        "cpu": machine.cpu_name(), "form": best, "sha256": sha256,
        "speeds": speeds, "repacked": repacked, "agreement": agreement,
    }  # fmt: skip


def _converted(base: Path, folder: Path) -> dict[str, Path]:
    files, own = {AS_SHIPPED: base}, _form(base)
    for form in CONVERTED:
        if form == own:  # a merged base is bf16 as it is
            continue
        files[form] = _convert(base, folder, form)
    return files


def _convert(base: Path, folder: Path, form: str) -> Path:
    from radlite_batch.engine import llama

    path = folder / f"{form}.gguf"
    if not path.exists():
        growing = folder / f"{form}.{os.getpid()}"
        llama.convert(base, growing, form)
        os.rename(growing, path)
    return path


def _form(base: Path) -> str:
    """The format of the base's matrices. Raises PackError where the file is not sound."""
    import gguf

    from radlite_batch.engine.gguf_header import checked

    tensors = gguf.GGUFReader(checked(base)).tensors
    types = [tensor.tensor_type for tensor in tensors if tensor.name.endswith("attn_q.weight")]
    return types[0].name.lower() if types else ""


def _speeds(files: Mapping[str, Path], repack: bool = False) -> dict[str, float]:
    """Prompt tokens per second of one thread on one core, by format."""
    core = (machine.cores()[0],)
    # In turn: whatever else the machine does slows one round more than the other.
    rounds = [
        [prompt_speed(path, [core], _MEASURED_TOKENS, _MEASURED_SECONDS, repack) for path in files.values()]
        for _ in range(_ROUNDS)
    ]
    return {form: round(max(tries), 1) for form, tries in zip(files, zip(*rounds, strict=True), strict=True)}


def machine_key() -> str:
    """Stands for this kind of machine in the names of what was measured on it.

    The name alone may say little ("AMD EPYC"); which kernels run depends on the instructions."""
    return hashlib.sha256(f"{machine.cpu_name()} {machine.cpu_flags()}".encode()).hexdigest()[:12]


def kept(path: Path) -> dict[str, Any]:
    """What was measured and kept in this file; nothing where it is not there or damaged."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def keep(path: Path, record: Mapping[str, Any]) -> None:
    """Writes what `kept` reads."""
    growing = path.with_suffix(f".{os.getpid()}")
    growing.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.rename(growing, path)
