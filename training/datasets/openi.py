"""Open-i, the chest radiographs of Indiana University: reports with human MeSH codes.

Terms: labels of NCBI NegBio, US public domain; text commonly stated as CC BY-NC-ND 4.0.

Codes name what is there. What they leave out may be denied, doubtful or not mentioned, and the target says so; a code
of an opacity beside the lung ("Opacity/retrocardiac") leaves lung opacity without a target. A report whose text names
no cancer stages nothing, so it stands for "none", NX and MX. Every fifth report is held out.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from radlite_batch.errors import ArchiveError
from training.datasets.base import Sample, flag, joined
from training.datasets.files import Record, find, rows

FILE = "openi_train.csv"
_COLUMNS = {  # the columns that say what one of the task's labels says
    "cardiomegaly": ("cardiomegaly",),
    "lung_lesion": ("mass", "nodule"),
    "edema": ("edema",),
    "consolidation": ("consolidation",),
    "pneumonia": ("pneumonia",),
    "atelectasis": ("atelectasis",),
    "pneumothorax": ("pneumothorax",),
    "pleural_effusion": ("effusion",),
    "pleural_other": ("pleural_thickening",),
}
_CODES = {  # labels without a column, by the code or the beginning of it
    "lung_opacity": ("Opacity/lung", "Infiltrate", "Airspace Disease"),
    "fracture": ("Fractures, Bone",),
    "support_devices": ("Catheters, Indwelling", "Implanted Medical Device", "Medical Device", "Tube, Inserted"),
}
_PERHAPS = {"lung_opacity": ("Opacity", "Density")}  # codes that, of another place than the lung, may mean the label
_FLAGS = {"0": False, "1": True}
_CANCER = re.compile(r"malignan|cancer|carcinoma|metasta|tumou?r|neoplas|lymphoma", re.IGNORECASE)


def read(folder: Path) -> Iterator[Sample]:
    """A sample for every report with a text. Raises ArchiveError naming file, row and column."""
    for row in reports(folder):
        text = text_of(row)
        if text:
            uid = row.text("uid")
            fields = {name: row.text(name) for name in ("findings", "impression") if row.text(name)}
            yield Sample("openi", uid, group_of(uid), text, fields, _targets(row, text), split_of(row))


def reports(folder: Path) -> Iterator[Record]:
    columns = ("uid", "findings", "impression", "MeSH", "normal", *(c for names in _COLUMNS.values() for c in names))
    return rows(find(folder, FILE), columns)


def text_of(row: Record) -> str:
    return joined(findings=row.text("findings"), impression=row.text("impression"))


def group_of(uid: str) -> str:
    return f"openi:{uid}"


def split_of(row: Record) -> str:
    uid = row.text("uid")
    if not uid.isdecimal():
        raise ArchiveError(f"{row.where}: field 'uid' is no number")
    return "dev" if int(uid) % 5 == 0 else "train"


def _targets(row: Record, text: str) -> dict[str, dict[str, Any]]:
    targets: dict[str, dict[str, Any]] = {}
    codes = row.text("MeSH").split(";")
    if codes != ["No Indexing"]:
        targets["abnormality_detection"] = _flags(row, codes)
    if not _CANCER.search(text):
        targets |= {"rads_assignment": {"system": "none"}, "n_staging": {"stage": "NX"}, "m_staging": {"stage": "MX"}}
    if row.text("findings") and row.text("impression"):
        targets["impression_generation"] = {"impression": row.text("impression")}
    return targets


def _flags(row: Record, codes: list[str]) -> dict[str, Any]:
    flags = {label: any([row.one_of(column, _FLAGS) for column in columns]) for label, columns in _COLUMNS.items()}
    flags |= {label: any(code.startswith(starts) for code in codes) for label, starts in _CODES.items()}
    normal = row.one_of("normal", _FLAGS)
    unknown = {label for label, starts in _PERHAPS.items() if any(code.startswith(starts) for code in codes)}
    known = {label: flag(there) for label, there in flags.items() if there or label not in unknown}
    return known | {"no_finding": "positive" if normal else "absent"}
