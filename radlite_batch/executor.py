"""The seam to processes: runs work items on this host, and finds the row that kills a worker.

Receipts on disk are the truth; what is kept here is only what is under way. Each worker has one item at a time, so
when a worker dies the suspects are known: they run again one by one, each in a process of its own. An item that dies
alone is halved until the row is found; that row comes out `failed`, and everything else is answered.
"""

import ctypes
import fcntl
import os
import resource
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joblib.externals.loky import BrokenProcessPool, ProcessPoolExecutor

from radlite_batch.errors import RadliteError
from radlite_batch.records import WorkItem
from radlite_batch.worker import Setting, probe_rows, run_shard

_PR_SET_PDEATHSIG = 1
_DIED = "the worker died on this row"


@dataclass(frozen=True, slots=True)
class Placement:
    """Worker processes, and the logical CPUs of each; disjoint."""

    core_sets: tuple[tuple[int, ...], ...]

    @property
    def processes(self) -> int:
        return len(self.core_sets)


def execute(
    setting: Setting,
    items: Iterable[WorkItem],
    placement: Placement,
    receive: Callable[[dict[str, Any]], None],
    go_on: Callable[[], bool],
    beat: Callable[[], None],
) -> None:
    """Runs the items and hands each receipt to `receive`, as they come.

    Takes no further item once go_on() is false, but waits for those under way. beat() is called at least every
    second. An exception that ends it (a signal, a RadliteError) kills the workers; committed work stays."""
    waiting = deque(items)
    while waiting:
        for item in _pool(setting, waiting, placement, receive, go_on, beat):
            if go_on():
                receive(_alone(setting, item, placement, beat))
        if not go_on():
            return


def _pool(
    setting: Setting,
    waiting: "deque[WorkItem]",
    placement: Placement,
    receive: Callable[[dict[str, Any]], None],
    go_on: Callable[[], bool],
    beat: Callable[[], None],
) -> list[WorkItem]:
    """One life of a pool of workers: until the items are used up, or until a worker dies.

    Returns the items that stumbled, and those that were under way when a worker died."""
    suspects: list[WorkItem] = []
    under_way: dict[Future[dict[str, Any]], WorkItem] = {}
    with _workers(setting.out, placement.core_sets) as pool:
        while True:
            while waiting and len(under_way) < placement.processes and go_on():
                try:
                    future = pool.submit(run_shard, setting, waiting[0])
                except BrokenProcessPool:
                    break
                under_way[future] = waiting.popleft()
            if not under_way:
                return suspects
            done, _ = wait(under_way, timeout=1.0, return_when=FIRST_COMPLETED)
            broken = False
            for future in done:
                item = under_way.pop(future)
                error = _error(future)
                if error is None:
                    receive(future.result())
                else:
                    suspects.append(item)
                    broken = broken or isinstance(error, BrokenProcessPool)
            beat()
            if broken:
                return suspects + list(under_way.values())


def _error(future: "Future[Any]") -> BaseException | None:
    """What the worker died of or stumbled over. An error of our own (a missing file, say) ends the run instead."""
    error = future.exception()
    if isinstance(error, RadliteError):
        raise error
    return error


def _alone(setting: Setting, item: WorkItem, placement: Placement, beat: Callable[[], None]) -> Any:
    """The item in a process of its own; the rows on which that dies are found and come out failed."""
    receipt = _child(setting, placement, beat, run_shard, setting, item)
    if receipt is not None:
        return receipt
    rows = range(item.shard.first_row, item.shard.first_row + item.shard.rows)
    doomed = _find(setting, item, rows, placement, beat)
    # Rows that are harmless one half at a time, but not together, leave no single row to blame.
    reasons = dict.fromkeys(doomed or rows, _DIED if doomed else "the worker died on this row's shard")
    receipt = _child(setting, placement, beat, run_shard, setting, item, reasons)
    if receipt is None and doomed:
        reasons = dict.fromkeys(rows, "the worker died on this row's shard")
        receipt = _child(setting, placement, beat, run_shard, setting, item, reasons)
    if receipt is None:
        raise RadliteError(f"work item {item.name}: the worker dies without answering any row")
    return receipt


def _find(
    setting: Setting, item: WorkItem, rows: Sequence[int], placement: Placement, beat: Callable[[], None]
) -> list[int]:
    """The source rows on which a worker dies, by halving."""
    if _child(setting, placement, beat, probe_rows, setting, item, rows, answer=True) is not None:
        return []
    if len(rows) == 1:
        return list(rows)
    middle = len(rows) // 2
    return [row for half in (rows[:middle], rows[middle:]) for row in _find(setting, item, half, placement, beat)]


def _child(
    setting: Setting,
    placement: Placement,
    beat: Callable[[], None],
    function: Callable[..., Any],
    *arguments: Any,
    answer: bool = False,
) -> Any:
    """The function's result in a process of its own (True instead of it if `answer`), or None if it dies there."""
    with _workers(setting.out, placement.core_sets[:1]) as pool:
        future = pool.submit(function, *arguments)
        while not wait([future], timeout=1.0).done:
            beat()
        return None if _error(future) else (True if answer else future.result())


@contextmanager
def _workers(out: Path, core_sets: Sequence[tuple[int, ...]]) -> Iterator[ProcessPoolExecutor]:
    pool = ProcessPoolExecutor(
        len(core_sets), initializer=_begin_worker, initargs=(out, tuple(core_sets), os.getpid()), timeout=None
    )
    try:
        yield pool
        pool.shutdown(wait=True)
    except BaseException:
        pool.shutdown(wait=True, kill_workers=True)
        raise


def _begin_worker(out: Path, core_sets: Sequence[tuple[int, ...]], parent: int) -> None:
    """Makes a fresh process a worker: dies with its parent, leaves no core dump, keeps to its own cores."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides; Ctrl-C reaches the whole group
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.sched_setaffinity(0, _claim_cores(out, core_sets))


def _die_with(parent: int) -> None:
    # The kernel's signal is tied to the thread that started us; this is tied to the process.
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


_claimed: list[int] = []  # descriptors of the slot locks; death releases them


def _claim_cores(out: Path, core_sets: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The first core set that no living worker of this run has."""
    folder = out / "_run" / "slots"
    folder.mkdir(exist_ok=True)
    for number, core_set in enumerate(core_sets):
        slot = os.open(folder / str(number), os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(slot)
            continue
        _claimed.append(slot)
        return core_set
    return core_sets[0]  # a dying neighbour may hold its slot a moment longer
