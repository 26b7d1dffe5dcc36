"""MIMIC-CXR (Johnson et al. 2019): chest radiograph reports in sections, with the labels of CheXpert.

Terms: PhysioNet credentialed health data licence 1.5.0; neither the reports nor a copy of them may be passed on.

The labeller read one section of a report: the impression, else the findings, else the last paragraph. So the labels go
with that section alone, in a sample of their own: what it leaves out, the rest of the report may name.
"""

from collections.abc import Iterator
from pathlib import Path

from radlite_batch.errors import ArchiveError
from radlite_batch.tasks.abnormality_detection import LABELS
from training.datasets.base import Sample, joined
from training.datasets.chexpert import COLUMNS, states
from training.datasets.files import SPLITS, Record, find, rows

SECTIONS, LABELLED, SPLIT = "mimic_cxr_sectioned.csv", "mimic-cxr-2.0.0-chexpert.csv", "mimic-cxr-2.0.0-split.csv"


def read(folder: Path) -> Iterator[Sample]:
    """Up to two samples for each study that has a split. Raises ArchiveError naming file, row and column."""
    splits = {
        row.text("study_id"): (row.text("subject_id"), row.one_of("split", SPLITS))
        for row in rows(find(folder, SPLIT), ("study_id", "subject_id", "split"))
    }
    labels = {
        row.text("study_id"): tuple(states(row).values())
        for row in rows(find(folder, LABELLED), ("study_id", *COLUMNS.values()))
    }
    for row in sections(folder):
        study = study_of(row)
        if study not in splits:
            continue  # a study without an image has a report and no split
        subject, split = splits[study]
        fields = fields_of(row)
        if len(fields) == 2:
            targets = {"impression_generation": {"impression": fields["impression"]}}
            yield Sample("mimic_cxr", f"s{study}", f"mimic:{subject}", joined(**fields), fields, targets, split)
        read_by_labeller = _labelled(row, fields)
        if study in labels and read_by_labeller:
            targets = {"abnormality_detection": dict(zip(LABELS, labels[study], strict=True))}
            yield Sample("mimic_cxr", f"s{study}:labels", f"mimic:{subject}", read_by_labeller, {}, targets, split)


def sections(folder: Path) -> Iterator[Record]:
    return rows(find(folder, SECTIONS), ("study", "impression", "findings", "last_paragraph"))


def study_of(row: Record) -> str:
    name = row.text("study")
    if not name.startswith("s") or not name[1:].isdigit():
        raise ArchiveError(f"{row.where}: field 'study' is no study such as s50000001")
    return name[1:]


def fields_of(row: Record) -> dict[str, str]:
    """The sections that are there, without headings."""
    fields = {name: row.text(name) for name in ("findings", "impression")}
    fields = {name: text.removeprefix(f"{name.upper()}:").strip() for name, text in fields.items()}
    return {name: text for name, text in fields.items() if text}


def text_of(row: Record) -> str:
    fields = fields_of(row)
    return joined(**fields) if fields else row.text("last_paragraph")


def _labelled(row: Record, fields: dict[str, str]) -> str:
    for name in ("impression", "findings"):
        if name in fields:
            return joined(**{name: fields[name]})
    return row.text("last_paragraph")
