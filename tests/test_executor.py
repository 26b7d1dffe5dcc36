"""A row that kills its worker is found and fails alone; everything else is answered.

The work item is replaced by one that dies on chosen rows; the pool, the search and the processes are the real ones.
"""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from radlite_batch import executor
from radlite_batch.errors import PackError, RadliteError
from radlite_batch.machine import cores
from radlite_batch.records import Shard, WorkItem

DEADLY = {21, 38}
PLACEMENT = executor.Placement(((cores()[0],), (cores()[-1],)))


class Setting:
    """All that the executor itself reads of a setting."""

    def __init__(self, out: Path):
        self.out = out


def rows(item: WorkItem) -> range:
    return range(item.shard.first_row, item.shard.first_row + item.shard.rows)


def dying_shard(setting: Any, item: WorkItem, doomed: dict[int, str] | None = None) -> dict[str, Any]:
    dying_probe(setting, item, [row for row in rows(item) if row not in (doomed or {})])
    return {"item": item.name, "rows": item.shard.rows, "doomed": doomed or {}, "cores": os.sched_getaffinity(0)}


def dying_probe(setting: Any, item: WorkItem, chosen: list[int]) -> None:
    if DEADLY & set(chosen):
        os.kill(os.getpid(), signal.SIGSEGV)


def stumbling_shard(setting: Any, item: WorkItem, doomed: dict[int, str] | None = None) -> dict[str, Any]:
    if 21 in rows(item) and 21 not in (doomed or {}):
        raise ValueError("a row's text might stand here")
    return {"item": item.name, "rows": item.shard.rows, "doomed": doomed or {}}


def stumbling_probe(setting: Any, item: WorkItem, chosen: list[int]) -> None:
    if 21 in chosen:
        raise ValueError("a row's text might stand here")


def hopeless_shard(setting: Any, item: WorkItem, doomed: dict[int, str] | None = None) -> dict[str, Any]:
    os._exit(1)


def refusing_shard(setting: Any, item: WorkItem, doomed: dict[int, str] | None = None) -> dict[str, Any]:
    raise PackError("model.gguf: gone")


def execute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard: Any, probe: Any = dying_probe
) -> list[dict[str, Any]]:
    (tmp_path / "_run").mkdir()
    monkeypatch.setattr(executor, "run_shard", shard)
    monkeypatch.setattr(executor, "probe_rows", probe)
    items = [WorkItem(Shard(i, "x.csv", i * 8, 8, i * 8), "fake", ("n_staging",)) for i in range(6)]
    receipts: list[dict[str, Any]] = []
    executor.execute(Setting(tmp_path), items, PLACEMENT, receipts.append, lambda: True, lambda: None)  # type: ignore[arg-type]
    assert sorted(receipt["item"] for receipt in receipts) == [item.name for item in items]
    return receipts


def test_the_rows_that_kill_a_worker_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    receipts = execute(tmp_path, monkeypatch, dying_shard)
    found = {row: reason for receipt in receipts for row, reason in receipt["doomed"].items()}
    assert found == dict.fromkeys(DEADLY, "the worker died on this row")


def test_an_exception_is_traced_to_its_row_and_not_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    receipts = execute(tmp_path, monkeypatch, stumbling_shard, stumbling_probe)
    assert [receipt["doomed"] for receipt in receipts if receipt["doomed"]] == [{21: "the worker died on this row"}]


def test_workers_keep_to_disjoint_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if len(cores()) < 2:
        pytest.skip("one core only")
    monkeypatch.setitem(globals(), "DEADLY", set())
    used = {frozenset(receipt["cores"]) for receipt in execute(tmp_path, monkeypatch, dying_shard)}
    assert used <= {frozenset(core_set) for core_set in PLACEMENT.core_sets}


def test_an_error_of_our_own_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PackError, match="gone"):
        execute(tmp_path, monkeypatch, refusing_shard)


def test_a_worker_that_always_dies_ends_the_run_in_bounded_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RadliteError, match="dies without answering"):
        execute(tmp_path, monkeypatch, hopeless_shard)
