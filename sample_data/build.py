"""Makes reports.csv, reports.parquet and labelled.parquet from the written reports; run it after editing them.

usage: python sample_data/build.py
"""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from radlite_batch.results.schemas import arrow_type
from radlite_batch.tasks.abnormality_detection import LABELS
from radlite_batch.tasks.rads_systems import format_label
from radlite_batch.tasks.registry import TASKS

HERE = Path(__file__).parent
FIELDS = (
    "report_id", "patient_id", "study_date", "modality", "findings", "impression", "prior_text", "premise",
    "hypothesis", "question",
)  # fmt: skip


def main() -> None:
    rows = [json.loads(line) for path in sorted(HERE.glob("written/*.jsonl")) for line in path.open(encoding="utf-8")]
    rows.sort(key=lambda row: row["report_id"])
    reports = [{key: row[key] or None for key in FIELDS} for row in rows]
    with open(HERE / "reports.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(reports)
    pq.write_table(pa.Table.from_pylist(reports), HERE / "reports.parquet", compression="zstd")
    pq.write_table(pa.Table.from_pylist([labels(row) for row in rows], schema()), HERE / "labelled.parquet")
    print(f"{len(rows)} reports")


def labels(row: dict[str, Any]) -> dict[str, Any]:
    """A report's labels, in the columns of the tasks' tables; null where a task has no label for it."""
    gold = row["gold"]
    rads = gold["rads"]
    flags = gold["abnormality"]
    return {
        "report_id": row["report_id"],
        "rads_label": format_label(rads["system"], rads["category"], rads["category_neck"]),
        "n_stage": gold["n"],
        "m_stage": gold["m"],
        **{label: flags.get(label, "absent") if flags is not None else None for label in LABELS},
        "entities": spans(row["findings"], gold["entities"], "text", "label"),
        "changes": spans(row["findings"], gold["changes"], "finding", "change"),
        "nli_label": gold["nli"],
        "answer": gold["answer"],
        "impression": row["impression"],
    }


def spans(findings: str, named: list[list[str]] | None, text_key: str, label_key: str) -> list[dict[str, Any]] | None:
    """Offsets of (text, label) pairs that stand in the findings in this order."""
    if named is None:
        return None
    found, cursor = [], 0
    for text, label in named:
        start = findings.index(text, cursor)
        cursor = start + len(text)
        found.append({text_key: text, label_key: label, "start": start, "end": cursor})
    return found


def schema() -> pa.Schema:
    text = ("report_id", "rads_label", "n_stage", "m_stage", *LABELS)
    return pa.schema(
        [
            *((name, pa.string()) for name in text),
            ("entities", arrow_type(TASKS["radiology_ner"].headline_column)),
            ("changes", arrow_type(TASKS["temporal_comparison"].headline_column)),
            *((name, pa.string()) for name in ("nli_label", "answer", "impression")),
        ]
    )


if __name__ == "__main__":
    main()
