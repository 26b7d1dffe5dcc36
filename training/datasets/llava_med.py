"""LLaVA-Med (Li et al. 2023): conversations about figures of PubMed Central, written by GPT-4 from their captions.

Terms: CC BY-NC 4.0.

The caption is the text, each human turn a question, the turn after it the answer. Only figures of radiology are read:
chest radiographs, CT and MR. A figure is named <article>_<figure>, and the figures of an article stay together: they
show the same patients, and their captions repeat each other.
"""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from radlite_batch.errors import ArchiveError
from training.datasets.base import Sample
from training.datasets.files import Record, find, json_file, present, record

CAPTIONS = "llava_med_instruct_fig_captions.json"
FILES = ("llava_med_instruct_60k_inline_mention.json", "llava_med_instruct_60k.json", "llava_med_instruct_10k.json")
_RADIOLOGY = ("chest_xray", "ct_scan", "mri")
_SPEAKERS = {"human": "human", "gpt": "gpt"}


def read(folder: Path) -> Iterator[Sample]:
    """Samples of the first of FILES that is there; a figure without a caption has none.

    Raises ArchiveError naming file, item and field."""
    captions = dict(_captions(folder))
    path = present(folder, FILES)[0]
    for number, value in enumerate(json_file(path, list), 1):
        item = record(f"{path}: item {number}", value)
        figure = item.text("id")
        group = f"llava_med:{figure.partition('_')[0]}"
        for turn, (question, answer) in enumerate(_questions(item) if figure in captions else (), 1):
            fields, targets = {"question": question}, {"radiology_qa": {"answer": answer}}
            yield Sample("llava_med", f"{number}:{turn}", group, captions[figure], fields, targets)


def _captions(folder: Path) -> Iterator[tuple[str, str]]:
    """The captions of radiology's figures, by figure."""
    path = find(folder, CAPTIONS)
    for domain, figures in json_file(path, dict).items():
        if not isinstance(figures, list):
            raise ArchiveError(f"{path}: {domain} is no list of figures")
        for number, value in enumerate(figures, 1):
            figure = record(f"{path}: {domain} {number}", value)
            flags, caption = figure.of("domain", dict), figure.text("fig_caption")
            if caption and any(flags.get(name) for name in _RADIOLOGY):
                yield figure.text("pair_id"), caption


def _questions(item: Record) -> Iterator[tuple[str, str]]:
    turns = [record(f"{item.where}: turn {i}", turn) for i, turn in enumerate(item.of("conversations", list), 1)]
    said = [(turn.one_of("from", _SPEAKERS), turn.text("value").replace("<image>", "").strip()) for turn in turns]
    for (first, question), (second, answer) in pairwise(said):
        if (first, second) == ("human", "gpt") and question and answer:
            yield question, answer
