"""A pack over everything that a prepared mix holds out, source by source: archives, ordinary runs, scores.

OUT/archives/SOURCE   reports.parquet and labels.parquet
OUT/runs/SOURCE       an ordinary run over it, of the tasks that its labels know
OUT/scores.json       the scores of each source, and those over texts that training does not hold
"""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import polars as pl

from radlite_batch.archive import ArchiveSpec
from radlite_batch.errors import UsageError
from radlite_batch.job import Job, Output
from radlite_batch.pack import load_pack
from radlite_batch.run import run
from radlite_batch.tasks.registry import TASKS
from training.datasets.base import Sample, drawn
from training.evaluate import evaluate, score_lines
from training.prepare import read_prepared
from training.reference import REFERENCE_COLUMNS, text_sha, write_archive, write_once

SHARD_ROWS = 16  # sources are small: the last shard is not to keep one core busy while the others wait


def score_pack(pack: str, prepared: Path, out: Path, say: Callable[[str], None], limit: int | None = None) -> int:
    """Runs what is not finished, then scores. Returns the exit code of a run that was stopped, or 0.

    limit: most samples of a source and subset, drawn the same at every call.

    Raises PackError, UsageError where OUT holds other samples, RunChanged where it holds the runs of another pack."""
    archives = out / "archives"
    samples = _few(_held_out(prepared), limit)
    write_once(archives, samples, lambda folder: write_archive(samples, folder))
    known = {text_sha(sample) for sample in read_prepared(prepared, "train")}
    routes = load_pack(pack).routes
    document = {}
    for folder in sorted(path.parent for path in archives.glob("*/labels.parquet")):
        labels, reports, runs = folder / "labels.parquet", folder / "reports.parquet", out / "runs" / folder.name
        output = Output(runs, shard_rows=SHARD_ROWS)
        tasks = tuple(task for task in _labelled(labels) if task in routes)
        if not tasks:
            say(f"{folder.name}: pack {pack} has no model for its tasks")
            continue
        summary = run(Job(ArchiveSpec((str(reports),)), tasks, output, pack))
        if summary.state != "complete":
            return summary.exit_code
        scores, unseen = evaluate(runs, labels, reports), evaluate(runs, labels, reports, known)
        document[folder.name] = {"all": [asdict(s) for s in scores], "unseen": [asdict(s) for s in unseen]}
        say(f"{folder.name}")
        say("\n".join(score_lines(scores)))
        if unseen and unseen[0].n < scores[0].n:
            say("texts that are not in training, each once:\n" + "\n".join(score_lines(unseen)))
    (out / "scores.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0


def _held_out(prepared: Path) -> list[Sample]:
    """Those of the split dev, and of test with a subset of that name."""
    tested = (replace(s, subset="-".join(filter(None, (s.subset, "test")))) for s in read_prepared(prepared, "test"))
    samples = [*read_prepared(prepared, "dev"), *tested]
    if not samples:
        raise UsageError(f"{prepared}: nothing is held out there")
    return samples


def _few(samples: list[Sample], limit: int | None) -> list[Sample]:
    by_source: dict[tuple[str, str], list[Sample]] = {}
    for sample in sorted(samples, key=lambda sample: drawn(f"score {sample.source} {sample.id}")):
        by_source.setdefault((sample.source, sample.subset), []).append(sample)
    return [sample for of in by_source.values() for sample in of[:limit]]


def _labelled(labels: Path) -> tuple[str, ...]:
    """The tasks that some report of the reference is labelled for."""
    columns = pl.read_parquet(labels).select(pl.all().is_not_null().any()).row(0, named=True)
    return tuple(task for task in TASKS if any(columns.get(name) for name in REFERENCE_COLUMNS[task]))
