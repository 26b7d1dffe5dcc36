"""Whether a run's answers are distributed otherwise than those of earlier runs.

One measure serves for labels, statuses, lengths and confidence: the share of rows that would have to move to make the
two distributions the same (total variation distance). A warning needs a share over its threshold, and one that chance
does not explain: a chi-square test of both samples, p < 0.001.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from radlite_batch.report import Sample

_Z = 3.09  # of a normal deviate, one-sided p = 0.001
_FEW = 5.0  # a cell that expects fewer counts goes with the other small ones (Cochran's rule)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Shares of rows that may move without a warning; 1 gives none."""

    labels: float = 0.10
    status: float = 0.02
    length: float = 0.20
    confidence: float = 0.20


@dataclass(frozen=True, slots=True)
class Drift:
    """kind: labels, status, length or confidence. column: of the labels. moved: share of rows, 0 to 1."""

    kind: str
    task: str
    column: str
    moved: float
    sentence: str


def drifts(now: Sample, before: Sample, thresholds: Thresholds) -> list[Drift]:
    """The warnings, by task; a task that only one of the two has gives none."""
    return [*_length(now, before, thresholds), *_tasks(now, before, thresholds)]


def moved_share(now: Mapping[Any, int], before: Mapping[Any, int]) -> float:
    """Total variation distance, 0 to 1; 0 where one of them is empty."""
    total_now, total_before = sum(now.values()), sum(before.values())
    if not total_now or not total_before:
        return 0.0
    keys = dict.fromkeys((*now, *before))
    return sum(abs(now.get(key, 0) / total_now - before.get(key, 0) / total_before) for key in keys) / 2


def beyond_chance(now: Mapping[Any, int], before: Mapping[Any, int]) -> bool:
    """Whether two samples of one distribution would differ as much less than once in a thousand times.

    Chi-square of the 2 x k table, its tail by Wilson and Hilferty's cube root (1931)."""
    share = sum(now.values()) / (sum(now.values()) + sum(before.values()))
    cells: list[tuple[int, int]] = []
    small = [0, 0]
    for key in dict.fromkeys((*now, *before)):
        a, b = now.get(key, 0), before.get(key, 0)
        if (a + b) * min(share, 1 - share) < _FEW:
            small[0] += a
            small[1] += b
        else:
            cells.append((a, b))
    if any(small):
        cells.append((small[0], small[1]))
    if len(cells) < 2:
        return False
    square = sum((a - (a + b) * share) ** 2 / ((a + b) * share * (1 - share)) for a, b in cells)
    freedom = len(cells) - 1
    spread = 2 / (9 * freedom)
    deviate: float = ((square / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)
    return deviate > _Z


def _length(now: Sample, before: Sample, thresholds: Thresholds) -> Iterator[Drift]:
    if (moved := _warned(now.lengths, before.lengths, thresholds.length)) is not None:
        spelt = [{length_range(n): count for n, count in lengths.items()} for lengths in (now.lengths, before.lengths)]
        yield Drift("length", "", "", moved, f"text lengths: {_moved('texts', moved, *spelt)}")


def length_range(n: int) -> str:
    return f"{n} to {2 * n - 1} characters"


def _tasks(now: Sample, before: Sample, thresholds: Thresholds) -> Iterator[Drift]:
    for name, new in now.tasks.items():
        old = before.tasks.get(name)
        if old is None:
            continue
        if (moved := _warned(new.status, old.status, thresholds.status)) is not None:
            yield Drift("status", name, "", moved, f"{name}: {_moved('rows', moved, new.status, old.status)}")
        for column, counts in new.labels.items():
            earlier = old.labels.get(column, Counter())
            if (moved := _warned(counts, earlier, thresholds.labels)) is not None:
                sentence = f"{name} {column}: {_moved('labels', moved, counts, earlier)}"
                yield Drift("labels", name, column, moved, sentence)
        if (moved := _warned(new.confidence, old.confidence, thresholds.confidence)) is not None:
            mean = f"mean {old.mean_confidence:.2f}, now {new.mean_confidence:.2f}"
            yield Drift(
                "confidence", name, "", moved, f"{name} confidence: {100 * moved:.0f} % of the answers moved ({mean})"
            )


def _warned(now: Mapping[Any, int], before: Mapping[Any, int], threshold: float) -> float | None:
    """The moved share, if it is worth a warning."""
    moved = moved_share(now, before)
    return moved if moved > threshold and beyond_chance(now, before) else None


def _moved(what: str, moved: float, now: Mapping[str, int], before: Mapping[str, int]) -> str:
    """The share and the key that moved most."""
    n, m = sum(now.values()) / 100, sum(before.values()) / 100
    key = max(dict.fromkeys((*now, *before)), key=lambda key: abs(now.get(key, 0) / n - before.get(key, 0) / m))
    most = f"{key} {before.get(key, 0) / m:.1f} %, now {now.get(key, 0) / n:.1f} %"
    return f"{100 * moved:.0f} % of the {what} moved (most: {most})"


def drift_keys(found: Sequence[Drift]) -> set[tuple[str, str, str]]:
    """(kind, task, column) of each warning, to mark the pictures by."""
    return {(drift.kind, drift.task, drift.column) for drift in found}
