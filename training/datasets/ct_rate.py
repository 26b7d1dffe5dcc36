"""CT-RATE (Hamamci et al. 2024): chest CT reports, translated from Turkish, with 18 abnormalities.

Terms: CC BY-NC-SA 4.0, after accepting them on Hugging Face. The development set is for evaluation only.

Seven of the 18 are observations of CheXbert; a 0 says that the finding is not there, not how the report says so. The
development set's labels are manual, those of the whole collection are a model's. A report stands once for each of its
reconstructions there, and is read once.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from radlite_batch.errors import ArchiveError
from training.datasets.base import Sample, flag, joined
from training.datasets.files import Record, find, rows

DEV_FILE = "ct_rate_dev.csv"
_LABELS = {
    "Medical material": "support_devices", "Cardiomegaly": "cardiomegaly", "Atelectasis": "atelectasis",
    "Lung nodule": "lung_lesion", "Lung opacity": "lung_opacity", "Pleural effusion": "pleural_effusion",
    "Consolidation": "consolidation",
}  # fmt: skip
_FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True}
_PARTS = {"train": ("train", "train"), "dev": ("validation", "valid")}  # spellings in the names of reports and labels
REPORTS, PREDICTED = "dataset/radiology_text_reports", "dataset/multi_abnormality_labels"


def read_dev(folder: Path) -> Iterator[Sample]:
    """The development set, all of it held out. Raises ArchiveError naming file, row and column."""
    for row in rows(find(folder, DEV_FILE), ("AccessionNo", "report_text", *_LABELS)):
        name = row.text("AccessionNo")
        targets = {"abnormality_detection": _flags(row)}
        yield Sample("ct_rate_dev", name, f"ct_rate:{name}", row.text("report_text"), {}, targets, "dev")


def read(folder: Path) -> Iterator[Sample]:
    """The whole collection; its validation part is held out. Raises ArchiveError naming file, row and column."""
    for split, (reports, labels) in _PARTS.items():
        path = find(folder, f"{PREDICTED}/{labels}_predicted_labels.csv")
        flags = {row.text("VolumeName"): _flags(row) for row in rows(path, ("VolumeName", *_LABELS))}
        seen = set()
        path = find(folder, f"{REPORTS}/{reports}_reports.csv")
        for row in rows(path, ("VolumeName", "Findings_EN", "Impressions_EN")):
            volume = row.text("VolumeName")
            scan = volume.removesuffix(".nii.gz").rpartition("_")[0]  # train_1_a_2 is the second of scan train_1_a
            if volume not in flags:
                raise ArchiveError(f"{row.where}: field 'VolumeName' has no row among the labels")
            if scan not in seen:
                seen.add(scan)
                yield from _sample(row, scan, flags[volume], split)


def _sample(row: Record, scan: str, flags: dict[str, Any], split: str) -> Iterator[Sample]:
    sections = {"findings": row.text("Findings_EN"), "impression": row.text("Impressions_EN")}
    fields = {name: text for name, text in sections.items() if text and text != "Not given."}
    if not fields:
        return
    targets: dict[str, dict[str, Any]] = {"abnormality_detection": flags}
    if len(fields) == 2:
        targets["impression_generation"] = {"impression": fields["impression"]}
    yield Sample("ct_rate", scan, f"ct_rate:{scan.rpartition('_')[0]}", joined(**fields), fields, targets, split)


def _flags(row: Record) -> dict[str, Any]:
    return {label: flag(row.one_of(column, _FLAGS)) for column, label in _LABELS.items()}
