"""From a run's output and a labelled Parquet to scores: joined by id, all statuses counted, mistakes named."""

import csv
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner

from radlite_batch.archive import ArchiveSpec
from radlite_batch.errors import UsageError
from radlite_batch.job import Job, Output, Workers
from radlite_batch.run import run
from radlite_batch.tasks.abnormality_detection import LABELS
from radlite_batch.tasks.registry import TASKS
from training.cli import main
from training.evaluate import REFERENCE_COLUMNS, evaluate
from training.scoring import Score

TEXTS = ("Heart size is normal.", "Small left effusion.", "Clear lungs.", "New right basal opacity.", "Old fracture.", "")
FOUND = {
    "rads_assignment": {"rads_label": "label"},
    "n_staging": {"n_stage": "stage"},
    "m_staging": {"m_stage": "stage"},
    "abnormality_detection": {label: label for label in LABELS},
    "radiology_ner": {"entities": "entities"},
    "temporal_comparison": {"changes": "changes"},
    "impression_generation": {"impression": "impression"},
    "radiology_qa": {"answer": "answer"},
    "radiology_nli": {"nli_label": "label"},
}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over six rows; the last is empty. Its answers have no meaning, but they are what a run writes."""
    folder = tmp_path_factory.mktemp("run")
    with open(folder / "archive.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["report_id", "text", "findings", "question", "premise", "hypothesis"])
        for i, text in enumerate(TEXTS):
            pair = ("No effusion.", f"Effusion {i}.") if text else ("", "")
            writer.writerow([f"{i:02d}", text, text, "Is the heart large?", *pair])
    archive = ArchiveSpec((str(folder / "archive.csv"),))
    run(Job(archive, tuple(TASKS), Output(folder / "out", shard_rows=4), pack="fake", workers=Workers(processes=1)))
    return folder / "out"


@pytest.fixture
def labels(out: Path) -> pl.DataFrame:
    """A reference that agrees with every answer, and labels the empty row too."""
    reference = pl.read_parquet(out / "n_staging" / "*.parquet").select("report_id")
    for task, names in FOUND.items():
        table = pl.read_parquet(out / task / "*.parquet")
        chosen = table.select("report_id", *(pl.col(found).alias(label) for label, found in names.items()))
        reference = reference.join(chosen, on="report_id")
    filler: dict[str, Any] = {"rads_label": "BI-RADS 2", "n_stage": "N0", "m_stage": "M0", "nli_label": "neutral"}
    filler |= {"impression": "Normal.", "answer": "No."} | dict.fromkeys(LABELS, "positive")
    return reference.with_columns(pl.col(name).fill_null(pl.lit(label)) for name, label in filler.items())


def by_name(scores: list[Score]) -> dict[tuple[str, str], Score]:
    return {(score.task, score.metric): score for score in scores}


def write(labels: pl.DataFrame, folder: Path) -> Path:
    labels.write_parquet(folder / "labelled.parquet")
    return folder / "labelled.parquet"
