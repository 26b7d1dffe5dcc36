"""This engine as a system of the comparison: a whole run, from the archive to Parquet."""

import shutil
import time
from pathlib import Path

from radlite_batch.archive import ArchiveSpec
from radlite_batch.bench.peers import Measure
from radlite_batch.errors import EngineError
from radlite_batch.job import Job, Output, RunLimits
from radlite_batch.results.manifest import finished_path, read_manifest, read_receipts
from radlite_batch.run import run

# Reports a worker; with more it has two shards, which end together better than one and fill batches as well.
_ENOUGH = 128


def measure(
    sample: ArchiveSpec, reports: int, tasks: tuple[str, ...], pack: str, processes: int, folder: Path
) -> Measure:
    """Runs the sample's first reports through the engine: from the first loaded model to the last part on disk.

    Reading, prompts, answers and Parquet are within; starting processes and loading are shown apart. Raises
    EngineError where the run does not answer every report."""
    out = folder / "run"
    begin = time.time()
    try:
        shards = processes * (2 if reports > _ENOUGH * processes else 1)
        output = Output(out, shard_rows=-(-reports // shards))
        job = Job(sample, tasks, output, pack, limits=RunLimits(max_rows=reports))
        summary = run(job)
        manifest = read_manifest(out)
        assert manifest is not None
        receipts = [*read_receipts(out, manifest.items).values()]
        last = max(finished_path(out, shard.number).stat().st_mtime for shard in manifest.shards)
        statuses = {status for task in summary.tasks.values() for status in task.status}
        if summary.state != "complete" or statuses - {"ok", "unparsed"}:
            raise EngineError(f"the engine's run is {summary.state}, with rows {', '.join(sorted(statuses))}")
    finally:
        shutil.rmtree(out, ignore_errors=True)
    first = min(receipt["begin"] + receipt["seconds"]["read"] + receipt["seconds"]["load"] for receipt in receipts)
    counts = {key: sum(receipt["counts"][key] for receipt in receipts) for key in receipts[0]["counts"]}
    guesses = counts["drafted"] - counts["accepted"]  # computed for nothing
    computed = counts["computed"] - guesses - counts["written"]
    return Measure(
        reports, last - first, first - begin, computed, counts["written"], counts["drafted"], counts["accepted"]
    )
