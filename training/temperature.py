"""The temperature that fits a task's probabilities best to labels, and how calibrated its answers then are.

Where a source allows several labels for a question, it never tells those apart. Calibration is then judged over what it
does tell apart, with the probabilities of the others added up.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radlite_batch.records import Decided
from radlite_batch.tasks.base import Choice, Task
from radlite_batch.tasks.rads_assignment import RadsAssignment
from radlite_batch.tasks.rads_systems import NO_SYSTEM, SYSTEMS
from training.confidence import Decisions
from training.datasets.base import Sample
from training.scoring import Bools, Floats

COLDEST, HOTTEST = 0.05, 20.0
_TINY = 1e-30
_CATEGORIES = {system.name: {category.name for category in system.categories} for system in SYSTEMS}


@dataclass(frozen=True, slots=True)
class Answered:
    """A sample and the model's probabilities for one task, by question, over the labels of the question."""

    sample: Sample
    probabilities: Mapping[str, Sequence[float]]


def best_temperature(loss: Callable[[float], float], steps: int = 40) -> float:
    """Golden-section search over the logarithm (Kiefer 1953)."""
    ratio = (math.sqrt(5) - 1) / 2
    low, high = math.log(COLDEST), math.log(HOTTEST)
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    loss_a, loss_b = loss(math.exp(a)), loss(math.exp(b))
    for _ in range(steps):
        if loss_a <= loss_b:
            high, b, loss_b = b, a, loss_a
            a = high - ratio * (high - low)
            loss_a = loss(math.exp(a))
        else:
            low, a, loss_a = a, b, loss_b
            b = low + ratio * (high - low)
            loss_b = loss(math.exp(b))
    return math.exp((low + high) / 2)


def tempered(probabilities: Floats, temperatures: Floats) -> Floats:
    """(n, labels) as the softmax at (n,) temperatures would give them."""
    powers: Floats = probabilities ** (1 / temperatures[:, None])
    powers /= np.maximum(powers.sum(axis=1, keepdims=True), _TINY)
    return powers


class Questions:
    """A task's labelled questions over its samples.

    sample: (m,) index of each question's. probabilities, right: (m, labels) those of each label, and whether it is
    allowed. cell: (m, labels), the same number for labels that the source does not tell apart.

    A RADS category competes with those of its own system alone, as in the answer."""

    def __init__(self, task: Task, answered: Sequence[Answered]):
        labels = {q.name: q.output.labels for q in task.questions if isinstance(q.output, Choice)}
        width = max(map(len, labels.values()))
        rows: list[tuple[int, str, Floats, Bools]] = []
        for i, row in enumerate(answered):
            targets = row.sample.targets[task.name]
            for name, target in targets.items():
                p, right = np.zeros(width), np.zeros(width, dtype=bool)
                p[: len(labels[name])] = row.probabilities[name]
                right[: len(labels[name])] = [label in _several(target) for label in labels[name]]
                legal = _CATEGORIES.get(str(targets.get("system"))) if name == "category" else None
                if legal:
                    p[: len(labels[name])] *= [label in legal for label in labels[name]]
                rows.append((i, f"{row.sample.source} {name}", p, right))
        self.sample = np.array([i for i, _, _, _ in rows])
        self.probabilities = np.array([p for _, _, p, _ in rows])
        self.right = np.array([right for _, _, _, right in rows])
        self.cell = _cells([name for _, name, _, _ in rows], self.right)

    def nll(self, temperature: float | Floats) -> float:
        """Mean over the questions; one temperature, or (samples,) that of each sample."""
        share = (self._tempered(temperature) * self.right).sum(axis=1)
        return float(-np.log(np.maximum(share, _TINY)).mean())

    def judged(self, temperature: float | Floats) -> Decisions:
        """The most probable cell of each question, and whether it is the labelled one."""
        p = self._tempered(temperature)
        sums = np.stack([(p * (self.cell == c)).sum(axis=1) for c in range(p.shape[1])], axis=1)
        stated = self.cell[np.arange(len(p)), self.right.argmax(axis=1)]
        return Decisions(sums.max(axis=1), sums.argmax(axis=1) == stated, self.sample, int(self.sample.max()) + 1)

    def _tempered(self, temperature: float | Floats) -> Floats:
        each = np.broadcast_to(temperature, (int(self.sample.max()) + 1,))
        return tempered(self.probabilities, each[self.sample])


def _several(target: Any) -> Sequence[str]:
    return [target] if isinstance(target, str) else target


def _cells(names: Sequence[str], right: Bools) -> NDArray[np.int64]:
    """(m, labels): labels ever allowed together in questions of one name share the lowest of their indices."""
    cells = np.empty(right.shape, dtype=np.int64)
    for name in set(names):
        rows = np.array([other == name for other in names])
        cell = np.arange(right.shape[1])
        for allowed in np.unique(right[rows], axis=0):
            together = np.isin(cell, cell[allowed])
            cell[together] = cell[together].min()
        cells[rows] = cell
    return cells


def judged_rads(task: RadsAssignment, answered: Sequence[Answered], temperature: float | Floats) -> Decisions:
    """The answers as the task gives them: system and category; the confidence says nothing of the neck.

    Samples that have a system but no category are left out."""
    each = np.broadcast_to(temperature, (len(answered),))
    sure, right, kept = [], [], []
    for i, row in enumerate(answered):
        targets = row.sample.targets[task.name]
        if targets.get("system") != NO_SYSTEM and "category" not in targets:
            continue
        decided = {
            name: Decided(tuple(tempered(np.array([p]), each[i : i + 1])[0])) for name, p in row.probabilities.items()
        }
        prediction = task.predict(decided, ())
        assert prediction.confidence is not None
        sure.append(prediction.confidence)
        right.append(all(prediction.values[q] in _several(targets[q]) for q in ("system", "category") if q in targets))
        kept.append(i)
    return Decisions(np.array(sure), np.array(right, dtype=bool), np.array(kept, dtype=np.int64), len(answered))
