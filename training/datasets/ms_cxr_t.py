"""MS-CXR-T (Bannur et al. 2023): how five findings changed between two radiographs, and pairs of sentences.

Terms: PhysioNet credentialed health data licence 1.5.0. Needs the sectioned reports of MIMIC-CXR beside it.

Its authors made it to be tested on, so all of it is `test`, and its patients are kept out of training. A change says
nothing of where the report tells it: it is laid on the first place that names the finding, other changes are not known
(`labelled_only`; no score is over such spans yet), and a report that does not name the finding has no sample. Of the
pairs a paraphrase is an entailment.
"""

from collections.abc import Iterator
from pathlib import Path

from radlite_batch.tasks.spans import Span, align
from training.datasets import mimic_cxr
from training.datasets.base import Sample, digest
from training.datasets.files import find, rows

IMAGES = "MS_CXR_T_temporal_image_classification_v1.0.0.csv"
SENTENCES = "MS_CXR_T_temporal_sentence_similarity_v1.0.0.csv"
_TERMS = {  # how a report names each finding, the longer first
    "consolidation": ("consolidation", "consolidations"),
    "edema": ("pulmonary edema", "edema"),
    "pleural_effusion": ("pleural effusions", "pleural effusion", "effusions", "effusion"),
    "pneumonia": ("pneumonia",),
    "pneumothorax": ("pneumothorax", "pneumothoraces"),
}
_CHANGES = {"improving": "improved", "stable": "unchanged", "worsening": "worsened", "": None}
_RELATIONS = {"paraphrase": "entailment", "contradiction": "contradiction"}


def read(folder: Path) -> Iterator[Sample]:
    """Reports with a change that they name, then pairs. Raises ArchiveError naming file, row and column."""
    yield from _reports(folder)
    for number, row in enumerate(rows(find(folder, SENTENCES), ("sentence_1", "sentence_2", "category")), 1):
        fields = {"premise": row.text("sentence_1"), "hypothesis": row.text("sentence_2")}
        targets = {"radiology_nli": {"label": row.one_of("category", _RELATIONS)}}
        yield Sample("ms_cxr_t", f"pair{number}", f"ms_cxr_t:{digest(fields['premise'])}", "", fields, targets, "test")


def _reports(folder: Path) -> Iterator[Sample]:
    subjects: dict[str, str] = {}
    changes: dict[str, dict[str, str]] = {}
    for row in rows(find(folder, IMAGES), ("subject_id", "study_id", *(f"{name}_progression" for name in _TERMS))):
        study = row.text("study_id")
        subjects[study] = row.text("subject_id")
        known = {name: row.one_of(f"{name}_progression", _CHANGES) for name in _TERMS}
        changes.setdefault(study, {}).update({name: change for name, change in known.items() if change})
    for row in mimic_cxr.sections(folder):
        study = mimic_cxr.study_of(row)
        text = mimic_cxr.text_of(row)
        spans = sorted(span for name, change in changes.get(study, {}).items() for span in _first(text, name, change))
        if spans:
            targets = {"temporal_comparison": {"changes": [list(span) for span in spans]}}
            group, fields = f"mimic:{subjects[study]}", {"labelled_only": "spans"}
            yield Sample("ms_cxr_t", f"s{study}", group, text, fields, targets, "test")


def _first(text: str, finding: str, change: str) -> list[Span]:
    return next((spans for term in _TERMS[finding] if (spans := align(text, [(term, change)])[0])), [])
