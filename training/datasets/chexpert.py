"""CheXpert and CheXpert Plus (Irvin et al. 2019, Chambon et al. 2024): chest radiograph reports with 14 observations.

Terms: Stanford AIMI research use agreement, non-commercial.

Two forms. `chexpert` is what the labeller writes: a table of `Report Impression` and the observations. `chexpert_plus`
is the published collection with the labels of CheXbert beside it; a study stands there once for each of its images,
and is read once.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from radlite_batch.errors import ArchiveError
from radlite_batch.tasks.abnormality_detection import LABELS
from training.datasets.base import Sample, joined
from training.datasets.files import SPLITS, Record, find, json_lines, rows

LABELLED = "labeled_reports.csv"
PLUS, PLUS_LABELS = "df_chexpert_plus_240401.csv", "chexbert_labels/report_fixed.json"
COLUMNS = {label: label.replace("_", " ").title() for label in LABELS}
_STATES = {
    "1": "positive", "1.0": "positive", "0": "negative", "0.0": "negative", "-1": "uncertain", "-1.0": "uncertain",
    "": "absent", "None": "absent", "nan": "absent",
}  # fmt: skip
_STUDY = re.compile(r"(patient\d+)/(study\d+)")


def read(folder: Path) -> Iterator[Sample]:
    """A sample for every labelled impression. Raises ArchiveError naming file, row and column."""
    columns = ("Report Impression", *COLUMNS.values())
    for number, row in enumerate(rows(find(folder, LABELLED), columns), 1):
        text = row.text("Report Impression")
        if text:
            targets = {"abnormality_detection": states(row)}
            yield Sample("chexpert", str(number), f"chexpert:row{number}", text, {}, targets)


def read_plus(folder: Path) -> Iterator[Sample]:
    """A sample for every study with a section. Raises ArchiveError naming file, row and field."""
    labels: dict[tuple[str, str], tuple[str, ...]] = {}
    for line in json_lines(find(folder, PLUS_LABELS)):
        labels.setdefault(_study(line), tuple(states(line).values()))
    seen = set()
    columns = ("path_to_image", "split", "section_findings", "section_impression")
    for row in rows(find(folder, PLUS), columns):
        study = _study(row)
        if study in seen:
            continue
        seen.add(study)
        if study not in labels:
            raise ArchiveError(f"{row.where}: field 'path_to_image' names no study of {PLUS_LABELS}")
        sections = {"findings": row.text("section_findings"), "impression": row.text("section_impression")}
        fields = {name: text for name, text in sections.items() if text}
        targets = {"abnormality_detection": dict(zip(LABELS, labels[study], strict=True))}
        if len(fields) == 2:
            targets["impression_generation"] = {"impression": fields["impression"]}
        if fields:
            split = row.one_of("split", SPLITS)
            yield Sample(
                "chexpert_plus", "/".join(study), f"chexpert:{study[0]}", joined(**fields), fields, targets, split
            )


def states(record: Record) -> dict[str, str]:
    """The state of each observation, from the columns as the labeller names them; a blank is `absent`."""
    found = {label: record.one_of(column, _STATES) for label, column in COLUMNS.items()}
    return found | {"no_finding": "positive" if found["no_finding"] == "positive" else "absent"}


def _study(record: Record) -> tuple[str, str]:
    named = _STUDY.search(record.text("path_to_image"))
    if named is None:
        raise ArchiveError(f"{record.where}: field 'path_to_image' names no patient and study")
    return named[1], named[2]
