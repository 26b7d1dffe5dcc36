"""The split of the machine: measured once, kept, within memory, and as the job says where it says."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from radlite_batch import placement
from radlite_batch.engine.open import ModelFile
from radlite_batch.job import Workers
from radlite_batch.placement import cores_of, place

Split = tuple[int, int]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelFile:
    """A model of 1 MiB on a machine of eight cores and 10 GiB, whose contexts take 500 MiB, and 1,500 more to write."""
    monkeypatch.setenv("RADLITE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "model.gguf"
    path.write_bytes(bytes(1 << 20))
    monkeypatch.setattr(placement.machine, "cores", lambda: list(range(8)))
    monkeypatch.setattr(placement.machine, "core_count", lambda: 8)
    monkeypatch.setattr(placement.machine, "memory_available", lambda: 10 << 30)
    monkeypatch.setattr(placement, "context_bytes", lambda model, writes: (500 + 1500 * writes) << 20)
    return ModelFile("m", path, "a" * 64, 4096, ())


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Split]:
    """The splits that were measured; four processes of two threads are the fastest, but not at the first try."""
    seen: list[Split] = []

    def speed(path: Path, core_sets: Sequence[tuple[int, ...]], n_batch: int, seconds: float) -> float:
        split = (len(core_sets), len(core_sets[0]))
        seen.append(split)
        if seen == [(8, 1), (4, 2)]:
            return 1.0
        return {(8, 1): 800.0, (4, 2): 900.0, (2, 4): 700.0, (1, 8): 400.0}.get(split, 1.0)

    monkeypatch.setattr(placement, "prompt_speed", speed)
    return seen


def test_the_fastest_split_is_measured_once(model: ModelFile, measured: list[Split]) -> None:
    said: list[str] = []
    placed = place(Workers(), {"m": model}, (), said.append)
    assert measured == [(8, 1), (4, 2), (2, 4), (1, 8)] * 2
    assert (placed.placement.core_sets, placed.threads) == (((0, 1), (2, 3), (4, 5), (6, 7)), 2)
    assert "4 process(es) x 2 thread(s)" in placed.why[0] and "8 x 1: 800" in placed.why[0]
    assert place(Workers(), {"m": model}, (), said.append) == placed
    assert len(measured) == 8 and len(said) == 1


def test_memory_limits_the_processes(model: ModelFile, measured: list[Split], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement.machine, "memory_available", lambda: 2200 << 20)
    placed = place(Workers(), {"m": model}, ())
    assert measured[0] == (3, 1)
    assert placed.placement.processes <= 3


def test_runs_that_write_need_more_memory_a_process(model: ModelFile, measured: list[Split]) -> None:
    place(Workers(), {"m": model, "other": model}, ("m",))
    assert measured[0] == (4, 1)
    place(Workers(), {"m": model, "other": model}, ())
    assert (8, 1) in measured


def test_few_workers_share_all_cores(model: ModelFile, measured: list[Split], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement.machine, "cores", lambda: list(range(64)))
    monkeypatch.setattr(placement.machine, "core_count", lambda: 64)
    monkeypatch.setattr(placement.machine, "memory_available", lambda: 2200 << 20)
    place(Workers(), {"m": model}, ())
    assert measured[:5] == [(3, 1), (3, 2), (3, 4), (3, 8), (3, 21)]
    assert placement._splits(8, 1) == [(1, 1), (1, 2), (1, 4), (1, 8)]
    assert placement._splits(6, 2) == [(2, 1), (2, 2), (2, 3), (1, 4)]


def test_under_a_quota_there_are_fewer_workers_on_any_core(
    model: ModelFile, measured: list[Split], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement.machine, "core_count", lambda: 2)
    placed = place(Workers(), {"m": model}, ())
    assert measured == [(2, 1), (1, 2)] * 2
    assert placed.placement.core_sets == (tuple(range(8)),) * placed.placement.processes
    assert cores_of(placed) in (((0,), (1,)), ((0, 1),))
    assert placed.placement.processes * placed.threads == 2
    assert placed.why[2] == "cores: any of 8; the control group's quota is 2"
    assert place(Workers(threads=4), {"m": model}, ()).threads == 2


def test_what_the_job_says_is_not_measured(model: ModelFile, measured: list[Split]) -> None:
    placed = place(Workers(processes=2, threads=3), {"m": model}, ())
    assert placed.placement.core_sets == ((0, 1, 2), (3, 4, 5))
    assert place(Workers(processes=2), {"m": model}, ()).threads == 4
    assert place(Workers(threads=4), {"m": model}, ()).placement.core_sets == ((0, 1, 2, 3), (4, 5, 6, 7))
    assert measured == []


def test_a_model_without_a_file_gets_a_process_for_each_core(model: ModelFile, measured: list[Split]) -> None:
    placed = place(Workers(), {"fake": ModelFile("fake", None, "", 4096, ())}, ())
    assert (placed.placement.processes, placed.threads, measured) == (8, 1, [])


def test_what_was_measured_belongs_to_the_model_file(model: ModelFile, measured: list[Split], tmp_path: Path) -> None:
    place(Workers(), {"m": model}, ())
    place(Workers(), {"m": ModelFile("m", model.path, "b" * 64, 4096, ())}, ())
    assert len(measured) == 16
    kept = [json.loads(path.read_text()) for path in (tmp_path / "cache" / "placement").glob("*.json")]
    assert all(record["4 x 2"] == 900.0 for record in kept) and len(kept) == 2


def test_a_damaged_record_is_measured_again(model: ModelFile, measured: list[Split], tmp_path: Path) -> None:
    first = place(Workers(), {"m": model}, ())
    (record,) = (tmp_path / "cache" / "placement").glob("*.json")
    for text in ("", '{"4 x 2": 9', "[]", '{"4 x 2": null}'):
        record.write_text(text)
        measured.clear()
        assert place(Workers(), {"m": model}, ()).placement == first.placement and len(measured) == 8
