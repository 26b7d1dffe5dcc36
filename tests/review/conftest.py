"""A run to review."""

import csv
import shutil
from pathlib import Path

import pytest
from reviewing import ROWS, text_of

from radlite_batch.archive import ArchiveSpec
from radlite_batch.job import Job, Output, Workers
from radlite_batch.run import run
from radlite_batch.tasks.registry import TASKS


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of every task in several shards; its archive beside it. Row 9 has no text."""
    folder = tmp_path_factory.mktemp("review")
    with open(folder / "archive.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["report_id", "text", "question", "premise", "hypothesis"])
        for i in range(ROWS):
            writer.writerow([f"=1+{i}", "" if i == 9 else text_of(i), "Where?", f"Left {i}.", "Right."])
    spec = ArchiveSpec((str(folder / "archive.csv"),))
    output = Output(folder / "out", private=False, shard_rows=16)
    run(Job(spec, tuple(TASKS), output, "fake", Workers(1, 1)))
    return folder / "out"


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    """A copy of the run, for tests to write in."""
    return Path(shutil.copytree(made, tmp_path / "out"))
