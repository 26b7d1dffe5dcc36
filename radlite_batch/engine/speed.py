"""Prompt tokens per second of llama.cpp itself on a model file, in processes that compute at the same time."""

import multiprocessing
import os
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np

from radlite_batch.errors import EngineError

_FIRST_TOKEN = 1000
_PATIENCE = 120.0  # seconds until a process must have answered


def prompt_speed(
    model: Path, core_sets: Sequence[tuple[int, ...]], n_batch: int, seconds: float, repack: bool = False
) -> float:
    """Prompt tokens per second, summed over one process for each core set, pinned to it, one thread a core.

    Every process computes prompts of n_batch tokens for `seconds`, and one at least. repack: let llama.cpp keep a
    repacked private copy of the weights. Raises EngineError."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(len(core_sets))
    children = []
    for cores in core_sets:
        ours, theirs = context.Pipe(duplex=False)
        task = (model, cores, n_batch, seconds, repack, barrier, theirs)
        child = context.Process(target=_compute, args=task, daemon=True)
        child.start()
        theirs.close()
        children.append((child, ours))
    try:
        return sum(_received(ours, seconds) for _, ours in children)
    finally:
        for child, _ in children:
            child.kill()
            child.join()


def _received(ours: Connection, seconds: float) -> float:
    try:
        if ours.poll(_PATIENCE + seconds):
            return float(ours.recv())
    except EOFError:
        pass
    raise EngineError("a process that measures the prompt speed ended without an answer")


def _compute(
    model: Path,
    cores: tuple[int, ...],
    n_batch: int,
    seconds: float,
    repack: bool,
    barrier: Barrier,
    theirs: Connection,
) -> None:
    from radlite_batch.engine.context import Context, Use, Weights

    os.sched_setaffinity(0, cores)
    context = Context(Weights(model, repack), n_batch, n_batch, 1, True, Use(len(cores), None, 1.0))
    tokens = np.arange(_FIRST_TOKEN, _FIRST_TOKEN + n_batch, dtype=np.int32)

    def batch() -> None:
        context.add(tokens, 0, (0,))
        context.decode([[n_batch - 1]])
        context.cut(0, 0)

    batch()
    barrier.wait(_PATIENCE)
    begin, n, taken = time.perf_counter(), 0, 0.0
    while taken < seconds or n == 0:
        batch()
        n += 1
        taken = time.perf_counter() - begin
    theirs.send(n * n_batch / taken)
