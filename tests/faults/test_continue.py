"""A run goes on only as what it was; failed rows can be tried again; deadlines and signals leave it in order."""

import dataclasses
import datetime
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from small import contents, doom, in_this_process, small_job, visible, write_archive

from radlite_batch import plan as planning
from radlite_batch import run as main_path
from radlite_batch import worker
from radlite_batch.archive import Filter
from radlite_batch.cli import main
from radlite_batch.errors import OutputError, RunChanged
from radlite_batch.job import Job, Output, RunLimits
from radlite_batch.pack import Pack, load_pack
from radlite_batch.results.commit import commit_json, is_locked, locked, read_json
from radlite_batch.results.earlier import read_earlier
from radlite_batch.results.manifest import lock_path, read_manifest
from radlite_batch.results.tables import staging_folder
from radlite_batch.run import Stopped, retry, run
from radlite_batch.tasks.base import Choice, Column
from radlite_batch.tasks.registry import TASKS
from radlite_batch.verify import verify
from radlite_batch.watch import Watch, _deadline

ROWS = 10


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    in_this_process(monkeypatch)
    return small_job(write_archive(tmp_path / "archive.csv", ROWS), tmp_path / "out")


def archive(job: Job, **changes: Any) -> Job:
    return dataclasses.replace(job, archive=dataclasses.replace(job.archive, **changes))


def text_under_the_same_id(job: Job) -> Job:
    path = Path(job.archive.paths[0])
    path.write_bytes(path.read_bytes().replace(b"Small left effusion", b"Large left effusion", 1))
    return job


def moved(job: Job) -> Job:
    path = Path(job.archive.paths[0])
    return archive(job, paths=(str(path.rename(path.with_stem("moved"))),))


def pack(job: Job, old: str, new: str) -> Job:
    """The job with an edited copy of its pack."""
    path = job.output.path.with_name("edited.toml")
    path.write_text(load_pack("fake").path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    return dataclasses.replace(job, pack=str(path))


def limits(job: Job, **changes: Any) -> Job:
    return dataclasses.replace(job, limits=RunLimits(**changes))


CALIBRATED = "[calibration]\nn_staging = 2.0\n[routes]"
CHANGED_JOBS: dict[str, Callable[[Job], Job]] = {
    r"archive\.csv: its bytes changed": text_under_the_same_id,
    r"archive\.csv: planned in .*, but no longer in the archive": moved,
    r"another archive\.text": lambda job: archive(job, text=("text", "text")),
    r"another archive\.encoding \(utf-8, now latin-1\)": lambda job: archive(job, encoding="latin-1"),
    r"another archive\.filter\.modality": lambda job: archive(job, filter=Filter(modality=("CT",))),
    r"another shard_rows \(4, now 5\)": lambda job: dataclasses.replace(job, output=Output(job.output.path, True, 5)),
    r"another max_rows \(nothing, now 4\)": lambda job: limits(job, max_rows=4),
    r"another overlong \(too_long, now cut_end\)": lambda job: limits(job, overlong="cut_end"),
    r"another prompts\.radiology_ner": lambda job: dataclasses.replace(job, tasks=("n_staging",)),
    r"another prompts\.m_staging": lambda job: dataclasses.replace(job, tasks=("m_staging", *job.tasks)),
    r"another pack \(fake, now other\)": lambda job: pack(job, 'name = "fake"', 'name = "other"'),
    r"another calibration\.n_staging \(nothing, now 2\.0\)": lambda job: pack(job, "[routes]", CALIBRATED),
    r"another models\.fake\.context \(65536, now 32768\)": lambda job: pack(job, "65536", "32768"),
}


@pytest.mark.parametrize("difference", CHANGED_JOBS)
def test_a_job_that_changed_is_refused_by_name(difference: str, job: Job) -> None:
    run(job)
    before = contents(job.output.path)
    with pytest.raises(RunChanged, match=difference) as refused:
        run(CHANGED_JOBS[difference](job))
    assert "use another output folder" in str(refused.value)
    assert contents(job.output.path) == before


OTHER = '[models.other]\nbase = "fake"\nsha256 = ""\ncontext = 65536\n\n[routes]\n'


def test_another_model_for_a_task_is_refused_by_name(job: Job) -> None:
    """The models are the same two, and only their tasks change."""
    run(pack(job, "[routes]\n", f'{OTHER}n_staging = "other"\n'))
    before = contents(job.output.path)
    swapped = pack(job, "[routes]\n", f'{OTHER}radiology_ner = "other"\n')
    for again in (lambda: run(swapped), lambda: retry(job.output.path)):
        with pytest.raises(RunChanged, match=r"another routes\.n_staging \(other, now fake\)"):
            again()
    assert contents(job.output.path) == before


def other_models(patch: pytest.MonkeyPatch, **changes: Any) -> None:
    prepare = Pack.prepare

    def changed(self: Pack, *arguments: Any) -> Any:
        file, prepared = prepare(self, *arguments)
        return dataclasses.replace(file, **changes), prepared

    patch.setattr(Pack, "prepare", changed)


def other_question(patch: pytest.MonkeyPatch) -> None:
    task = TASKS["n_staging"]
    choice = task.questions[0].output
    assert isinstance(choice, Choice)
    turned = dataclasses.replace(choice, codes=choice.codes[::-1])
    patch.setattr(type(task), "questions", (dataclasses.replace(task.questions[0], output=turned),))


def other_columns(patch: pytest.MonkeyPatch) -> None:
    task = TASKS["n_staging"]
    patch.setattr(type(task), "columns", (*task.columns, Column("certainty", "string", "how sure the text sounds")))


CHANGED_PROGRAMS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    r"another version": lambda patch: patch.setattr(planning, "version", lambda package: "9.9"),
    r"another schema": lambda patch: patch.setattr(planning, "SCHEMA_VERSION", "99"),
    r"another prompts\.n_staging": other_question,
    r"another columns\.n_staging": other_columns,
    r"another models\.fake\.sha256": lambda patch: other_models(patch, sha256="0" * 64),
    r"another models\.fake\.adapter \(, now 1{12}": lambda patch: other_models(patch, adapter_sha256="1" * 64),
    r"another models\.fake\.scale \(1\.0, now 0\.5\)": lambda patch: other_models(patch, scale=0.5),
}


@pytest.mark.parametrize("difference", CHANGED_PROGRAMS)
def test_a_program_or_model_that_changed_is_refused_by_name(
    difference: str, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(job)
    before = contents(job.output.path)
    CHANGED_PROGRAMS[difference](monkeypatch)
    for again in (lambda: run(job), lambda: retry(job.output.path)):
        with pytest.raises(RunChanged, match=difference):
            again()
    assert contents(job.output.path) == before


def test_receipts_without_their_manifest_are_not_gone_on_with(job: Job) -> None:
    run(job)
    (job.output.path / "_run" / "manifest.json").unlink()
    with pytest.raises(OutputError, match=r"manifest\.json: gone, and .* holds receipts"):
        run(job)


def test_files_are_added_whenever_the_run_stands(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Path(job.archive.paths[0])
    stop_after(monkeypatch, 1)
    assert run(job).exit_code == 3
    names = [first]
    for i, rows in enumerate((3, 0, 6)):
        names.insert(0, write_archive(tmp_path / f"added{i}.csv", rows, first=100 * (i + 1)))
        stop_after(monkeypatch, 2)
        run(archive(job, paths=tuple(map(str, names))))
    monkeypatch.setattr(Watch, "go_on", lambda self: True)
    assert run(archive(job, paths=tuple(map(str, names)))).exit_code == 0
    planned = (first, *names[-2::-1])
    whole = dataclasses.replace(job, output=Output(tmp_path / "whole", shard_rows=4))
    run(archive(whole, paths=tuple(map(str, planned))))
    assert visible(job.output.path) == visible(tmp_path / "whole")
    assert len(visible(job.output.path)["wide"]) == ROWS + 9
    assert verify(job.output.path).exit_code == 0


def test_what_is_damaged_or_gone_is_made_again(job: Job) -> None:
    run(job)
    out = job.output.path
    expected = visible(out)
    for name in ("n_staging/part-00001.parquet", "wide/part-00000.parquet", "_run/receipts/00002-fake.json",
                 "_run/finished/00000.json", "_run/summary.json", "_SUCCESS"):  # fmt: skip
        (out / name).unlink()
        assert run(job).exit_code == 0
        assert (visible(out), verify(out).findings) == (expected, []), name
    receipt = out / "_run" / "receipts" / "00001-fake.json"
    receipt.write_bytes(receipt.read_bytes().replace(b"n_staging", b"m_staging"))
    assert run(job).exit_code == 0
    assert (visible(out), verify(out).findings) == (expected, [])


def asked_rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows that are answered from here on."""
    rows: list[int] = []
    answer = worker.answer_reports

    def noting(engine: Any, setting: Any, tasks: Any, reports: Any, doomed: Any) -> Any:
        rows.extend(report.source_row for report in reports)
        return answer(engine, setting, tasks, reports, doomed)

    monkeypatch.setattr(worker, "answer_reports", noting)
    return rows


def test_retry_answers_the_failed_rows_and_no_others(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_archive(Path(job.archive.paths[0]), ROWS, broken=(6,))
    calm = dataclasses.replace(job, output=Output(tmp_path / "calm", shard_rows=4))
    run(calm)
    out = job.output.path
    doom(monkeypatch, {1, 3})
    assert run(job).exit_code == 3
    assert [row["source_row"] for row in visible(out)["failures"]] == [1, 1, 3, 3, 6, 6]
    untouched = (out / "n_staging" / "part-00002.parquet").stat().st_mtime_ns
    rows = asked_rows(monkeypatch)
    doom(monkeypatch, {3})
    assert retry(out).exit_code == 3
    assert rows == [1, 3, 6]
    assert [row["source_row"] for row in visible(out)["failures"]] == [3, 3, 6, 6]
    assert verify(out).findings == []
    doom(monkeypatch, set())
    summary = retry(out)
    assert (summary.exit_code, summary.tasks["n_staging"].status["failed"]) == (3, 1)
    assert rows == [1, 3, 6, 3, 6]
    assert visible(out) == visible(calm.output.path)
    assert not (out / "failures" / "part-00000.parquet").exists()
    assert (out / "n_staging" / "part-00002.parquet").stat().st_mtime_ns == untouched
    assert (verify(out).findings, verify(out).complete) == ([], True)


def damage(part: Path) -> None:
    """Leaves its size."""
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)


def test_retry_makes_damaged_parts_again(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    write_archive(Path(job.archive.paths[0]), ROWS, broken=(1,))
    run(job)
    out = job.output.path
    expected, rows = visible(out), asked_rows(monkeypatch)
    for name, again in (
        ("n_staging/part-00000.parquet", [0, 1, 2, 3]),  # with a failed row in it
        ("radiology_ner/part-00001.parquet", [4, 5, 6, 7, 1]),
        ("wide/part-00002.parquet", [1]),
    ):
        damage(out / name)
        assert "radlite retry" in verify(out).findings[0]
        assert retry(out).exit_code == 3
        assert (sorted(rows), verify(out).findings, visible(out)) == (sorted(again), [], expected), name
        rows.clear()


def test_a_damaged_part_that_a_stopped_retry_found_is_made_again_by_a_run(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(job)
    out = job.output.path
    expected = visible(out)
    damage(out / "n_staging" / "part-00001.parquet")
    monkeypatch.setattr(Watch, "go_on", lambda self: False)
    assert retry(out).state == "stopped"
    monkeypatch.setattr(Watch, "go_on", lambda self: True)
    assert run(job).exit_code == 0
    assert (visible(out), verify(out).findings) == (expected, [])


def test_of_a_damaged_part_no_row_stays(job: Job) -> None:
    run(job)
    manifest = read_manifest(job.output.path)
    assert manifest is not None
    item = dataclasses.replace(manifest.items[0], only=(1,))
    assert read_earlier(job.output.path, item) is not None
    damage(job.output.path / "n_staging" / "part-00000.parquet")
    assert read_earlier(job.output.path, item) is None


def test_a_retried_item_says_when_it_ended(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    write_archive(Path(job.archive.paths[0]), ROWS)
    doom(monkeypatch, {1})
    run(job)
    [path] = [p for p in (job.output.path / "_run" / "receipts").iterdir() if read_json(p)["failures"]]
    receipt = read_json(path)
    del receipt["sha256"]
    receipt["begin"] -= 1000  # as if it had taken so long
    receipt["seconds"]["infer"] += 1000
    commit_json(path, staging_folder(job.output.path), receipt)
    doom(monkeypatch, set())
    begin = time.time()
    retry(job.output.path)
    receipt = read_json(path)
    assert receipt["seconds"]["infer"] > 1000
    assert begin < receipt["begin"] + sum(receipt["seconds"].values()) <= time.time()


def test_retry_without_failed_rows_changes_nothing(job: Job) -> None:
    run(job)
    before = contents(job.output.path)
    assert retry(job.output.path).exit_code == 0
    assert contents(job.output.path) == before


def test_retry_needs_no_job_file_and_goes_on_with_what_was_left(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doom(monkeypatch, {1})
    stop_after(monkeypatch, 1)
    run(job)
    doom(monkeypatch, set())
    monkeypatch.setattr(Watch, "go_on", lambda self: True)
    monkeypatch.chdir("/")
    done = CliRunner().invoke(main, ["retry", str(job.output.path)])
    assert done.exit_code == 0 and done.output.startswith(f"complete: {ROWS} of {ROWS} rows")
    run(dataclasses.replace(job, output=Output(tmp_path / "calm", shard_rows=4)))
    assert visible(job.output.path) == visible(tmp_path / "calm")


def test_a_retry_that_stops_is_gone_on_with(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    doom(monkeypatch, {1, 5, 9})
    run(job)
    doom(monkeypatch, set())
    stop_after(monkeypatch, 1)
    stopped = retry(job.output.path)
    assert (stopped.state, stopped.exit_code) == ("stopped", 3)
    assert not (job.output.path / "_SUCCESS").exists()
    monkeypatch.setattr(Watch, "go_on", lambda self: True)
    assert run(job).exit_code == 3  # what failed is an outcome too
    assert retry(job.output.path).exit_code == 0
    run(dataclasses.replace(job, output=Output(tmp_path / "calm", shard_rows=4)))
    assert visible(job.output.path) == visible(tmp_path / "calm")


def stop_after(monkeypatch: pytest.MonkeyPatch, items: int) -> None:
    """The deadline comes once so many work items were begun."""
    left = iter([True] * items)
    monkeypatch.setattr(Watch, "go_on", lambda self: next(left, False))


def test_a_deadline_commits_what_is_done_and_the_run_goes_on_the_next_day(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(dataclasses.replace(job, output=Output(tmp_path / "calm", shard_rows=4)))
    for done in (4, 8, 10):
        stop_after(monkeypatch, 1)
        summary = run(job)
        assert summary.rows_done == done
        assert (summary.state, summary.exit_code) == (("stopped", 3) if done < ROWS else ("complete", 0))
        assert verify(job.output.path).exit_code == summary.exit_code
    assert visible(job.output.path) == visible(tmp_path / "calm")


def test_a_command_stops_at_its_max_hours_and_goes_on_without(tmp_path: Path) -> None:
    """On the clock, with real processes: how far it comes depends on the machine, and what it leaves does not."""
    rows, out = 10_000, tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "radlite_batch.cli",
        "run",
        "--pack",
        "fake",
        "--output",
        str(out),
        "--workers",
        "1",
    ]
    command += ["--input", str(write_archive(tmp_path / "archive.csv", rows)), "--tasks", "n_staging,radiology_ner"]
    done = 0
    for seconds in (1, 2, 4, 8, 16, 32):  # a worker's start alone may take some
        stopped = subprocess.run([*command, "--max-hours", str(seconds / 3600)], capture_output=True, text=True)
        assert stopped.returncode == 3 and stopped.stdout.startswith("stopped: "), stopped.stderr
        assert not (out / "_SUCCESS").exists() and verify(out).exit_code == 3
        if done := len(visible(out).get("wide", [])):
            break
    assert 0 < done < rows
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert [row["source_row"] for row in visible(out)["wide"]] == list(range(rows))
    assert verify(out).exit_code == 0


EVENING = datetime.datetime(2024, 12, 31, 22, 30)


@pytest.mark.parametrize(
    ("given", "end"),
    [
        (RunLimits(), None),
        (RunLimits(until="23:15"), datetime.datetime(2024, 12, 31, 23, 15)),
        (RunLimits(until="06:00"), datetime.datetime(2025, 1, 1, 6, 0)),
        (RunLimits(until="22:30"), datetime.datetime(2025, 1, 1, 22, 30)),
        (RunLimits(max_hours=1.5), datetime.datetime(2025, 1, 1, 0, 0)),
        (RunLimits(until="06:00", max_hours=1.5), datetime.datetime(2025, 1, 1, 0, 0)),
        (RunLimits(until="23:00", max_hours=1.5), datetime.datetime(2024, 12, 31, 23, 0)),
    ],
)
def test_the_earlier_limit_is_the_deadline(given: RunLimits, end: datetime.datetime | None) -> None:
    assert _deadline(given, EVENING) == end


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_during_planning_ends_with_its_code_too(
    number: int, code: int, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main_path, "make_plan", lambda *arguments: os.kill(os.getpid(), number))
    with pytest.raises(Stopped):
        run(job)
    arguments = ["run", "--input", job.archive.paths[0], "--tasks", "n_staging", "--output", str(job.output.path)]
    assert CliRunner().invoke(main, arguments).exit_code == code
    assert not job.output.path.exists()


def test_a_second_run_exits_75_before_it_looks_at_the_job(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    run(job)
    monkeypatch.setattr(main_path, "make_plan", lambda *arguments: pytest.fail("it planned"))
    arguments = ["run", "--input", job.archive.paths[0], "--tasks", "n_staging", "--output", str(job.output.path)]
    with locked(lock_path(job.output.path)):
        for command in (arguments, ["retry", str(job.output.path)], ["verify", str(job.output.path)]):
            assert CliRunner().invoke(main, command).exit_code == 75


def test_the_lock_of_a_dead_process_is_free(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = (
        "import sys, time; from pathlib import Path; from radlite_batch.results.commit import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    assert is_locked(path)
    holder.kill()
    holder.wait()
    assert not is_locked(path)
