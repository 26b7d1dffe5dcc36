"""The command line: help, exit codes, one-line errors, and what it prints."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from radlite_batch.cli import main

COMMANDS = (
    "run", "plan", "retry", "status", "verify", "report", "diff", "metrics", "tasks", "packs", "predict", "doctor",
    "bench", "completion", "reference", "review", "export",
)  # fmt: skip


def radlite(*arguments: str, text: str | None = None) -> Result:
    return CliRunner().invoke(main, list(arguments), input=text)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "reports.csv"
    path.write_text("report_id,text\n0012,Clear lungs.\n0013,\n", encoding="utf-8")
    return path


def test_every_command_has_help_with_an_example() -> None:
    assert set(main.commands) == set(COMMANDS)
    for name in COMMANDS:
        shown = radlite(name, "--help")
        assert shown.exit_code == 0
        assert f"Example: radlite {name}" in shown.output or f"| radlite {name}" in shown.output


def test_run_without_a_job_file(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = radlite(
        "run", "--input", str(archive), "--tasks", "n_staging,m_staging", "--output", str(out), "--pack", "fake"
    )
    assert done.exit_code == 0, done.output
    assert "complete: 2 of 2 rows" in done.output
    assert "1 ok, 1 empty" in done.output
    status = radlite("status", str(out), "--json")
    assert json.loads(status.output)["tasks"]["n_staging"] == {"ok": 1, "empty": 1}
    assert radlite("status", str(out)).output.startswith("complete: 2 of 2 rows")


def test_flags_override_the_job_file(archive: Path, tmp_path: Path) -> None:
    job = tmp_path / "job.toml"
    job.write_text(
        '[archive]\npaths = ["reports.csv"]\n[tasks]\nrun = ["n_staging"]\n[output]\npath = "a"\n',
        encoding="utf-8",
    )
    arguments = ("--pack", "fake", "--output", str(tmp_path / "b"), "--limit", "1", "--tasks", "m_staging")
    assert radlite("run", str(job), *arguments).exit_code == 0
    assert (tmp_path / "b" / "m_staging").is_dir()
    assert not (tmp_path / "a").exists()


def test_plan_writes_nothing_and_explains(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shown = radlite("plan", "--input", str(archive), "--tasks", "n_staging", "--output", str(out), "--pack", "fake")
    assert shown.exit_code == 0
    for part in ("reports.csv: 2 rows", "shards    1 of at most", "process(es) x", "time      about"):
        assert part in shown.output
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run",), "without a job file --input, --tasks, --output must be given"),
        (("run", "gone.toml"), "gone.toml: No such file"),
        (("run", "--input", "gone.csv", "--tasks", "n_staging", "--output", "o"), "gone.csv: no CSV or Parquet file"),
        (("run", "--input", "x", "--tasks", "n_stagin", "--output", "o"), "did you mean 'n_staging'?"),
        (("tasks", "x"), "unknown task 'x'"),
        (("status", "gone"), "gone: no run was planned there"),
        (("predict", "--task", "n_staging", "--text", "x", "--pack", "smoll"), "did you mean 'smol'?"),
        (("predict", "--task", "n_staging", "--text", "x", "--field", "premis=x"), "did you mean 'premise'?"),
    ],
)
def test_bad_usage_is_one_line_and_exits_2(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "radlite_batch.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_missing_column_is_named_and_leaves_no_run_behind(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("--tasks", "n_staging", "--output", str(out), "--pack", "fake", "--text-column", "txt")
    failed = radlite("run", "--input", str(archive), *arguments)
    assert failed.exit_code == 2
    assert "no column 'txt'; did you mean 'text'?" in failed.output
    assert not out.exists()


def test_predict_answers_one_report_from_standard_input() -> None:
    done = radlite("predict", "--task", "n_staging,radiology_ner", "--pack", "fake", text="Small left effusion.")
    answers = json.loads(done.stdout)
    assert answers["n_staging"]["stage"] in {"N0", "N1", "N2", "N3", "NX"}
    for entity in answers["radiology_ner"]["entities"]:
        assert "Small left effusion."[entity["start"] : entity["end"]] == entity["text"]


def test_tasks_and_packs_are_listed() -> None:
    assert len(radlite("tasks").output.splitlines()) == 9
    assert "N0 | N1 | N2 | N3 | NX" in radlite("tasks", "n_staging").output
    listed = radlite("packs").output
    assert "smol" in listed and "radlite-qwen" in listed


def test_a_named_pack_that_is_not_usable_is_an_error() -> None:
    assert radlite("packs", "--pack", "fake").exit_code == 0
    named = radlite("packs", "--pack", "smoll")
    assert named.exit_code == 2 and "not usable: no pack 'smoll'" in named.output


def test_doctor_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RADLITE_CACHE", str(tmp_path))
    good = radlite("doctor", "--pack", "fake")
    assert good.exit_code == 0 and "MISS" not in good.output
    bad = radlite("doctor", "--pack", "radlite-qwen")
    assert bad.exit_code == 2 and "MISS" in bad.output and "prompts" in bad.output
