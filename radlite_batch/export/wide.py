"""The wide table as one CSV file for a spreadsheet: lists become words, and no cell is taken for a formula."""

from pathlib import Path

import polars as pl

from radlite_batch.export.files import growing
from radlite_batch.export.source import Source
from radlite_batch.results.csv import safe_table
from radlite_batch.tasks.base import Column, Task


def write_wide(source: Source, folder: Path, with_text: bool) -> list[str]:
    """wide.csv: a line per row of the run. with_text: spans with their text. Returns what to tell."""
    path, rows = folder / "wide.csv", 0
    cells = ["report_id", "source_row"]
    with growing(path) as file:
        header = [name for task in source.tasks for name in (task.name, f"{task.name}_confidence")]
        empty = pl.DataFrame(schema=[*cells, *header])
        file.write(empty.write_csv())
        for part in source.wide():
            answers = [cell for task in source.tasks for cell in _cells(task, source.min_confidence, with_text)]
            file.write(safe_table(part.select(*cells, *answers)).write_csv(include_header=False))
            rows += part.height
    return [f"{path}  {rows:,} rows"]


def _cells(task: Task, least: float | None, with_text: bool) -> tuple[pl.Expr, pl.Expr]:
    sure = pl.col(f"{task.name}_confidence")
    answer = _words(task.name, task.headline_column, with_text)
    return (answer if least is None else pl.when(sure >= least).then(answer)).alias(task.name), sure


def _words(name: str, column: Column, with_text: bool) -> pl.Expr:
    """Spans as `start-end label; ...`, several labels as `label; ...`, all else as it is."""
    if column.type == "strings":
        return pl.col(name).list.join("; ")
    if not column.type.startswith("spans:"):
        return pl.col(name)
    _, text, label = column.type.split(":")
    span = pl.element().struct
    words = [span.field("start"), pl.lit("-"), span.field("end"), pl.lit(" "), span.field(label)]
    words += [pl.lit(" "), span.field(text)] if with_text else []
    return pl.col(name).list.eval(pl.concat_str(words)).list.join("; ")
