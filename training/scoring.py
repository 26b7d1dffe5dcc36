"""Metrics of predictions against reference labels, with intervals. Knows no task and no file.

Every metric here depends on sums over reports only. A Tally holds what each report adds, so that one function gives the
value of a sample and of all its bootstrap resamples at once. Most are the mean, over parts (one, or one per class), of
one sum divided by another:

    accuracy            right answers / answers due
    F1                  2 x hits / (predicted + in the reference), one part per class for the macro mean
    ROUGE-L             F-measure / 1

A part that occurs on neither side (a class nobody named) is left out of the mean; where every part is, there was
nothing to find and nothing was found: the value is 1, and a resample of that kind is no part of an interval.

A prediction of None is a report without an answer: always wrong, and no class of its own. A reference may allow several
labels of which one is right; it is read in favour of the prediction (`in_favour`) before it is compared.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Groups = NDArray[np.int64]  # (reports,): the patient of each, counted from 0
Allowed = str | tuple[str, ...]  # a reference label, or those of which one is right
Span = tuple[int, int, str]  # start, end, label
Flags = Sequence[Sequence[str | None]]  # a row per report, a state per flag; None in a reference: not labelled

RESAMPLES = 1000
_WEIGHTS_AT_ONCE = 4_000_000


@dataclass(frozen=True, slots=True)
class Tally:
    """addends: (reports, k). of: sums of them, (..., k), to the metric, (...). rows: the reports it is over, where not
    all; the others add nothing."""

    addends: Floats
    of: Callable[[Floats], Floats]
    rows: Bools | None = None

    @property
    def n(self) -> int:
        return len(self.addends) if self.rows is None else int(self.rows.sum())

    def only(self, rows: Bools) -> "Tally":
        """The metric over these reports alone."""
        return Tally(self.addends * rows[:, None], self.of, rows)


@dataclass(frozen=True, slots=True)
class Score:
    """One metric of one task over n reports.

    low, high: 95 % percentile bootstrap over reports, or over patients where they are known. majority: the same metric
    where every report gets the answer that is most frequent in the reference; of spans, none. baseline: the same metric
    of answers by rule (training/baselines.py). Both are None for metrics of confidence. of: the label, system, class or
    share that the metric is about, "" for the whole task."""

    task: str
    metric: str
    value: float
    n: int
    low: float
    high: float
    majority: float | None
    baseline: float | None = None
    of: str = ""


@dataclass(frozen=True, slots=True)
class Difference:
    """A metric of one output less that of another over the same n reports, with the paired bootstrap's 95 % interval.

    p: of the exact McNemar test, for accuracies; it takes reports as independent."""

    task: str
    metric: str
    of: str
    n: int
    value: float
    other: float
    difference: float
    low: float
    high: float
    p: float | None


def score(
    task: str,
    metric: str,
    tally: Tally,
    majority: Tally | None = None,
    baseline: Tally | None = None,
    of: str = "",
    groups: Groups | None = None,
) -> Score:
    low, high = interval(tally, groups)
    constant, ruled = (None if t is None else value(t) for t in (majority, baseline))
    return Score(task, metric, value(tally), tally.n, low, high, constant, ruled, of)


def difference(
    task: str, metric: str, of: str, one: Tally, other: Tally, groups: Groups | None = None, p: float | None = None
) -> Difference:
    both = _paired(one, other)
    low, high = interval(both, groups)
    a, b = value(one), value(other)
    return Difference(task, metric, of, both.n, a, b, a - b, low, high, p)


def value(tally: Tally) -> float:
    found = float(tally.of(tally.addends.sum(axis=0)))
    return 1.0 if math.isnan(found) else found


def interval(tally: Tally, groups: Groups | None = None, seed: int = 0) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of the value over resamples, drawn with replacement: of reports, or of groups
    with all their reports. Tallies over as many units get the same draws."""
    addends = tally.addends if tally.rows is None else tally.addends[tally.rows]
    if groups is not None:
        addends = _summed(addends, groups if tally.rows is None else groups[tally.rows])
    n = len(addends)
    step = max(1, _WEIGHTS_AT_ONCE // n)
    begins = range(0, RESAMPLES, step)
    drawn = (tally.of(_times(n, begin, min(step, RESAMPLES - begin), seed) @ addends) for begin in begins)
    values = np.concatenate(list(drawn))
    values = values[~np.isnan(values)]
    low, high = np.percentile(values, (2.5, 97.5)) if len(values) else (value(tally), value(tally))
    return float(low), float(high)


@lru_cache(maxsize=4)
def _times(n: int, begin: int, size: int, seed: int) -> Floats:
    """(size, n): how often each unit is in each of these resamples."""
    drawn = np.random.default_rng((seed, begin)).integers(n, size=(size, n)) + n * np.arange(size)[:, None]
    return np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)


def _summed(addends: Floats, groups: Groups) -> Floats:
    _, unit = np.unique(groups, return_inverse=True)
    sums = np.zeros((unit.max(initial=-1) + 1, addends.shape[1]))
    np.add.at(sums, unit, addends)
    return sums


def _paired(one: Tally, other: Tally) -> Tally:
    k = one.addends.shape[1]
    rows = None if one.rows is None or other.rows is None else one.rows | other.rows
    addends = np.concatenate((one.addends, other.addends), axis=1)
    return Tally(addends, lambda sums: one.of(sums[..., :k]) - other.of(sums[..., k:]), rows)


def mcnemar(one: Bools, other: Bools) -> float:
    """Two-sided exact p that two systems are right equally often, from (reports,) whether each is (McNemar 1947)."""
    only_one, only_other = int((one & ~other).sum()), int((other & ~one).sum())
    n = only_one + only_other
    fewer = range(min(only_one, only_other) + 1)
    ways = (math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in fewer)  # logarithms
    return min(1.0, 2 * sum(math.exp(log - n * math.log(2)) for log in ways))


def ratios(numerators: NDArray[Any], denominators: NDArray[Any]) -> Tally:
    """The mean over parts of sum / sum; both are (reports, parts)."""
    return Tally(np.concatenate((numerators, denominators), axis=1).astype(np.float64), _mean_ratio)


def mean(values: Sequence[float]) -> Tally:
    column = np.array(values, dtype=np.float64)[:, None]
    return ratios(column, np.ones_like(column))


def _mean_ratio(sums: Floats) -> Floats:
    """(..., 2 x parts) to (...): the mean ratio of the parts whose denominator is not 0; NaN where there is none."""
    numerators, denominators = np.split(sums, 2, axis=-1)
    occurs = denominators > 0
    fractions = numerators / np.where(occurs, denominators, 1)
    count = occurs.sum(axis=-1)
    return np.where(count > 0, fractions.sum(axis=-1) / np.maximum(count, 1), np.nan)


def _f1(gold: Bools, predicted: Bools) -> Tally:
    """(reports, classes) memberships to a tally with one part per class."""
    return ratios(2.0 * (gold & predicted), 1.0 * gold + predicted)


def in_favour(gold: Sequence[Allowed], predicted: Sequence[str | None]) -> list[str]:
    """One label of each reference: the predicted one if it is allowed, else the first."""
    pairs = zip(map(_labels, gold), predicted, strict=True)
    return [found if found is not None and found in allowed else allowed[0] for allowed, found in pairs]


def _labels(allowed: Allowed) -> tuple[str, ...]:
    return (allowed,) if isinstance(allowed, str) else allowed


def right(gold: Sequence[Allowed], predicted: Sequence[str | None]) -> Bools:
    """(reports,): whether the answer is among those allowed."""
    return np.array([found in _labels(allowed) for allowed, found in zip(gold, predicted, strict=True)], dtype=bool)


def accuracy(gold: Sequence[Allowed], predicted: Sequence[str | None]) -> Tally:
    return mean([float(r) for r in right(gold, predicted)])


def macro_f1(gold: Sequence[Allowed], predicted: Sequence[str | None]) -> Tally:
    """Over the labels of the reference and of the predictions."""
    stated = in_favour(gold, predicted)
    classes = np.array(sorted({label for label in (*stated, *predicted) if label is not None}), object)
    return _f1(np.array(stated, object)[:, None] == classes, np.array(predicted, object)[:, None] == classes)


def label_f1(label: str, gold: Sequence[Allowed], predicted: Sequence[str | None]) -> Tally:
    """F1 of one label."""
    stated = np.array(in_favour(gold, predicted), object)[:, None]
    return _f1(stated == label, np.array(predicted, object)[:, None] == label)


def majority(gold: Sequence[Allowed]) -> list[str]:
    """The label that is right most often, for every report; of equally frequent ones the first by name."""
    counts = Counter(label for allowed in gold for label in _labels(allowed))
    return [min(counts, key=lambda label: (-counts[label], label))] * len(gold)


def _states(flags: Flags) -> NDArray[np.str_]:
    """As an array, (reports, flags); "" stands for None."""
    return np.array([[state or "" for state in row] for row in flags])


def flag_accuracy(gold: Flags, predicted: Flags) -> Tally:
    """Each flag's share of right states; their mean over the flags."""
    states, answers = _states(gold), _states(predicted)
    labelled = states != ""
    return ratios(1.0 * (labelled & (states == answers)), 1.0 * labelled)


def flag_macro_f1(gold: Flags, predicted: Flags) -> Tally:
    """F1 of each flag's "positive"; their mean over the flags that are positive anywhere."""
    states, answers = _states(gold), _states(predicted)
    return _f1(states == "positive", (answers == "positive") & (states != ""))


def flag_micro_f1(gold: Flags, predicted: Flags) -> Tally:
    """F1 of "positive" over all flags together."""
    hits, named = np.split(flag_macro_f1(gold, predicted).addends, 2, axis=1)
    return ratios(hits.sum(axis=1, keepdims=True), named.sum(axis=1, keepdims=True))


def flag_majority(gold: Sequence[Sequence[Allowed | None]]) -> list[list[str | None]]:
    """Each flag's state that is right most often, for every report."""
    columns = ([state for state in column if state is not None] for column in zip(*gold, strict=True))
    return [[majority(column)[0] if column else None for column in columns]] * len(gold)


def span_f1(gold: Sequence[Sequence[Span]], predicted: Sequence[Sequence[Span]], relaxed: bool = False) -> Tally:
    """F1 of spans over all reports together.

    A hit has the same label and the same offsets, or when relaxed any overlap; each span is hit once at most."""
    hits = relaxed_hits if relaxed else exact_hits
    found = [[2.0 * hits(g, p)] for g, p in zip(gold, predicted, strict=True)]
    named = [[float(len(g) + len(p))] for g, p in zip(gold, predicted, strict=True)]
    return ratios(np.array(found), np.array(named))


def span_jaccard(gold: Sequence[Sequence[Span]], predicted: Sequence[Sequence[Span]]) -> Tally:
    """Mean over reports of spans that both sides have / spans that either has; 1 where neither has any."""
    pairs = [(set(g), set(p)) for g, p in zip(gold, predicted, strict=True)]
    return mean([len(g & p) / len(g | p) if g | p else 1.0 for g, p in pairs])


def exact_hits(gold: Sequence[Span], predicted: Sequence[Span]) -> int:
    return (Counter(gold) & Counter(predicted)).total()


def relaxed_hits(gold: Sequence[Span], predicted: Sequence[Span]) -> int:
    """The most pairs of one label that overlap, one-to-one, where predicted spans do not overlap each other.

    Then the predicted spans that a reference span touches stand side by side, and giving each predicted span, from
    left to right, the free reference span that ends first leaves the most for the others (Glover 1967)."""
    free = sorted(gold, key=lambda span: span[1])
    hits = 0
    for start, end, label in sorted(predicted):
        for i, (g_start, g_end, g_label) in enumerate(free):
            if g_label == label and g_start < end and start < g_end:
                del free[i]
                hits += 1
                break
    return hits
