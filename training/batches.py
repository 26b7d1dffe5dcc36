"""Samples as rows, and which of them a step draws."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radlite_batch.tasks.base import Choice
from radlite_batch.tasks.rads_systems import NO_SYSTEM
from radlite_batch.tasks.registry import TASKS
from radlite_batch.tasks.render import PromptStyle
from training.datasets.base import Sample, label_of
from training.encode import Encoder, Example, Row, ask

LABELLED_ONLY = "labelled_only"  # a field of samples in which only some words have a label
MOST_BALANCE = 6.0  # how much more often a sample with a rare label is drawn than one with the commonest
_NOT_APPLICABLE = {  # what a report without a cancer has of these tasks; it says next to nothing of them
    "rads_assignment": {"system": NO_SYSTEM}, "n_staging": {"stage": "NX"}, "m_staging": {"stage": "MX"},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Encoded:
    """A sample's row. tasks: the task of each of the row's questions."""

    sample: Sample
    row: Row
    tasks: tuple[str, ...]


def encoded(samples: Iterable[Sample], encoder: Encoder, style: PromptStyle, most_tokens: int) -> list[Encoded]:
    """The samples whose row has at most so many tokens, and whose inputs are there."""
    found = []
    for sample in samples:
        asked, tasks = [], []
        for name, targets in sample.targets.items():
            blocks = sample.blocks(name)
            if blocks is not None:
                prompts = ask(Example(TASKS[name], blocks, _known(sample, targets)), style)
                asked += prompts
                tasks += [name] * len(prompts)
        row = encoder.row(asked) if asked else None
        if row is not None and row.wants and len(row) <= most_tokens:
            found.append(Encoded(sample, row, tuple(tasks)))
    return found


def _known(sample: Sample, targets: Mapping[str, Any]) -> dict[str, Any]:
    """The targets; spans say so where nothing is known of the words outside them."""
    only = sample.fields.get(LABELLED_ONLY) == "spans"
    return {name: {"only": target} if only else target for name, target in targets.items()}


def weights(samples: Sequence[Sample], sources: Mapping[str, float], tasks: Mapping[str, float]) -> NDArray[np.float64]:
    """(n,): how likely each sample is drawn, by the weights of source, tasks and its rarest label; sum 1, or all 0.

    Of a sample's tasks the greatest weight counts; one that does not apply to the report has a weight of 1 at most.
    Within a source and question a label that is k times rarer than the commonest is drawn sqrt(k) times as often, so
    that rare labels are learnt and common ones keep their prior's order."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for sample in samples:
        for question, label in _labels(sample):
            counts.setdefault((sample.source, question), Counter())[label] += 1
    drawn: NDArray[np.float64] = np.empty(len(samples))
    for i, sample in enumerate(samples):
        rare = 1.0
        for question, label in _labels(sample):
            of = counts[sample.source, question]
            rare = max(rare, (max(of.values()) / of[label]) ** 0.5)
        drawn[i] = sources.get(sample.source, 1.0) * _task_weight(sample, tasks) * min(rare, MOST_BALANCE)
    total = drawn.sum()
    return drawn / total if total else drawn


def _task_weight(sample: Sample, tasks: Mapping[str, float]) -> float:
    named = ((tasks.get(name, 1.0), targets == _NOT_APPLICABLE.get(name)) for name, targets in sample.targets.items())
    return max((min(weight, 1.0) if trivial else weight for weight, trivial in named), default=1.0)


def _labels(sample: Sample) -> Iterable[tuple[str, str]]:
    """The label of each closed question; several of which one is right are a label of their own."""
    for name, targets in sample.targets.items():
        for question in TASKS[name].questions:
            if isinstance(question.output, Choice) and question.name in targets:
                yield f"{name}.{question.name}", label_of(targets[question.name])


def draws(probabilities: NDArray[np.float64], n: int, key: Sequence[int]) -> NDArray[np.int64]:
    """(n,): the samples of a run's draws in their order, each as often as its probability says to within one draw, so
    that few are passed over while others come again; the same at every call with the same key.

    Systematic sampling: n evenly spaced points on the probabilities laid end to end, in an order by chance."""
    chance = np.random.default_rng(key)
    order = chance.permutation(len(probabilities))
    ends = np.cumsum(probabilities[order])
    points = (chance.random() + np.arange(n)) / n * ends[-1]
    return chance.permutation(order[np.searchsorted(ends, points)])
