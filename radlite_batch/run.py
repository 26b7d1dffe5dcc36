"""run(job): the main path. Plan, execute, summarise; everything else hangs off these three.

    Archive -plan-> Shards x models -> WorkItems -execute-> Receipts -summarise-> RunSummary

What is committed survives whatever happens here; running again goes on from the receipts.
"""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from radlite_batch.executor import execute
from radlite_batch.job import Job
from radlite_batch.plan import Plan, describe, make_plan
from radlite_batch.progress import Progress
from radlite_batch.results.commit import commit, commit_json, locked, make_folder
from radlite_batch.results.manifest import (
    lock_path,
    read_manifest,
    read_receipts,
    receipt_path,
    run_folder,
    write_manifest,
)
from radlite_batch.results.summary import EXIT_COMPLETE, EXIT_INCOMPLETE, RunSummary, host
from radlite_batch.results.tables import staging_folder
from radlite_batch.watch import Watch, is_finished


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
    for folder in (staging_folder(out), run_folder(out) / "receipts", run_folder(out) / "finished"):
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
    todo = [item for item in manifest.items if not receipt_path(out, item).exists()]
    watch = Watch(plan, progress, rows_before=sum(shard.rows for shard in manifest.shards if is_finished(out, shard)))
    watch.log("begin", shards=len(manifest.shards), items=len(todo), workers=plan.placement.processes)
    state, code = "stopped", EXIT_INCOMPLETE
    try:
        with _signals():
            watch.finish_shards()
            execute(plan.setting, todo, plan.placement, watch.receive, watch.go_on, watch.beat)
    except Stopped as stop:
        code = 128 + stop.number
    finally:
        progress.close()
        summary = summarise(plan, watch, state, code)
    if all(is_finished(out, shard) for shard in manifest.shards):
        summary.state, summary.exit_code = "complete", EXIT_INCOMPLETE if summary.unanswered else EXIT_COMPLETE
        summary.duplicate_ids = _duplicate_ids(out)
    commit_json(run_folder(out) / "summary.json", staging_folder(out), summary.document())
    if summary.state == "complete":
        commit(out / "_SUCCESS", staging_folder(out), lambda path: path.write_bytes(b""))
    watch.log("end", state=summary.state, exit_code=summary.exit_code, rows=summary.rows_done)
    return summary


def summarise(plan: Plan, watch: Watch, state: str, code: int) -> RunSummary:
    out, manifest = plan.job.output.path, plan.manifest
    done = sum(is_finished(out, shard) for shard in manifest.shards)
    summary = RunSummary(state, code, manifest.rows, len(manifest.shards), done)
    for item in manifest.items:  # one at a time: a million rows have thousands of receipts
        summary.add(read_receipts(out, [item]).values())
    summary.seconds, summary.rows_this_time = time.perf_counter() - watch.begin, watch.rows
    summary.reports_per_hour = watch.rows / summary.seconds * 3600
    summary.memory, summary.identity = watch.memory, manifest.identity
    summary.plan, summary.host = describe(plan), host()
    return summary


def _finished_summary(plan: Plan) -> RunSummary | None:
    """The summary of a run that has nothing left to do."""
    out = plan.job.output.path
    if plan.old is None or not (out / "_SUCCESS").exists():
        return None
    if not all(is_finished(out, shard) for shard in plan.manifest.shards):
        return None
    return RunSummary(**json.loads((run_folder(out) / "summary.json").read_text(encoding="utf-8")))


def _duplicate_ids(out: Path) -> int:
    """Rows whose id another row has too."""
    ids = pl.scan_parquet(out / "wide" / "*.parquet").select(pl.col("report_id").drop_nulls())
    counts = ids.group_by("report_id").len().filter(pl.col("len") > 1).select(pl.col("len").sum())
    return int(counts.collect(engine="streaming").item())


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
