"""Every metric against values worked out by hand, the interval, and the constant answer beside it."""

import itertools
import random
from collections.abc import Sequence

import numpy as np
import pytest

from training.scoring import (
    RESAMPLES,
    Span,
    accuracy,
    common_subsequence,
    exact_hits,
    flag_accuracy,
    flag_macro_f1,
    flag_majority,
    flag_micro_f1,
    interval,
    macro_f1,
    majority,
    relaxed_hits,
    rouge_l,
    score,
    span_f1,
    text_rouge_l,
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


def test_majority_is_the_most_frequent_label_and_its_score_the_constant_answers() -> None:
    assert majority(GOLD) == ["N0"] * 5
    assert majority(["b", "a"]) == ["a", "a"]
    assert score("t", "accuracy", accuracy(GOLD, FOUND), accuracy(GOLD, majority(GOLD))).majority == pytest.approx(0.6)
    # N0: 3 hits of 5 found and 3 due; N1 and N2: none.
    assert value(macro_f1(GOLD, majority(GOLD))) == pytest.approx((6 / 8 + 0 + 0) / 3)


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


def test_nothing_to_find_and_nothing_found_is_right() -> None:
    assert value(span_f1([[]], [[]])) == 1
    assert value(span_f1([[]], [[(0, 4, "a")]])) == 0


def test_rouge_l_is_the_f_measure_of_the_longest_common_subsequence() -> None:
    # Lin 2004: against "police killed the gunman" the first shares 3 of 4 words in order, the second 2 of 4.
    assert text_rouge_l("police killed the gunman", "police kill the gunman") == pytest.approx(3 / 4)
    assert text_rouge_l("police killed the gunman", "the gunman kill police") == pytest.approx(2 / 4)
    assert text_rouge_l("No effusion.", "no pleural EFFUSION") == pytest.approx(2 * 2 / (2 + 3))
    assert text_rouge_l("Normal.", "") == text_rouge_l("-", ".") == 0


def test_common_subsequence_may_skip_on_both_sides() -> None:
    assert common_subsequence("abcbdab", "bdcaba") == 4
    assert common_subsequence("", "abc") == 0


def test_rouge_l_of_reports_is_their_mean_with_a_missing_answer_as_0() -> None:
    assert value(rouge_l(["clear lungs", "clear lungs"], ["clear lungs", None])) == pytest.approx(1 / 2)


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
