"""Reports per hour at several sizes of archive: the cost of a report must not grow with their number.

usage: python tests/benchmarks/linear.py ARCHIVE.csv PACK ROWS[:IN_HAND]...

The archive's findings and impressions are recombined into so many distinct texts (columns `findings` and
`impression`). IN_HAND: how many reports a worker has in hand, where it is not to be the plan's number. Asked are the
closed questions: RADS, N, M and the 14 flags. Starting up, which does not grow, is shown apart. For a million rows see
million_rows.py, which needs no model.
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from radlite_batch.archive import ArchiveSpec
from radlite_batch.job import Job, Output, Workers
from radlite_batch.plan import make_plan
from radlite_batch.results.manifest import read_manifest, read_receipts
from radlite_batch.run import run

TASKS = ("rads_assignment", "n_staging", "m_staging", "abnormality_detection")


def recombined(source: Path, rows: int) -> Iterator[str]:
    """Distinct texts: every findings section with the impression so many reports further on."""
    table = pl.read_csv(source, infer_schema=False).select("findings", "impression").drop_nulls()
    findings, impressions = (list(dict.fromkeys(table[name])) for name in ("findings", "impression"))
    if rows > len(findings) * len(impressions):
        raise SystemExit(f"{source}: gives {len(findings) * len(impressions)} distinct texts at most")
    for i in range(rows):
        turn, place = divmod(i, len(findings))
        yield f"FINDINGS: {findings[place]}\nIMPRESSION: {impressions[(place + turn) % len(impressions)]}"


def measure(source: Path, pack: str, rows: int, in_hand: int, folder: Path) -> str:
    """A line of figures. in_hand: 0 leaves it to the plan."""
    archive = folder / f"{rows}.parquet"
    pl.DataFrame({"report_id": map(str, range(rows)), "text": recombined(source, rows)}).write_parquet(archive)
    output = Output(folder / f"out-{rows}-{in_hand}", shard_rows=128)
    job = Job(ArchiveSpec((str(archive),)), TASKS, output, pack, Workers(reports_in_hand=in_hand))
    begin = time.perf_counter()
    make_plan(job)
    planning = time.perf_counter() - begin
    begin = time.time()
    summary = run(job)
    manifest = read_manifest(job.output.path)
    assert manifest is not None and summary.state == "complete"
    receipts = read_receipts(job.output.path, manifest.items).values()
    first = min(receipt["begin"] + receipt["seconds"]["load"] for receipt in receipts)
    last = max(receipt["begin"] + sum(receipt["seconds"].values()) for receipt in receipts)
    return (
        f"{rows:>9,} rows: {rows / (last - first) * 3600:,.0f} reports/hour, {last - first:.1f} s "
        f"after {first - begin:.1f} s of starting up; {summary.tokens['computed'] / rows:.1f} tokens a report; "
        f"planning {planning / (last - begin):.1%} of the run, writing "
        f"{summary.write_seconds / summary.busy_seconds:.1%} of the workers' time"
    )


def main() -> None:
    source, pack, *sizes = sys.argv[1:]
    with tempfile.TemporaryDirectory() as temporary:
        for size in sizes:
            rows, _, in_hand = size.partition(":")
            if in_hand:
                print(f"{in_hand:>5} in hand,", end="")
            print(measure(Path(source), pack, int(rows), int(in_hand or 0), Path(temporary)), flush=True)


if __name__ == "__main__":
    main()
