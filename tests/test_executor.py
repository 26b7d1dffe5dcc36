"""A row that kills its worker is found and fails alone; everything else is answered.

The work item is replaced by one that dies on chosen rows; the pool, the search and the processes are the real ones.
"""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from radlite_batch import executor
from radlite_batch.errors import EngineError, PackError, RadliteError
from radlite_batch.machine import cores
from radlite_batch.records import Shard, WorkItem
from radlite_batch.worker import tried_row

DEADLY = {21, 38}
MEMORY = {"anonymous": 0, "kv": 0, "compute": 0, "output": 0}
SECONDS = 120  # that a search may take, ten times what it takes on an idle machine
PLACEMENT = executor.Placement(((cores()[0],), (cores()[-1],)))


@dataclass(frozen=True)
class Setting:
    """All that the executor itself reads of a setting."""

    out: Path
    reports_in_hand: int = 128
    record_seconds: float = 1.0
    memory: int = 0


def receipt(item: WorkItem, doomed: dict[int, str] | None, **more: Any) -> dict[str, Any]:
    return {"item": item.name, "rows": item.shard.rows, "doomed": doomed or {}, "memory": MEMORY, **more}


def rows(item: WorkItem) -> range:
    return range(item.shard.first_row, item.shard.first_row + item.shard.rows)


def dying_shard(setting: Any, item: WorkItem, doomed: dict[int, str] | None = None) -> dict[str, Any]:
    if DEADLY & (set(rows(item)) - set(doomed or {})):
        os.kill(os.getpid(), signal.SIGSEGV)
    return receipt(item, doomed, cores=os.sched_getaffinity(0))


def note(setting: Any, item: WorkItem, row: int) -> None:
    (setting.out / "_run" / "slots" / item.name).write_text(str(row), encoding="ascii")


def dying_trial(setting: Any, item: WorkItem, chosen: list[int]) -> bool:
    for row in chosen:
        note(setting, item, row)
        if row in DEADLY:
            os.kill(os.getpid(), signal.SIGSEGV)
    return True


def once_dying_trial(setting: Any, item: WorkItem, chosen: list[int]) -> bool:
    if not (setting.out / "struck").exists():
        (setting.out / "struck").touch()
        note(setting, item, chosen[3])
        os.kill(os.getpid(), signal.SIGKILL)
    return True


def twice_dying_shard(setting: Any, item: WorkItem, doomed: dict[int, str] | None = None) -> dict[str, Any]:
    """Dies in the pool and alone, of something from outside."""
    strikes = setting.out / "strikes"
    if doomed is None and item.shard.number == 2 and (not strikes.exists() or strikes.stat().st_size < 2):
        with open(strikes, "a") as file:
            file.write("x")
        os.kill(os.getpid(), signal.SIGKILL)
    return receipt(item, doomed)


def stumbling_shard(setting: Any, item: WorkItem, doomed: dict[int, str] | None = None) -> dict[str, Any]:
    if 21 in rows(item) and 21 not in (doomed or {}):
        raise ValueError("a row's text might stand here")
    return receipt(item, doomed)


def stumbling_trial(setting: Any, item: WorkItem, chosen: list[int]) -> bool:
    for row in chosen:
        note(setting, item, row)
        if row == 21:
            raise ValueError("a row's text might stand here")
    return True


def failing_shard(setting: Any, item: WorkItem, doomed: dict[int, str] | None = None) -> dict[str, Any]:
    raise EngineError("no context of 8192 tokens")


def failing_trial(setting: Any, item: WorkItem, chosen: list[int]) -> bool:
    raise EngineError("no context of 8192 tokens")


def hopeless_shard(setting: Any, item: WorkItem, doomed: dict[int, str] | None = None) -> dict[str, Any]:
    os._exit(1)


def large_shard(setting: Any, item: WorkItem, doomed: dict[int, str] | None = None) -> dict[str, Any]:
    return receipt(item, doomed, pid=os.getpid()) | {"memory": MEMORY | {"anonymous": 1 << 50}}


def refusing_shard(setting: Any, item: WorkItem, doomed: dict[int, str] | None = None) -> dict[str, Any]:
    raise PackError("model.gguf: gone")


def slow_trial(setting: Any, item: WorkItem, chosen: list[int]) -> bool:
    (setting.out / "searching").touch()
    time.sleep(600)
    return True


def begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard: Any, trial: Any, go_on: Callable[[], bool]
) -> tuple[list[dict[str, Any]], list[str]]:
    """(receipts, names of all items)"""
    (tmp_path / "_run").mkdir()
    monkeypatch.setattr(executor, "run_shard", shard)
    monkeypatch.setattr(executor, "try_rows", trial)
    items = [WorkItem(Shard(i, "x.csv", i * 8, 8, i * 8), "fake", ("n_staging",)) for i in range(6)]
    receipts: list[dict[str, Any]] = []
    executor.execute(Setting(tmp_path), items, PLACEMENT, receipts.append, go_on, lambda: None)  # type: ignore[arg-type]
    return receipts, [item.name for item in items]


def execute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard: Any, trial: Any = dying_trial
) -> list[dict[str, Any]]:
    receipts, names = begin(tmp_path, monkeypatch, shard, trial, lambda: True)
    assert sorted(receipt["item"] for receipt in receipts) == names
    return receipts


def test_the_rows_that_kill_a_worker_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    receipts = execute(tmp_path, monkeypatch, dying_shard)
    found = {row: reason for receipt in receipts for row, reason in receipt["doomed"].items()}
    assert found == dict.fromkeys(DEADLY, "the worker died on this row (SIGSEGV)")


def test_a_search_ends_with_the_deadline_and_its_item_stays_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = time.monotonic()
    receipts, names = begin(
        tmp_path, monkeypatch, dying_shard, slow_trial, lambda: not (tmp_path / "searching").exists()
    )
    assert time.monotonic() - start < SECONDS
    assert (tmp_path / "searching").exists()
    done = [receipt["item"] for receipt in receipts]
    assert len(done) < len(names) and names[21 // 8] not in done and names[38 // 8] not in done


def test_no_last_try_is_begun_after_the_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beats = iter([True] * 2)
    host = executor._Host(Setting(tmp_path), PLACEMENT, 1 << 40, lambda: None)  # type: ignore[arg-type]
    monkeypatch.setattr(executor, "_child", lambda *arguments: (None, "it died"))
    monkeypatch.setattr(executor, "_search", lambda host, item: {21: "it died"})
    item = WorkItem(Shard(2, "x.csv", 16, 8, 16), "fake", ("n_staging",))
    with pytest.raises(executor._TooLate):
        executor._alone(host, item, lambda: next(beats, False))


def test_the_search_of_a_kept_worker_ends_with_the_deadline_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "_run").mkdir()
    monkeypatch.setattr(executor, "run_shard", dying_shard)
    monkeypatch.setattr(executor, "try_rows", slow_trial)
    slot = executor.Slot(Setting(tmp_path), (cores()[0],), 1 << 40, 0o022)  # type: ignore[arg-type]
    start, searching = time.monotonic(), tmp_path / "searching"
    whole, deadly = (WorkItem(Shard(i, "x.csv", i * 8, 8, i * 8), "fake", ("n_staging",)) for i in (1, 2))
    assert slot.answer(whole, lambda: None, lambda: True)
    assert not slot.answer(deadly, lambda: None, lambda: not searching.exists())
    assert searching.exists() and time.monotonic() - start < SECONDS
    slot.close()


def test_an_exception_is_traced_to_its_row_and_not_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    receipts = execute(tmp_path, monkeypatch, stumbling_shard, stumbling_trial)
    assert [receipt["doomed"] for receipt in receipts if receipt["doomed"]] == [{21: "ValueError in the worker"}]


def test_a_row_is_not_blamed_for_an_accident(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    receipts = execute(tmp_path, monkeypatch, twice_dying_shard, once_dying_trial)
    assert (tmp_path / "struck").exists()
    assert [receipt["doomed"] for receipt in receipts if receipt["doomed"]] == []


def test_a_worker_that_has_grown_is_replaced_and_no_item_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    receipts = execute(tmp_path, monkeypatch, large_shard)
    assert len({receipt["pid"] for receipt in receipts}) > PLACEMENT.processes


def test_an_engine_that_cannot_begin_ends_the_run_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RadliteError, match="before its first row: no context of 8192 tokens"):
        execute(tmp_path, monkeypatch, failing_shard, failing_trial)


def test_the_row_that_was_tried_last_is_known(tmp_path: Path) -> None:
    setting: Any = Setting(tmp_path)
    one, other = (WorkItem(Shard(i, "x.csv", i * 8, 8, i * 8), "fake", ("n_staging",)) for i in range(2))
    assert tried_row(setting, one) is None
    (tmp_path / "_run" / "slots").mkdir(parents=True)
    note(setting, one, 7)
    note(setting, other, 9)
    assert tried_row(setting, one) == 7


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
    start = time.monotonic()
    with pytest.raises(RadliteError, match="dies without answering"):
        execute(tmp_path, monkeypatch, hopeless_shard)
    assert time.monotonic() - start < SECONDS
