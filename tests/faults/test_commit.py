"""Every operation on the disk fails once, and is the last of its process once; the run goes on as if it had not."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from faulty import FAULTS, Ended, FaultyDisk
from small import check_invariants, contents, doom, in_this_process, missing, small_job, visible, write_archive
from table import FULL, record

from radlite_batch.errors import OutputError
from radlite_batch.results.commit import commit
from radlite_batch.results.summary import RunSummary
from radlite_batch.run import retry, run
from radlite_batch.verify import verify

CODE = 3  # of a run to its end: the archive has a row that cannot be read


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_archive(tmp_path_factory.mktemp("archive") / "archive.csv", 7, broken=(5,))


def disturbed(
    do: Callable[[], RunSummary], monkeypatch: pytest.MonkeyPatch, at: int = 0, fault: str = "stop"
) -> list[str]:
    """A run on a disk with a fault, which meets it, or with none; names of its operations on the disk."""
    disk, code = FaultyDisk(at, fault), None
    with monkeypatch.context() as patch:
        in_this_process(patch)
        disk.install(patch)
        try:
            code = do().exit_code
        except (Ended, OutputError):
            assert disk.struck and fault != "short"
    assert disk.struck == (at > 0)
    assert code == (None if at and fault != "short" else CODE)
    return disk.names


def fitting(names: list[str], fault: str) -> list[int]:
    """Numbers of the operations that the fault fits."""
    return [n for n, name in enumerate(names, 1) if name in FAULTS[fault]]


def places(names: list[str], fault: str, short: int) -> list[int]:
    """All that the fault fits, or at most about `short` of them."""
    found = fitting(names, fault)
    return found if FULL else found[:: -(-len(found) // short)]


@pytest.mark.parametrize("at", [1, 2, 3, 4])  # create, write, sync, rename
def test_a_commit_that_fails_leaves_no_file(at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FaultyDisk(at, "EIO").install(monkeypatch)
    with pytest.raises(OutputError, match="Input/output error"):
        commit(tmp_path / "part", tmp_path, b"rows")
    assert list(tmp_path.iterdir()) == []


class Continuations:
    """Goes on with what a fault has left of an output: undisturbed, and from the same point with another fault.

    lost: rows that were missing in the end. faults: how many were met."""

    def __init__(self, out: Path, expected: dict[str, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch):
        self.lost = self.faults = 0
        self._out, self._left = out, out.with_name("left")
        self._expected, self._patch = expected, monkeypatch

    def interrupt(self, do: Callable[[], RunSummary], at: int, fault: str) -> None:
        disturbed(do, self._patch, at, fault)
        check_invariants(self._out)
        self.faults += 1

    def go_on(self, do: Callable[[], RunSummary], at: int, fault: str, twice: bool) -> None:
        """at: number of the operation that met the fault. twice: also with a second fault and a second continuation."""
        shutil.rmtree(self._left, ignore_errors=True)
        if self._out.exists():
            shutil.copytree(self._out, self._left)
        found = fitting(self._to_the_end(do, f"operation {at}"), fault)
        if twice and found:
            second = found[at * 7 % len(found)]
            shutil.rmtree(self._out)
            if self._left.exists():
                self._left.rename(self._out)
            self.interrupt(do, second, fault)
            self._to_the_end(do, f"operation {at}, then {second}")

    def _to_the_end(self, do: Callable[[], RunSummary], what: str) -> list[str]:
        names = disturbed(do, self._patch)
        check_invariants(self._out)
        seen = visible(self._out)
        self.lost += missing(self._expected, seen)
        assert seen == self._expected, what
        assert (self._out / "_SUCCESS").exists() and verify(self._out).findings == []
        return names


@pytest.mark.parametrize("fault", FAULTS)
def test_any_operation_may_fail_or_be_the_last(
    fault: str, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm, out = tmp_path / "calm", tmp_path / "out"
    names = disturbed(partial(run, small_job(archive, calm)), monkeypatch)
    expected = visible(calm)
    assert len(expected["wide"]) == 7 and len(expected["failures"]) == 2
    again = partial(run, small_job(archive, out))
    continuations = Continuations(out, expected, monkeypatch)
    for i, n in enumerate(places(names, fault, 8)):
        continuations.interrupt(again, n, fault)
        continuations.go_on(again, n, fault, twice=FULL or i % 2 == 1)
        before = contents(out)
        disturbed(again, monkeypatch)
        assert contents(out) == before
        shutil.rmtree(out)
    record(f"operations on the disk: {fault}", continuations.faults, continuations.lost)


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
    again = partial(retry, out)
    names = disturbed(again, monkeypatch)
    assert visible(out) == expected
    continuations = Continuations(out, expected, monkeypatch)
    for i, n in enumerate(places(names, fault, 6)):
        shutil.rmtree(out)
        shutil.copytree(failed, out)
        continuations.interrupt(again, n, fault)
        if i % 2:  # whoever does not know of the retry runs the job again
            disturbed(partial(run, small_job(archive, out)), monkeypatch)
            check_invariants(out)
            assert [row["source_row"] for row in visible(out)["wide"]] == list(range(7))
        continuations.go_on(again, n, fault, twice=FULL or i % 3 == 1)
    record(f"operations on the disk: {fault}", continuations.faults, continuations.lost)
