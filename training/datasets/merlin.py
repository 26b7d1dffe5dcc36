"""Merlin (Blankemeier et al. 2024): abdominal CT reports.

Terms: Stanford AIMI research use agreement, non-commercial.

Findings and impressions only: the data hold no N or M stage. Reads reports_final.xlsx with openpyxl, or the same
table saved as reports_final.csv. A report without an impression gives no sample.
"""

import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from radlite_batch.errors import ArchiveError
from training.datasets.base import Sample, joined
from training.datasets.files import SPLITS, Record, present, rows

FILES = ("reports_final.csv", "reports_final.xlsx")
_COLUMNS = ("study id", "Findings", "Split")


def read(folder: Path) -> Iterator[Sample]:
    """A sample for every report with an impression. Raises ArchiveError naming file, row and column."""
    path = present(folder, FILES)[0]
    for row in _sheet(path) if path.suffix == ".xlsx" else rows(path, _COLUMNS):
        findings, _, impression = row.text("Findings").partition("IMPRESSION:")
        fields = {"findings": re.sub(r"^\s*FINDINGS:", "", findings).strip(), "impression": impression.strip()}
        if all(fields.values()):
            study = row.text("study id")
            targets = {"impression_generation": {"impression": fields["impression"]}}
            split = row.one_of("Split", SPLITS)
            yield Sample("merlin", study, f"merlin:{study}", joined(**fields), fields, targets, split)


def _sheet(path: Path) -> Iterator[Record]:
    table = _cells(path)
    header = [str(name) for name in next(table, ())]
    missing = [column for column in _COLUMNS if column not in header]
    if missing:
        raise ArchiveError(f"{path}: no column {missing[0]!r}")
    for number, cells in enumerate(table, 1):
        texts = ("" if cell is None else str(cell) for cell in cells)
        yield Record(f"{path}: row {number}", dict(zip(header, texts, strict=False)))


def _cells(path: Path) -> Iterator[tuple[Any, ...]]:
    """The rows of the workbook's active sheet. Raises ArchiveError."""
    try:
        from openpyxl import load_workbook
    except ImportError:
        raise ArchiveError(f"{path}: reading it needs openpyxl; or save it as {FILES[0]}") from None
    try:
        yield from load_workbook(path, read_only=True).active.iter_rows(values_only=True)
    # Rows are read as they are asked for. SyntaxError: what XML parsers raise; AttributeError: no sheet of cells.
    except (BadZipFile, KeyError, ValueError, AttributeError, SyntaxError, OSError, EOFError, zlib.error) as error:
        raise ArchiveError(f"{path}: no Excel workbook ({type(error).__name__})") from None
