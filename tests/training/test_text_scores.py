"""Scores of written answers against values worked out by hand, and BLEU against SacreBLEU's."""

import pytest

from training.scoring import interval, value
from training.text_scores import bleu, bleu_tokens, common_subsequence, exact_match, plain, rouge_l, text_rouge_l


def test_rouge_l_is_the_f_measure_of_the_longest_common_subsequence() -> None:
    # Lin 2004: against "police killed the gunman" the first shares 3 of 4 words in order, the second 2 of 4.
    assert text_rouge_l("police killed the gunman", "police kill the gunman") == pytest.approx(3 / 4)
    assert text_rouge_l("police killed the gunman", "the gunman kill police") == pytest.approx(2 / 4)
    assert text_rouge_l("No effusion.", "no pleural EFFUSION") == pytest.approx(2 * 2 / (2 + 3))
    assert text_rouge_l("Normal.", "") == text_rouge_l("-", ".") == 0


def test_what_stands_for_a_name_is_no_word() -> None:
    assert text_rouge_l("___ seen", "seen") == 1


def test_common_subsequence_may_skip_on_both_sides() -> None:
    assert common_subsequence("abcbdab", "bdcaba") == 4
    assert common_subsequence("", "abc") == 0


def test_rouge_l_of_reports_is_their_mean_with_a_missing_answer_as_0() -> None:
    assert value(rouge_l(["clear lungs", "clear lungs"], ["clear lungs", None])) == pytest.approx(1 / 2)


@pytest.mark.parametrize(
    ("gold", "found", "sacrebleu"),
    [
        # SacreBLEU 2.6.0, nrefs:1|case:lc|eff:no|tok:13a|smooth:exp
        (
            ["No acute cardiopulmonary abnormality.", "Stable 1.5-cm nodule, left lung."],
            ["No acute disease.", "Stable 1.5 cm nodule in the left lung."],
            0.212524,
        ),
        (["The heart is enlarged, as before."], ["The heart is enlarged."], 0.388068),
        (["Clear lungs."], ["No effusion or focal opacity is seen."], 0.055224),
        (["Clear lungs."], ["Effusion"], 0.0),
    ],
)
def test_bleu_is_sacrebleus(gold: list[str], found: list[str], sacrebleu: float) -> None:
    assert value(bleu(gold, found)) == pytest.approx(sacrebleu, abs=1e-6)


def test_bleu_of_a_corpus_is_not_the_mean_of_its_texts() -> None:
    gold, found = ["no focal opacity is seen here", "clear"], ["no focal opacity is seen here", "dense"]
    assert value(bleu(gold[:1], found[:1])) == pytest.approx(1) and value(bleu(gold[1:], found[1:])) == 0
    # Of each order one text adds hits: 6 of 7, 5 of 5, 4 of 4, 3 of 3.
    assert value(bleu(gold, found)) == pytest.approx((6 / 7) ** 0.25)


def test_bleu_of_nothing_is_0() -> None:
    assert value(bleu(["Clear lungs."], [None])) == value(bleu(["Clear lungs."], [""])) == 0
    low, high = interval(bleu(["Clear lungs and a normal heart."] * 3, [None, "", None]))
    assert (low, high) == (0, 0)


def test_bleu_tokens_keep_a_number_whole() -> None:
    assert bleu_tokens("A 1.5 cm T2-bright mass, 3,000 HU.") == [
        "a", "1.5", "cm", "t2", "-", "bright", "mass", ",", "3,000", "hu", ".",
    ]  # fmt: skip


def test_exact_match_is_without_case_punctuation_and_articles() -> None:
    assert plain("The left  lung, apex.") == "left lung apex"
    gold = ["Left lung", "an effusion", "No", "no"]
    assert value(exact_match(gold, ["the LEFT lung.", "effusion", "none", None])) == pytest.approx(2 / 4)
