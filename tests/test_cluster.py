"""A run over a real Dask scheduler and two Dask workers: what one host promises holds on several.

Scheduler, workers and run are processes of this host that speak over loopback; the output folder is the one they share.
"""

import csv
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from radlite_batch import cluster as cluster_module
from radlite_batch import node
from radlite_batch.archive import ArchiveSpec
from radlite_batch.errors import JobError, OutputError, PackError, RadliteError, UsageError
from radlite_batch.job import Job, Output, Workers
from radlite_batch.machine import descendants
from radlite_batch.plan import make_plan
from radlite_batch.run import retry, run
from radlite_batch.watch import Watch

TASKS = ("n_staging", "radiology_ner")
CANARY = "Zyxwvut"  # stands in texts, and in nothing that Dask sees
SECONDS = 300  # until something that has to happen counts as not happening


class Cluster:
    """`dask scheduler` and `dask worker` processes; what they print lands in files of `folder`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._start("scheduler", "scheduler", "--port", "0", "--scheduler-file", str(folder / "scheduler.json"))
        self.address = self.wait(self._written_address)

    def add_worker(self, name: str, **environment: str) -> None:
        scratch = str(self.folder / name)
        self._start(name, "worker", self.address, "--nthreads", "1", "--local-directory", scratch, **environment)

    def _start(self, name: str, *arguments: str, **environment: str) -> None:
        command = [sys.executable, "-m", "dask", *arguments, "--host", "127.0.0.1", "--no-dashboard"]
        with open(self.folder / f"{name}.log", "wb") as log:
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | environment)

    def _written_address(self) -> str:
        path = self.folder / "scheduler.json"
        try:
            return str(json.loads(path.read_text())["address"])
        except (OSError, ValueError):
            return ""

    def wait(self, found: Callable[[], Any]) -> Any:
        end = time.monotonic() + SECONDS
        while not (value := found()):
            assert time.monotonic() < end, self.logs()
            time.sleep(0.05)
        return value

    def logs(self) -> str:
        return "".join(path.read_text(errors="replace") for path in self.folder.glob("*.log"))

    def close(self) -> None:
        for name in reversed(self.processes):  # the workers, then the scheduler
            process = self.processes[name]
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("dask"))
    try:
        for name in ("one", "other"):
            cluster.add_worker(name, RADLITE_FAKE_FAULTS="1", MODELS=str(cluster.folder))
        yield cluster
    finally:
        cluster.close()


def write_archive(path: Path, rows: int, poison: dict[int, str] | None = None, broken: int | None = None) -> None:
    """Invented reports; rows in `poison` hold a fault of the fake model's, the broken row has a field too many."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["report_id", "text"])
        for i in range(rows):
            text = f"{CANARY} {(poison or {}).get(i, '')} small left effusion, case {i}."
            writer.writerow([f"{i:04d}", text] + [""] * (i == broken))


ROWS, SHARD_ROWS, BROKEN = 160, 16, 5


def a_job(tmp_path: Path, scheduler: str) -> Job:
    """One row of it cannot be read, and fails wherever it is run."""
    write_archive(tmp_path / "archive.csv", ROWS, broken=BROKEN)
    spec = ArchiveSpec((str(tmp_path / "archive.csv"),))
    workers = Workers(backend="dask", scheduler=scheduler)
    return Job(spec, TASKS, Output(tmp_path / "out", shard_rows=SHARD_ROWS), "fake", workers)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """The tables of the job run on this host alone."""
    folder = tmp_path_factory.mktemp("calm")
    run(replace(a_job(folder, ""), workers=Workers(1)))
    return tables(folder / "out")


def tables(out: Path) -> dict[str, list[dict[str, Any]]]:
    return {name: pl.read_parquet(out / name / "*.parquet").sort("source_row").to_dicts() for name in (*TASKS, "wide")}


def receipts(out: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(out.glob("_run/receipts/*.json"))]


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def at_receipt(monkeypatch: pytest.MonkeyPatch, number: int, do: Callable[[dict[str, Any]], None]) -> None:
    """Does something when the run's parent gets its receipt of that number."""
    receive, got = Watch.receive, []

    def counted(watch: Watch, receipt: dict[str, Any]) -> None:
        receive(watch, receipt)
        got.append(receipt)
        if len(got) == number:
            do(receipt)

    monkeypatch.setattr(Watch, "receive", counted)


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_rows_that_end_a_process_fail_alone_and_are_not_quoted(cluster: Cluster, tmp_path: Path) -> None:
    job = replace(a_job(tmp_path, cluster.address), output=Output(tmp_path / "out", shard_rows=8))
    poison = {7: "FAULT-SEGFAULT", 15: "FAULT-STUMBLE"}
    write_archive(tmp_path / "archive.csv", 24, poison)
    summary = run(job)
    assert (summary.state, summary.exit_code, summary.rows_done) == ("complete", 3, 24)
    failures = pl.read_parquet(tmp_path / "out" / "failures" / "*.parquet")
    assert dict(failures.select("source_row", "reason").iter_rows()) == {
        7: "the worker died on this row (SIGSEGV)",
        15: "ValueError in the worker",
    }
    for task in TASKS:
        statuses = [row["status"] for row in tables(tmp_path / "out")[task]]
        assert statuses == ["failed" if row in poison else "ok" for row in range(24)]
    assert CANARY not in cluster.logs()


def test_a_killed_dask_worker_costs_nothing_but_time(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calm: dict[str, list[dict[str, Any]]]
) -> None:
    killed = []

    def kill(receipt: dict[str, Any]) -> None:
        killed.extend((parent(receipt["pid"]), receipt["pid"]))
        os.kill(killed[0], signal.SIGKILL)

    at_receipt(monkeypatch, 3, kill)
    summary = run(a_job(tmp_path, cluster.address))
    assert (summary.state, summary.exit_code) == ("complete", 3)
    assert tables(tmp_path / "out") == calm
    cluster.wait(lambda: all(map(gone, killed)))  # the Dask worker, and with it the process that held its model
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "out").rglob("*")} == {0}


def test_a_deadline_ends_a_run_after_the_items_that_are_begun(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calm: dict[str, list[dict[str, Any]]]
) -> None:
    job, over = a_job(tmp_path, cluster.address), []
    at_receipt(monkeypatch, 1, lambda receipt: over.append(True))
    monkeypatch.setattr(Watch, "go_on", lambda watch: not over)
    summary = run(job)
    monkeypatch.undo()
    assert (summary.state, summary.exit_code) == ("stopped", 3)
    assert SHARD_ROWS <= summary.rows_done < ROWS
    assert run(job).state == "complete"
    assert tables(tmp_path / "out") == calm
    before = receipts(tmp_path / "out")
    assert retry(tmp_path / "out").exit_code == 3
    assert tables(tmp_path / "out") == calm
    after = receipts(tmp_path / "out")
    assert [i for i in range(len(before)) if before[i] != after[i]] == [BROKEN // SHARD_ROWS]


def test_a_signal_ends_the_run_and_what_its_nodes_have_under_way(cluster: Cluster, tmp_path: Path) -> None:
    write_archive(tmp_path / "archive.csv", 32, {20: "FAULT-LOOP"})
    (tmp_path / "job.toml").write_text(
        f'archive.paths = "archive.csv"\ntasks.run = {list(TASKS)}\npack.name = "fake"\noutput.path = "out"\n'
        f'output.shard_rows = 16\n[workers]\nbackend = "dask"\nscheduler = "{cluster.address}"\n'
    )
    command = [sys.executable, "-m", "radlite_batch.cli", "run", str(tmp_path / "job.toml")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    cluster.wait(lambda: receipts(tmp_path / "out"))  # the other item never ends
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, errors) == (143, b"")
    assert output.startswith(b"stopped: 16 of 32 rows")
    # What spun is gone, and so are the processes that had nothing to do.
    nodes = [pid for name in ("one", "other") for pid in descendants(cluster.processes[name].pid)]
    cluster.wait(lambda: not [pid for pid in nodes if b"loky.backend.popen" in command_line(pid)])
    assert len(receipts(tmp_path / "out")) == 1


def test_a_lost_scheduler_is_one_line_and_the_run_goes_on_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], calm: dict[str, Any]
) -> None:
    monkeypatch.setattr(cluster_module, "_TIMEOUT", 1.0)
    own = Cluster(tmp_path)
    try:
        own.add_worker("only")
        job = a_job(tmp_path, own.address)
        at_receipt(monkeypatch, 3, lambda receipt: own.processes["scheduler"].kill())
        with pytest.raises(RadliteError, match=f"^Dask scheduler {own.address}: lost; what is committed stays"):
            run(job)
    finally:
        own.close()
    with pytest.raises(RadliteError, match=f"^Dask scheduler {own.address}: no answer"):
        run(job)
    assert capfd.readouterr().err == ""
    done = receipts(tmp_path / "out")
    assert 3 <= len(done) < ROWS // SHARD_ROWS
    assert run(replace(job, workers=Workers(1))).state == "complete"
    assert tables(tmp_path / "out") == calm
    assert all(receipt in receipts(tmp_path / "out") for receipt in done)


PACK = """
name = "own"
about = "-"
licence = "-"
style = "instruct"
[models.tiny]
base = "$MODELS/base.gguf"
sha256 = "{sha256}"
context = 512
[routes]
default = "tiny"
"""


def test_a_node_with_another_model_file_is_named(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "base.gguf").write_bytes(b"GGUF, the run's")
    (cluster.folder / "base.gguf").write_bytes(b"GGUF, the nodes'")
    sha256 = hashlib.sha256(b"GGUF, the run's").hexdigest()
    (tmp_path / "pack.toml").write_text(PACK.format(sha256=sha256))
    monkeypatch.setenv("MODELS", str(tmp_path))
    job = replace(a_job(tmp_path, cluster.address), pack=str(tmp_path / "pack.toml"))
    file = re.escape(str(cluster.folder / "base.gguf"))
    with pytest.raises(PackError, match=rf"^node \S+ \(tcp://[0-9.:]+\): pack own, models\.tiny: {file} has sha256"):
        run(job)
    (cluster.folder / "base.gguf").unlink()
    with pytest.raises(PackError, match=rf"^node .*models\.tiny: {file} is not there; what is comm") as ended:
        run(job)
    assert ended.value.exit_code == 1  # other nodes may have answered what they had


def test_a_node_runs_the_format_that_the_plan_chose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "base.gguf").write_bytes(b"GGUF, a base")
    (tmp_path / "bf16.gguf").write_bytes(b"GGUF, converted")
    base, converted = (hashlib.sha256(text).hexdigest() for text in (b"GGUF, a base", b"GGUF, converted"))
    (tmp_path / "pack.toml").write_text(PACK.format(sha256=base))
    monkeypatch.setenv("MODELS", str(tmp_path))
    monkeypatch.setattr(node, "in_form", lambda path, sha256, form: path.with_name(f"{form}.gguf"))
    job = replace(a_job(tmp_path, "tcp://not-asked:1"), pack=str(tmp_path / "pack.toml"))
    setting = make_plan(job).setting
    wanted = replace(setting, models={"tiny": replace(setting.models["tiny"], sha256=converted)})
    order = node.Order(node.Cluster("", job.pack, {"tiny": "bf16"}, True), wanted, "0", "token")
    assert node._models(order)["tiny"].path == tmp_path / "bf16.gguf"
    assert node._models(replace(order, setting=setting, cluster=replace(order.cluster, forms={"tiny": "as shipped"})))
    with pytest.raises(PackError, match=r"models\.tiny: .*bf16\.gguf is not the run's"):
        node._models(replace(order, setting=setting))


def test_a_node_that_does_not_share_the_output_folder_says_so(tmp_path: Path) -> None:
    setting = make_plan(a_job(tmp_path, "tcp://not-asked:1")).setting
    order = node.Order(node.Cluster("", "fake", {}, True), setting, version("radlite-batch"), "token")
    message = f"^{re.escape(str(tmp_path / 'out'))}: not the run's output folder, which all nodes must share$"
    with pytest.raises(OutputError, match=message):
        node._Node(order, 1)
    order.probe.parent.mkdir(parents=True)
    order.probe.write_text("another run's")
    with pytest.raises(OutputError, match=message):
        node._Node(order, 1)
    order.probe.write_text(order.token)
    node._Node(order, 1)


def test_without_a_scheduler_a_cluster_of_this_host_runs_the_job(tmp_path: Path, calm: dict[str, Any]) -> None:
    job = replace(a_job(tmp_path, ""), workers=Workers(1, backend="dask"))
    assert run(job).state == "complete"
    assert tables(tmp_path / "out") == calm


def test_an_item_whose_nodes_go_away_is_submitted_again_a_few_times(tmp_path: Path) -> None:
    plan = make_plan(a_job(tmp_path, "tcp://not-asked:1"))
    order = node.Order(node.Cluster("tcp://not-asked:1", "fake", {}, True), plan.setting, "0", "token")
    client: Any = SimpleNamespace(status="running", nthreads=lambda: {"tcp://a:1": 1}, submit=submit_in_vain)
    window = cluster_module._Window(client, order, plan.manifest.items[:1])
    for attempt in (1, 2):
        window._submit()
        assert list(window._under_way) == [f"radlite-00000-fake-token-{attempt}"]
        assert list(window._finished()) == []
    window._submit()
    with pytest.raises(RadliteError, match=r"^work item 00000-fake: its nodes went away 3 times$"):
        list(window._finished())
    client.status = "connecting"
    with pytest.raises(RadliteError, match=r"^Dask scheduler tcp://not-asked:1: lost"):
        window._settled(submit_in_vain(key="any"), plan.manifest.items[0])


def submit_in_vain(*arguments: Any, key: str, **options: Any) -> Any:
    """A future as it is after its Dask worker is gone."""
    future = SimpleNamespace(key=key, status="cancelled", release=lambda: None)
    future.add_done_callback = lambda callback: callback(future)
    return future


def test_what_a_job_needs_for_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = a_job(tmp_path, "")
    for workers, message in (
        (Workers(backend="spark"), "workers.backend must be one of local, dask"),
        (Workers(scheduler="tcp://a:1"), "workers.scheduler needs backend = 'dask'"),
        (Workers(2, backend="dask", scheduler="tcp://a:1"), "workers.processes counts on this host"),
    ):
        with pytest.raises(JobError, match=message):
            replace(job, workers=workers)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(
        UsageError, match=r"the package distributed is not installed; pip install 'radlite-batch\[dask\]'"
    ):
        run(job)
