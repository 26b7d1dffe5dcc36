"""The seam to a cluster: runs work items through the workers of a Dask scheduler, as the executor does on one host.

A Dask task is one work item. What travels is what the run's items have in common (a few KB), the item, and that it is
done; reports are read, and receipts written, by the nodes. The folders of archive and output are shared by all of them,
model files and cache are each node's own.
"""

import logging
import os
import queue
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from radlite_batch.errors import OutputError, RadliteError, UsageError
from radlite_batch.executor import Placement
from radlite_batch.node import Cluster, Order, Unwanted, answer, stop
from radlite_batch.records import WorkItem
from radlite_batch.results.manifest import in_place, receipt_path
from radlite_batch.worker import Setting

if TYPE_CHECKING:
    from distributed import Client, Future

_PER_SLOT = 2  # items under way for each slot, so that a node has the next one when it needs it
_ATTEMPTS = 3  # times that an item is submitted whose node goes away; each time Dask itself tries several
_LOOK = 2.0  # seconds between two looks at which Dask workers there are
_PATIENCE = 120.0  # seconds without any Dask worker
_VISIBLE = 120.0  # seconds until a shared folder must show here what was written elsewhere
_TIMEOUT = 10.0  # seconds for the scheduler to answer


def execute(
    cluster: Cluster,
    setting: Setting,
    items: Iterable[WorkItem],
    placement: Placement,
    receive: Callable[[dict[str, Any]], None],
    go_on: Callable[[], bool],
    beat: Callable[[], None],
) -> None:
    """Runs the items as the executor's `execute` does, on every node of the cluster.

    Raises RadliteError where the scheduler is lost or no node is left; committed work stays."""
    setting = replace(setting, out=setting.out.absolute())  # a node may have another working folder
    order = Order(cluster, setting, version("radlite-batch"), uuid.uuid4().hex[:8])
    with _connected(cluster, placement, setting.threads) as client, _probe(order):
        _Window(client, order, map(_absolute, items)).run(receive, go_on, beat)


def _absolute(item: WorkItem) -> WorkItem:
    path = item.shard.path
    return item if "://" in path else replace(item, shard=replace(item.shard, path=os.path.abspath(path)))


@contextmanager
def _connected(cluster: Cluster, placement: Placement, threads: int) -> "Iterator[Client]":
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        hint = "pip install 'radlite-batch[dask]' brings it"
        raise UsageError(f"workers.backend = 'dask': the package distributed is not installed; {hint}") from None
    for name in [name for name in logging.root.manager.loggerDict if name.partition(".")[0] == "distributed"]:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what matters of it is said here, in one line
    with ExitStack() as stack:
        try:
            where = cluster.scheduler or stack.enter_context(
                LocalCluster(
                    n_workers=1, threads_per_worker=placement.processes * threads, host="127.0.0.1",
                    dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL,
                )
            )  # fmt: skip
            client = Client(where, timeout=_TIMEOUT, set_as_default=False)
        except (OSError, ValueError) as error:
            raise RadliteError(f"{cluster.name}: no answer ({type(error).__name__})") from None
        stack.callback(client.close, timeout=_TIMEOUT)
        yield client


@contextmanager
def _probe(order: Order) -> Iterator[None]:
    """A file by which a node sees that its output folder is the one that is meant."""
    try:
        order.probe.write_text(order.token, encoding="ascii")
    except OSError as error:
        raise OutputError(f"{order.probe}: {error.strerror}") from None
    try:
        yield
    finally:
        with suppress(OSError):
            order.probe.unlink(missing_ok=True)


class _Window:
    """The work items under way; however many there are, Dask holds few of them."""

    def __init__(self, client: "Client", order: Order, items: Iterable[WorkItem]):
        self._client, self._order = client, order
        self._waiting = deque(items)
        self._under_way: dict[str, tuple[Future[None], WorkItem]] = {}  # by key
        self._done: queue.SimpleQueue[Future[None]] = queue.SimpleQueue()
        self._attempts: Counter[str] = Counter()
        self._old: dict[str, Any] = {}  # receipts of items of which some rows are answered again
        self._slots, self._looked, self._seen = 0, 0.0, time.monotonic()

    def run(
        self, receive: Callable[[dict[str, Any]], None], go_on: Callable[[], bool], beat: Callable[[], None]
    ) -> None:
        holding = False
        try:
            while self._under_way or (self._waiting and not holding):
                if go_on():
                    self._submit()
                elif not holding:
                    holding = True
                    self._stop(give_up=False)
                for item in self._finished():
                    receive(self._receipt(item, beat))
                beat()
            self._stop(give_up=False)
        except BaseException as error:
            with suppress(Exception):
                self._stop(give_up=True)
            of_dask = isinstance(error, Exception) and not isinstance(error, RadliteError)
            if of_dask and (isinstance(error, OSError) or self._client.status != "running"):
                raise self._lost() from None
            raise

    def _submit(self) -> None:
        """Submits items up to the number that the cluster's slots can have in hand."""
        self._look()
        while self._waiting and len(self._under_way) < _PER_SLOT * self._slots:
            item = self._waiting.popleft()
            if item.only:
                self._old[item.name] = self._proof(item)
            self._attempts[item.name] += 1
            key = f"radlite-{item.name}-{self._order.token}-{self._attempts[item.name]}"
            future = self._client.submit(answer, self._order, item, key=key, pure=False, retries=0)
            self._under_way[key] = future, item
            future.add_done_callback(self._done.put)

    def _look(self) -> None:
        """Counts the slots now and then. Raises RadliteError where there has been none for long."""
        now = time.monotonic()
        if now - self._looked < _LOOK:
            return
        threads = self._order.setting.threads
        self._slots = sum(max(1, share // threads) for share in self._client.nthreads().values())
        self._looked = now
        self._seen = now if self._slots else self._seen
        if now - self._seen > _PATIENCE:
            raise RadliteError(f"{self._order.cluster.name}: no worker for {_PATIENCE:.0f} s")

    def _finished(self) -> Iterator[WorkItem]:
        """The items that are committed, as they come; waits for a second at most."""
        with suppress(queue.Empty):
            future = self._done.get(timeout=1.0)
            while True:
                _, item = self._under_way.pop(str(future.key))
                if self._settled(future, item):
                    yield item
                future.release()
                future = self._done.get_nowait()

    def _settled(self, future: "Future[None]", item: WorkItem) -> bool:
        """Whether the item is committed; one whose node went away waits to be submitted again."""
        from distributed import KilledWorker

        if future.status == "finished":
            return True
        error = future.exception() if future.status == "error" else None
        if isinstance(error, RadliteError):
            raise error
        if isinstance(error, Unwanted):
            return False
        if error is not None and not isinstance(error, KilledWorker):
            hint = f"is radlite-batch {self._order.version} installed on the scheduler and on every node?"
            raise RadliteError(f"work item {item.name}: {type(error).__name__} in the cluster; {hint}")
        if self._client.status != "running":
            raise self._lost()
        if self._attempts[item.name] == _ATTEMPTS:
            raise RadliteError(f"work item {item.name}: its nodes went away {_ATTEMPTS} times")
        self._waiting.append(item)
        return False

    def _proof(self, item: WorkItem) -> dict[str, Any] | None:
        return in_place(self._order.setting.out, receipt_path(self._order.setting.out, item))

    def _receipt(self, item: WorkItem, beat: Callable[[], None]) -> dict[str, Any]:
        """The item's receipt, once the shared folder shows it and its parts on this host too."""
        end = time.monotonic() + _VISIBLE
        while (receipt := self._proof(item)) is None or receipt == self._old.get(item.name):
            if time.monotonic() > end:
                path = receipt_path(self._order.setting.out, item)
                raise OutputError(f"{path}: written by another node, and not to be seen here for {_VISIBLE:.0f} s")
            beat()
            time.sleep(0.1)
        return receipt

    def _lost(self) -> RadliteError:
        what = "lost; what is committed stays, and running again goes on from there"
        return RadliteError(f"{self._order.cluster.name}: {what}")

    def _stop(self, give_up: bool) -> None:
        if self._client.status == "running":
            self._client.run(stop, self._order.token, give_up, on_error="ignore")
