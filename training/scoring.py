"""Metrics of predictions against reference labels, with intervals. Knows no task and no file.

Every metric here is the mean, over parts (one, or one per class), of a sum over reports divided by another sum over
reports. A Tally holds both addends for each report and part, so that one formula gives the value of a sample and of
all its bootstrap resamples at once:

    accuracy            right answers / answers due
    F1                  2 x hits / (predicted + in the reference), one part per class for the macro mean
    ROUGE-L             F-measure / 1

A part that occurs on neither side (a class nobody named) is left out of the mean; where every part is, there was
nothing to find and nothing was found, and the value is 1.

A prediction of None is a report without an answer: always wrong, and no class of its own.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Tally = Floats  # (reports, parts, 2): numerator and denominator
Span = tuple[int, int, str]  # start, end, label
Flags = Sequence[Sequence[str | None]]  # a row per report, a state per flag; None in a reference: not labelled

RESAMPLES = 1000
_WEIGHTS_AT_ONCE = 4_000_000
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Score:
    """One metric of one task over n reports.

    low, high: 95 % percentile bootstrap over reports. majority: the same metric for the answer that is most frequent
    in the reference, given to every report; None where no constant answer makes sense."""

    task: str
    metric: str
    value: float
    n: int
    low: float
    high: float
    majority: float | None


def score(task: str, metric: str, tally: Tally, majority: Tally | None = None) -> Score:
    low, high = interval(tally)
    constant = None if majority is None else value(majority)
    return Score(task, metric, value(tally), len(tally), low, high, constant)


def value(tally: Tally) -> float:
    return float(_mean_ratio(tally.sum(axis=0)))


def interval(tally: Tally, seed: int = 0) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of the value over resamples of the reports, drawn with replacement."""
    n, draws = len(tally), np.random.default_rng(seed)
    addends = tally.reshape(n, -1)
    step = max(1, _WEIGHTS_AT_ONCE // n)
    values: list[Floats] = []
    for begin in range(0, RESAMPLES, step):
        size = min(step, RESAMPLES - begin)
        drawn = draws.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)
        values.append(_mean_ratio((times @ addends).reshape(size, *tally.shape[1:])))
    low, high = np.percentile(np.concatenate(values), (2.5, 97.5))
    return float(low), float(high)


def _mean_ratio(sums: Floats) -> Floats:
    """(..., parts, 2) to (...): the mean ratio of the parts whose denominator is not 0."""
    numerators, denominators = sums[..., 0], sums[..., 1]
    occurs = denominators > 0
    ratios = numerators / np.where(occurs, denominators, 1)
    count = occurs.sum(axis=-1)
    return np.where(count > 0, ratios.sum(axis=-1) / np.maximum(count, 1), 1.0)


def _f1(gold: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> Tally:
    """(reports, classes) memberships to a tally with one part per class."""
    return np.stack((2.0 * (gold & predicted), 1.0 * gold + predicted), axis=-1)


def accuracy(gold: Sequence[str], predicted: Sequence[str | None]) -> Tally:
    right = [float(g == p) for g, p in zip(gold, predicted, strict=True)]
    return np.stack((np.array(right), np.ones(len(right))), axis=-1)[:, None, :]


def macro_f1(gold: Sequence[str], predicted: Sequence[str | None]) -> Tally:
    """Over the labels of the reference and of the predictions."""
    classes = np.array(sorted({label for label in (*gold, *predicted) if label is not None}), object)
    return _f1(np.array(gold, object)[:, None] == classes, np.array(predicted, object)[:, None] == classes)


def majority(gold: Sequence[str]) -> list[str]:
    """The most frequent label for every report; of equally frequent ones the first by name."""
    counts = Counter(gold)
    return [min(counts, key=lambda label: (-counts[label], label))] * len(gold)


def _states(flags: Flags) -> NDArray[np.str_]:
    """As an array, (reports, flags); "" stands for None."""
    return np.array([[state or "" for state in row] for row in flags])


def flag_accuracy(gold: Flags, predicted: Flags) -> Tally:
    """Each flag's share of right states; their mean over the flags."""
    states, answers = _states(gold), _states(predicted)
    labelled = states != ""
    return np.stack((1.0 * (labelled & (states == answers)), 1.0 * labelled), axis=-1)


def flag_macro_f1(gold: Flags, predicted: Flags) -> Tally:
    """F1 of each flag's "positive"; their mean over the flags that are positive anywhere."""
    states, answers = _states(gold), _states(predicted)
    return _f1(states == "positive", (answers == "positive") & (states != ""))


def flag_micro_f1(gold: Flags, predicted: Flags) -> Tally:
    """F1 of "positive" over all flags together."""
    together: Tally = flag_macro_f1(gold, predicted).sum(axis=1, keepdims=True)
    return together


def flag_majority(gold: Flags) -> list[list[str | None]]:
    """Each flag's most frequent state, for every report."""
    columns = ([state for state in column if state is not None] for column in zip(*gold, strict=True))
    return [[majority(column)[0] if column else None for column in columns]] * len(gold)


def span_f1(gold: Sequence[Sequence[Span]], predicted: Sequence[Sequence[Span]], relaxed: bool = False) -> Tally:
    """F1 of spans over all reports together.

    A hit has the same label and the same offsets, or when relaxed any overlap; each span is hit once at most."""
    hits = relaxed_hits if relaxed else exact_hits
    rows = [[[2.0 * hits(g, p), float(len(g) + len(p))]] for g, p in zip(gold, predicted, strict=True)]
    return np.array(rows)


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


def rouge_l(gold: Sequence[str], predicted: Sequence[str | None]) -> Tally:
    rows = [[[text_rouge_l(g, p or ""), 1.0]] for g, p in zip(gold, predicted, strict=True)]
    return np.array(rows)


def text_rouge_l(gold: str, predicted: str) -> float:
    """ROUGE-L of one text: the F-measure, beta 1, of the longest common subsequence of words (Lin 2004).

    Words are runs of letters and digits in lower case; two texts without a word score 0."""
    a, b = _WORD.findall(gold.lower()), _WORD.findall(predicted.lower())
    return 2 * common_subsequence(a, b) / (len(a) + len(b)) if a or b else 0.0


def common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence, one row of the table at a time."""
    above = [0] * (len(b) + 1)
    for word in a:
        row = [0]
        for j, other in enumerate(b):
            row.append(above[j] + 1 if word == other else max(above[j + 1], row[j]))
        above = row
    return above[-1]
