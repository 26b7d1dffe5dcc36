"""The number format a base runs in: converted once into a cache, the fastest on this machine.

Only formats that keep every weight of the source to within its own rounding compete (bf16, f16, and the file as it
is): the labels stay those of the model. Which is fastest differs by machine, so it is measured, once.
"""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from radlite_batch import machine
from radlite_batch.engine.base import Limits, Run
from radlite_batch.errors import PackError

_MEASURED_TOKENS = 256
_REPEATS = 4


@dataclass(frozen=True, slots=True)
class Prepared:
    """A base as it will run. speeds: prompt tokens per second of each format on one thread, where measured."""

    path: Path
    sha256: str
    form: str
    speeds: dict[str, float]


def cache_folder() -> Path:
    """RADLITE_CACHE, or radlite in the user's cache folder."""
    given = os.environ.get("RADLITE_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "radlite"


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fastest(base: Path, base_sha256: str, say: Callable[[str], None] = lambda line: None) -> Prepared:
    """The base in this machine's fastest format; converts and measures at first use. Raises PackError.

    The cached file is checked against its checksum each time."""
    folder = cache_folder() / base_sha256[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        choice = folder / f"{_machine_key()}.json"
        if not choice.exists():
            say(f"preparing {base.name} for this machine (once, about half a minute)")
            _choose(base, base_sha256, folder, choice)
        record = json.loads(choice.read_text(encoding="utf-8"))
    path = base if record["form"] == "as shipped" else folder / f"{record['form']}.gguf"
    if not path.exists() or file_sha256(path) != record["sha256"]:
        raise PackError(f"{path}: not the file that was measured; delete {folder} and run again")
    return Prepared(path, record["sha256"], record["form"], record["speeds"])


def _choose(base: Path, base_sha256: str, folder: Path, choice: Path) -> None:
    from radlite_batch.engine import llama

    candidates = {"as shipped": base}
    for form in llama.FORMATS:
        candidates[form] = folder / f"{form}.gguf"
        if not candidates[form].exists():
            growing = folder / f"{form}.{os.getpid()}"
            llama.convert(base, growing, form)
            os.rename(growing, candidates[form])
    speeds = {form: round(prompt_speed(path, threads=1), 1) for form, path in candidates.items()}
    best = max(speeds, key=lambda form: speeds[form])
    for form, path in candidates.items():
        if form not in ("as shipped", best):
            path.unlink()
    sha256 = base_sha256 if best == "as shipped" else file_sha256(candidates[best])
    document = {"cpu": machine.cpu_name(), "form": best, "sha256": sha256, "speeds": speeds}
    growing = choice.with_suffix(f".{os.getpid()}")
    growing.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    os.rename(growing, choice)


def prompt_speed(path: Path, threads: int) -> float:
    """Prompt tokens per second of llama.cpp on this file: the best of a few batches."""
    from radlite_batch.engine import llama

    limits = Limits(_MEASURED_TOKENS, 2 * _MEASURED_TOKENS, 2)
    weights = llama.Weights(path)
    model = llama.LlamaModel(weights, limits, threads)
    best = 0.0
    try:
        for _ in range(_REPEATS):
            begin = time.perf_counter()
            model.decode([Run(np.arange(1000, 1000 + _MEASURED_TOKENS, dtype=np.int32), 0, (0,), (0,))])
            best = max(best, _MEASURED_TOKENS / (time.perf_counter() - begin))
            model.drop(0)
    finally:
        model.close()
        weights.close()
    return best


def _machine_key() -> str:
    return hashlib.sha256(machine.cpu_name().encode()).hexdigest()[:12]
