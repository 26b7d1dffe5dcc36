"""One run at a time holds an output on an S3, and a run that lost its lock writes nothing."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from bucket import Bucket
from on_s3 import LOCK, OUT, start, wait_for_receipts
from small import in_this_process, small_job, write_archive

from radlite_batch import lease, storage
from radlite_batch.errors import OutputLocked
from radlite_batch.results.commit import locked, make_folder
from radlite_batch.results.manifest import lock_path, run_folder
from radlite_batch.results.mirror import refresh
from radlite_batch.run import run
from radlite_batch.status import read_status


def test_one_run_at_a_time(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch)
    archive = write_archive(tmp_path / "a.csv", 9)
    mine = storage.folder(OUT)
    monkeypatch.setenv("RADLITE_CACHE", str(tmp_path / "other"))
    other = storage.folder(OUT)
    make_folder(run_folder(other))
    with locked(lock_path(other)):
        with pytest.raises(OutputLocked, match=rf"^{OUT}: another run holds this output$"):
            run(small_job(archive, other))
        monkeypatch.setenv("RADLITE_CACHE", str(tmp_path / "cache"))
        with pytest.raises(OutputLocked, match=rf"^{OUT}: another run holds this output \(process {os.getpid()} on "):
            run(small_job(archive, mine))
        bucket.age(LOCK, lease.DEAD + 1)
        run(small_job(archive, mine))
        monkeypatch.setattr(lease, "RENEW", 0.0)
        monkeypatch.setenv("RADLITE_CACHE", str(tmp_path / "other"))
        with pytest.raises(OutputLocked, match="took this output over"):
            lease.renew(other)
    assert json.loads(bucket.objects()[LOCK])["released"]  # by the run, and not by the one that lost it
    with lease.held(other):
        assert lease.is_held(other)
        refresh(other)
        assert read_status(other)["state"] == "complete"
    assert not lease.is_held(other)


def test_of_many_that_try_at_once_one_takes_the_lock(bucket: Bucket) -> None:
    for there in (False, True):
        before = lease._register(OUT).look()
        assert (before is not None) == there
        over = before.version if before else None
        gate, won = threading.Barrier(8), []

        def take(number: int, over: str | None = over, gate: threading.Barrier = gate, won: list = won) -> None:
            register = lease._register(OUT)
            gate.wait()
            won.append(register.write(f"{number} over {over}".encode(), over))

        threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 8 and sum(version is not None for version in won) == 1


def test_a_storage_that_ignores_conditions_is_found_out(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "SETTLE", 0.05)
    monkeypatch.setattr(lease, "RENEW", 0.0)
    bucket.careless = True
    out = storage.folder(OUT)
    with lease.held(out):
        assert isinstance(lease._held[out].register, lease._Settled)
        assert lease.renew(out)
        bucket.write(LOCK, bucket.objects()[LOCK].replace(b'"token": "', b'"token": "0'))
        with pytest.raises(OutputLocked):
            lease.renew(out)
    bucket.careless = False
    bucket.age(LOCK, lease.DEAD + 1)
    with lease.held(out):
        assert isinstance(lease._held[out].register, lease._Conditional)


def test_a_run_that_lost_its_lock_writes_nothing_more(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process(monkeypatch)
    monkeypatch.setattr(lease, "RENEW", 0.0)
    job = small_job(write_archive(tmp_path / "a.csv", 20), storage.folder(OUT))

    def steal(method: str, key: str) -> bool:
        if method == "PUT" and "/receipts/00002" in key:
            bucket.write(LOCK, b'{"token": "of another", "released": false, "pid": 1, "host": "another"}')
            bucket.changes.clear()
        return False

    bucket.refuse = steal
    with pytest.raises(OutputLocked, match="took this output over"):
        run(job)
    assert [key for _, key in bucket.changes] == ["out/_run/receipts/00002-fake.json"]
    assert json.loads(bucket.objects()[LOCK])["token"] == "of another"
    assert bucket.broken == []


def test_a_worker_whose_run_is_silent_begins_no_writing(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process(monkeypatch)
    out = storage.folder(OUT)

    def sleep(method: str, key: str) -> bool:
        if method == "PUT" and "/finished/00000" in key:
            slept = time.time() - lease.DEAD / 2 - 1
            os.utime(out / lease.NAME, (slept, slept))
            bucket.changes.clear()
        return False

    bucket.refuse = sleep
    with pytest.raises(OutputLocked, match="was not renewed for 301 s, nothing is written"):
        run(small_job(write_archive(tmp_path / "a.csv", 20), out))
    assert {key for _, key in bucket.changes} == {"out/_run/finished/00000.json", LOCK}


def test_a_signal_gives_the_lock_back(bucket: Bucket, tmp_path: Path) -> None:
    process = start(str(write_archive(tmp_path / "a.csv", 4000)), tmp_path / "one")
    wait_for_receipts(bucket, process, 1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 143, errors
    assert json.loads(bucket.objects()[LOCK])["released"]
    assert json.loads(bucket.objects()["out/_run/summary.json"])["state"] == "stopped"
    assert b'"event": "end"' in bucket.objects()["out/_run/log.jsonl"]
    assert bucket.broken == []
