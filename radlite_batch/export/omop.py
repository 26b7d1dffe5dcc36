"""NOTE_NLP of the OMOP Common Data Model 5.4, as a CSV file to load: a row for each answer that the mapping names."""

import csv
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from radlite_batch.export.files import growing
from radlite_batch.export.mapping import Row, Table, Target, not_number
from radlite_batch.export.source import Answer, Answered, Source
from radlite_batch.results.csv import safe_cell

COLUMNS = (
    "note_nlp_id", "note_id", "section_concept_id", "snippet", "offset", "lexical_variant", "note_nlp_concept_id",
    "note_nlp_source_concept_id", "nlp_system", "nlp_date", "nlp_datetime", "term_exists", "term_temporal",
    "term_modifiers",
)  # fmt: skip
TARGET = Target(
    "omop",
    ("note_nlp_concept_id", "note_nlp_source_concept_id", "lexical_variant", "term_exists", "term_temporal"),
    "note_nlp_concept_id",
    lambda row: not_number(row, "note_nlp_concept_id", "note_nlp_source_concept_id"),
)
_LONGEST = 250  # characters that lexical_variant takes
_INTEGER = r"^(?:0|[1-9][0-9]{0,17})$"  # "007" is none: it would come back as 7


def write_omop(source: Source, folder: Path, mapping: Path | None) -> list[str]:
    """note_nlp.csv, and note_ids.csv with the report_id of each note_id. Returns what to tell.

    note_id is the report_id where every one of the run is an integer and no two are equal, else source_row."""
    table, by_id = Table(TARGET, mapping), _integers(source)
    paths, rows = (folder / "note_nlp.csv", folder / "note_ids.csv"), 0
    with growing(paths[0]) as terms, growing(paths[1]) as notes:
        term_writer, note_writer = csv.writer(terms), csv.writer(notes)
        term_writer.writerow(COLUMNS)
        note_writer.writerow(("note_id", "report_id"))
        for report in source.reports():
            note_id = str(report.report_id if by_id else report.source_row)
            note_writer.writerow((note_id, safe_cell(report.report_id or "")))
            for values in _rows(source, table, report):
                rows += 1
                term_writer.writerow(map(safe_cell, (str(rows), note_id, *values)))
    named = "report_id" if by_id else "source_row"
    return [f"{paths[0]}  {rows:,} rows", f"{paths[1]}  note_id is {named}"]


def _integers(source: Source) -> bool:
    report_id = pl.col("report_id")
    return source.hold(report_id.str.contains(_INTEGER).fill_null(False).all() & (report_id.n_unique() == pl.len()))


def _rows(source: Source, table: Table, report: Answered) -> Iterator[tuple[str, ...]]:
    """The columns from the third on."""
    day, time = report.time.strftime("%Y-%m-%d"), report.time.strftime("%Y-%m-%d %H:%M:%S")
    for answer in report.answers:
        if row := table.row(answer):
            offset = "" if answer.start is None else str(answer.start)
            yield (
                "", "", offset, _term(row, answer), row["note_nlp_concept_id"], row["note_nlp_source_concept_id"],
                source.engine(answer.model), day, time, row["term_exists"], row["term_temporal"], _modifiers(answer),
            )  # fmt: skip


def _term(row: Row, answer: Answer) -> str:
    return (row["lexical_variant"] or answer.text or answer.label)[:_LONGEST]


def _modifiers(answer: Answer) -> str:
    sure = [] if answer.confidence is None else [f"confidence={answer.confidence:.4f}"]
    end = [] if answer.end is None else [f"end={answer.end}"]
    return ";".join([f"task={answer.task}", f"{answer.column}={answer.label}", *sure, *end, "status=preliminary"])
