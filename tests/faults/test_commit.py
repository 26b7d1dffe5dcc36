"""Every operation on the disk fails once, and is the last of its process once; the run goes on as if it had not."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from faulty import FAULTS, Ended, FaultyDisk
from small import check_invariants, contents, doom, in_this_process, small_job, visible, write_archive
from table import FULL, record

from radlite_batch.errors import OutputError
from radlite_batch.results.summary import RunSummary
from radlite_batch.run import retry, run
from radlite_batch.verify import verify


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_archive(tmp_path_factory.mktemp("archive") / "archive.csv", 7, broken=(5,))


def disturbed(
    do: Callable[[], RunSummary], monkeypatch: pytest.MonkeyPatch, at: int = 0, fault: str = "stop"
) -> FaultyDisk:
    """A run on a disk with a fault."""
    disk = FaultyDisk(at, fault)
    with monkeypatch.context() as patch:
        in_this_process(patch)
        disk.install(patch)
        try:
            do()
        except (Ended, OutputError):
            assert fault != "short"
        else:
            assert not disk.struck or fault == "short"
    return disk


def places(names: list[str], fault: str, short: int) -> list[int]:
    """Numbers of the operations that the fault fits: all of them, or at most about `short`."""
    fitting = [n for n, name in enumerate(names, 1) if name in FAULTS[fault]]
    return fitting if FULL else fitting[:: -(-len(fitting) // short)]


@pytest.mark.parametrize("fault", FAULTS)
def test_any_operation_may_fail_or_be_the_last(
    fault: str, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = tmp_path / "calm"
    names = disturbed(partial(run, small_job(archive, calm)), monkeypatch).names
    expected = visible(calm)
    assert len(expected["wide"]) == 7 and len(expected["failures"]) == 2
    tried = places(names, fault, 8)
    out = tmp_path / "out"
    go_on = partial(run, small_job(archive, out))
    for i, n in enumerate(tried):
        disturbed(go_on, monkeypatch, n, fault)
        check_invariants(out)
        if i % 2:  # a second one, somewhere in what is left to do
            disturbed(go_on, monkeypatch, 1 + n * 7 % max(1, len(names) - n), fault)
            check_invariants(out)
        disturbed(go_on, monkeypatch)
        check_invariants(out)
        assert visible(out) == expected, f"operation {n}, {names[n - 1]}"
        assert (out / "_SUCCESS").exists() and verify(out).findings == []
        before = contents(out)
        disturbed(go_on, monkeypatch)
        assert contents(out) == before
        shutil.rmtree(out)
    record(f"operations on the disk: {fault}", len(tried))


@pytest.mark.parametrize("fault", FAULTS if FULL else ["stop", "no names", "bad sync"])
def test_any_operation_of_a_retry_may_fail_or_be_the_last(
    fault: str, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm, failed, out = tmp_path / "calm", tmp_path / "failed", tmp_path / "out"
    disturbed(partial(run, small_job(archive, calm)), monkeypatch)
    expected = visible(calm)
    with monkeypatch.context() as patch:
        doom(patch, {1, 4})
        disturbed(partial(run, small_job(archive, failed)), patch)
    assert len(visible(failed)["failures"]) == 6
    shutil.copytree(failed, out)
    names = disturbed(partial(retry, out), monkeypatch).names
    assert visible(out) == expected
    tried = places(names, fault, 6)
    for i, n in enumerate(tried):
        shutil.rmtree(out)
        shutil.copytree(failed, out)
        disturbed(partial(retry, out), monkeypatch, n, fault)
        check_invariants(out)
        if i % 2:  # whoever does not know of the retry runs the job again
            disturbed(partial(run, small_job(archive, out)), monkeypatch)
            check_invariants(out)
            assert [row["source_row"] for row in visible(out)["wide"]] == list(range(7))
        disturbed(partial(retry, out), monkeypatch)
        check_invariants(out)
        assert visible(out) == expected, f"operation {n}, {names[n - 1]}"
        assert (out / "_SUCCESS").exists() and verify(out).findings == []
    record(f"operations on the disk: {fault}", len(tried))
