"""The main path over the fake model: every row accounted for, and a run that goes on from wherever it ended."""

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from radlite_batch.archive import ArchiveSpec, Filter
from radlite_batch.cli import main
from radlite_batch.errors import ArchiveError, OutputLocked, RunChanged
from radlite_batch.job import Job, Output, RunLimits, Workers
from radlite_batch.machine import descendants
from radlite_batch.plan import Plan, estimate, make_plan
from radlite_batch.results.commit import append_log, locked
from radlite_batch.results.manifest import lock_path
from radlite_batch.run import run
from radlite_batch.status import read_status
from radlite_batch.tasks.registry import TASKS
from radlite_batch.watch import Watch

FINDINGS = (
    "Heart size is normal.",
    "Small left effusion.",
    "Clear lungs.",
    "New right basal opacity.",
    "",
    "Rib fracture.",
)


def write_archive(path: Path, rows: int, first: int = 0) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["report_id", "text", "findings", "question", "premise", "hypothesis"])
        for i in range(first, first + rows):
            text = FINDINGS[i % len(FINDINGS)]
            text += f" Case {i // 12}." if text and i % 3 else ""
            writer.writerow([f"{i:04d}", text, text, "Is there an effusion?", "No effusion.", "There is an effusion."])


@pytest.fixture
def job(tmp_path: Path) -> Job:
    write_archive(tmp_path / "archive.csv", 200)
    return Job(
        ArchiveSpec((str(tmp_path / "archive.csv"),)),
        tuple(TASKS),
        Output(tmp_path / "out", shard_rows=16),
        pack="fake",
        workers=Workers(processes=2),
    )


def rows(out: Path, table: str) -> list[dict[str, object]]:
    return pl.read_parquet(out / table / "*.parquet").sort("source_row").to_dicts()


def everything(out: Path) -> dict[str, list[dict[str, object]]]:
    return {name: rows(out, name) for name in (*TASKS, "wide")}


def test_every_row_is_in_every_table(job: Job) -> None:
    summary = run(job)
    assert (summary.state, summary.exit_code, summary.rows_done) == ("complete", 0, 200)
    for name in TASKS:
        table = rows(job.output.path, name)
        assert [row["report_id"] for row in table] == [f"{i:04d}" for i in range(200)]
        assert [row["source_row"] for row in table] == list(range(200))
        assert {row["status"] for row in table} <= {"ok", "empty"}
    assert (job.output.path / "_SUCCESS").exists()
    assert summary.tasks["n_staging"].status == {"ok": 167, "empty": 33}


def test_the_wide_table_holds_each_headline(job: Job) -> None:
    run(job)
    wide = rows(job.output.path, "wide")
    assert len(wide) == 200
    flags = rows(job.output.path, "abnormality_detection")
    for name, column in (("n_staging", "stage"), ("rads_assignment", "label"), ("radiology_ner", "entities")):
        assert [row[name] for row in wide] == [row[column] for row in rows(job.output.path, name)]
    assert wide[0]["abnormality_detection"] == [k for k in flags[0] if flags[0][k] == "positive"]


def test_the_same_answer_whatever_the_workers(job: Job, tmp_path: Path) -> None:
    run(job)
    alone = dataclasses.replace(job, output=Output(tmp_path / "alone", shard_rows=16), workers=Workers(1, 1, 3))
    run(alone)
    assert everything(tmp_path / "alone") == everything(job.output.path)


def test_a_text_that_a_shard_repeats_is_computed_once(tmp_path: Path) -> None:
    computed = []
    for name, repeats in (("once", 1), ("again", 5)):
        lines = [text for text in FINDINGS if text] * repeats
        path = tmp_path / f"{name}.csv"
        path.write_text("report_id,text\n" + "".join(f"{i},{text}\n" for i, text in enumerate(lines)), encoding="utf-8")
        tasks = ("n_staging", "abnormality_detection", "radiology_ner")
        summary = run(Job(ArchiveSpec((str(path),)), tasks, Output(tmp_path / name), "fake", Workers(1)))
        assert (summary.shards, summary.rows_done) == (1, len(lines))
        computed.append(summary.tokens["computed"])
        stages = rows(tmp_path / name, "n_staging")
        assert [row["stage"] for row in stages] == [row["stage"] for row in stages[:5]] * repeats
    assert computed[0] == computed[1] > 0


def test_a_finished_run_is_left_as_it_is(job: Job) -> None:
    run(job)
    before = {path: path.stat().st_mtime_ns for path in job.output.path.rglob("*") if path.name != "lock"}
    assert run(job).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_parquet_metadata_names_model_prompt_and_plan(job: Job) -> None:
    run(job)
    metadata = pq.read_schema(job.output.path / "n_staging" / "part-00000.parquet").metadata
    keys = {"schema_version", "version", "pack", "model", "model_sha256", "adapter_sha256", "prompt_sha256", "plan"}
    assert {f"radlite.{key}".encode() for key in keys} <= set(metadata)


def test_files_are_private_and_nothing_lies_beside_the_parts(job: Job) -> None:
    run(job)
    for path in job.output.path.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0
    assert not list((job.output.path / "_run" / "staging").iterdir())
    assert {path.suffix for path in (job.output.path / "wide").iterdir()} == {".parquet"}


def test_added_files_append_rows_and_renumber_nothing(job: Job, tmp_path: Path) -> None:
    run(job)
    before = everything(job.output.path)
    write_archive(tmp_path / "a_later.csv", 20, first=200)  # sorts before the file that is already planned
    more = dataclasses.replace(job, archive=ArchiveSpec((str(tmp_path / "a_later.csv"), *job.archive.paths)))
    assert run(more).rows_done == 220
    after = everything(job.output.path)
    assert all(after[name][:200] == before[name] for name in before)
    assert [row["report_id"] for row in after["wide"][200:]] == [f"{i:04d}" for i in range(200, 220)]


def test_a_changed_file_task_or_option_is_refused_by_name(job: Job, tmp_path: Path) -> None:
    run(job)
    with pytest.raises(RunChanged, match=r"prompts\.rads_assignment"):
        run(dataclasses.replace(job, tasks=("n_staging",)))
    with pytest.raises(RunChanged, match="overlong"):
        run(dataclasses.replace(job, limits=RunLimits(overlong="cut_end")))
    with open(tmp_path / "archive.csv", "a", encoding="utf-8") as file:
        file.write("0999,more,,,,\n")
    with pytest.raises(RunChanged, match=r"archive\.csv: its bytes changed"):
        run(job)


def test_rows_that_cannot_be_read_fail_alone(job: Job, tmp_path: Path) -> None:
    with open(tmp_path / "archive.csv", "ab") as file:
        file.write(b"0200,short line\n0201,\xff\xfe,bad,,,\n")
    summary = run(job)
    assert (summary.state, summary.exit_code) == ("complete", 3)
    failures = rows(job.output.path, "failures")
    assert {(row["report_id"], row["reason"]) for row in failures} == {
        ("0200", "2 fields where the header has 6"),
        ("0201", "column text: bytes that are not utf-8"),
    }
    assert len(failures) == 2 * len(TASKS)
    assert (job.output.path / "_SUCCESS").exists()
    assert run(job).exit_code == 3


def test_filtered_rows_are_counted_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "archive.csv"
    path.write_text("report_id,text,modality\n1,Clear.,CT\n1,Clear.,MR\n,Clear.,CT\n1,Clear.,CT\n", encoding="utf-8")
    spec = ArchiveSpec((str(path),), filter=Filter(modality=("CT",)))
    summary = run(Job(spec, ("n_staging",), Output(tmp_path / "out"), "fake", Workers(1)))
    assert (summary.rows, summary.rows_done, summary.rows_filtered) == (4, 3, 1)
    assert (summary.missing_ids, summary.duplicate_ids) == (1, 2)
    assert [row["source_row"] for row in rows(tmp_path / "out", "n_staging")] == [0, 2, 3]


def test_rows_that_the_filter_leaves_out_count_nowhere(tmp_path: Path) -> None:
    path, out = tmp_path / "archive.csv", tmp_path / "out"
    path.write_text("report_id,text,modality\n1,Clear.,CT\n2,Clear.,MR\n3,Clear.,MR\n", encoding="utf-8")
    summary = run(
        Job(ArchiveSpec((str(path),), filter=Filter(("CT",))), ("n_staging",), Output(out), "fake", Workers(1))
    )
    assert (summary.rows_this_time, summary.rows_done) == (1, 1)
    assert summary.reports_per_hour == pytest.approx(3600 / summary.seconds)
    status = read_status(out)
    assert (status["rows_done"], status["rows"]) == (1, 1)


def test_an_estimate_takes_the_first_rows_that_there_are_and_the_filter_admits(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("report_id,text,modality\n", encoding="utf-8")
    rows = "".join(f"{i},Clear {i}.,{'MR' if i % 4 else 'CT'}\n" for i in range(40))
    (tmp_path / "b.csv").write_text(f"report_id,text,modality\n{rows}", encoding="utf-8")
    spec = ArchiveSpec((str(tmp_path),), filter=Filter(("CT",)))
    plan = make_plan(Job(spec, ("n_staging",), Output(tmp_path / "out", shard_rows=8), "fake", Workers(1, 1)))
    rate, seconds = estimate(plan)
    assert rate > 0 and seconds == pytest.approx(10 / rate * 3600)
    none = dataclasses.replace(plan.job, archive=dataclasses.replace(spec, filter=Filter(("US",))))
    assert estimate(dataclasses.replace(plan, job=none)) == (0.0, 0.0)


def test_an_archive_without_rows_gives_empty_tables(tmp_path: Path) -> None:
    (tmp_path / "archive.csv").write_text("report_id,text\n", encoding="utf-8")
    spec = ArchiveSpec((str(tmp_path / "archive.csv"),))
    summary = run(Job(spec, ("n_staging", "radiology_ner"), Output(tmp_path / "out"), "fake", Workers(1)))
    assert (summary.state, summary.exit_code, summary.rows_done) == ("complete", 0, 0)
    assert rows(tmp_path / "out", "radiology_ner") == rows(tmp_path / "out", "wide") == []


def test_max_rows_plans_the_first_rows_only(job: Job) -> None:
    summary = run(dataclasses.replace(job, limits=RunLimits(max_rows=37)))
    assert summary.rows_done == 37
    assert len(rows(job.output.path, "wide")) == 37


def test_over_the_limit_is_too_long_or_cut_as_the_job_says(tmp_path: Path) -> None:
    path = tmp_path / "archive.csv"
    path.write_text(f"report_id,text\n1,{'long ' * 50_000}\n2,short\n", encoding="utf-8")
    job = Job(ArchiveSpec((str(path),)), ("n_staging", "radiology_ner"), Output(tmp_path / "out"), "fake", Workers(1))
    assert run(job).exit_code == 0
    assert [row["status"] for row in rows(tmp_path / "out", "n_staging")] == ["too_long", "ok"]
    cut = dataclasses.replace(job, output=Output(tmp_path / "cut"), limits=RunLimits(overlong="cut_end"))
    assert run(cut).tasks["radiology_ner"].shortened_reports == 1
    assert [row["status"] for row in rows(tmp_path / "cut", "radiology_ner")] == ["ok", "ok"]


def test_a_deadline_stops_in_time_and_the_run_goes_on(job: Job) -> None:
    stopped = run(dataclasses.replace(job, limits=RunLimits(max_hours=1e-9)))
    assert (stopped.state, stopped.exit_code, stopped.rows_done) == ("stopped", 3, 0)
    assert not (job.output.path / "_SUCCESS").exists()
    assert run(job).rows_done == 200


def test_the_time_that_planning_takes_counts(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*arguments: Any) -> Plan:
        time.sleep(0.5)
        return make_plan(*arguments)

    monkeypatch.setattr("radlite_batch.run.make_plan", slow)
    assert run(dataclasses.replace(job, limits=RunLimits(max_hours=0.4 / 3600))).rows_done == 0


def test_a_file_that_changes_during_the_run_ends_it_and_its_rows_do_not_count(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, receive = Path(job.archive.paths[0]), Watch.receive
    before = archive.stat()

    def late(watch: Watch, receipt: dict[str, Any]) -> None:
        if watch.rows >= 32:
            os.utime(archive, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        receive(watch, receipt)

    with monkeypatch.context() as patch:
        patch.setattr(Watch, "receive", late)
        with pytest.raises(ArchiveError, match=r"archive\.csv: it was changed while the run read it") as error:
            run(job)
    assert error.value.exit_code == 1 and not (job.output.path / "_SUCCESS").exists()
    assert read_status(job.output.path)["rows_done"] == 32
    assert run(job).state == "complete"  # its bytes are those that were planned


def test_an_output_in_the_archives_folder_is_no_part_of_it(job: Job, tmp_path: Path) -> None:
    inside = dataclasses.replace(job, archive=ArchiveSpec((str(tmp_path),)))
    assert run(inside).rows_done == 200
    assert run(inside).rows_done == 200 and make_plan(inside).manifest.rows == 200
    (tmp_path / "link").symlink_to(tmp_path)
    linked = dataclasses.replace(inside, output=dataclasses.replace(job.output, path=tmp_path / "link" / "out"))
    assert make_plan(linked).manifest.rows == 200


def test_an_output_may_be_named_like_a_glob(job: Job, tmp_path: Path) -> None:
    out = tmp_path / "out[1]*"
    done = run(dataclasses.replace(job, tasks=("n_staging",), output=Output(out, shard_rows=64)))
    assert (done.state, done.duplicate_ids) == ("complete", 0)
    for command in ("report {}", "diff {} {}", "review {}", "export {} --format csv", "export {} --format omop"):
        arguments = [str(out) if word == "{}" else word for word in command.split()]
        assert CliRunner().invoke(main, arguments).exit_code == 0, command


def test_a_run_that_was_killed_has_no_exit_code(job: Job) -> None:
    assert run(dataclasses.replace(job, limits=RunLimits(max_hours=1e-9))).exit_code == 3
    assert read_status(job.output.path)["exit_code"] == 3
    append_log(job.output.path / "_run" / "log.jsonl", {"event": "begin"})
    assert read_status(job.output.path)["exit_code"] is None


def test_a_second_run_on_the_same_output_is_refused(job: Job) -> None:
    lock_path(job.output.path).parent.mkdir(parents=True)
    with locked(lock_path(job.output.path)), pytest.raises(OutputLocked):
        run(job)


def start(job: Job, rows: int) -> "subprocess.Popen[bytes]":
    """The job in a process of its own, over an archive long enough to be interrupted."""
    write_archive(Path(job.archive.paths[0]), rows)
    command = [sys.executable, "-m", "radlite_batch.cli", "run", "--input", job.archive.paths[0], "--pack", "fake"]
    command += ["--tasks", ",".join(job.tasks), "--output", str(job.output.path), "--workers", "2"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for_receipts(out: Path, n: int) -> None:
    end = time.monotonic() + 60
    while len(list((out / "_run" / "receipts").glob("*.json"))) < n:
        assert time.monotonic() < end, "no receipt within a minute"
        time.sleep(0.02)


ROWS = 4000


@pytest.fixture
def long_job(job: Job) -> Job:
    return dataclasses.replace(job, output=Output(job.output.path, shard_rows=256))


def test_kill_nine_of_the_parent_costs_nothing_but_time(long_job: Job, tmp_path: Path) -> None:
    out = long_job.output.path
    for receipts in (1, 4, 9):
        process = start(long_job, ROWS)
        wait_for_receipts(out, receipts)
        workers = descendants(process.pid)
        process.kill()
        process.wait()
        assert not (out / "_SUCCESS").exists()
        end = time.monotonic() + 5
        while any(Path(f"/proc/{pid}").exists() for pid in workers):
            assert time.monotonic() < end, "a worker outlived its parent"
            time.sleep(0.05)
    assert run(long_job).exit_code == 0
    calm = dataclasses.replace(long_job, output=Output(tmp_path / "calm", shard_rows=256))
    run(calm)
    assert everything(out) == everything(tmp_path / "calm")


def test_a_killed_worker_costs_nothing_but_time(long_job: Job) -> None:
    process = start(long_job, ROWS)
    wait_for_receipts(long_job.output.path, 2)
    receipts = [json.loads(p.read_text()) for p in (long_job.output.path / "_run" / "receipts").glob("*.json")]
    os.kill(receipts[0]["pid"], signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()
    table = pl.read_parquet(long_job.output.path / "wide" / "*.parquet")
    assert table["source_row"].sort().to_list() == list(range(ROWS))
    assert not (long_job.output.path / "failures").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_run_with_its_code_and_keeps_what_is_done(long_job: Job, number: int, code: int) -> None:
    process = start(long_job, ROWS)
    wait_for_receipts(long_job.output.path, 2)
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == code
    assert output.startswith(b"stopped: ")
    done = json.loads((long_job.output.path / "_run" / "summary.json").read_text())["rows_done"]
    assert done >= 512
    assert run(long_job).rows_done == ROWS


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_in_the_middle_of_a_destructor_is_not_lost(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    class Dying:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    receive = Watch.receive

    def receive_and_drop(watch: Watch, receipt: dict[str, object]) -> None:
        receive(watch, receipt)
        Dying()

    monkeypatch.setattr(Watch, "receive", receive_and_drop)
    summary = run(job)
    assert (summary.state, summary.exit_code) == ("stopped", 143)
    assert 0 < summary.shards_done < summary.shards
    monkeypatch.undo()
    assert run(job).exit_code == 0
