"""Every metric against values worked out by hand, intervals and differences, and the constant answer beside them."""

import itertools
import random
from collections.abc import Sequence

import numpy as np
import pytest

from training.scoring import (
    RESAMPLES,
    Span,
    accuracy,
    difference,
    exact_hits,
    flag_accuracy,
    flag_macro_f1,
    flag_majority,
    flag_micro_f1,
    in_favour,
    interval,
    label_f1,
    macro_f1,
    majority,
    mcnemar,
    mean,
    relaxed_hits,
    right,
    score,
    span_f1,
    span_jaccard,
    value,
)

GOLD = ["N0", "N0", "N0", "N1", "N2"]
FOUND = ["N0", "N0", "N1", "N1", None]

FLAGS = [["positive", "negative"], ["positive", "positive"], ["absent", None], ["absent", "negative"]]
FLAGS_FOUND = [["positive", "positive"], ["absent", "positive"], ["positive", "positive"], [None, None]]


def test_accuracy_counts_a_missing_answer_as_wrong() -> None:
    assert value(accuracy(GOLD, FOUND)) == pytest.approx(3 / 5)


def test_macro_f1_is_the_mean_over_the_labels_that_occur() -> None:
    # N0: 2 hits of 2 found and 3 due; N1: 1 of 2 and 1; N2: 0 of 0 and 1. No answer is no label of its own.
    assert value(macro_f1(GOLD, FOUND)) == pytest.approx((4 / 5 + 2 / 3 + 0) / 3)


def test_macro_f1_takes_in_labels_that_only_the_predictions_name() -> None:
    assert value(macro_f1(["M0", "M0"], ["M0", "MX"])) == pytest.approx((2 / 3 + 0) / 2)


def test_the_f1_of_a_label_is_of_that_label_alone() -> None:
    assert [value(label_f1(label, GOLD, FOUND)) for label in ("N0", "N1", "N2")] == pytest.approx([4 / 5, 2 / 3, 0])


def test_majority_is_the_most_frequent_label_and_its_score_the_constant_answers() -> None:
    assert majority(GOLD) == ["N0"] * 5
    assert majority(["b", "a"]) == ["a", "a"]
    assert score("t", "accuracy", accuracy(GOLD, FOUND), accuracy(GOLD, majority(GOLD))).majority == pytest.approx(0.6)
    # N0: 3 hits of 5 found and 3 due; N1 and N2: none.
    assert value(macro_f1(GOLD, majority(GOLD))) == pytest.approx((6 / 8 + 0 + 0) / 3)


def test_any_label_that_the_reference_allows_is_right() -> None:
    gold = [("N1", "N2"), ("N1", "N2"), "N0", ("N1", "N2")]
    found = ["N2", "N0", "N0", None]
    assert in_favour(gold, found) == ["N2", "N1", "N0", "N1"]
    assert right(gold, found).tolist() == [True, False, True, False]
    assert value(accuracy(gold, found)) == pytest.approx(2 / 4)
    # N0: 1 hit of 2 found and 1 due; N1: 0 of 0 and 2; N2: 1 of 1 and 1.
    assert value(macro_f1(gold, found)) == pytest.approx((2 / 3 + 0 + 1) / 3)


def test_the_constant_answer_is_the_one_that_is_right_most_often() -> None:
    assert majority([("a", "b"), ("b", "c"), "c", "a", "b"]) == ["b"] * 5
    flags = [[("positive",), None], [("negative", "absent"), None], [("absent",), None]]
    assert flag_majority(flags) == [["absent", None]] * 3


def test_flag_f1_is_of_the_positive_state_where_the_flag_is_labelled() -> None:
    # First flag: 1 hit of 2 found and 2 due; second, its unlabelled cell left out: 1 hit of 2 found and 1 due.
    assert value(flag_micro_f1(FLAGS, FLAGS_FOUND)) == pytest.approx(4 / 7)
    assert value(flag_macro_f1(FLAGS, FLAGS_FOUND)) == pytest.approx((2 / 4 + 2 / 3) / 2)


def test_a_flag_positive_nowhere_is_left_out_of_the_macro_mean() -> None:
    gold = [["positive", "absent"], ["absent", "negative"]]
    assert value(flag_macro_f1(gold, gold)) == 1
    assert value(flag_macro_f1(gold, [["positive", "absent"], ["absent", "positive"]])) == pytest.approx(1 / 2)


def test_flag_accuracy_is_the_mean_share_of_right_states() -> None:
    # First flag: 1 of 4, one without an answer; second: 1 of the 3 labelled.
    assert value(flag_accuracy(FLAGS, FLAGS_FOUND)) == pytest.approx((1 / 4 + 1 / 3) / 2)


def test_flag_majority_is_each_flags_most_frequent_state() -> None:
    constant = flag_majority(FLAGS)
    assert constant == [["absent", "negative"]] * 4  # the first is a tie, which goes to the first by name
    assert value(flag_accuracy(FLAGS, constant)) == pytest.approx((2 / 4 + 2 / 3) / 2)
    assert value(flag_micro_f1(FLAGS, constant)) == 0


def test_exact_spans_need_label_and_offsets() -> None:
    gold: list[list[Span]] = [[(0, 4, "a"), (5, 9, "p"), (10, 12, "p")], [(0, 3, "a")]]
    found: list[list[Span]] = [[(0, 4, "a"), (5, 9, "a"), (10, 13, "p")], []]
    assert value(span_f1(gold, found)) == pytest.approx(2 * 1 / (3 + 4))
    assert value(span_f1(gold, found, relaxed=True)) == pytest.approx(2 * 2 / (3 + 4))


def test_touching_spans_do_not_overlap() -> None:
    assert relaxed_hits([(0, 4, "a")], [(4, 8, "a")]) == 0


def test_each_span_is_hit_once_at_most() -> None:
    assert exact_hits([(0, 4, "a")], [(0, 4, "a"), (0, 4, "a")]) == 1
    assert relaxed_hits([(0, 9, "a")], [(0, 3, "a"), (4, 9, "a")]) == 1
    assert relaxed_hits([(0, 3, "a"), (4, 9, "a")], [(0, 9, "a")]) == 1


def test_relaxed_hits_are_the_most_pairs_there_can_be() -> None:
    def most(gold: Sequence[Span], found: Sequence[Span]) -> int:
        def pairs(g: Span, f: Span | None) -> bool:
            return f is not None and g[2] == f[2] and g[0] < f[1] and f[0] < g[1]

        chances = itertools.permutations([*found, *[None] * len(gold)], len(gold))
        return max(sum(map(pairs, gold, chance)) for chance in chances)

    draw = random.Random(4)
    for _ in range(100):
        cuts = sorted(draw.sample(range(20), 6))
        found = [(cuts[i], cuts[i + 1], draw.choice("ab")) for i in (0, 2, 4)]
        gold = [(s, s + draw.randint(1, 9), draw.choice("ab")) for s in draw.choices(range(18), k=3)]
        assert relaxed_hits(gold, found) == most(gold, found)


def test_jaccard_is_the_mean_over_reports_of_shared_spans() -> None:
    gold: list[list[Span]] = [[(0, 4, "a"), (5, 9, "b")], [], [(0, 3, "a")]]
    found: list[list[Span]] = [[(0, 4, "a"), (5, 9, "a")], [], []]
    assert value(span_jaccard(gold, found)) == pytest.approx((1 / 3 + 1 + 0) / 3)


def test_nothing_to_find_and_nothing_found_is_right() -> None:
    assert value(span_f1([[]], [[]])) == 1
    assert value(span_f1([[]], [[(0, 4, "a")]])) == 0


def test_a_resample_with_nothing_to_find_is_no_part_of_an_interval() -> None:
    rare = flag_micro_f1([["positive"]] + [["negative"]] * 199, [["negative"]] * 200)
    assert value(rare) == 0 and interval(rare) == (0, 0)
    assert interval(span_f1([[], []], [[], []])) == (1, 1)


def test_interval_covers_the_value_and_is_the_same_every_time() -> None:
    tally = accuracy(["a"] * 100, ["a"] * 70 + ["b"] * 30)
    low, high = interval(tally)
    assert low < value(tally) < high
    assert (low, high) == interval(tally)
    assert (low, high) != interval(tally, seed=1)
    # The normal approximation of a share of 0.7 in 100 is 0.7 +- 0.09.
    assert (low, high) == pytest.approx((0.61, 0.79), abs=0.02)


def test_interval_is_that_of_reports_drawn_one_by_one() -> None:
    gold, found = GOLD * 8, (["N0", "N0", "N1", "N1", None] * 4 + ["N0", "N1", "N2", "N1", "N2"] * 4)
    draws = np.random.default_rng(9)
    values = []
    for _ in range(RESAMPLES):
        drawn = draws.integers(len(gold), size=len(gold))
        values.append(value(macro_f1([gold[i] for i in drawn], [found[i] for i in drawn])))
    assert interval(macro_f1(gold, found)) == pytest.approx(tuple(np.percentile(values, (2.5, 97.5))), abs=0.03)


def test_interval_of_many_reports_is_drawn_in_steps() -> None:
    tally = accuracy(["a"] * 9001, ["a", "b", "b"] * 3000 + ["a"])
    low, high = interval(tally)
    assert low < value(tally) < high
    assert high - low == pytest.approx(2 * 1.96 * (2 / 9 / 9001) ** 0.5, rel=0.1)


def test_interval_of_one_report_is_its_value() -> None:
    assert interval(accuracy(["a"], ["a"])) == (1, 1)


def test_a_score_states_its_number_of_reports() -> None:
    record = score("n_staging", "accuracy", accuracy(GOLD, FOUND))
    assert (record.task, record.metric, record.n, record.majority) == ("n_staging", "accuracy", 5, None)
    assert record.low <= record.value <= record.high


def test_interval_over_patients_is_that_of_patients_drawn_one_by_one() -> None:
    gold, found = GOLD * 8, (["N0", "N0", "N1", "N1", None] * 4 + ["N0", "N1", "N2", "N1", "N2"] * 4)
    patients = np.repeat(np.arange(8), 5)
    draws = np.random.default_rng(9)
    values = []
    for _ in range(RESAMPLES):
        drawn = [i for patient in draws.integers(8, size=8) for i in np.flatnonzero(patients == patient)]
        values.append(value(macro_f1([gold[i] for i in drawn], [found[i] for i in drawn])))
    expected = tuple(np.percentile(values, (2.5, 97.5)))
    assert interval(macro_f1(gold, found), patients) == pytest.approx(expected, abs=0.03)


def test_patients_with_many_equal_reports_widen_the_interval() -> None:
    tally = accuracy(["a"] * 100, ["a"] * 50 + ["b"] * 50)
    alone, together = interval(tally), interval(tally, np.repeat(np.arange(10), 10))
    # The normal approximation of a share of a half: in 100 reports, and in 10 patients.
    assert alone == pytest.approx((0.40, 0.60), abs=0.03)
    assert together == pytest.approx((0.19, 0.81), abs=0.06)


def test_a_metric_over_some_reports_has_their_number_and_their_interval() -> None:
    tally = accuracy(["a"] * 100, ["a"] * 50 + ["b"] * 50)
    some = tally.only(np.arange(100) < 60)
    assert (some.n, value(some)) == (60, pytest.approx(5 / 6))
    assert interval(some) == interval(accuracy(["a"] * 60, ["a"] * 50 + ["b"] * 10))
    assert interval(some, np.arange(100)) == interval(some)


def test_a_difference_is_paired() -> None:
    one, other = mean([1.0, 0.0] * 50), mean([0.8, -0.2] * 50)
    found = difference("t", "m", "", one, other)
    assert (found.value, found.other, found.n, found.p) == (0.5, pytest.approx(0.3), 100, None)
    # Each report differs by the same, so chance has no part in it.
    assert (found.difference, found.low, found.high) == pytest.approx((0.2, 0.2, 0.2))


def test_a_difference_of_unlike_numbers_of_classes_is_that_of_the_values() -> None:
    one, other = macro_f1(GOLD, FOUND), macro_f1(GOLD, ["N3"] * 5)
    assert difference("t", "m", "", one, other).difference == pytest.approx(value(one) - value(other))


def test_mcnemar_is_the_exact_binomial_of_the_reports_that_only_one_gets_right() -> None:
    one = np.array([True] * 9 + [False] + [True] * 20 + [False] * 5)
    other = np.array([False] * 9 + [True] + [True] * 20 + [False] * 5)
    assert mcnemar(one, other) == mcnemar(other, one) == pytest.approx(2 * (1 + 10) / 2**10)
    assert mcnemar(one, one) == 1


def test_mcnemar_of_many_reports_is_still_exact() -> None:
    one = np.arange(6000) < 3100
    # The normal approximation with its correction for continuity: z = (200 - 1) / sqrt(6000).
    assert mcnemar(one, ~one) == pytest.approx(0.0102, abs=0.0002)
