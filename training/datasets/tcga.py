"""TCGA pathology reports with the registry's AJCC stage (tatonetti-lab tnm-stage-classifier).

Terms: MIT.

Pathology, not radiology: long texts with traces of OCR. Stages come from the registry, so some are not in the text.
Half of the patients are held out, by a hash of the patient. Reports that print their N code are a subset, `printed`;
of the half to train on, excerpts with a printed code are another.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from radlite_batch.errors import ArchiveError
from training.datasets.base import Sample, drawn
from training.datasets.files import Record, find, rows
from training.datasets.printed import excerpts

FILE = "tcga_path_tnm_dev.csv"
_PRINTED, _FLAGS = "explicit_pN_in_text", {"0": False, "1": True}
_STAGES = {"n_staging": ("ajcc_pathologic_n", "N[0-3X]"), "m_staging": ("ajcc_pathologic_m", "M[01X]")}


def read(folder: Path) -> Iterator[Sample]:
    """A sample for every report with a stage. Raises ArchiveError naming file, row and column."""
    columns = ("patient_filename", "text", _PRINTED, *(column for column, _ in _STAGES.values()))
    for row in rows(find(folder, FILE), columns):
        name = row.text("patient_filename")
        group = f"tcga:{name.partition('.')[0]}"
        targets = _targets(row)
        if targets and row.text("text"):
            split = "dev" if drawn(group) < 0.5 else "train"
            subset = "printed" if row.one_of(_PRINTED, _FLAGS) else ""
            yield Sample("tcga", name, group, row.text("text"), {}, targets, split, subset)
            if split == "train" and "n_staging" in targets:
                yield from _excerpts(name, group, row.text("text"), targets["n_staging"]["stage"])


def _excerpts(name: str, group: str, text: str, stage: str) -> Iterator[Sample]:
    for number, (excerpt, printed) in enumerate(excerpts(text, stage, group)):
        target = {"n_staging": {"stage": printed}}
        yield Sample("tcga", f"{name} excerpt {number}", group, excerpt, {}, target, "train", "excerpt")


def _targets(row: Record) -> dict[str, dict[str, Any]]:
    targets: dict[str, dict[str, Any]] = {}
    for task, (column, stage) in _STAGES.items():
        # "cM0 (i+)" and "N2b" are M0 and N2.
        named = re.search(stage, row.text(column).upper())
        if named:
            targets[task] = {"stage": named[0]}
        elif row.text(column):
            raise ArchiveError(f"{row.where}: field {column!r} is no stage")
    return targets
