"""Which samples of which sources become training data: the split of each, and how many of each task.

A group is never in two splits, and neither is a text, nor findings that an impression is to be written from: what is
held out anywhere is held out, and its other records are dropped. Caps hold for training only.
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from radlite_batch.errors import UsageError, did_you_mean
from radlite_batch.tasks.registry import TASKS
from training.datasets.base import Sample, bare_digest, digest, drawn
from training.datasets.registry import SOURCES

SPLITS = ("train", "dev", "test")  # the later one wins
_SPLIT = 0  # not the seed: runs with other seeds hold out the same, so that their mean can be scored

# Samples and sampling weights of RadLite (arXiv 2605.00421, figure 1).
CAPS = {
    "rads_assignment": 9_355, "n_staging": 19_554, "m_staging": 2_235, "abnormality_detection": 14_962,
    "radiology_ner": 25_000, "temporal_comparison": 30_000, "impression_generation": 30_000, "radiology_qa": 30_000,
    "radiology_nli": 480,
}  # fmt: skip
WEIGHTS = {
    "rads_assignment": 3.0, "n_staging": 1.0, "m_staging": 1.0, "abnormality_detection": 1.0, "radiology_ner": 1.0,
    "temporal_comparison": 1.5, "impression_generation": 1.5, "radiology_qa": 0.5, "radiology_nli": 3.0,
}  # fmt: skip
# The groups of tasks that the figure counts; it names no members, but these give its sums.
GROUPS = {
    "generation": ("impression_generation", "radiology_qa"),
    "extraction": ("temporal_comparison", "radiology_ner", "abnormality_detection"),
    "classification": ("rads_assignment", "n_staging", "m_staging", "radiology_nli"),
}


@dataclass(frozen=True, slots=True)
class Mix:
    """sources: folder by source. caps: most training samples by task, none where a task is not named. weights: how
    often a task is drawn for its samples. source_weights: how much a source is favoured where a cap is exceeded, 1
    where it is not named. dev_share: of the groups whose source has no split. seed: of what is left out over a cap, not
    of the split. Raises UsageError."""

    sources: Mapping[str, Path]
    caps: Mapping[str, int] = field(default_factory=lambda: CAPS)
    weights: Mapping[str, float] = field(default_factory=lambda: WEIGHTS)
    source_weights: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    dev_share: float = 0.1

    def __post_init__(self) -> None:
        if not self.sources:
            raise UsageError("the mix names no source")
        for what, names, known in (
            ("source", self.sources, SOURCES), ("source", self.source_weights, SOURCES),
            ("task", self.caps, TASKS), ("task", self.weights, TASKS),
        ):  # fmt: skip
            for name in names:
                if name not in known:
                    raise UsageError(f"unknown {what} {name!r} in the mix{did_you_mean(name, known)}")
        if not 0 <= self.dev_share < 1:
            raise UsageError(f"dev_share is {self.dev_share}; it must lie in [0, 1)")
        if min((*self.caps.values(), *self.weights.values(), *self.source_weights.values()), default=0) < 0:
            raise UsageError("a cap or a weight of the mix is negative")


@dataclass(frozen=True, slots=True)
class Entry:
    """What of a sample decides its fate."""

    source: str
    split: str | None
    group: bytes
    texts: frozenset[bytes]  # what the tasks read, its letters and digits
    key: str
    tasks: tuple[str, ...]


def entry(sample: Sample) -> Entry:
    texts = [sample.text or "\n".join(value for _, value in sorted(sample.fields.items()))]
    if "impression_generation" in sample.targets and "findings" in sample.fields:
        texts.append(sample.fields["findings"])
    return Entry(
        sample.source,
        sample.split,
        hashlib.sha256(sample.group.encode()).digest()[:16],
        frozenset(bytes.fromhex(bare_digest(text)) for text in texts),
        digest(f"{sample.source} {sample.id}"),
        tuple(sample.targets),
    )


@dataclass(frozen=True, slots=True)
class Fate:
    """split: None where the sample is dropped, for `reason`. tasks: those whose targets it keeps."""

    split: str | None
    tasks: tuple[str, ...] = ()
    reason: str = ""


def decide(entries: Sequence[Entry], mix: Mix) -> list[Fate]:
    """The fate of each sample, the same whatever the order of the sources."""
    splits = _splits(entries, mix)
    texts: dict[bytes, str] = {}
    for e, split in zip(entries, splits, strict=True):
        if split:
            texts |= {text: _stricter(texts.get(text), split) for text in e.texts}
    alone = [
        split if split and all(texts[text] == split for text in e.texts) else None
        for e, split in zip(entries, splits, strict=True)
    ]
    kept = _capped(entries, alone, mix)
    fates = []
    for before, split, tasks in zip(splits, alone, kept, strict=True):
        if split and tasks:
            fates.append(Fate(split, tasks))
        else:
            reason = "over the caps" if split else "text held out" if before else "group held out"
            fates.append(Fate(None, reason=reason))
    return fates


def _splits(entries: Sequence[Entry], mix: Mix) -> list[str | None]:
    """The split of each sample, None where its group is held out more strictly than the sample's source has it."""
    groups: dict[bytes, str] = {}
    for e in entries:
        if e.split:
            groups[e.group] = _stricter(groups.get(e.group), e.split)
    for e in entries:
        if e.group not in groups:
            groups[e.group] = "dev" if drawn(f"{_SPLIT} {e.group.hex()}") < mix.dev_share else "train"
    return [groups[e.group] if e.split in (None, groups[e.group]) else None for e in entries]


def _stricter(one: str | None, other: str) -> str:
    return other if one is None else max(one, other, key=SPLITS.index)


def _capped(entries: Sequence[Entry], splits: Sequence[str | None], mix: Mix) -> list[tuple[str, ...]]:
    """The tasks each sample keeps; where a task has more training samples than its cap, they are drawn by the weights
    of their sources (Efraimidis and Spirakis 2006)."""
    having: dict[str, list[int]] = defaultdict(list)
    for i, (e, split) in enumerate(zip(entries, splits, strict=True)):
        for task in e.tasks if split == "train" else ():
            having[task].append(i)
    over: dict[int, set[str]] = defaultdict(set)
    for task, samples in having.items():
        samples.sort(key=lambda i: _place(entries[i], task, mix), reverse=True)
        for i in samples[mix.caps.get(task, len(samples)) :]:
            over[i].add(task)
    return [tuple(task for task in e.tasks if task not in over[i]) for i, e in enumerate(entries)]


def _place(e: Entry, task: str, mix: Mix) -> tuple[float, float]:
    """The samples with the highest are taken, those of a source without weight last."""
    weight, draw = mix.source_weights.get(e.source, 1.0), drawn(f"{mix.seed} {task} {e.key}")
    return draw ** (1 / weight) if weight else -1.0, draw
