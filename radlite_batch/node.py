"""A node's part of a cluster's run: what a Dask worker does with a work item.

The item goes to a slot, a worker process of this package that is kept from item to item, so that a row that ends a
process, and the search for that row, stay below Dask. Whatever is raised here names the node, and quotes no report.
"""

import asyncio
import multiprocessing
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radlite_batch import machine
from radlite_batch.engine.formats import CONVERTED, file_sha256, in_form
from radlite_batch.engine.open import ModelFile
from radlite_batch.errors import OutputError, PackError, RadliteError
from radlite_batch.executor import Slot
from radlite_batch.pack import load_pack
from radlite_batch.records import WorkItem
from radlite_batch.results.manifest import in_place, receipt_path
from radlite_batch.results.tables import staging_folder
from radlite_batch.worker import Setting

if TYPE_CHECKING:
    from distributed import Worker

_IDLE = 15.0  # seconds after which worker processes end that nobody has an item for
_TIMEOUT = 10.0  # seconds that giving up waits for what is under way


@dataclass(frozen=True, slots=True)
class Cluster:
    """scheduler: its address; "" for a cluster of this host alone. pack: its name or path. private: as Output's.

    forms: the number format that each model with weights runs in."""

    scheduler: str
    pack: str
    forms: Mapping[str, str]
    private: bool

    @property
    def name(self) -> str:
        return f"Dask scheduler {self.scheduler}" if self.scheduler else "this host's own Dask cluster"


@dataclass(frozen=True, slots=True)
class Order:
    """What a node must know of a run. token: of this execution; the probe, a file in the output folder, holds it."""

    cluster: Cluster
    setting: Setting
    version: str
    token: str

    @property
    def probe(self) -> Path:
        return staging_folder(self.setting.out) / f"nodes-{self.token}"


class Unwanted(Exception):
    """Nobody waits for this work item any longer; raised on the node, where the item is not begun or is given up."""


_nodes: "dict[str, _Node]" = {}  # by the order's token
_stopped: dict[str, bool] = {}  # the orders of which no item is to be begun; True: given up
_door = threading.Lock()  # of _nodes and their users


def answer(order: Order, item: WorkItem) -> None:
    """The Dask task: sees to it that the item is committed. Raises Unwanted, or a RadliteError naming the node."""
    from distributed import get_worker

    worker = get_worker()
    failure: RadliteError | None = None
    try:
        if order.token in _stopped:
            raise Unwanted
        with _joined(order, worker.state.nthreads) as node:
            beat = partial(_beat, worker, worker.get_current_task(), order.token)
            if not node.answer(item, beat, lambda: order.token not in _stopped):
                raise Unwanted
    except RadliteError as error:
        failure = type(error)(f"node {_name(worker)}: {error}")
    except Unwanted:
        raise
    except Exception as error:
        failure = RadliteError(f"node {_name(worker)}: {type(error).__name__}")
    if failure is not None:  # raised out here, it takes no other exception along, which might quote a report
        raise failure


def _name(worker: "Worker") -> str:
    return f"{socket.gethostname()} ({worker.address})"


def _beat(worker: "Worker", key: Any, token: str) -> None:
    """Raises Unwanted where the run has given up, or is no more, or the Dask worker has lost touch with it."""
    task = worker.state.tasks.get(key)
    wanted = task is not None and task.state in ("executing", "long-running")
    if _stopped.get(token) or not wanted or worker.status.name not in ("running", "paused", "closing_gracefully"):
        raise Unwanted


async def stop(token: str, give_up: bool) -> None:
    """No further item of the run is begun here; to give up ends those under way too, and waits until it has."""
    _stopped[token] = give_up
    end = time.monotonic() + _TIMEOUT
    while give_up and token in _nodes and _nodes[token].users and time.monotonic() < end:
        await asyncio.sleep(0.1)


@contextmanager
def _joined(order: Order, share: int) -> "Iterator[_Node]":
    """This Dask worker's part of the run, which begins with its first item."""
    with _door:
        node = _nodes.get(order.token)
        if node is None:
            node = _nodes[order.token] = _Node(order, share)
            threading.Thread(target=_leave, args=(order.token, node), daemon=True).start()
        node.users += 1
    try:
        yield node
    finally:
        with _door:
            node.users -= 1
            node.used = time.monotonic()


def _leave(token: str, node: "_Node") -> None:
    """Ends the node's worker processes once nobody has an item for them."""
    while True:
        time.sleep(0.5)
        with _door:
            if not node.users and time.monotonic() - node.used > (0 if token in _stopped else _IDLE):
                del _nodes[token]
                break
    node.close()


class _Node:
    """A Dask worker's part of a run: the models in its own cache, and its slots.

    The threads of a Dask worker stand for the cores it may use: they are split into slots of as many threads as the job
    says. Worker processes are pinned only where these are all cores of the machine."""

    def __init__(self, order: Order, share: int):
        # A nanny makes its Dask worker a daemon, which could have no child; ours end with their parent by themselves.
        multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
        if order.version != version("radlite-batch"):
            raise RadliteError(f"has radlite-batch {version('radlite-batch')}, and the run is of {order.version}")
        if not order.probe.is_file() or order.probe.read_text(encoding="ascii") != order.token:
            raise OutputError(f"{order.setting.out}: not the run's output folder, which all nodes must share")
        self._out, threads, cores = order.setting.out, order.setting.threads, tuple(machine.cores())
        setting = replace(order.setting, models=_models(order))
        processes = max(1, share // threads)
        free = machine.memory_available() * share // max(share, machine.core_count())
        self._slots: queue.LifoQueue[Slot] = queue.LifoQueue()
        for i in range(processes):
            own = cores[i * threads : (i + 1) * threads] if share == len(cores) else cores
            mask = 0o077 if order.cluster.private else 0o022
            self._slots.put(Slot(setting, own, setting.memory or free // processes, mask))
        self.users, self.used = 0, time.monotonic()

    def answer(self, item: WorkItem, beat: Callable[[], None], go_on: Callable[[], bool]) -> bool:
        """Answers the item in one of the slots, unless another node has committed it before it went away.

        False: given up as go_on() asked to."""
        slot = self._slot(beat)
        try:
            done = not item.only and in_place(self._out, receipt_path(self._out, item)) is not None
            return done or slot.answer(item, beat, go_on)
        finally:
            self._slots.put(slot)

    def _slot(self, beat: Callable[[], None]) -> Slot:
        while True:
            try:
                return self._slots.get(timeout=1.0)
            except queue.Empty:  # a Dask worker has more threads than slots where each takes several
                beat()

    def close(self) -> None:
        while not self._slots.empty():
            self._slots.get().close()


def _models(order: Order) -> dict[str, ModelFile]:
    """The run's models from files of this node. Raises PackError naming the file that is missing or another."""
    pack, found = load_pack(order.cluster.pack), {}
    for name, wanted in order.setting.models.items():
        if name not in pack.models:
            raise PackError(f"{pack.path}: no model {name}")
        spec = replace(pack.models[name], convert=False)  # the format is the run's, not the fastest here
        model, _ = replace(pack, models={name: spec}).prepare(name)
        form = order.cluster.forms.get(name, "")
        if model.path is not None and form in CONVERTED:
            path = in_form(model.path, model.sha256, form)
            model = replace(model, path=path, sha256=file_sha256(path))
        if replace(model, path=None, adapter=None) != replace(wanted, path=None, adapter=None):
            raise PackError(f"pack {pack.name}, models.{name}: {model.path} is not the run's ({wanted.sha256})")
        found[name] = model
    return found
