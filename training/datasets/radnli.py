"""RadNLI (Miura et al. 2021): pairs of sentences from MIMIC-CXR with their relation.

Terms: PhysioNet credentialed health data licence 1.5.0.

The development file is the only one beside the test with labels by hand, so it may be trained on: `prepare` splits it,
by premise. The pseudo-labelled training pairs are a model's labels and are not read.
"""

from collections.abc import Iterator
from pathlib import Path

from radlite_batch.tasks.radiology_nli import LABELS
from training.datasets.base import Sample, digest
from training.datasets.files import find, json_lines

FILES = {"radnli_dev_v1.jsonl": None, "radnli_test_v1.jsonl": "test"}
_LABELS = {label: label for label in LABELS}


def read(folder: Path) -> Iterator[Sample]:
    """A sample for every pair. Raises ArchiveError naming file, line and field."""
    for name, split in FILES.items():
        for number, line in enumerate(json_lines(find(folder, name)), 1):
            fields = {"premise": line.text("sentence1"), "hypothesis": line.text("sentence2")}
            targets = {"radiology_nli": {"label": line.one_of("gold_label", _LABELS)}}
            group = f"radnli:{digest(fields['premise'])}"
            yield Sample("radnli", f"{name.partition('.')[0]}:{number}", group, "", fields, targets, split)
