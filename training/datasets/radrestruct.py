"""Rad-ReStruct (Pellegrini et al. 2023): structured questions over the reports of Open-i, answered from their codes.

Terms: MIT; the text is Open-i's, under its terms. Needs Open-i's table beside it.

The questions ask of whole organs ("any diseases in the pleura?"), so none is one of the 14 observations; the codes
behind them reach those through Open-i itself. Most answers are "no": of a report two questions of each answer at most
are taken, so that "no" is not all there is to learn.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from radlite_batch.errors import ArchiveError
from training.datasets import openi
from training.datasets.base import Sample, drawn
from training.datasets.files import Record, find, json_lines

FILE = "radrestruct_train.jsonl"
_OF_AN_ANSWER = 2


def read(folder: Path) -> Iterator[Sample]:
    """Questions about every report that has a text. Raises ArchiveError naming file, line and field."""
    texts = {row.text("uid"): openi.text_of(row) for row in openi.reports(folder)}
    asked: dict[str, list[Record]] = defaultdict(list)
    for line in json_lines(find(folder, FILE)):
        uid = line.text("uid")
        if uid not in texts:
            raise ArchiveError(f"{line.where}: field 'uid' names no report of {openi.FILE}")
        asked[uid].append(line)
    for uid, lines in asked.items():
        for line in _few(lines) if texts[uid] else ():
            question, answer = line.text("question"), ", ".join(map(str, line.of("answer", list)))
            targets = {"radiology_qa": {"answer": answer}}
            name = f"{uid}:{question}"
            group, split = openi.group_of(uid), openi.split_of(line)
            yield Sample("radrestruct", name, group, texts[uid], {"question": question}, targets, split)


def _few(lines: list[Record]) -> list[Record]:
    by_answer: dict[str, list[Record]] = defaultdict(list)
    for line in sorted(lines, key=lambda line: drawn(f"{line.text('uid')}:{line.text('question')}")):
        by_answer[str(line.of("answer", list))].append(line)
    return [line for few in by_answer.values() for line in few[:_OF_AN_ANSWER]]
