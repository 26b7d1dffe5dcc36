"""Watches a long run from outside: its speed, and whether its memory grows.

usage: python tests/benchmarks/long_run.py MINUTES [PACK]

PACK is a built-in pack or a pack file, smol if nothing is given. The archive is made of distinct texts, sentences of
sample_data put together anew, and has more rows than MINUTES last for; a deadline ends the run. Every ten seconds, more
often in a run of few minutes, the proportional set size of all its processes is read, and what each worker has taken
for itself. Printed are a line for each tenth of the run, with the highest of these figures, and how they grow in the
second half, in MiB an hour, by a straight line through them.
"""

import argparse
import csv
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from radlite_batch import machine

SAMPLES = Path(__file__).parents[2] / "sample_data" / "reports.csv"
TASKS = ("n_staging", "m_staging", "abnormality_detection")
SHARD_ROWS = 16
ROWS_A_MINUTE = 2_000  # of the archive; more than a run can answer
LEAST, MOST = 5, 14  # sentences of a text
EVERY = 10.0  # seconds between two looks
LOOKS = 50  # that there are at least
JOB = """\
[archive]
paths = ["{archive}"]
[tasks]
run = {tasks}
[pack]
name = "{pack}"
[output]
path = "{out}"
shard_rows = {shard_rows}
[limits]
max_hours = {hours}
"""


@dataclass(frozen=True, slots=True)
class Look:
    """at: seconds since the begin. rows: committed by then. children: of the run, alive.

    pss: MiB of all processes; worker: what the largest of the children has taken for itself."""

    at: float
    rows: int
    children: int
    pss: float
    worker: float


def texts() -> Iterator[str]:
    """Distinct texts without end, the same ones each time."""
    with open(SAMPLES, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    sentences = sorted(
        {s for row in rows for s in re.split(r"(?<=\.) ", f"{row['findings']} {row['impression']}") if s}
    )
    chance, seen = random.Random(5), set()
    while True:
        text = " ".join(chance.sample(sentences, chance.randint(LEAST, MOST)))
        if text not in seen:
            seen.add(text)
            yield text


def write_archive(path: Path, rows: int) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["report_id", "text"])
        writer.writerows(enumerate(text for text, _ in zip(texts(), range(rows), strict=False)))


def watch(folder: Path, minutes: float, pack: str) -> list[Look]:
    """Runs the pack over an archive in this folder, in processes of its own. Exits where the run fails."""
    archive, out, job = folder / "archive.csv", folder / "out", folder / "job.toml"
    write_archive(archive, int(minutes * ROWS_A_MINUTE))
    job.write_text(
        JOB.format(
            archive=archive, tasks=json.dumps(TASKS), pack=pack, out=out, shard_rows=SHARD_ROWS, hours=minutes / 60
        ),
        encoding="utf-8",
    )
    begin, looks = time.monotonic(), []
    process = subprocess.Popen([sys.executable, "-m", "radlite_batch.cli", "run", str(job)], stdout=subprocess.DEVNULL)
    while process.poll() is None:
        looks.append(look(process.pid, out, time.monotonic() - begin))
        time.sleep(min(EVERY, minutes * 60 / LOOKS))
    if process.returncode not in (0, 3):
        sys.exit(f"error: the run ended with {process.returncode}")
    if process.returncode == 0:
        print("the archive came to its end before the time did")
    # Nothing is said of a run that has not begun, or is ending: not all of its workers are there.
    most = max(each.children for each in looks)
    return [each for each in looks if each.children == most]


def look(pid: int, out: Path, at: float) -> Look:
    own = [memory["anonymous"] for child in machine.descendants(pid) if (memory := machine.process_memory(child))]
    shards = len(list(out.glob("_run/finished/*.json")))
    mib = 1 << 20
    return Look(at, shards * SHARD_ROWS, len(own), machine.tree_memory(pid)["pss"] / mib, max(own, default=0) / mib)


def growth(at: Iterable[float], sizes: Iterable[float]) -> float:
    """MiB an hour. at: seconds."""
    slope, _ = np.polyfit(np.array(list(at)) / 3600, list(sizes), 1)
    return float(slope)


def report(looks: list[Look]) -> None:
    begin, seconds = looks[0].at, looks[-1].at - looks[0].at
    print("| minutes | rows/hour | PSS, MiB | largest worker's own, MiB |\n|---|---|---|---|")
    before = looks[0]
    for tenth in range(1, 11):
        end = begin + seconds * tenth / 10
        part = [each for each in looks if before.at < each.at <= end]
        if part:
            last = part[-1]
            rate = (last.rows - before.rows) / (last.at - before.at) * 3600
            pss, worker = max(each.pss for each in part), max(each.worker for each in part)
            print(f"| {before.at / 60:.1f} to {last.at / 60:.1f} | {rate:,.0f} | {pss:,.0f} | {worker:,.0f} |")
            before = last
    half = [each for each in looks if each.at >= begin + seconds / 2]
    for name, sizes in (("PSS", [each.pss for each in half]), ("worker", [each.worker for each in half])):
        print(f"{name}: {growth([each.at for each in half], sizes):+.1f} MiB an hour in the second half")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("minutes", type=float)
    parser.add_argument("pack", nargs="?", default="smol", help="name of a built-in pack, or path of a pack file")
    given = parser.parse_args()
    pack = str(Path(given.pack).resolve()) if given.pack.endswith(".toml") else given.pack
    with tempfile.TemporaryDirectory() as folder:
        looks = watch(Path(folder), given.minutes, pack)
    if len(looks) < 4:
        sys.exit("error: too short to say anything")
    report(looks)


if __name__ == "__main__":
    main()
