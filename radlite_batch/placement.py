"""Splits the machine into worker processes and threads, from cores, memory and a few seconds of measurement."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from radlite_batch import machine
from radlite_batch.engine.formats import keep, kept, machine_key
from radlite_batch.engine.open import N_BATCH, ModelFile, context_bytes, limits_of
from radlite_batch.engine.speed import prompt_speed
from radlite_batch.executor import Placement
from radlite_batch.job import Workers
from radlite_batch.storage import cache_folder

_PYTHON_BYTES = 200 << 20  # what a worker holds beside model and context
_MEASURED_SECONDS, _ROUNDS = 1.0, 2
_THREADS = (1, 2, 4, 8)

Split = tuple[int, int]  # processes, threads of each


@dataclass(frozen=True, slots=True)
class Placed:
    """threads: of each process. why: a line for each decision, for people."""

    placement: Placement
    threads: int
    why: tuple[str, ...]


def place(
    workers: Workers,
    models: Mapping[str, ModelFile],
    writing: Collection[str],
    say: Callable[[str], None] = lambda line: None,
) -> Placed:
    """Splits the cores among processes; what the job fixes is left as it says.

    writing: the models that write answers, for which they need more memory than for decisions."""
    cores, n_cores = machine.cores(), machine.core_count()
    fit, memory = _fit(models, writing)
    if workers.threads or workers.processes:
        threads = min(workers.threads or max(1, n_cores // workers.processes), n_cores)
        split = (workers.processes or min(n_cores // threads, fit), threads)
        reason = "as the job says"
    else:
        speeds = _speeds(models, _splits(n_cores, fit), cores, say)
        split = max(speeds, key=lambda split: speeds[split])
        shown = [f"{p} x {t}: {speed:,.0f}" for (p, t), speed in speeds.items() if speed]
        reason = f"prompt tokens/s together, {', '.join(shown)}" if shown else "one for each core"
    if n_cores < len(cores):  # a container's neighbours may have the same first cores
        core_sets, kept_to = (tuple(cores),) * split[0], f"any of {len(cores)}; the control group's quota is {n_cores}"
    else:
        core_sets = _core_sets(cores, split)
        kept_to = ", ".join("+".join(map(str, core_set)) for core_set in core_sets)
    why = (f"{split[0]} process(es) x {split[1]} thread(s): {reason}", memory, f"cores: {kept_to}")
    return Placed(Placement(core_sets), split[1], why)


def cores_of(placed: Placed) -> tuple[tuple[int, ...], ...]:
    """Logical CPUs for each process to keep to, as many as it has threads, also where a quota leaves it any of them."""
    return _core_sets(machine.cores(), (placed.placement.processes, placed.threads))


def _fit(models: Mapping[str, ModelFile], writing: Collection[str]) -> tuple[int, str]:
    """How many workers the memory holds, and why."""
    weights = sum(m.path.stat().st_size for m in models.values() if m.path)
    worker = _PYTHON_BYTES + max(_context_bytes(model, name in writing) for name, model in models.items())
    free = machine.memory_available()
    fit = max(1, (free - weights) // worker)
    return fit, f"memory: {free >> 20} MiB free, one copy of {weights >> 20} MiB, at most {worker >> 20} MiB a process"


def _context_bytes(model: ModelFile, writes: bool) -> int:
    if model.path is None:
        return 0
    cache = _Cache(model)
    limits = limits_of(model)
    key = f"bytes of {limits.n_cells} cells"
    if writes:
        key += f" and {limits.stream_cells} in {limits.n_streams} streams"
    if key not in cache.known:
        cache.keep(key, context_bytes(model, writes))
    return int(cache.known[key])


class _Cache:
    """What was measured of a model file on this machine and its cores."""

    def __init__(self, model: ModelFile):
        name = f"{model.sha256[:16]}-{machine_key()}-{len(machine.cores())}.json"
        self._path = cache_folder() / "placement" / name
        self.known = {key: value for key, value in kept(self._path).items() if isinstance(value, int | float)}

    def keep(self, key: str, value: float) -> None:
        self.known[key] = value
        self._path.parent.mkdir(parents=True, exist_ok=True)
        keep(self._path, self.known)


def _splits(n_cores: int, fit: int) -> list[Split]:
    """Also the one that leaves the fewest cores idle where memory, for `fit` workers, is what is short."""
    threads = {t for t in _THREADS if t <= n_cores} | {max(1, n_cores // fit)}
    return [(min(n_cores // t, fit), t) for t in sorted(threads)]


def _core_sets(cores: Sequence[int], split: Split) -> tuple[tuple[int, ...], ...]:
    """Disjoint, as far as there are cores."""
    processes, threads = split
    return tuple(tuple(cores[(i * threads + t) % len(cores)] for t in range(threads)) for i in range(processes))


def _speeds(
    models: Mapping[str, ModelFile], splits: Sequence[Split], cores: Sequence[int], say: Callable[[str], None]
) -> dict[Split, float]:
    """Prompt tokens per second of every split on the largest model; zeros where there is nothing to measure.

    Measured once for a model file, a machine and its cores, and kept in the cache."""
    files = [model for model in models.values() if model.path]
    if not files or len(splits) == 1:
        return dict.fromkeys(splits, 0.0)
    largest = max(files, key=lambda model: model.path.stat().st_size if model.path else 0)
    assert largest.path is not None
    cache = _Cache(largest)
    missing = [split for split in splits if _key(split) not in cache.known]
    if missing:
        say(f"measuring {len(missing)} ways to split the machine (once, a few seconds)")
    # Whatever else the machine does slows one round more than the other.
    rounds = [
        [prompt_speed(largest.path, _core_sets(cores, split), N_BATCH, _MEASURED_SECONDS) for split in missing]
        for _ in range(_ROUNDS)
    ]
    for split, speeds in zip(missing, zip(*rounds, strict=True), strict=True):
        cache.keep(_key(split), round(max(speeds), 1))
    return {split: cache.known[_key(split)] for split in splits}


def _key(split: Split) -> str:
    return f"{split[0]} x {split[1]}"
