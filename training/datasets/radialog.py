"""RaDialog-Instruct (Pellegrini et al. 2023): questions about reports of MIMIC-CXR.

Terms: PhysioNet credentialed health data licence 1.5.0. Needs the split file of MIMIC-CXR beside it, which
knows the patients.

Four of its tasks ask about the report, and are read: which words tell a finding (RE), regions (RQA), one finding
(CPbQA), all findings (CPaQA). Easy language, summaries and corrections (EL, SU, CO) are none of ours. Answers to RQA
are a model's.
"""

from collections.abc import Iterator
from pathlib import Path

from radlite_batch.errors import ArchiveError
from training.datasets import mimic_cxr
from training.datasets.base import Sample, joined
from training.datasets.files import SPLITS, find, json_file, present, record, rows

FILES = tuple(f"instruct_large_{task}.json" for task in ("RE", "RQA", "CPbQA", "CPaQA"))


def read(folder: Path) -> Iterator[Sample]:
    """A sample for every question of the files that are there. Raises ArchiveError naming file, item and field."""
    splits = {
        row.text("dicom_id"): (row.text("subject_id"), row.one_of("split", SPLITS))
        for row in rows(find(folder, mimic_cxr.SPLIT), ("dicom_id", "subject_id", "split"))
    }
    for path in present(folder, FILES):
        for number, item in enumerate(json_file(path, list), 1):
            asked = record(f"{path}: item {number}", item)
            dicom, question, answer = asked.text("dicom"), asked.text("task"), asked.text("output")
            if dicom not in splits:
                raise ArchiveError(f"{asked.where}: field 'dicom' names no image of {mimic_cxr.SPLIT}")
            report = asked.text("gt_report")
            if report and question and answer:
                subject, split = splits[dicom]
                fields, targets = {"question": question}, {"radiology_qa": {"answer": answer}}
                name = f"{path.stem.rpartition('_')[2]}:{number}"
                yield Sample("radialog", name, f"mimic:{subject}", joined(findings=report), fields, targets, split)
