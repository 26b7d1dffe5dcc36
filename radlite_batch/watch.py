"""The parent's part while workers work: receipts in, finished shards out, memory and time watched."""

import datetime
import os
import time
from collections.abc import Iterable, Mapping
from typing import Any

from radlite_batch import machine
from radlite_batch.errors import ArchiveError
from radlite_batch.job import RunLimits, parse_until
from radlite_batch.plan import Plan
from radlite_batch.progress import Progress
from radlite_batch.records import Shard, WorkItem
from radlite_batch.results.commit import append_log, remove
from radlite_batch.results.manifest import (
    Committed,
    finished_path,
    read_receipts,
    receipt_path,
    run_folder,
    withdraw,
    write_finished,
)  # fmt: skip
from radlite_batch.results.mirror import keep
from radlite_batch.results.tables import part_path, write_failures_part, write_wide_part
from radlite_batch.tasks.registry import tasks_named

_MEMORY_EVERY = 2.0  # seconds between two looks at the processes' memory


class Watch:
    """The parent's part while workers work: receipts in, finished shards out, memory and time watched."""

    def __init__(
        self, plan: Plan, progress: Progress, todo: Iterable[WorkItem], committed: Committed, started: datetime.datetime
    ):
        """started: when the limits of time begin to count."""
        self.begin = time.perf_counter()
        self.rows = 0
        self.pending = {item.name for item in todo}
        self.committed = committed
        self.memory = {"pss": 0, "rss": 0}
        self._plan, self._progress, self._out = plan, progress, plan.job.output.path
        self._deadline = _deadline(plan.job.limits, started)
        self._next_look = 0.0
        self._shards = {shard.number: shard for shard in plan.manifest.shards}
        progress.open(plan.manifest.rows, sum(self._shards[number].rows for number in committed.shards))

    def receive(self, receipt: dict[str, Any]) -> None:
        """Takes the receipt of a work item, and finishes its shard if that was the last one.

        Raises ArchiveError where the shard's file is no longer what was planned; the receipt then does not count."""
        shard = self._shards[receipt["shard"]]
        if not self._plan.is_unchanged(shard.path):
            (item,) = (item for item in self._plan.manifest.items_of(shard) if item.name == receipt["item"])
            withdraw(receipt_path(self._out, item))
            raise ArchiveError(f"{shard.path}: it was changed while the run read it; put back what was planned")
        self.log("item", item=receipt["item"], rows=receipt["rows"], seconds=receipt["seconds"], pid=receipt["pid"],
                 memory=receipt["memory"])  # fmt: skip
        self.pending.discard(receipt["item"])
        self.committed.items.add(receipt["item"])
        self._finish(shard)

    def finish_shards(self) -> None:
        """Finishes what a killed run left with all its receipts but without its wide part."""
        for shard in self._shards.values():
            if shard.number not in self.committed.shards:
                self._finish(shard)

    def _finish(self, shard: Shard) -> None:
        """Writes the shard's wide and failure parts once every work item of it has its receipt."""
        items = self._plan.manifest.items_of(shard)
        names = {item.name for item in items}
        if names & self.pending or not names <= self.committed.items:
            return
        keep(self._out)
        withdraw(finished_path(self._out, shard.number))
        receipts = read_receipts(self._out, items)
        tasks = tasks_named(self._plan.job.tasks)
        metadata = _merged(self._plan.setting.metadata.values())
        parts = [write_wide_part(self._out, tasks, shard.number, metadata)]
        failures = [failure for receipt in receipts.values() for failure in receipt["failures"]]
        if failures:
            parts.append(write_failures_part(self._out, shard.number, failures, metadata))
        elif (stale := part_path(self._out, "failures", shard.number)).exists():
            remove(stale)  # the rows were answered when they were tried again
        write_finished(self._out, shard.number, parts, receipts)
        if shard.number not in self.committed.shards:
            self.committed.shards.add(shard.number)
            self.rows += receipts[items[0].name]["rows"]  # without those that the filter leaves out
            self._progress.advance(shard.rows)

    def go_on(self) -> bool:
        return self._deadline is None or datetime.datetime.now() < self._deadline

    def beat(self) -> None:
        """Called every second or so: looks at the memory now and then, and shows that the run lives."""
        now = time.perf_counter()
        if now >= self._next_look:
            self._next_look = now + _MEMORY_EVERY
            for key, size in machine.tree_memory(os.getpid()).items():
                self.memory[key] = max(self.memory[key], size)
        keep(self._out)
        self._progress.beat()

    def log(self, event: str, **facts: Any) -> None:
        """Appends to log.jsonl: counts, names and times, nothing of a report."""
        line = {"time": datetime.datetime.now().astimezone().isoformat(timespec="milliseconds"), "event": event}
        append_log(run_folder(self._out) / "log.jsonl", line | facts)


def _merged(of_models: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """One metadata for tables that several models answered: their different values side by side."""
    values: dict[str, dict[str, None]] = {}
    for metadata in of_models:
        for key, value in metadata.items():
            values.setdefault(key, {})[value] = None
    return {key: " ".join(found) for key, found in values.items()}


def _deadline(limits: RunLimits, now: datetime.datetime) -> datetime.datetime | None:
    """The earlier of the two limits; a time of day that is past means tomorrow's."""
    ends = []
    if limits.max_hours:
        ends.append(now + datetime.timedelta(hours=limits.max_hours))
    if limits.until:
        end = datetime.datetime.combine(now.date(), parse_until(limits.until))
        ends.append(end if end > now else end + datetime.timedelta(days=1))
    return min(ends, default=None)
