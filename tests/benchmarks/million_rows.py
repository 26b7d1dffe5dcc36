"""Streams a million synthetic rows through the fake model; prints speed and the parent's memory over the run.

usage: python tests/benchmarks/million_rows.py [csv|parquet] [ROWS] [FOLDER]

The archive is made of a few sentences with a number in each, so every report is distinct; only the time and memory of
reading, scheduling, parsing and writing are measured, no model.
"""

import csv
import os
import sys
import tempfile
import time
from pathlib import Path

import polars as pl

from radlite_batch.archive import ArchiveSpec
from radlite_batch.job import Job, Output
from radlite_batch.machine import process_memory
from radlite_batch.progress import Progress
from radlite_batch.run import run

SENTENCES = (
    "The heart is normal in size.",
    "No pleural effusion or pneumothorax.",
    "Patchy opacity at the left base.",
    "Degenerative change of the thoracic spine.",
)


class Watch(Progress):
    """Notes the time and this process's resident memory at every twentieth of the rows."""

    def __init__(self) -> None:
        super().__init__(None)
        self.marks: list[tuple[int, float, int]] = []  # rows, seconds, MiB

    def advance(self, rows: int) -> None:
        super().advance(rows)
        if self._done >= (len(self.marks) + 1) * self._total // 20:
            memory = process_memory(os.getpid())
            assert memory is not None
            self.marks.append((self._done, time.perf_counter(), memory["rss"] >> 20))


def make_archive(path: Path, rows: int) -> None:
    texts = (" ".join((*SENTENCES[i % 4 :], f"Accession {i}.", *SENTENCES[: i % 4])) for i in range(rows))
    if path.suffix == ".parquet":
        pl.DataFrame({"report_id": map(str, range(rows)), "text": texts}).write_parquet(path)
        return
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("report_id", "text"))
        writer.writerows((i, text) for i, text in enumerate(texts))


def main() -> None:
    kind, rows, given = (*sys.argv[1:], *("csv", "1000000", "")[len(sys.argv) - 1 :])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(given or temporary)
        archive = folder / f"archive.{kind}"
        make_archive(archive, int(rows))
        watch = Watch()
        job = Job(ArchiveSpec((str(archive),)), ("n_staging", "m_staging"), Output(folder / "out"), pack="fake")
        begin = time.perf_counter()
        summary = run(job, watch)
        seconds = time.perf_counter() - begin
    print(f"{kind}: {summary.rows_done:,} rows in {seconds:.0f} s, {summary.rows_done / seconds * 3600:,.0f} rows/hour")
    pairs = zip(watch.marks, watch.marks[1:], strict=False)
    rates = [(rows - before) / (now - then) * 3600 for (before, then, _), (rows, now, _) in pairs]
    print("million rows/hour from each twentieth to the next: " + " ".join(f"{rate / 1e6:.1f}" for rate in rates))
    print("parent RSS in MiB at each twentieth: " + " ".join(str(mib) for *_, mib in watch.marks))
    print(f"writing {summary.write_seconds / summary.busy_seconds:.1%} of the workers' time")


if __name__ == "__main__":
    main()
