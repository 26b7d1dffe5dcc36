"""The ready jobs: they plan, run and are queried as their heads say, and are started as cron and systemd start them."""

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import duckdb
import polars as pl
import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

from radlite_batch.cli import main
from radlite_batch.job import load_job
from radlite_batch.metrics import metrics
from radlite_batch.results.commit import locked
from radlite_batch.results.manifest import lock_path

ROOT = Path(__file__).parents[1]
JOBS, SAMPLE = ROOT / "jobs", ROOT / "sample_data"
UNITS = sorted((JOBS / "systemd").iterdir())
RADLITE = Path(sys.executable).parent / "radlite"
NAME = "nightly-staging"


def comment(path: Path) -> list[str]:
    """The lines that stand indented in a job's head: commands and the query."""
    return [line[4:] for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#   ")]


@pytest.mark.parametrize("path", sorted(JOBS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_job_plans_and_runs(path: Path, tmp_path: Path) -> None:
    archive, out = str(SAMPLE / "reports.parquet"), tmp_path / "out"
    flags = ["--input", archive, "--output", str(out), "--pack", "fake", "--limit", "60", "--workers", "1"]
    planned = CliRunner().invoke(main, ["plan", str(path), "--no-measure", *flags])
    assert planned.exit_code == 0 and "reports.parquet: 60 rows" in planned.output
    assert not out.exists()
    done = CliRunner().invoke(main, ["run", str(path), *flags])
    assert done.exit_code == 0, done.output
    assert {folder.name for folder in out.iterdir() if folder.is_dir()} == {*load_job(path).tasks, "wide", "_run"}
    query = "\n".join(line for line in comment(path) if not line.startswith("radlite")).replace("OUT", str(out))
    assert not query if path.stem == "demo" else duckdb.sql(query).fetchall()


def test_every_command_in_a_job_is_one() -> None:
    lines = [line for path in JOBS.glob("*.toml") for line in comment(path) if line.startswith("radlite")]
    assert len(lines) > 8
    for line in lines:
        _, name, *arguments = shlex.split(line)
        main.commands[name].make_context(name, arguments)


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze, of Debian's package systemd"
)
def test_the_units_pass_verify(tmp_path: Path) -> None:
    def verify(folder: Path) -> tuple[int, str]:
        units = [str(path) for path in sorted(folder.iterdir())]
        done = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True)
        return done.returncode, "\n".join(line for line in done.stderr.splitlines() if "radlite" in line)

    assert verify(JOBS / "systemd") == (0, "")
    shutil.copytree(JOBS / "systemd", tmp_path / "misspelt")
    unit = tmp_path / "misspelt" / "radlite@.service"
    unit.write_text(unit.read_text().replace("ProtectHome", "ProtectHouse").replace("oneshot", "onceshot"))
    assert "ProtectHouse" in verify(tmp_path / "misspelt")[1]


def test_the_units_say_what_the_machine_may_count_on() -> None:
    service, timer = (
        (JOBS / "systemd" / name).read_text(encoding="utf-8").splitlines()
        for name in ("radlite@.service", "radlite@.timer")
    )
    assert {"Type=oneshot", "Nice=10", "IOSchedulingClass=idle", "MemoryMax=80%"} <= set(service)
    assert "Persistent=true" in timer


class Site:
    """A machine that the files in jobs/ were put onto, and edited: its folders etc, archive, var and prom."""

    def __init__(self, path: Path):
        self.path, self.out = path, path / "var" / NAME
        for name in ("etc", "archive", "var", "prom", "home"):
            (path / name).mkdir()
        self.edits = {
            "/opt/radlite/bin/radlite": str(RADLITE),
            "/etc/radlite": str(path / "etc"),
            "/var/lib/radlite": str(path / "var"),
            "/var/lib/prometheus/node-exporter": str(path / "prom"),
            "/srv/radiology/reports": str(path / "archive"),
            'name = "smol"': 'name = "fake"\n[workers]\nprocesses = 1',
        }

    def edited(self, path: Path) -> str:
        text = path.read_text(encoding="utf-8")
        for old, new in self.edits.items():
            text = text.replace(old, new)
        return text

    def write_job(self, limit: str) -> None:
        text = self.edited(JOBS / f"{NAME}.toml").replace('until = "06:00"', limit)
        assert limit in text
        (self.path / "etc" / f"{NAME}.toml").write_text(text, encoding="utf-8")

    def add_export(self, name: str) -> None:
        shutil.copy(SAMPLE / "reports.parquet", self.path / "archive" / f"{name}.parquet")

    @property
    def exit_code(self) -> float:
        """What the metrics say of the last run."""
        text = (self.path / "prom" / f"radlite-{NAME}.prom").read_text(encoding="utf-8")
        found = {family.name: family.samples for family in text_string_to_metric_families(text)}
        return float(found["radlite_exit_code"][0].value)

    @property
    def summary(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.out / "_run" / "summary.json").read_text(encoding="utf-8"))
        return document


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def started(command: list[str], site: Site, environment: dict[str, str], umask: int) -> int:
    """The exit code of a command without a terminal, with this environment and no other, in the root folder."""
    base = {"HOME": str(site.path / "home"), "LOGNAME": "radlite", "SHELL": "/bin/sh", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        command, env=base | environment, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True,
        start_new_session=True, umask=umask,
    )  # fmt: skip
    assert "Traceback" not in done.stderr and "\r" not in done.stderr, done.stderr
    return done.returncode


def by_cron(site: Site) -> None:
    """Runs the line of the crontab as cron does: with sh, and the crontab's own assignments."""
    lines = [line for line in site.edited(JOBS / "crontab").splitlines() if line and not line.startswith("#")]
    *assignments, line = lines
    *times, command = line.split(maxsplit=5)
    assert len(times) == 5 and "%" not in command  # which cron would take for a line's end
    assert started(["/bin/sh", "-c", command], site, dict(line.split("=", 1) for line in assignments), 0o022) == 0


def by_systemd(site: Site) -> None:
    """Runs ExecStart, then each ExecStopPost, with the specifiers and variables that systemd puts in."""
    text = site.edited(JOBS / "systemd" / "radlite@.service")
    for specifier, path in (("%i", NAME), ("%E/radlite", "etc"), ("%S/radlite", "var"), ("%C/radlite", "cache")):
        text = text.replace(specifier, path if specifier == "%i" else str(site.path / path))
    environment = dict(re.findall(r"^Environment=(\w+)=(.*)$", text, re.MULTILINE))

    def execute(key: str) -> list[int]:
        codes = []
        for line in re.findall(rf"^{key}=-?(/.*)$", text, re.MULTILINE):
            words = [re.sub(r"\$\{(\w+)\}", lambda name: environment[name[1]], word) for word in line.split()]
            assert "%" not in "".join(words)
            codes.append(started(words, site, environment, 0o077))
        return codes

    [code] = execute("ExecStart")
    environment["EXIT_STATUS"] = str(code)
    assert execute("ExecStopPost") == [0, 0 if site.out.exists() else 2]


def test_three_nights_under_cron(site: Site) -> None:
    site.add_export("2026-11-01")
    site.write_job("max_hours = 1e-9")
    by_cron(site)  # the deadline comes before anything is done
    assert site.exit_code == site.summary["exit_code"] == 3
    assert (site.summary["state"], site.summary["rows_done"]) == ("stopped", 0)

    with locked(lock_path(site.out)):
        by_cron(site)
    assert site.exit_code == 75

    site.write_job("max_hours = 5")
    by_cron(site)
    assert site.exit_code == site.summary["exit_code"] == 0
    assert (site.summary["state"], site.summary["rows_done"]) == ("complete", 216)
    first = {path: path.read_bytes() for path in site.out.rglob("*.parquet")}

    site.add_export("2026-11-02")
    by_cron(site)
    assert site.exit_code == 0 and site.summary["rows_done"] == 432
    assert {path: path.read_bytes() for path in first} == first
    assert "432" in (site.out / "_run" / "report.html").read_text(encoding="utf-8")
    assert pl.read_parquet(site.out / "n_staging" / "*.parquet")["source_row"].to_list() == list(range(432))


def test_systemd_starts_it_and_tells_how_it_ended(site: Site) -> None:
    site.add_export("2026-11-01")
    by_systemd(site)  # there is no job file yet
    assert site.exit_code == 2 and not site.out.exists()
    site.write_job("max_hours = 5")
    by_systemd(site)
    assert site.exit_code == 0 and site.summary["rows_done"] == 216
    assert {path.stat().st_mode & 0o077 for path in site.out.rglob("*")} == {0}
    assert (site.out / "_run" / "report.html").is_file()
    metrics_file = site.path / "prom" / f"radlite-{NAME}.prom"
    assert metrics_file.stat().st_mode & 0o777 == 0o644 and metrics_file.read_text() == metrics(site.out)


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], dict[str, str]]]:
    """Loads a DAG file without Airflow; gives the shell commands of its tasks."""
    commands: dict[str, str] = {}

    class BashOperator:
        def __init__(self, task_id: str, bash_command: str):
            commands[task_id] = bash_command

        def __rshift__(self, after: "BashOperator") -> None:
            assert list(commands) == ["run", "verify"]

    for name in ("", ".sdk", ".providers", ".providers.standard", ".providers.standard.operators"):
        monkeypatch.setitem(sys.modules, f"airflow{name}", ModuleType(f"airflow{name}"))
    bash = ModuleType("bash")
    bash.BashOperator = BashOperator  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "airflow.providers.standard.operators.bash", bash)
    sys.modules["airflow.sdk"].DAG = lambda **options: nullcontext()  # type: ignore[attr-defined]

    def load(path: Path) -> dict[str, str]:
        runpy.run_path(str(path))
        return commands

    yield load


@pytest.mark.parametrize(("code", "succeeds"), [(0, True), (1, False), (2, False), (3, True), (75, False)])
def test_an_airflow_task_succeeds_where_the_next_night_goes_on(
    site: Site, airflow: Callable[[Path], dict[str, str]], code: int, succeeds: bool
) -> None:
    """A program that ends as told, and writes down its arguments, stands in for radlite."""
    program, calls = site.path / "radlite", site.path / "calls"
    program.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n[ "$1" = metrics ] || exit {code}\n')
    program.chmod(0o755)
    site.edits["/opt/radlite/bin/radlite"] = str(program)
    (site.path / "dag.py").write_text(site.edited(JOBS / "airflow_dag.py"), encoding="utf-8")
    for command in airflow(site.path / "dag.py").values():
        ended = started(["/bin/bash", "-c", command], site, {}, 0o022)
        assert (ended == 0) == succeeds
    job, out = site.path / "etc" / f"{NAME}.toml", site.out
    assert calls.read_text().splitlines() == [
        f"run {job} --output {out}",
        f"metrics {out} --output {site.path}/prom/radlite-{NAME}.prom --exit-code {code}",
        f"report {out}",
        f"verify {out}",
    ]


def test_alerts_and_documents_name_metrics_that_are_written(tmp_path: Path) -> None:
    flags = [
        "--input",
        str(SAMPLE / "reports.csv"),
        "--pack",
        "fake",
        "--limit",
        "1",
        "--output",
        str(tmp_path / "out"),
    ]
    assert CliRunner().invoke(main, ["run", str(JOBS / f"{NAME}.toml"), *flags]).exit_code == 0
    written = {family.name for family in text_string_to_metric_families(metrics(tmp_path / "out"))}
    documented = re.findall(r"\bradlite_\w+", (JOBS / "README.md").read_text(encoding="utf-8"))
    assert set(documented) == written
    alerts = re.findall(r"\bradlite_\w+", (JOBS / "prometheus-rules.yml").read_text(encoding="utf-8"))
    assert alerts and set(alerts) <= written


def test_the_table_of_files_is_the_folder() -> None:
    table = (JOBS / "README.md").read_text(encoding="utf-8").split("## ")[0]
    named = re.findall(r"`([\w.-]+)/?`", re.sub(r"\| [^`|]* \|$", "", table, flags=re.MULTILINE))
    assert set(os.listdir(JOBS)) - {"README.md"} <= set(named)
