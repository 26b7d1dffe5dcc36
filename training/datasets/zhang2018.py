"""Findings and impressions as Zhang et al. (2018) lay them out for summarisation, in tokens.

Terms: those of the reports; Stanford's are not released, Indiana University's are Open-i's.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from training.datasets.base import Sample, joined
from training.datasets.files import SPLITS, Record, json_lines, present

FILES = ("train.jsonl", "dev.jsonl", "test.jsonl")


def read(folder: Path) -> Iterator[Sample]:
    """A sample for every report with both sections. Raises ArchiveError naming file, line and field."""
    for path in present(folder, FILES):
        stem = path.name.partition(".")[0]
        for number, line in enumerate(json_lines(path), 1):
            fields = {name: _written(line, name) for name in ("findings", "impression")}
            if all(fields.values()):
                name = f"{stem}:{number}"
                targets = {"impression_generation": {"impression": fields["impression"]}}
                yield Sample("zhang2018", name, f"zhang2018:{name}", joined(**fields), fields, targets, SPLITS[stem])


def _written(line: Record, section: str) -> str:
    """The section's tokens as a text, without its heading."""
    tokens = [str(token) for token in line.of(section, list)]
    if [token.casefold() for token in tokens[:2]] == [section, ":"]:
        tokens = tokens[2:]
    return re.sub(r" (?=[.,;:!?)])", "", " ".join(tokens)).replace("( ", "(")
