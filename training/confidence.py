"""How far confidences can be trusted: accuracy of the surest answers, and calibration."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.scoring import Bools, Floats, Tally, ratios

SHARES = (100, 90, 80, 70, 50)  # percent of the answers
BINS = 15
SIMULATIONS = 1000


@dataclass(frozen=True, slots=True)
class Decisions:
    """Closed answers, one or several of each of n_reports reports.

    confidence, right, report: (answers,): its probability, whether it is right, and the index of its report."""

    confidence: Floats
    right: Bools
    report: NDArray[np.int64]
    n_reports: int


def decisions(confidence: Sequence[float | None], right: Bools) -> Decisions:
    """One answer of each report; a report without an answer counts as one of no confidence."""
    sure = np.array([0.0 if c is None else c for c in confidence])
    return Decisions(sure, right, np.arange(len(sure)), len(sure))


def pooled(several: Sequence[Decisions]) -> Decisions:
    """The answers of the same reports to several questions."""
    return Decisions(
        np.concatenate([d.confidence for d in several]),
        np.concatenate([d.right for d in several]),
        np.concatenate([d.report for d in several]),
        several[0].n_reports,
    )


def surest(d: Decisions, percent: int) -> Tally:
    """Accuracy of the most confident percent of the answers; of equally confident ones the first."""
    kept = np.argsort(-d.confidence, kind="stable")[: max(1, round(len(d.confidence) * percent / 100))]
    counts = np.bincount(d.report[kept], minlength=d.n_reports).astype(np.float64)
    right = np.bincount(d.report[kept], weights=d.right[kept], minlength=d.n_reports)
    return ratios(right[:, None], counts[:, None]).only(counts > 0)


def calibration_error(d: Decisions) -> Tally:
    """Expected calibration error (Naeini et al. 2015) over bins of as many answers each: the mean over answers of how
    far a bin's mean confidence is from its share of right answers.

    Resamples keep the bins and add noise of their own, so the interval of a small error leans upwards."""
    bins = _bins(d.confidence)
    gaps = np.zeros((d.n_reports, BINS))
    np.add.at(gaps, (d.report, bins), d.confidence - d.right)
    counts = np.bincount(d.report, minlength=d.n_reports)[:, None]
    return Tally(np.concatenate((gaps, counts), axis=1), _error).only(counts[:, 0] > 0)


def _error(sums: Floats) -> Floats:
    """(..., BINS + 1) to (...)"""
    error: Floats = np.abs(sums[..., :BINS]).sum(axis=-1) / sums[..., BINS]
    return error


def error_if_calibrated(confidence: Floats, seed: int = 0) -> tuple[float, float, float]:
    """Mean, 2.5th and 97.5th percentile of the calibration error where every confidence is the true probability.

    What so many answers show by chance alone; a measured error inside says nothing against the confidences."""
    draws, bins = np.random.default_rng(seed), _bins(confidence)
    gaps = (confidence - (draws.random(len(confidence)) < confidence) for _ in range(SIMULATIONS))
    errors = [float(np.abs(np.bincount(bins, gap, BINS)).sum()) / len(confidence) for gap in gaps]
    low, high = np.percentile(errors, (2.5, 97.5))
    return float(np.mean(errors)), float(low), float(high)


def reliability(d: Decisions) -> list[tuple[float, float, int]]:
    """Of each bin that holds answers, least confident first: mean confidence, share of right answers, their number."""
    bins = _bins(d.confidence)
    rows = ((d.confidence[bins == b], d.right[bins == b]) for b in range(BINS))
    return [(float(c.mean()), float(r.mean()), len(c)) for c, r in rows if len(c)]


def _bins(confidence: Floats) -> NDArray[np.int64]:
    """(answers,): the bin of each, by rank; equal confidences share one."""
    ranks = np.searchsorted(np.sort(confidence), confidence)
    bins: NDArray[np.int64] = ranks * BINS // max(1, len(confidence))
    return bins
