"""Long runs: workers that grow are replaced, and a disk that fills up or an archive that goes away costs nothing."""

import csv
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from table import FULL, record

from radlite_batch.archive import ArchiveSpec
from radlite_batch.errors import ArchiveError
from radlite_batch.job import Job, Output, Workers
from radlite_batch.results.commit import read_json
from radlite_batch.run import run
from radlite_batch.watch import Watch

MIB = 1 << 20
HAS_OWN_MOUNTS = subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode == 0
RADLITE = [sys.executable, "-m", "radlite_batch.cli"]


def write_archive(path: Path, rows: int, more: str = "") -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [("report_id", "text"), *((i, f"No large nodes, case {i}.{more}") for i in range(rows))]
        )


def a_job(tmp_path: Path, shard_rows: int, workers: Workers, tasks: tuple[str, ...] = ("n_staging",)) -> Job:
    spec = ArchiveSpec((str(tmp_path / "*.csv"),))
    return Job(spec, tasks, Output(tmp_path / "out", shard_rows=shard_rows), "fake", workers)


def items(out: Path) -> list[dict[str, dict[str, int]]]:
    """The log's entries of work items, in order."""
    lines = [json.loads(line) for line in (out / "_run" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["event"] == "item"]


def test_a_worker_that_leaks_is_replaced_and_costs_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADLITE_FAKE_FAULTS", "1")
    rows = 320 if FULL else 80
    write_archive(tmp_path / "archive.csv", rows, " FAULT-HOLD")  # every report leaves 16 MiB behind
    job = a_job(tmp_path, 8, Workers(2, memory=768))
    assert run(job).exit_code == 0
    statuses = pl.read_parquet(tmp_path / "out" / "n_staging" / "*.parquet")["status"].to_list()
    assert statuses == ["ok"] * rows
    log = items(tmp_path / "out")
    assert max(entry["memory"]["anonymous"] for entry in log) < 768 * MIB
    assert len({entry["pid"] for entry in log}) > 2  # type: ignore[arg-type]
    record("reports that leave memory behind", rows, rows - len(statuses))


def test_a_worker_does_not_grow_with_the_rows_it_answers(tmp_path: Path) -> None:
    rows = 100_000 if FULL else 6_000
    write_archive(tmp_path / "archive.csv", rows)
    job = a_job(tmp_path, rows // 60, Workers(1), ("n_staging", "radiology_ner", "impression_generation"))
    assert run(job).exit_code == 0
    sizes = [entry["memory"]["anonymous"] for entry in items(tmp_path / "out")]
    third = len(sizes) // 3
    growth = max(sizes[2 * third :]) - max(sizes[third : 2 * third])
    print(f"{rows} rows: {sizes[third] // MIB} MiB after a third, {sizes[-1] // MIB} MiB at the end")
    assert growth < 8 * MIB


def test_an_archive_file_that_goes_away_is_named_and_the_run_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_archive(tmp_path / "a.csv", 64)
    write_archive(tmp_path / "b.csv", 64, " Later.")
    away = tmp_path / "b.away"
    receive = Watch.receive

    def remove_then_receive(watch: Watch, receipt: dict[str, object]) -> None:
        if not away.exists():
            (tmp_path / "b.csv").rename(away)
        receive(watch, receipt)

    monkeypatch.setattr(Watch, "receive", remove_then_receive)
    job = a_job(tmp_path, 8, Workers(1))
    with pytest.raises(ArchiveError, match=r"b\.csv: No such file or directory; what is committed stays") as ended:
        run(job)
    monkeypatch.undo()
    assert ended.value.exit_code == 1
    summary = read_json(tmp_path / "out" / "_run" / "summary.json")
    assert (summary["state"], summary["exit_code"]) == ("stopped", 1)
    assert not (tmp_path / "out" / "_SUCCESS").exists()
    done = len(list((tmp_path / "out" / "_run" / "receipts").iterdir()))
    assert 0 < done < 16
    with pytest.raises(ArchiveError):  # it is still away
        run(Job(ArchiveSpec((str(tmp_path / "a.csv"), str(tmp_path / "b.csv"))), job.tasks, job.output, "fake"))
    away.rename(tmp_path / "b.csv")
    summary = run(job)
    assert (summary.exit_code, summary.rows_done) == (0, 128)


def test_a_command_whose_archive_goes_away_says_so_in_one_line(tmp_path: Path) -> None:
    """Before the run 2 means that nothing was begun; once it works the code is another."""
    write_archive(tmp_path / "a.csv", 4_000)
    write_archive(tmp_path / "b.csv", 64, " Later.")
    command = [*RADLITE, "run", "--input", str(tmp_path / "*.csv"), "--tasks", "n_staging", "--pack", "fake"]
    command += ["--output", str(tmp_path / "out"), "--workers", "1"]
    # The first file is long enough for the second one to be gone before its turn.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list(tmp_path.glob("out/_run/receipts/*.json")):
        time.sleep(0.01)
    (tmp_path / "b.csv").rename(tmp_path / "b.away")
    _, errors = process.communicate()
    assert process.returncode == 1, errors
    [line] = errors.splitlines()
    assert line.startswith(f"radlite: {tmp_path / 'b.csv'}: No such file or directory; what is committed stays")
    again = subprocess.run([*RADLITE, "retry", str(tmp_path / "out")], capture_output=True, text=True)
    assert (again.returncode, len(again.stderr.splitlines())) == (2, 1)
    (tmp_path / "b.away").rename(tmp_path / "b.csv")
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert pl.read_parquet(tmp_path / "out" / "wide" / "*.parquet").height == 4_064


def shell(script: str) -> subprocess.CompletedProcess[str]:
    """Runs a script that may mount file systems, which only its own processes see."""
    return subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, timeout=900)


@pytest.mark.skipif(not HAS_OWN_MOUNTS, reason="this system lets nobody mount a file system of their own")
def test_a_full_or_read_only_disk_gives_one_line_and_the_run_goes_on_later(tmp_path: Path) -> None:
    write_archive(tmp_path / "archive.csv", 3000)
    disk = tmp_path / "disk"
    disk.mkdir()
    command = [*RADLITE, "run", "--input", str(tmp_path / "archive.csv"), "--tasks", "n_staging,radiology_ner"]
    command += ["--pack", "fake", "--output", str(disk / "out"), "--workers", "2"]
    radlite = shlex.join(command)
    told = tmp_path / "told"
    told.mkdir()
    result = shell(f"""
        mount -t tmpfs -o size=200k tmpfs {disk}
        {radlite} 2>{told}/full; echo $?
        mount -o remount,ro {disk}
        {radlite} 2>{told}/read_only; echo $?
        mount -o remount,rw,size=64m {disk}
        {radlite} 2>{told}/calm >/dev/null; echo $?
        cp -r {disk}/out {tmp_path}/copied
    """)
    assert result.stdout.split() == ["1", "1", "0"], result.stdout + result.stderr
    errors = {path.name: path.read_text().splitlines() for path in told.iterdir()}
    assert errors["full"][-1].startswith("radlite: ") and "No space left on device" in errors["full"][-1]
    assert errors["read_only"][-1].startswith("radlite: ") and "Read-only file system" in errors["read_only"][-1]
    assert not any("Traceback" in line for lines in errors.values() for line in lines)
    table = pl.read_parquet(tmp_path / "copied" / "wide" / "*.parquet").sort("source_row")
    assert table["source_row"].to_list() == list(range(3000))
