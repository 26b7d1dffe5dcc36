"""NegEx (Chapman et al. 2001): clinical sentences with one marked concept, affirmed or negated.

Terms: Apache 2.0.

The concept stands in capitals in its sentence, which would give it away: it is written as the table names it. Of the
sentence's other words nothing is known, so the sample's `labelled_only` says that only its spans are labelled. Concepts
that do not stand in the sentence (cut at a full stop) and those of other people are left out.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from training.datasets.base import Sample, digest
from training.datasets.files import find, rows

FILE = "negex_assertion.tsv"
_NUMBER, _CONCEPT, _SENTENCE = "line number", "Condition", "sentence"
_STATUS = "negation_status (negated, affirmed, possible)"
_OF_WHOM = "experiencer (patient, other)"
_LABELS = {
    "Affirmed": "observation_present", "Negated": "observation_absent", "Possible": "observation_uncertain",
}  # fmt: skip


def read(folder: Path) -> Iterator[Sample]:
    """A sample for every concept found in its sentence. Raises ArchiveError naming file, row and column."""
    columns = (_NUMBER, _CONCEPT, _SENTENCE, _STATUS, _OF_WHOM)
    for row in rows(find(folder, FILE), columns, delimiter="\t", quoting=False):
        label = row.one_of(_STATUS, _LABELS)
        concept, sentence = (" ".join(row.text(name).split()) for name in (_CONCEPT, _SENTENCE))
        found = _find(concept, sentence)
        if found is None or row.text(_OF_WHOM) != "Patient":
            continue
        start, end = found
        text = sentence[:start] + concept + sentence[end:]
        targets = {"radiology_ner": {"entities": [[start, start + len(concept), label]]}}
        # One sentence may stand in several rows, each with another of its concepts marked.
        group = f"negex:{digest(sentence)}"
        yield Sample("negex", row.text(_NUMBER), group, text, {"labelled_only": "spans"}, targets)


def _find(concept: str, sentence: str) -> tuple[int, int] | None:
    """Where the concept stands: in capitals, as it is marked, or else as it first occurs."""
    spots = [m.span() for m in re.finditer(rf"(?<!\w){re.escape(concept)}(?!\w)", sentence, re.IGNORECASE)]
    marked = [(start, end) for start, end in spots if sentence[start:end].isupper()]
    return next(iter(marked or spots), None) if concept else None
