"""How a run scales over Dask workers, and what scheduler and parent have to do for each work item.

    python tests/benchmarks/cluster.py SECONDS 1 2 4

The fake model answers, and every work item is made to take SECONDS more, asleep: as a model of another machine looks
from here, so that more workers than this host has cores can be tried. An item is a shard of 64 rows for two tasks.
"""

import re
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from test_cluster import Cluster, a_job, write_archive

from radlite_batch.job import Output
from radlite_batch.run import run
from radlite_batch.watch import Watch

SHARD_ROWS, ITEMS_EACH, EDGE = 64, 10, 2  # edge: items of each worker at the begin and the end that do not count
SLOW = """
if "popen_loky" in open("/proc/self/cmdline").read():
    import time
    from radlite_batch import worker
    answer_reports = worker.answer_reports
    worker.answer_reports = lambda *arguments: (time.sleep({seconds}), answer_reports(*arguments))[1]
"""


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def scheduler_bytes(address: str) -> tuple[int, int]:
    """(received, sent) over the scheduler's open connections."""
    port = address.rpartition(":")[2]
    shown = subprocess.run(["ss", "-tiHn", "sport", "=", f":{port}"], capture_output=True, text=True, check=True).stdout
    received, sent = (sum(map(int, re.findall(rf"bytes_{way}:(\d+)", shown))) for way in ("received", "sent"))
    return received, sent


class Meter:
    """Stands in the run's parent: (time, CPU seconds of parent and scheduler, the scheduler's bytes) at each item."""

    def __init__(self, cluster: Cluster):
        self.lines: list[tuple[float, float, float, int, int]] = []
        self.receive, self._cluster = Watch.receive, cluster

    def __call__(self, watch: Watch, receipt: dict[str, Any]) -> None:
        self.receive(watch, receipt)
        scheduler = cpu_seconds(self._cluster.processes["scheduler"].pid)
        sizes = scheduler_bytes(self._cluster.address)
        self.lines.append((time.perf_counter(), time.process_time(), scheduler, *sizes))


def measure(workers: int, folder: Path, seconds: float) -> tuple[float, ...]:
    """Items a second without begin and end, and per item: CPU ms of parent and scheduler, bytes to it and from it."""
    (folder / "slow").mkdir()
    (folder / "slow" / "sitecustomize.py").write_text(SLOW.format(seconds=seconds))
    cluster = Cluster(folder)
    try:
        for i in range(workers):
            cluster.add_worker(f"w{i}", PYTHONPATH=str(folder / "slow"))
        meter = Meter(cluster)
        Watch.receive = lambda watch, receipt: meter(watch, receipt)  # type: ignore[method-assign]
        job = replace(a_job(folder, cluster.address), output=Output(folder / "out", shard_rows=SHARD_ROWS))
        write_archive(folder / "archive.csv", workers * ITEMS_EACH * SHARD_ROWS)
        assert run(job).exit_code == 0
        Watch.receive = meter.receive  # type: ignore[method-assign]
    finally:
        cluster.close()
    first, last = meter.lines[EDGE * workers], meter.lines[-EDGE * workers]
    n = len(meter.lines) - 2 * EDGE * workers
    took, parent, scheduler, received, sent = (b - a for a, b in zip(first, last, strict=True))
    return n / took, parent / n * 1000, scheduler / n * 1000, received / n, sent / n


def main() -> None:
    seconds, alone = float(sys.argv[1]), 0.0
    print("workers  items/s  times one  efficiency  parent ms  scheduler ms  bytes to it  bytes from it   (per item)")
    for workers in map(int, sys.argv[2:]):
        with tempfile.TemporaryDirectory() as folder:
            rate, parent, scheduler, received, sent = measure(workers, Path(folder), seconds)
        alone = alone or rate / workers
        print(f"{workers:7}{rate:9.2f}{rate / alone:11.2f}{rate / alone / workers:12.0%}{parent:11.1f}{scheduler:14.1f}"
              f"{received:13,.0f}{sent:15,.0f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
