"""Coverage and calibration: by hand where few answers do, by simulation where only many show it."""

import numpy as np
import pytest

from training.confidence import (
    BINS,
    calibration_error,
    decisions,
    error_if_calibrated,
    pooled,
    reliability,
    surest,
)
from training.scoring import Bools, Floats, interval, value

N = 3000


def drawn(bias: float) -> tuple[Floats, Bools]:
    """Confidences, and answers that are right less often than they say by `bias`."""
    draws = np.random.default_rng(3)
    confidence = draws.uniform(0.5, 1.0, N)
    return confidence, draws.random(N) < confidence - bias


def test_the_surest_answers_are_those_of_most_confidence() -> None:
    right = np.array([True, False, True, False, True, True, False, False, True, False])
    sure = [0.9, 0.2, 0.8, 0.3, 0.95, 0.85, 0.1, 0.7, 0.6, None]
    d = decisions(sure, right)
    assert [(surest(d, p).n, value(surest(d, p))) for p in (100, 80, 50)] == [
        (10, 5 / 10), (8, pytest.approx(5 / 8)), (5, 4 / 5),
    ]  # fmt: skip


def test_several_answers_of_a_report_are_pooled() -> None:
    one = decisions([0.9, 0.1], np.array([True, False]))
    other = decisions([0.8, 0.7], np.array([False, True]))
    both = pooled([one, other])
    assert both.n_reports == 2 and both.report.tolist() == [0, 1, 0, 1]
    half = surest(both, 50)  # both answers of the first report
    assert (half.n, value(half)) == (1, 1 / 2)
    assert value(surest(both, 100)) == 2 / 4


def test_equal_confidences_are_one_bin_whatever_their_order() -> None:
    d = decisions([0.5] * 30, np.array([True] * 15 + [False] * 15))
    assert value(calibration_error(d)) == 0 and len(reliability(d)) == 1


def test_calibration_error_of_few_answers_by_hand() -> None:
    # Fewer answers than bins: each is a bin of its own.
    d = decisions([0.9, 0.6], np.array([True, False]))
    assert value(calibration_error(d)) == pytest.approx((0.1 + 0.6) / 2)
    # Thirty answers: two in each bin, whose gaps cancel.
    d = decisions([0.5] * 30, np.array([True, False] * 15))
    assert value(calibration_error(d)) == pytest.approx(0)


def test_calibration_error_shows_overconfidence_and_little_else() -> None:
    off, on = (value(calibration_error(decisions(*drawn(bias)))) for bias in (0.2, 0.0))
    assert off == pytest.approx(0.2, abs=0.03)
    mean, low, high = error_if_calibrated(drawn(0.0)[0])
    assert low < mean < high and low < on < high < off


def test_the_error_of_chance_shrinks_with_the_number_of_answers() -> None:
    few, many = (error_if_calibrated(drawn(0.0)[0][:n]) for n in (100, N))
    assert few[0] > 3 * many[0]


def test_calibration_error_has_an_interval() -> None:
    tally = calibration_error(decisions(*drawn(0.2)))
    low, high = interval(tally)
    assert low < value(tally) < high and high - low < 0.06


def test_reliability_has_the_bins_of_the_error() -> None:
    d = decisions(*drawn(0.2))
    bins = reliability(d)
    assert len(bins) == BINS and sum(n for _, _, n in bins) == N
    assert [confidence for confidence, _, _ in bins] == sorted(confidence for confidence, _, _ in bins)
    error = sum(abs(confidence - right) * n for confidence, right, n in bins) / N
    assert error == pytest.approx(value(calibration_error(d)))
