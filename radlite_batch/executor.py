"""The seam to processes: runs work items on this host, and finds the row that kills a worker.

Receipts on disk are the truth; what is kept here is only what is under way. Each worker has one item at a time, so
when a worker dies the suspects are known: they run again one by one, each in a process of its own. Where that dies too,
the item's rows are tried one after another, each noted before it is tried; the row on which a process ends twice comes
out `failed`, and everything else is answered.
"""

import ctypes
import fcntl
import os
import re
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from joblib.externals.loky import BrokenProcessPool, ProcessPoolExecutor, process_executor

from radlite_batch import machine
from radlite_batch.errors import EngineError, RadliteError
from radlite_batch.records import WorkItem
from radlite_batch.worker import Setting, forget_row, run_shard, tried_row, try_rows

_PR_SET_PDEATHSIG = 1
_ATTEMPTS = 3  # processes that may end before their first row, one after another, until that counts as the rule
_SHARD_DIED = "the worker died on this row's shard"


@dataclass(frozen=True, slots=True)
class Placement:
    """Worker processes, and the logical CPUs of each: disjoint, or all for every one under a quota."""

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

    Takes no further item once go_on() is false, but waits for those under way; the search for a row that kills a worker
    ends then, and its item stays undone. beat() is called at least every second. An exception that ends it (a signal, a
    RadliteError) kills the workers; committed work stays."""
    waiting = deque(items)
    host = _Host(setting, placement, setting.memory or machine.memory_available() // placement.processes, beat)
    while waiting:
        for item in _pool(host, waiting, receive, go_on):
            if go_on():
                with suppress(_TooLate):
                    receive(_alone(host, item, go_on))
        if not go_on():
            return


class _TooLate(Exception):
    """No work is to be begun any more, and what was under way has committed nothing."""


@dataclass(frozen=True, slots=True)
class _Host:
    """memory: bytes that a worker may take for itself. beat: called at least every second. umask: None: inherited."""

    setting: Setting
    placement: Placement
    memory: int
    beat: Callable[[], None]
    umask: int | None = None


def _pool(
    host: _Host, waiting: "deque[WorkItem]", receive: Callable[[dict[str, Any]], None], go_on: Callable[[], bool]
) -> list[WorkItem]:
    """One life of a pool of workers: until the items are used up, a worker dies, or one has grown too large.

    Returns the items that stumbled, and those that were under way when a worker died."""
    suspects: list[WorkItem] = []
    under_way: dict[Future[dict[str, Any]], WorkItem] = {}
    grown = False
    with _workers(host, host.placement.core_sets) as pool:
        while True:
            while waiting and len(under_way) < host.placement.processes and go_on() and not grown:
                try:
                    future = pool.submit(run_shard, host.setting, waiting[0])
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
                    grown = grown or _grown(host, future.result())
                else:
                    suspects.append(item)
                    broken = broken or isinstance(error, BrokenProcessPool)
            host.beat()
            if broken:
                return suspects + list(under_way.values())


class Slot:
    """A worker that is kept from item to item, for whoever has one item at a time: a node of a cluster, say.

    cores, memory (bytes), umask: of the worker."""

    def __init__(self, setting: Setting, cores: tuple[int, ...], memory: int, umask: int):
        self._host = _Host(setting, Placement((cores,)), memory, lambda: None, umask)
        self._pool: ProcessPoolExecutor | None = None

    def answer(self, item: WorkItem, beat: Callable[[], None], go_on: Callable[[], bool]) -> bool:
        """Sees to it that the item is committed; a row that ends the worker is found as `execute` finds it.

        False: go_on() asked to stop before such a row was found. beat() is called at least every second; an
        exception, of beat's or a RadliteError, ends the worker."""
        host = replace(self._host, beat=beat)
        try:
            self._pool = self._pool or _start(host, host.placement.core_sets)
            receipt, _ = _ask(host, self._pool, run_shard, item)
        except BaseException:
            self.close()
            raise
        if receipt is None or _grown(host, receipt):
            self.close()
        if receipt is None:
            try:
                _alone(host, item, go_on)
            except _TooLate:
                return False
        return True

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, kill_workers=True)
            self._pool = None


def _grown(host: _Host, receipt: dict[str, Any]) -> bool:
    """What a worker holds on to for long leaves with it, well before it gets in the way of its work."""
    memory = receipt["memory"]
    context = memory["kv"] + memory["compute"] + memory["output"]
    grown: bool = memory["anonymous"] - context > (host.memory - context) // 2
    return grown


def _error(future: "Future[Any]") -> BaseException | None:
    """What the worker died of or stumbled over. An error of our own (a missing file, say) ends the run instead."""
    error = future.exception()
    if isinstance(error, RadliteError) and not isinstance(error, EngineError):
        raise error
    return error


def _alone(host: _Host, item: WorkItem, go_on: Callable[[], bool]) -> Any:
    """The item in a process of its own; the rows on which that ends are found and come out failed.

    Raises _TooLate."""
    receipt, _ = _child(host, run_shard, item)
    if receipt is not None:
        return receipt
    doomed = _search(replace(host, beat=partial(_in_time, host.beat, go_on)), item)
    slow = replace(host, setting=replace(host.setting, reports_in_hand=1))
    # Rows that are harmless one by one, but not together, leave no single row to blame.
    last_resort = dict.fromkeys(item.source_rows, _SHARD_DIED) | doomed
    for each, reasons in ((host, doomed), (slow, doomed), (slow, last_resort)):
        _in_time(host.beat, go_on)
        receipt, _ = _child(each, run_shard, item, reasons)
        if receipt is not None:
            return receipt
    raise RadliteError(f"work item {item.name}: the worker dies without answering any row")


def _in_time(beat: Callable[[], None], go_on: Callable[[], bool]) -> None:
    beat()
    if not go_on():
        raise _TooLate


def _search(host: _Host, item: WorkItem) -> dict[int, str]:
    """The source rows on which a process ends twice, as an accident would not, with the reasons."""
    doomed: dict[int, str] = {}
    rows = list(item.source_rows)
    suspect, misses = None, 0
    while rows:
        host.beat()
        # A process that ends before its first row must not be taken for one that tried it.
        forget_row(host.setting, item)
        finished, reason = _child(host, try_rows, item, rows)
        if finished:
            break
        row = tried_row(host.setting, item)
        if row is None:
            misses += 1
            if misses == _ATTEMPTS:
                raise RadliteError(f"work item {item.name}: the worker ends before its first row: {reason}")
            continue
        misses = 0
        rows = rows[rows.index(row) :]
        if row == suspect:
            doomed[row] = reason
            rows = rows[1:]
        suspect = row
    return doomed


def _child(host: _Host, function: Callable[..., Any], *arguments: Any) -> tuple[Any, str]:
    """(the function's result, "") from a process of its own, or (None, why it ended)."""
    with _workers(host, host.placement.core_sets[:1]) as pool:
        return _ask(host, pool, function, *arguments)


def _ask(host: _Host, pool: ProcessPoolExecutor, function: Callable[..., Any], *arguments: Any) -> tuple[Any, str]:
    """As _child, from a pool of one process."""
    try:
        future = pool.submit(function, host.setting, *arguments)
    except BrokenProcessPool as broken:  # it ended while it had nothing to do
        return None, _reason(broken, host.setting)
    while not wait([future], timeout=1.0).done:
        host.beat()
    error = _error(future)
    return (None, _reason(error, host.setting)) if error else (future.result(), "")


def _reason(error: BaseException, setting: Setting) -> str:
    """Why a process ended, in words that quote no report."""
    if isinstance(error, EngineError):
        return str(error)
    if isinstance(error, MemoryError):
        return "the worker ran out of the memory it may take"
    if not isinstance(error, BrokenProcessPool):
        return f"{type(error).__name__} in the worker"
    signals = re.findall(r"SIG[A-Z]+", str(error))
    if signal.SIGALRM.name in signals:
        return f"not answered within {setting.record_seconds:g} s"
    return "the worker died on this row" + (f" ({signals[0]})" if signals else "")


@contextmanager
def _workers(host: _Host, core_sets: Sequence[tuple[int, ...]]) -> Iterator[ProcessPoolExecutor]:
    pool = _start(host, core_sets)
    try:
        yield pool
        pool.shutdown(wait=True)
    except BaseException:
        pool.shutdown(wait=True, kill_workers=True)
        raise


def _start(host: _Host, core_sets: Sequence[tuple[int, ...]]) -> ProcessPoolExecutor:
    # Arrow's own allocator reserves a GiB of address space, which would count as memory taken.
    return ProcessPoolExecutor(
        len(core_sets), initializer=_begin_worker, env={"ARROW_DEFAULT_MEMORY_POOL": "system"}, timeout=None,
        initargs=(host.setting.out, tuple(core_sets), os.getpid(), host.memory, host.umask),
    )  # fmt: skip


def _begin_worker(out: Path, core_sets: Sequence[tuple[int, ...]], parent: int, memory: int, umask: int | None) -> None:
    """Makes a fresh process a worker: dies with its parent, leaves no core dump, keeps to its cores and memory."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides; Ctrl-C reaches the whole group
    machine.forbid_dumps()
    machine.limit_memory(memory)
    process_executor._USE_PSUTIL = False  # or loky ends workers by a measure of its own, where psutil is installed
    if umask is not None:
        os.umask(umask)
    os.sched_setaffinity(0, _claim_cores(out, core_sets))


def _die_with(parent: int) -> None:
    # The kernel's signal is tied to the thread that started us; this is tied to the process.
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


_claimed: list[int] = []  # descriptors of the slot locks; death releases them


def _claim_cores(out: Path, core_sets: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The first core set that no living worker of this run has."""
    if len(core_sets) == 1:
        return core_sets[0]
    folder = out / "_run" / "slots"
    for number, core_set in enumerate(core_sets):
        try:
            folder.mkdir(exist_ok=True)
            slot = os.open(folder / str(number), os.O_CREAT | os.O_RDWR, 0o600)
        except OSError:  # a disk that takes no file: said where the results are to be written
            break
        try:
            fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(slot)
            continue
        _claimed.append(slot)
        return core_set
    return core_sets[0]  # a dying neighbour may hold its slot a moment longer
