"""run(job): the main path. Plan, execute, summarise; everything else hangs off these three.

    Archive -plan-> Shards x models -> WorkItems -execute-> Receipts -summarise-> RunSummary

What is committed survives whatever happens here; running again goes on from the receipts.
"""

import datetime
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import polars as pl

from radlite_batch import cluster, machine
from radlite_batch.errors import ArchiveError, OutputError, OutputLocked, PackError, RadliteError, UsageError
from radlite_batch.executor import execute
from radlite_batch.job import Job
from radlite_batch.node import Cluster
from radlite_batch.plan import Plan, describe, make_plan, planned_job
from radlite_batch.progress import Progress
from radlite_batch.records import WorkItem
from radlite_batch.results.commit import (
    commit,
    commit_json,
    is_locked,
    locked,
    make_folder,
    mend_log,
    remove,
    upload,
)
from radlite_batch.results.manifest import (
    Committed,
    lock_path,
    read_committed,
    read_manifest,
    read_receipts,
    receipt_path,
    run_folder,
    withdraw,
    write_manifest,
)
from radlite_batch.results.mirror import keep, pull
from radlite_batch.results.parts import readable, scan
from radlite_batch.results.summary import EXIT_COMPLETE, EXIT_INCOMPLETE, RunSummary, host, read_summary
from radlite_batch.results.tables import part_path, staging_folder
from radlite_batch.storage import use_endpoint
from radlite_batch.watch import Watch


class Stopped(BaseException):
    """A signal asked the run to end."""

    def __init__(self, number: int):
        self.number = number


def run(job: Job, progress: Progress | None = None) -> RunSummary:
    """Runs or continues a job. The summary's exit_code is the contract's; see the README.

    Raises RadliteError before any work is done; afterwards only when going on makes no sense, and then its exit_code is
    not 2. Raises Stopped where a signal comes before there is anything to sum up."""
    with _signals():
        return _run(job, progress or Progress.quiet(), again=False)


def retry(out: Path, progress: Progress | None = None) -> RunSummary:
    """Answers again the failed rows of a run, what it left undone, and what damaged parts held; all else stays.

    Raises as run does, and UsageError where no run was planned."""
    with _signals():
        return _run(planned_job(out), progress or Progress.quiet(), again=True)


def _run(job: Job, progress: Progress, again: bool) -> RunSummary:
    out, started = job.output.path, datetime.datetime.now()
    machine.forbid_dumps()
    os.umask(0o077 if job.output.private else 0o022)
    use_endpoint(job.storage.endpoint_url)
    if is_locked(lock_path(out)):
        make_folder(run_folder(out))  # on a host that has no mirror of it yet
        with locked(lock_path(out)):  # a run that cannot begin says so at once
            pass
    plan = make_plan(job, progress.say)  # a job that is no good stops here, and leaves no trace
    for folder in (staging_folder(out), run_folder(out) / "receipts", run_folder(out) / "finished"):
        make_folder(folder)
    with locked(lock_path(out)):
        pull(out)
        if read_manifest(out) != plan.old:  # another run came between
            plan = make_plan(job, progress.say)
        committed = read_committed(out, plan.manifest, checksums=again)
        todo = [item for item in plan.manifest.items if item.name not in committed.items]
        todo += _failed(plan, committed) if again else []
        done = None if todo else _finished_summary(plan, committed)
        if done is not None:
            return done
        if (out / "_SUCCESS").exists():
            remove(out / "_SUCCESS")
        for item in todo:
            if not item.only:  # what it vouches for is damaged or gone, and whoever goes on must know
                withdraw(receipt_path(out, item))
        for left in staging_folder(out).iterdir():  # what a killed run left half-written
            remove(left)
        mend_log(run_folder(out) / "log.jsonl")
        write_manifest(out, plan.manifest)
        return _execute(plan, progress, todo, committed, started)


def _failed(plan: Plan, committed: Committed) -> list[WorkItem]:
    """The committed work items with failed rows, each for these rows only."""
    found = []
    for item in plan.manifest.items:
        if item.name in committed.items:
            [receipt] = read_receipts(plan.job.output.path, [item]).values()
            rows = {failure["source_row"] for failure in receipt["failures"] if failure["status"] == "failed"}
            found += [replace(item, only=tuple(sorted(rows)))] if rows else []
    return found


def _execute(
    plan: Plan, progress: Progress, todo: Sequence[WorkItem], committed: Committed, started: datetime.datetime
) -> RunSummary:
    """Runs the work items, finishes their shards, writes the summary."""
    watch = Watch(plan, progress, todo, committed, started)
    watch.log("begin", shards=len(plan.manifest.shards), items=len(todo), workers=plan.placement.processes)
    code = EXIT_INCOMPLETE
    failure: RadliteError | None = None
    try:
        watch.finish_shards()
        run_items = _executor(plan)
        run_items(plan.setting, todo, plan.placement, watch.receive, watch.go_on, partial(_beat, watch))
    except Stopped as stop:
        code = 128 + stop.number
    except (OutputError, OutputLocked, UsageError):  # nothing more can be written, or may be, or is to be summed up
        raise
    except RadliteError as error:
        failure = _after_the_begin(error)
        code = failure.exit_code
    finally:
        progress.close()
    summary = _sum_up(plan, watch, code)
    if failure is not None and summary.state != "complete":
        raise failure
    return summary


def _after_the_begin(error: RadliteError) -> RadliteError:
    """The error as it ends a run that has begun: 2, with which a file that is gone exits, means that nothing was."""
    if not isinstance(error, ArchiveError | PackError):
        return error
    told = type(error)(f"{error}; what is committed stays, and running again goes on from there")
    told.exit_code = RadliteError.exit_code
    return told


def _sum_up(plan: Plan, watch: Watch, code: int) -> RunSummary:
    """Writes the summary, and what says that all is done where it is. code: of a run that is not."""
    out = plan.job.output.path
    summary = summarise(plan, watch, "stopped", code)
    if not watch.pending and summary.shards_done == summary.shards:
        summary.state, summary.exit_code = "complete", EXIT_INCOMPLETE if summary.unanswered else EXIT_COMPLETE
        summary.duplicate_ids = _duplicate_ids(plan)
    keep(out)
    commit_json(run_folder(out) / "summary.json", staging_folder(out), summary.document())
    watch.log("end", state=summary.state, exit_code=summary.exit_code, rows=summary.rows_done)
    upload(run_folder(out) / "log.jsonl")
    if summary.state == "complete":
        commit(out / "_SUCCESS", staging_folder(out), b"")
    return summary


def _beat(watch: Watch) -> None:
    """Raises Stopped again where the first time was lost: Python ignores what is raised in a destructor."""
    if _asked:
        raise Stopped(_asked[-1])
    watch.beat()


def _executor(plan: Plan) -> Callable[..., None]:
    """The processes of this host, or those of a cluster."""
    if plan.job.workers.backend == "local":
        return execute
    forms = {model: prepared.form for model, prepared in plan.prepared.items() if prepared}
    nodes = Cluster(plan.job.workers.scheduler, plan.manifest.job["pack"], forms, plan.job.output.private)
    return partial(cluster.execute, nodes)


def summarise(plan: Plan, watch: Watch, state: str, code: int) -> RunSummary:
    out, manifest = plan.job.output.path, plan.manifest
    # A work item may have been committed after its worker's last word: the disk is asked.
    committed = read_committed(out, manifest)
    summary = RunSummary(state, code, manifest.rows, len(manifest.shards), len(committed.shards))
    for shard in manifest.shards:  # one at a time: a million rows have thousands of receipts
        items = [item for item in manifest.items_of(shard) if item.name in committed.items]
        summary.add(read_receipts(out, items).values())
    summary.ends_after(time.perf_counter() - watch.begin)
    summary.rows_this_time = watch.rows
    summary.reports_per_hour = watch.rows / summary.seconds * 3600
    summary.memory, summary.identity = watch.memory, manifest.identity
    summary.plan, summary.host = describe(plan), host()
    return summary


def _finished_summary(plan: Plan, committed: Committed) -> RunSummary | None:
    """The summary of a run that has nothing left to do."""
    out = plan.job.output.path
    if not (out / "_SUCCESS").exists() or len(committed.shards) < len(plan.manifest.shards):
        return None
    document = read_summary(out)
    if document is None:
        return None  # it is written again
    del document["sha256"]
    return RunSummary(**document)


def _duplicate_ids(plan: Plan) -> int:
    """Rows whose id another row has too."""
    out = plan.job.output.path
    ids = scan(part_path(out, "wide", shard.number) for shard in plan.manifest.shards)
    counts = ids.select(pl.col("report_id").drop_nulls()).group_by("report_id").len().filter(pl.col("len") > 1)
    with readable(out):
        return int(counts.select(pl.col("len").sum()).collect(engine="streaming").item())


_asked: list[int] = []  # numbers of the signals that came


@contextmanager
def _signals() -> Iterator[None]:
    """SIGINT and SIGTERM raise Stopped."""
    _asked.clear()

    def stop(number: int, frame: object) -> None:
        _asked.append(number)
        raise Stopped(number)

    old = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
