"""A small fake run in one process, and all that a reader can see of its output."""

import csv
import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from radlite_batch import run as main_path
from radlite_batch.archive import ArchiveSpec
from radlite_batch.executor import Placement
from radlite_batch.job import Job, Output, Workers
from radlite_batch.records import WorkItem
from radlite_batch.results.commit import read_json
from radlite_batch.results.manifest import parts_of
from radlite_batch.tasks.registry import TASKS as ALL_TASKS
from radlite_batch.worker import Setting, run_shard

TASKS = ("n_staging", "radiology_ner")
TEXTS = ("Heart size is normal.", "Small left effusion.", "", "New right basal opacity.", "Rib fracture.")


def write_archive(path: Path, rows: int, first: int = 0, broken: Iterable[int] = ()) -> Path:
    """Rows of invented reports, by number from `first` on; those in `broken` lack their text."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["report_id", "text"])
        for i in range(first, first + rows):
            text = TEXTS[i % len(TEXTS)]
            writer.writerow([f"{i:04d}"] if i in broken else [f"{i:04d}", f"{text} Case {i // 7}." if text else ""])
    return path


def small_job(archive: Path, out: Path, shard_rows: int = 4, tasks: tuple[str, ...] = TASKS, pack: str = "fake") -> Job:
    return Job(ArchiveSpec((str(archive),)), tasks, Output(out, shard_rows=shard_rows), pack, Workers(1, 1))


_answer: Callable[[Setting, WorkItem], dict[str, Any]] = run_shard


def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work items run where the run does, one after another, so that its every operation on the disk can be counted."""
    monkeypatch.setattr(main_path, "execute", _execute)


def _execute(
    setting: Setting,
    items: Iterable[WorkItem],
    placement: Placement,
    receive: Callable[[dict[str, Any]], None],
    go_on: Callable[[], bool],
    beat: Callable[[], None],
) -> None:
    for item in items:
        if go_on():
            receive(_answer(setting, item))


def doom(monkeypatch: pytest.MonkeyPatch, rows: Iterable[int]) -> None:
    """These rows are not tried, as if they had killed their worker."""
    reasons = dict.fromkeys(rows, "the worker died on this row")
    monkeypatch.setattr(sys.modules[__name__], "_answer", partial(run_shard, doomed=reasons))


def check_invariants(out: Path) -> None:
    """Readers see whole parts only, and what is vouched for is there, byte for byte."""
    assert {path.name for path in out.glob("*")} <= {*ALL_TASKS, "wide", "failures", "_run", "_SUCCESS"}
    for part in (path for folder in out.glob("*") if folder.name != "_run" for path in folder.glob("*")):
        assert part.name.startswith("part-") and part.suffix == ".parquet"
        pq.read_table(part)
    for proof in (*out.glob("_run/receipts/*"), *out.glob("_run/finished/*")):
        for entry in parts_of(read_json(proof)):
            assert hashlib.sha256((out / entry["path"]).read_bytes()).hexdigest() == entry["sha256"]
    if (out / "_SUCCESS").exists():
        assert read_json(out / "_run" / "summary.json")["state"] == "complete"


def contents(out: Path) -> dict[Path, bytes]:
    """Every file of an output."""
    return {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}


Tables = Mapping[str, Iterable[Mapping[str, Any]]]  # rows by table


def missing(expected: Tables, seen: Tables) -> int:
    """How many rows of the expected tables are not among those seen, whatever stands in them."""
    return (_places(expected) - _places(seen)).total()


def _places(tables: Tables) -> Counter[tuple[Any, ...]]:
    return Counter((name, row["source_row"], row.get("task")) for name, rows in tables.items() for row in rows)


def visible(out: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of every table, as a reader of all its files gets them."""
    tables = {}
    for folder in sorted(out.iterdir()):
        if folder.is_dir() and folder.name != "_run" and any(folder.iterdir()):
            parts = pl.concat([pl.read_parquet(path) for path in folder.iterdir()])
            tables[folder.name] = parts.sort("source_row", maintain_order=True).to_dicts()
    return tables
