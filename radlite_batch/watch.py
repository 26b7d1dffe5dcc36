"""The parent's part while workers work: receipts in, finished shards out, memory and time watched."""

import datetime
import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from radlite_batch import machine
from radlite_batch.job import RunLimits, parse_until
from radlite_batch.plan import Plan
from radlite_batch.progress import Progress
from radlite_batch.records import Shard
from radlite_batch.results.commit import commit_json
from radlite_batch.results.manifest import finished_path, read_receipts, receipt_path, run_folder
from radlite_batch.results.tables import staging_folder, write_failures_part, write_wide_part
from radlite_batch.tasks.registry import tasks_named

_MEMORY_EVERY = 2.0  # seconds between two looks at the processes' memory


class Watch:
    """The parent's part while workers work: receipts in, finished shards out, memory and time watched."""

    def __init__(self, plan: Plan, progress: Progress, rows_before: int):
        self.begin = time.perf_counter()
        self.rows = 0
        self.memory = {"pss": 0, "rss": 0}
        self._plan, self._progress, self._out = plan, progress, plan.job.output.path
        self._deadline = _deadline(plan.job.limits, datetime.datetime.now())
        self._next_look = 0.0
        self._shards = {shard.number: shard for shard in plan.manifest.shards}
        progress.open(plan.manifest.rows, rows_before)

    def receive(self, receipt: dict[str, Any]) -> None:
        """Takes the receipt of a work item, and finishes its shard if that was the last one."""
        self.log("item", item=receipt["item"], rows=receipt["rows"], seconds=receipt["seconds"])
        self._finish(self._shards[receipt["shard"]])

    def finish_shards(self) -> None:
        """Finishes what a killed run left with all its receipts but without its wide part."""
        for shard in self._shards.values():
            if not is_finished(self._out, shard):
                self._finish(shard)

    def _finish(self, shard: Shard) -> None:
        """Writes the shard's wide and failure parts once every work item of it has its receipt."""
        items = self._plan.manifest.items_of(shard)
        if not all(receipt_path(self._out, item).exists() for item in items):
            return
        receipts = read_receipts(self._out, items)
        tasks = tasks_named(self._plan.job.tasks)
        metadata = _merged(self._plan.setting.metadata.values())
        parts = [write_wide_part(self._out, tasks, shard.number, metadata)]
        failures = [failure for receipt in receipts.values() for failure in receipt["failures"]]
        if failures:
            parts.append(write_failures_part(self._out, shard.number, failures, metadata))
        commit_json(finished_path(self._out, shard.number), staging_folder(self._out), {"parts": parts})
        self.rows += shard.rows
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
        self._progress.beat()

    def log(self, event: str, **facts: Any) -> None:
        """Appends to log.jsonl: counts, names and times, nothing of a report."""
        line = {"time": datetime.datetime.now().astimezone().isoformat(timespec="milliseconds"), "event": event}
        with open(run_folder(self._out) / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line | facts) + "\n")


def _merged(of_models: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """One metadata for tables that several models answered: their different values side by side."""
    values: dict[str, dict[str, None]] = {}
    for metadata in of_models:
        for key, value in metadata.items():
            values.setdefault(key, {})[value] = None
    return {key: " ".join(found) for key, found in values.items()}


def is_finished(out: Path, shard: Shard) -> bool:
    """Whether the shard's wide and failure parts are in place."""
    return finished_path(out, shard.number).exists()


def _deadline(limits: RunLimits, now: datetime.datetime) -> datetime.datetime | None:
    """The earlier of the two limits; a time of day that is past means tomorrow's."""
    ends = []
    if limits.max_hours:
        ends.append(now + datetime.timedelta(hours=limits.max_hours))
    if limits.until:
        end = datetime.datetime.combine(now.date(), parse_until(limits.until))
        ends.append(end if end > now else end + datetime.timedelta(days=1))
    return min(ends, default=None)
