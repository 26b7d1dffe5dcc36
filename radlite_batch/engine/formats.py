"""The number format a base runs in: converted once into a cache, the fastest on this machine whose labels are true.

bf16, f16 and the file as shipped keep every weight to within its own rounding. Coarser formats compete only if the
labels stay those of bf16. Which is fastest differs by machine, so it is measured, once.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from radlite_batch import machine
from radlite_batch.engine.speed import prompt_speed
from radlite_batch.errors import PackError
from radlite_batch.storage import cache_folder

_FAITHFUL = ("as shipped", "bf16", "f16")
_COARSE = ("q8_0", "q4_0")
CONVERTED = ("bf16", "f16", *_COARSE)  # what a base can be converted to
_REPACKED = ("as shipped", *_COARSE)
_LEAST_AGREEMENT = 0.995
_MEASURED_TOKENS = 256
_MEASURED_SECONDS = 0.5

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


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fastest(base: Path, base_sha256: str, agree: Agree, say: Callable[[str], None] = lambda line: None) -> Prepared:
    """The base in this machine's fastest format; converts and measures at first use. Raises PackError.

    The cached file is checked against its checksum each time."""
    folder = cache_folder() / base_sha256[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        choice = folder / f"formats-{machine_key()}.json"
        if not choice.exists():
            say(f"preparing {base.name} for this machine (once, about half a minute)")
            _choose(base, base_sha256, folder, choice, agree)
        record = json.loads(choice.read_text(encoding="utf-8"))
    path = base if record["form"] == "as shipped" else folder / f"{record['form']}.gguf"
    if not path.exists() or file_sha256(path) != record["sha256"]:
        raise PackError(f"{path}: not the file that was measured; delete {folder} and run again")
    return Prepared(path, *(record[key] for key in ("sha256", "form", "speeds", "repacked", "agreement")))


def in_form(base: Path, base_sha256: str, form: str) -> Path:
    """The base in the format that was chosen on another machine, in the cache; converted at first use."""
    folder = cache_folder() / base_sha256[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _convert(base, folder, form)


def _choose(base: Path, base_sha256: str, folder: Path, choice: Path, agree: Agree) -> None:
    files = _converted(base, folder)
    speeds = {form: _speed(path) for form, path in files.items()}
    repacked = {form: _speed(files[form], repack=True) for form in _REPACKED}
    agreement: dict[str, float] = {}
    for best in sorted(speeds, key=lambda form: -speeds[form]):
        if best in _FAITHFUL:
            break
        agreement[best] = round(agree(files.get("bf16", base), files[best]), 4)
        if agreement[best] >= _LEAST_AGREEMENT:
            break
    for form, path in files.items():
        if form not in ("as shipped", best):
            path.unlink()
    sha256 = base_sha256 if best == "as shipped" else file_sha256(files[best])
    document = {
        "cpu": machine.cpu_name(), "form": best, "sha256": sha256,
        "speeds": speeds, "repacked": repacked, "agreement": agreement,
    }  # fmt: skip
    growing = choice.with_suffix(f".{os.getpid()}")
    growing.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    os.rename(growing, choice)


def _converted(base: Path, folder: Path) -> dict[str, Path]:
    files, own = {"as shipped": base}, _form(base)
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


def _speed(path: Path, repack: bool = False) -> float:
    """Of one thread on one core; the better of two tries, because something else may run beside one."""
    core = (machine.cores()[0],)
    return round(max(prompt_speed(path, [core], _MEASURED_TOKENS, _MEASURED_SECONDS, repack) for _ in range(2)), 1)


def machine_key() -> str:
    """Stands for this kind of machine in the names of what was measured on it."""
    return hashlib.sha256(machine.cpu_name().encode()).hexdigest()[:12]
