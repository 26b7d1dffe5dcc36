"""MedQA (Jin et al. 2021): questions of the US medical licensing examination. Not radiology.

Terms: MIT.

The last sentence is the question; the case before it and the options are the text.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from training.datasets.base import Sample, joined
from training.datasets.files import SPLITS, json_lines, present

FILES = ("train.jsonl", "dev.jsonl", "test.jsonl", "medqa_dev.jsonl")


def read(folder: Path) -> Iterator[Sample]:
    """A sample for every question of the files that are there. medqa_dev is a selection without a split of its own.

    Raises ArchiveError naming file, line and field."""
    for path in present(folder, FILES):
        stem = path.name.partition(".")[0]
        for number, line in enumerate(json_lines(path), 1):
            *case, question = re.split(r"(?<=[.?!])\s+", line.text("question"))
            options = "; ".join(f"{letter}. {option}" for letter, option in sorted(line.of("options", dict).items()))
            text = joined(case=" ".join(case), options=options)
            targets = {"radiology_qa": {"answer": line.text("answer")}}
            name = f"{stem}:{number}"
            yield Sample("medqa", name, f"medqa:{name}", text, {"question": question}, targets, SPLITS.get(stem))
