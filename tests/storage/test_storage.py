"""What is remote and what is not, copies that say what they copy, and mirrors that equal their output."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from small import contents, in_this_process, small_job, visible, write_archive

from radlite_batch import lease, storage
from radlite_batch.archive import ArchiveSpec
from radlite_batch.errors import ArchiveError, OutputError, OutputLocked, RadliteError, UsageError
from radlite_batch.export.source import Source
from radlite_batch.job import Job, Output, Workers, load_job
from radlite_batch.results.mirror import pull, refresh
from radlite_batch.run import run
from radlite_batch.status import read_status
from radlite_batch.verify import verify

URL = "memory://bucket/out"
_LOCKS = (("_run", "lock"), ("_run", "lock.mirror"))


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[fsspec.AbstractFileSystem]:
    """An empty file system in this process, and a cache of its own."""
    monkeypatch.setenv("RADLITE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(lease, "SETTLE", 0.0)
    store = fsspec.filesystem("memory")
    yield store
    store.store.clear()


@pytest.mark.parametrize("name", ["s3://b/x", "gs://b", "memory://x", "abfs://container@account/x", "S3://b"])
def test_a_scheme_makes_a_name_remote(name: str) -> None:
    assert storage.is_remote(name)


@pytest.mark.parametrize("name", ["reports.csv", "/data/a b", "file:///data", "a:b/c", "C:/x", "s3:/b", "*.csv", ""])
def test_all_else_is_on_this_host(name: str) -> None:
    assert not storage.is_remote(name)


def test_a_path_says_what_it_copies(tmp_path: Path, memory: fsspec.AbstractFileSystem) -> None:
    out = storage.folder(f"{URL}/")
    assert out == storage.folder(URL) and out.is_relative_to(tmp_path / "cache")
    assert storage.shown(out / "_run" / "manifest.json") == f"{URL}/_run/manifest.json"
    memory.pipe_file("/archive/a.csv", b"report_id,text\n")
    copy = storage.local("memory://archive/a.csv")
    assert copy.read_bytes() == b"report_id,text\n" and storage.shown(copy) == "memory://archive/a.csv"
    for local in (tmp_path / "out", tmp_path / "cache", tmp_path / "cache" / "placement" / "x", Path("out")):
        assert storage.url_of(local) is None and storage.shown(local) == str(local)


def test_an_export_reads_patients_from_a_remote_archive(
    tmp_path: Path, memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process(monkeypatch)
    memory.pipe_file("/archive/a.csv", b"report_id,text,patient_id\n1,Clear.,P1\n2,Mass.,P2\n")
    run(Job(ArchiveSpec(("memory://archive/a.csv",)), ("n_staging",), Output(tmp_path / "out"), "fake", Workers(1, 1)))
    assert [answered.patient_id for answered in Source(tmp_path / "out").reports(patients=True)] == ["P1", "P2"]
    memory.pipe_file("/archive/a.csv", b"report_id,text,patient_id\n1,Clear.,P1\n2,Mass.,P3\n")
    with pytest.raises(ArchiveError, match=r"a\.csv: its bytes changed"):
        list(Source(tmp_path / "out").reports(patients=True))


def test_file_urls_are_paths(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "a.csv", 3)
    (tmp_path / "job.toml").write_text(
        f'archive.paths = ["file://{archive}", "s3://b/*.csv", "rel.csv"]\ntasks.run = "n_staging"\n'
        f'output.path = "file://{tmp_path}/out"\n'
    )
    job = load_job(tmp_path / "job.toml")
    assert job.archive.paths == (str(archive), "s3://b/*.csv", str(tmp_path / "rel.csv"))
    assert job.output.path == tmp_path / "out"
    assert storage.local(f"file://{archive}") == archive


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nowhere://b/x", r"^nowhere://\.\.\.: no library here reads it; pip install"),
        ("ftp://me:secret@host/x", r"^ftp://\.\.\.: a URL must not hold a password; the environment does$"),
    ],
)
def test_a_url_that_is_no_good_is_said_in_one_line(tmp_path: Path, url: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        storage.folder(url)
    with pytest.raises(UsageError, match=message):
        storage.local(url)
    assert not list(tmp_path.rglob("*.url"))


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (FileNotFoundError("s3://b?X-Amz-Signature=secret"), "s3://b/x: not there"),
        (PermissionError("secret"), "s3://b/x: access denied"),
        (OSError(28, "secret"), "s3://b/x: No space left on device"),
        (RuntimeError("secret"), "s3://b/x: RuntimeError"),
    ],
)
def test_errors_of_a_storage_are_one_line_that_quotes_nothing(error: Exception, line: str) -> None:
    for kind in (OutputError, ArchiveError):
        with pytest.raises(kind) as raised, storage.explained("s3://b/x", kind):
            raise error
        assert str(raised.value) == line
    with pytest.raises(RadliteError, match=r"^as it is$"), storage.explained("s3://b/x"):
        raise RadliteError("as it is")


def test_a_mirror_is_made_equal_to_its_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: fsspec.AbstractFileSystem
) -> None:
    in_this_process(monkeypatch)
    out = storage.folder(URL)
    assert run(small_job(write_archive(tmp_path / "a.csv", 9), out)).exit_code == 0
    expected = {name: data for name, data in contents(out).items() if name.parts[:2] not in _LOCKS}
    stored = {Path(name).relative_to("/bucket/out"): memory.cat_file(name) for name in memory.find("/bucket/out")}
    assert json.loads(stored.pop(Path(lease.NAME)))["released"]
    assert stored == expected

    fetched: list[str] = []
    real = storage.fetch
    monkeypatch.setattr(storage, "fetch", lambda out, names: fetched.extend(names) or real(out, names))
    (out / "wide" / "part-00000.parquet").unlink()
    part = out / "n_staging" / "part-00001.parquet"
    part.write_bytes(part.read_bytes()[::-1])  # of the right size
    (out / "_run" / "receipts" / "00009-fake.json").write_text("{}")
    (out / "n_staging" / "part-00009.parquet").write_bytes(b"left by a run that was killed before it stored it")
    pull(out)
    assert contents(out).items() >= expected.items()
    assert not (out / "_run" / "receipts" / "00009-fake.json").exists()
    assert not (out / "n_staging" / "part-00009.parquet").exists()
    parts = {"wide/part-00000.parquet", "n_staging/part-00001.parquet"}
    assert {name for name in fetched if name.endswith(".parquet")} == parts

    memory.pipe_file("/bucket/out/radiology_ner/part-00000.parquet", b"damaged")  # of another size
    pull(out)
    assert (out / "radiology_ner" / "part-00000.parquet").read_bytes() == b"damaged"
    memory.rm("/bucket/out", recursive=True)
    pull(out)
    assert {path.parts for path in contents(out)} == set(_LOCKS)


def test_readers_look_at_what_they_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: fsspec.AbstractFileSystem
) -> None:
    in_this_process(monkeypatch)
    run(small_job(write_archive(tmp_path / "a.csv", 9), storage.folder(URL)))
    monkeypatch.setenv("RADLITE_CACHE", str(tmp_path / "other"))
    out = storage.folder(URL)
    refresh(out, tables=False)
    assert (out / "_run" / "manifest.json").exists() and not list(out.rglob("*.parquet"))
    refresh(out)
    assert set(visible(out)) == {"n_staging", "radiology_ner", "wide"}


def test_without_conditional_writes_the_lock_is_read_back(
    monkeypatch: pytest.MonkeyPatch, memory: fsspec.AbstractFileSystem
) -> None:
    out, path = storage.folder(URL), f"/bucket/out/{lease.NAME}"
    with lease.held(out):
        assert lease.is_held(out) and not lease.renew(out)
        monkeypatch.setattr(lease, "RENEW", 0.0)
        before = memory.cat_file(path)
        assert lease.renew(out) and memory.cat_file(path) != before
    assert not lease.is_held(out)
    # Another one writes while we wait for our own to settle.
    other = json.dumps({"token": "other", "time": 9e9, "released": False, "pid": 1, "host": "x"}).encode()
    monkeypatch.setattr(lease.time, "sleep", lambda seconds: memory.pipe_file(path, other))
    with pytest.raises(OutputLocked, match="has just taken this output"), lease.held(out):
        raise AssertionError("two runs hold the lock")
    assert memory.cat_file(path) == other


def test_the_first_run_makes_the_folders_of_a_storage_that_has_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process(monkeypatch)
    out = storage.folder(f"local://{tmp_path}/new/out")
    assert run(small_job(write_archive(tmp_path / "a.csv", 9), out)).exit_code == 0
    assert (tmp_path / "new" / "out" / "_SUCCESS").exists()


def test_a_run_waits_for_who_only_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch)
    out = storage.folder(URL)
    job = small_job(write_archive(tmp_path / "a.csv", 9), out)
    assert run(job).exit_code == 0
    pulled, real = threading.Event(), storage.listing

    def slow(of: Path) -> dict[str, int]:
        pulled.set()
        time.sleep(0.3)
        return real(of)

    monkeypatch.setattr(storage, "listing", slow)
    reader = threading.Thread(target=refresh, args=(out,))
    reader.start()
    assert pulled.wait(10)
    assert run(job).exit_code == 0
    reader.join()


def test_a_local_run_knows_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys, radlite_batch.cli, radlite_batch.worker; print({'fsspec', 's3fs', 'botocore'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"

    def no_network(url: str) -> None:
        raise AssertionError(url)

    monkeypatch.setattr(storage, "filesystem", no_network)
    in_this_process(monkeypatch)
    assert run(small_job(write_archive(tmp_path / "a.csv", 9), tmp_path / "out")).exit_code == 0
    assert verify(tmp_path / "out").findings == [] and read_status(tmp_path / "out")["state"] == "complete"
