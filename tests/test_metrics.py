"""`radlite metrics`: what Prometheus parses, where the figures come from, and how the file is written."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner, Result
from prometheus_client.parser import text_string_to_metric_families

from radlite_batch.archive import ArchiveSpec
from radlite_batch.cli import main
from radlite_batch.job import Job, Output, RunLimits, Workers
from radlite_batch.metrics import metrics
from radlite_batch.results import disk
from radlite_batch.results.commit import locked
from radlite_batch.results.manifest import lock_path
from radlite_batch.run import run

TASKS = ("n_staging", "radiology_ner")
Samples = dict[tuple[str, ...], float]


def job_of(folder: Path, max_hours: float = 0.0) -> Job:
    """80 rows in five shards; every eighth text is empty, and the last line is broken."""
    lines = [f"{i},{'' if i % 8 == 7 else f'Zanzibar node {i}'}" for i in range(79)]
    (folder / "reports.csv").write_text("\n".join(["report_id,text", *lines, "80,broken,line"]), encoding="utf-8")
    spec, output = ArchiveSpec((str(folder / "reports.csv"),)), Output(folder / "out", shard_rows=16)
    return Job(spec, TASKS, output, "fake", Workers(1, 1), RunLimits(max_hours=max_hours))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("metrics")
    assert run(job_of(folder)).exit_code == 3  # the broken line
    return folder / "out"


def radlite(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def samples(text: str, output: Path) -> Samples:
    """Values by metric name and labels; every sample names the output, and no two are the same series."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation and family.type == "gauge"
        for sample in family.samples:
            assert sample.name == family.name and sample.labels.pop("output") == str(output)
            series = (sample.name, *sample.labels.values())
            assert series not in found
            found[series] = sample.value
    return found


def test_rows_are_those_of_the_tables(out: Path) -> None:
    found = samples(metrics(out), out)
    for task in TASKS:
        statuses = pl.read_parquet(out / task / "*.parquet")["status"].to_list()
        for status in ("ok", "empty", "too_long", "unparsed", "failed"):
            assert found["radlite_rows", task, status] == statuses.count(status)
    assert found["radlite_rows", "n_staging", "failed"] == 1
    assert (found["radlite_rows_planned",], found["radlite_rows_done",]) == (80, 80)
    assert [found["radlite_state", state] for state in ("complete", "running", "stopped")] == [1, 0, 0]
    assert found["radlite_exit_code",] == 3


def test_times_speed_memory_and_tokens_are_those_of_the_summary(out: Path) -> None:
    found = samples(metrics(out), out)
    summary = json.loads((out / "_run" / "summary.json").read_text())
    for name, key in (("duration_seconds", "seconds"), ("reports_per_hour",) * 2, ("worker_seconds", "busy_seconds")):
        assert found[f"radlite_{name}",] == summary[key] > 0
    tokens = {key[1]: n for key, n in found.items() if key[0] == "radlite_tokens"}
    assert tokens == {kind: n for kind, n in summary["tokens"].items() if kind != "prompts"}
    assert {key[1]: n for key, n in found.items() if key[0] == "radlite_memory_peak_bytes"} == summary["memory"]
    begin, end = found["radlite_begin_timestamp_seconds",], found["radlite_end_timestamp_seconds",]
    assert end - begin == pytest.approx(summary["seconds"], abs=0.002)
    written = (out / "_run" / "summary.json").stat().st_mtime
    assert (out / "_run" / "manifest.json").stat().st_mtime - 1 < begin < end < written + 1


def test_a_finished_run_that_is_started_again_keeps_its_times(out: Path) -> None:
    before = metrics(out)
    assert run(job_of(out.parent)).end == json.loads((out / "_run" / "summary.json").read_text())["end"]
    assert metrics(out) == before


def test_a_stopped_run_and_one_that_goes_on(tmp_path: Path) -> None:
    job = job_of(tmp_path, max_hours=1e-9)
    assert run(job).exit_code == 3
    stopped = samples(metrics(tmp_path / "out"), tmp_path / "out")
    assert (stopped["radlite_state", "stopped"], stopped["radlite_rows_done",]) == (1, 0)
    with locked(lock_path(tmp_path / "out")):
        running = samples(metrics(tmp_path / "out"), tmp_path / "out")
    assert running["radlite_state", "running"] == 1 and running["radlite_exit_code",] != running["radlite_exit_code",]


def test_a_killed_run_has_the_exit_code_that_others_saw(tmp_path: Path) -> None:
    run(job_of(tmp_path, max_hours=1e-9))
    (tmp_path / "out" / "_run" / "summary.json").unlink()  # a killed run writes none
    killed = samples(radlite("metrics", tmp_path / "out", "--exit-code", "KILL").output, tmp_path / "out")
    assert killed["radlite_exit_code",] == 137
    assert killed["radlite_rows_planned",] == 80
    assert ("radlite_end_timestamp_seconds",) not in killed


@pytest.mark.parametrize(("given", "code"), [("0", 0), ("75", 75), ("KILL", 137), ("SIGTERM", 143), ("", 3)])
def test_the_exit_code_as_a_shell_or_systemd_gives_it(out: Path, given: str, code: int) -> None:
    assert samples(radlite("metrics", out, "--exit-code", given).output, out)["radlite_exit_code",] == code


def test_a_run_that_could_not_begin_has_its_exit_code(tmp_path: Path) -> None:
    done = radlite("metrics", tmp_path / "gone", "--output", tmp_path / "x.prom", "--exit-code", "2")
    assert done.exit_code == 0
    assert samples((tmp_path / "x.prom").read_text(), tmp_path / "gone") == {("radlite_exit_code",): 2}


@pytest.mark.parametrize("name", ["_run/manifest.json", "_run/receipts/00001-fake.json"])
def test_of_an_output_that_cannot_be_read_the_exit_code_is_told(out: Path, tmp_path: Path, name: str) -> None:
    bad, target = Path(shutil.copytree(out, tmp_path / "bad")), tmp_path / "x.prom"
    (bad / name).write_bytes((bad / name).read_bytes()[::-1])
    assert radlite("metrics", bad).exit_code == 1
    target.write_text("yesterday's")
    assert radlite("metrics", bad, "--output", target, "--exit-code", "1").exit_code == 0
    assert samples(target.read_text(), bad) == {("radlite_exit_code",): 1}


def test_a_folder_that_may_not_be_read_has_an_exit_code(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(out: Path) -> None:
        raise PermissionError(13, "Permission denied", str(out))

    monkeypatch.setattr("radlite_batch.metrics.read_status", refuse)
    assert samples(metrics(out, 1), out) == {("radlite_exit_code",): 1}
    with pytest.raises(PermissionError):
        metrics(out)


def test_a_damaged_summary_is_as_good_as_none(out: Path, tmp_path: Path) -> None:
    bad = Path(shutil.copytree(out, tmp_path / "bad"))
    (bad / "_run" / "summary.json").write_bytes(b"{")
    found = samples(metrics(bad), bad)
    assert found["radlite_rows_done",] == 80 and ("radlite_end_timestamp_seconds",) not in found
    for command in ("status", "report"):
        assert radlite(command, bad).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gone",), "gone: no run was planned there"),
        (("gone", "--exit-code", ""), "gone: no run was planned there"),
        (("gone", "--exit-code", "three"), "'three' is neither a number nor the name of a signal"),
    ],
)
def test_bad_usage(arguments: tuple[str, ...], message: str) -> None:
    done = radlite("metrics", *arguments)
    assert done.exit_code == 2 and message in done.output


@pytest.fixture
def umask() -> Iterator[None]:
    """A private one; the command sets its own, for its own process."""
    old = os.umask(0o077)
    yield
    os.umask(old)


def test_the_file_is_readable_by_the_exporter_and_holds_no_text(out: Path, tmp_path: Path, umask: None) -> None:
    target = tmp_path / "radlite.prom"
    assert radlite("metrics", out, "--output", target).exit_code == 0
    assert target.stat().st_mode & 0o777 == 0o644
    assert target.read_text() == metrics(out)
    assert "anzibar" not in target.read_text()
    assert (out / "_run" / "summary.json").stat().st_mode & 0o077 == 0


def test_the_file_appears_as_a_whole(out: Path, tmp_path: Path, umask: None, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "radlite.prom"
    target.write_text("yesterday's")
    seen: list[tuple[str, str]] = []

    def rename(source: Path, name: Path) -> None:
        seen.append((source.read_text(), name.read_text()))
        assert source.suffix != ".prom" and source.parent == name.parent  # the exporter reads *.prom
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(disk, "rename", rename)
    done = radlite("metrics", out, "--output", target)
    assert (done.exit_code, done.output) == (1, f"radlite: {target}: Input/output error\n")
    assert seen == [(metrics(out), "yesterday's")] and target.read_text() == "yesterday's"


def test_any_folder_name_is_a_label(out: Path, tmp_path: Path) -> None:
    odd = tmp_path / 'a "b" \\ c\nd é {}'
    odd.symlink_to(out)
    assert samples(metrics(odd), odd)["radlite_rows_done",] == 80
    undecodable = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    undecodable.symlink_to(out)
    assert samples(metrics(undecodable), tmp_path / "?")["radlite_rows_done",] == 80
