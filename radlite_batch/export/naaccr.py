"""Suggestions for items of a cancer registry's abstract, by NAACCR XML id: a CSV file, and a NAACCR XML document.

The document follows the NAACCR XML Data Exchange Standard 1.8: a Patient with a Tumor for each report, its suggested
items, and behind them, in a namespace of our own, which report each comes from and how sure it is. It is no submission:
a person checks each value, and the reports of one patient are not yet put together.
"""

import csv
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from radlite_batch.export.files import growing
from radlite_batch.export.mapping import Row, Table, Target, not_number
from radlite_batch.export.source import Answer, Answered, Source
from radlite_batch.results.csv import safe_cell

TARGET = Target(
    "naaccr",
    ("naaccr_id", "naaccr_number", "value"),
    "naaccr_id",
    lambda row: "value is empty" if row["naaccr_id"] and not row["value"] else not_number(row, "naaccr_number"),
)
COLUMNS = ("report_id", "source_row", "naaccr_id", "naaccr_number", "value", "confidence", "model", "status")
PATIENT = ("patient_id", "study_date")  # two more, where they are asked for
NAMESPACE = "http://naaccr.org/naaccrxml"
OURS = "urn:radlite-batch:suggestion"
_ROOT = {
    "baseDictionaryUri": f"{NAMESPACE}/naaccr-dictionary-260.xml", "recordType": "I", "specificationVersion": "1.8",
}  # fmt: skip
_NOT_XML = re.compile(r"[^\t\n\r\x20-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]")


def write_naaccr(source: Source, folder: Path, mapping: Path | None, patients: bool) -> list[str]:
    """suggestions.csv and suggestions.xml. Returns what to tell."""
    table = Table(TARGET, mapping)
    paths, count = (folder / "suggestions.csv", folder / "suggestions.xml"), 0
    with growing(paths[0]) as lines, growing(paths[1]) as document:
        writer = csv.writer(lines)
        writer.writerow((*COLUMNS, *(PATIENT if patients else ())))
        now = datetime.now(UTC).isoformat(timespec="seconds")
        named = _attributes(_ROOT | {"timeGenerated": now, "xmlns": NAMESPACE, "xmlns:radlite": OURS})
        document.write('<?xml version="1.0" encoding="UTF-8"?>\n')
        document.write("<!-- Suggestions by an algorithm, preliminary: a person must check each of them. -->\n")
        document.write(f"<NaaccrData{named}>\n")
        for report in source.reports(patients):
            found = [(answer, row) for answer in report.answers if (row := table.row(answer))]
            for answer, row in found:
                writer.writerow(map(safe_cell, _line(report, answer, row, patients)))
            if found:
                document.write(_patient(report, found))
            count += len(found)
        document.write("</NaaccrData>\n")
    return [f"{path}  {count:,} suggestions" for path in paths]


def _line(report: Answered, answer: Answer, row: Row, patients: bool) -> Sequence[str]:
    return (
        report.report_id or "", str(report.source_row), row["naaccr_id"], row["naaccr_number"], row["value"],
        _sure(answer), answer.model, "preliminary", *((report.patient_id, report.study_date) if patients else ()),
    )  # fmt: skip


def _sure(answer: Answer) -> str:
    return "" if answer.confidence is None else f"{answer.confidence:.4f}"


def _patient(report: Answered, found: Sequence[tuple[Answer, Row]]) -> str:
    items, notes = [], []
    for answer, row in found:
        named = _attributes({"naaccrId": row["naaccr_id"], "naaccrNum": row["naaccr_number"]})
        items.append(f"      <Item{named}>{escape(row['value'])}</Item>\n")
        note = {
            "naaccrId": row["naaccr_id"], "status": "preliminary", "confidence": _sure(answer), "model": answer.model,
            "reportId": report.report_id or "", "sourceRow": str(report.source_row), "patientId": report.patient_id,
            "studyDate": report.study_date,
        }  # fmt: skip
        notes.append(f"      <radlite:suggestion{_attributes(note)}/>\n")
    return f"  <Patient>\n    <Tumor>\n{''.join(items)}{''.join(notes)}    </Tumor>\n  </Patient>\n"


def _attributes(values: dict[str, str]) -> str:
    """Those that are not empty; a character that XML cannot hold is written as U+FFFD."""
    return "".join(f" {name}={quoteattr(_NOT_XML.sub(chr(0xFFFD), value))}" for name, value in values.items() if value)
