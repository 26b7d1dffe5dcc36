"""run(job): the main path. Plan, execute, summarise; everything else hangs off these three.

    Archive -plan-> Shards x models -> WorkItems -execute-> Receipts -summarise-> RunSummary

What is committed survives whatever happens here; running again goes on from the receipts.
"""

import datetime
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from radlite_batch import machine
from radlite_batch.executor import execute
from radlite_batch.job import Job, RunLimits, parse_until
from radlite_batch.plan import Plan, describe, make_plan
from radlite_batch.progress import Progress
from radlite_batch.records import Shard
from radlite_batch.results.commit import commit, commit_json, locked, make_folder
from radlite_batch.results.manifest import (
    finished_path,
    lock_path,
    read_manifest,
    read_receipts,
    receipt_path,
    run_folder,
    write_manifest,
)
from radlite_batch.results.summary import EXIT_COMPLETE, EXIT_INCOMPLETE, RunSummary, host
from radlite_batch.results.tables import staging_folder, write_failures_part, write_wide_part
from radlite_batch.tasks.registry import tasks_named

_MEMORY_EVERY = 2.0  # seconds between two looks at the processes' memory


class Stopped(BaseException):
    """A signal asked the run to end."""

    def __init__(self, number: int):
        self.number = number


def run(job: Job, progress: Progress | None = None) -> RunSummary:
    """Runs or continues a job. The summary's exit_code is the contract's; see the README.

    Raises RadliteError before any work is done; afterwards only when going on makes no sense."""
    progress = progress or Progress.quiet()
    out = job.output.path
    os.umask(0o077 if job.output.private else 0o022)
    if lock_path(out).exists():
        with locked(lock_path(out)):  # a run that cannot begin says so at once
            pass
    plan = make_plan(job, progress.say)  # a job that is no good stops here, and leaves no trace
    for folder in (
        out,
        run_folder(out),
        staging_folder(out),
        run_folder(out) / "receipts",
        run_folder(out) / "finished",
    ):
        make_folder(folder)
    with locked(lock_path(out)):
        if read_manifest(out) != plan.old:  # another run came between
            plan = make_plan(job, progress.say)
        done = _finished_summary(plan)
        if done is not None:
            return done
        (out / "_SUCCESS").unlink(missing_ok=True)
        for left in staging_folder(out).iterdir():  # what a killed run left half-written
            left.unlink()
        write_manifest(out, plan.manifest)
        return _execute(plan, progress)


def _execute(plan: Plan, progress: Progress) -> RunSummary:
    """Runs the work items without a receipt, finishes their shards, writes the summary."""
    out, manifest = plan.job.output.path, plan.manifest
    items = manifest.items
    names = read_receipts(out, items).keys()
    todo = [item for item in items if item.name not in names]
    run = _Run(plan, progress, rows_before=sum(shard.rows for shard in manifest.shards if _is_finished(out, shard)))
    run.log("begin", shards=len(manifest.shards), items=len(todo), workers=plan.placement.processes)
    state, code = "stopped", EXIT_INCOMPLETE
    try:
        with _signals():
            run.finish_shards()
            execute(plan.setting, todo, plan.placement, run.receive, run.go_on, run.beat)
    except Stopped as stop:
        code = 128 + stop.number
    finally:
        progress.close()
        summary = summarise(plan, run, state, code)
    if all(_is_finished(out, shard) for shard in manifest.shards):
        summary.state, summary.exit_code = "complete", EXIT_INCOMPLETE if summary.unanswered else EXIT_COMPLETE
        summary.duplicate_ids = _duplicate_ids(out)
    commit_json(run_folder(out) / "summary.json", staging_folder(out), summary.document())
    if summary.state == "complete":
        commit(out / "_SUCCESS", staging_folder(out), lambda path: path.write_bytes(b""))
    run.log("end", state=summary.state, exit_code=summary.exit_code, rows=summary.rows_done)
    return summary


class _Run:
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
            if not _is_finished(self._out, shard):
                self._finish(shard)

    def _finish(self, shard: Shard) -> None:
        """Writes the shard's wide and failure parts once every work item of it has its receipt."""
        items = self._plan.manifest.items_of(shard)
        if not all(receipt_path(self._out, item).exists() for item in items):
            return
        receipts = read_receipts(self._out, items)
        tasks = tasks_named(self._plan.job.tasks)
        metadata = next(iter(self._plan.setting.metadata.values()))
        parts = [write_wide_part(self._out, tasks, shard.number, metadata)]
        failures = [failure for receipt in receipts.values() for failure in receipt["failures"]]
        if failures:
            parts.append(write_failures_part(self._out, shard.number, failures))
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


def summarise(plan: Plan, run: _Run, state: str, code: int) -> RunSummary:
    out, manifest = plan.job.output.path, plan.manifest
    done = sum(_is_finished(out, shard) for shard in manifest.shards)
    summary = RunSummary(state, code, manifest.rows, len(manifest.shards), done)
    for item in manifest.items:  # one at a time: a million rows have thousands of receipts
        summary.add(read_receipts(out, [item]).values())
    summary.seconds, summary.rows_this_time = time.perf_counter() - run.begin, run.rows
    summary.reports_per_hour = run.rows / summary.seconds * 3600
    summary.memory, summary.identity = run.memory, manifest.identity
    summary.plan, summary.host = describe(plan), host()
    return summary


def _finished_summary(plan: Plan) -> RunSummary | None:
    """The summary of a run that has nothing left to do."""
    out = plan.job.output.path
    if plan.old is None or not (out / "_SUCCESS").exists():
        return None
    if not all(_is_finished(out, shard) for shard in plan.manifest.shards):
        return None
    return RunSummary(**json.loads((run_folder(out) / "summary.json").read_text(encoding="utf-8")))


def _is_finished(out: Path, shard: Shard) -> bool:
    return finished_path(out, shard.number).exists()


def _duplicate_ids(out: Path) -> int:
    """Rows whose id another row has too."""
    ids = pl.scan_parquet(out / "wide" / "*.parquet").select(pl.col("report_id").drop_nulls())
    counts = ids.group_by("report_id").len().filter(pl.col("len") > 1).select(pl.col("len").sum())
    return int(counts.collect(engine="streaming").item())


def _deadline(limits: RunLimits, now: datetime.datetime) -> datetime.datetime | None:
    """The earlier of the two limits; a time of day that is past means tomorrow's."""
    ends = []
    if limits.max_hours:
        ends.append(now + datetime.timedelta(hours=limits.max_hours))
    if limits.until:
        end = datetime.datetime.combine(now.date(), parse_until(limits.until))
        ends.append(end if end > now else end + datetime.timedelta(days=1))
    return min(ends, default=None)


@contextmanager
def _signals() -> Iterator[None]:
    """SIGINT and SIGTERM raise Stopped."""

    def stop(number: int, frame: object) -> None:
        raise Stopped(number)

    old = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
