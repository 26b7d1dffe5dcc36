"""The reports of a benchmark: distinct, evenly spaced over an archive, with an input for each of the nine tasks."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from radlite_batch.archive import ArchiveReader, ArchiveSpec, discover, plan_shards, survey
from radlite_batch.errors import ArchiveError
from radlite_batch.records import Report

COLUMNS = ("report_id", "text", "findings", "prior_text", "premise", "hypothesis", "question")
QUESTIONS = (
    "Is there a pleural effusion?",
    "Is the heart enlarged?",
    "Which finding is the most important?",
    "Is there a fracture?",
    "Is follow-up recommended?",
)
_SHARD_ROWS = 4096
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


def write_sample(spec: ArchiveSpec, reports: int, path: Path) -> ArchiveSpec:
    """Writes at most `reports` rows as a Parquet file that only its owner may read; returns it as an archive.

    Raises ArchiveError where the archive holds no report with a text."""
    rows = [_row(report) for report in choose(spec, reports)]
    if not rows:
        raise ArchiveError(f"{spec.paths[0]}: no report with a text")
    for i, row in enumerate(rows):
        row["prior_text"] = row["prior_text"] or rows[i - 1]["text"]
        row["question"] = row["question"] or QUESTIONS[i % len(QUESTIONS)]
    table = pa.Table.from_pylist(rows, pa.schema([(name, pa.string()) for name in COLUMNS]))
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        pq.write_table(table, file)
    return ArchiveSpec((str(path),))


def read_sample(sample: ArchiveSpec) -> list[Report]:
    """The sample's rows as the engine's workers read them."""
    return list(_reports(sample))


def choose(spec: ArchiveSpec, reports: int) -> list[Report]:
    """At most `reports` reports, evenly spaced over those that share no input of a task with an earlier one.

    Answering equal inputs once would otherwise favour whoever does it."""
    seen: set[int] = set()
    distinct: list[int] = []
    for report in _reports(spec):
        if report.problem or not report.text.strip() or not spec.filter.admits(report):
            continue
        row = _row(report)
        inputs = {hash((key, row[key])) for key in ("text", "findings")} | {hash((row["premise"], row["hypothesis"]))}
        if not inputs & seen:
            distinct.append(report.source_row)
        seen |= inputs
    n = min(reports, len(distinct))
    chosen = {distinct[i * len(distinct) // n] for i in range(n)}
    return [report for report in _reports(spec) if report.source_row in chosen]


def _reports(spec: ArchiveSpec) -> Iterator[Report]:
    reader, first = ArchiveReader(spec), 0
    for path in discover(spec.paths):
        file = survey(path, spec, True, _SHARD_ROWS, None)
        for shard in plan_shards([file], _SHARD_ROWS, 0, first):
            yield from reader.reports(shard)
        first += file.rows


def _row(report: Report) -> dict[str, str]:
    """A row of the sample; prior_text and question may still be empty."""
    given = {key: report.fields.get(key, "").strip() for key in COLUMNS[2:]}
    sentences = [part for part in _SENTENCE_END.split(report.text) if part.strip()]
    return given | {
        "report_id": str(report.source_row),
        "text": report.text,
        "findings": given["findings"] or report.text,
        "premise": given["premise"] or sentences[0],
        "hypothesis": given["hypothesis"] or sentences[min(1, len(sentences) - 1)],
    }
