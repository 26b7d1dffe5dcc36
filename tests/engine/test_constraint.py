"""Closed answers: every legal answer has its exact probability, and nothing else has any."""

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from radlite_batch.engine.constraint import AnswerTrie, answer_trie, softmax

END = 99
Answer = tuple[int, ...]
ANSWERS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple), min_size=1, max_size=10, unique=True)


def logit(prefix: Answer, token: int, seed: int) -> float:
    """What a model with this seed would say after `prefix`."""
    return random.Random(f"{seed} {prefix} {token}").uniform(-12, 12)


def read(trie: AnswerTrie, seed: int) -> tuple[float, ...]:
    return trie.probabilities([np.array([logit(f.prefix, int(t), seed) for t in f.tokens]) for f in trie.forks])


def brute_force(answers: list[Answer], seed: int) -> list[float]:
    """Each answer token by token, renormalised at every step over the tokens with which some answer goes on."""
    if any(a != b and b[: len(a)] == a for a in answers for b in answers):
        answers = [(*answer, END) for answer in answers]
    result = []
    for answer in answers:
        p = 1.0
        for n, token in enumerate(answer):
            legal = {other[n] for other in answers if other[:n] == answer[:n]}
            p *= math.exp(logit(answer[:n], token, seed)) / sum(math.exp(logit(answer[:n], t, seed)) for t in legal)
        result.append(p)
    return result


@given(ANSWERS, st.integers(0, 1000))
def test_probabilities_are_the_product_of_the_steps_and_sum_to_one(answers: list[Answer], seed: int) -> None:
    found = read(answer_trie(answers, END), seed)
    assert found == pytest.approx(brute_force(answers, seed), rel=1e-9)
    assert sum(found) == pytest.approx(1)


@given(ANSWERS, st.integers(0, 1000), st.randoms())
def test_an_answers_probability_does_not_depend_on_the_order_of_the_list(
    answers: list[Answer], seed: int, chance: random.Random
) -> None:
    shuffled = chance.sample(answers, len(answers))
    once = dict(zip(answers, read(answer_trie(answers, END), seed), strict=True))
    again = dict(zip(shuffled, read(answer_trie(shuffled, END), seed), strict=True))
    assert again == pytest.approx(once)


def test_one_token_answers_are_read_at_one_position() -> None:
    trie = answer_trie([(5,), (3,), (8,)], END)
    (fork,) = trie.forks
    assert (fork.prefix, fork.tokens.tolist(), fork.members) == ((), [5, 3, 8], ((0,), (1,), (2,)))
    assert trie.probabilities([np.log([1.0, 2.0, 5.0])]) == pytest.approx((0.125, 0.25, 0.625))


def test_forced_tokens_are_skipped_and_common_beginnings_are_read_once() -> None:
    trie = answer_trie([(1, 1, 2, 6), (1, 1, 2, 7), (1, 1, 3, 6, 6)], END)
    assert [(fork.prefix, fork.tokens.tolist()) for fork in trie.forks] == [((1, 1), [2, 3]), ((1, 1, 2), [6, 7])]
    halves = np.zeros(2, dtype=np.float32)
    assert trie.probabilities([halves, halves]) == pytest.approx((0.25, 0.25, 0.5))


def test_where_one_answer_begins_another_the_end_token_tells_them_apart() -> None:
    three, four, four_a = (3,), (4,), (4, 10)
    trie = answer_trie([three, four, four_a], END)
    assert [(fork.prefix, fork.tokens.tolist()) for fork in trie.forks] == [((), [3, 4]), ((4,), [END, 10])]
    found = trie.probabilities([np.log([1.0, 3.0]), np.log([1.0, 2.0])])
    assert found == pytest.approx((0.25, 0.25, 0.5))


def test_no_end_token_is_asked_for_where_no_answer_begins_another() -> None:
    trie = answer_trie([(3,), (4, 10), (4, 11)], END)
    assert all(END not in fork.tokens for fork in trie.forks)


def test_a_single_answer_is_certain_without_reading_anything() -> None:
    trie = answer_trie([(1, 2, 3)], END)
    assert trie.forks == ()
    assert trie.probabilities([]) == (1.0,)


@pytest.mark.parametrize("answers", [[], [(1, 2), (3,), (1, 2)]])
def test_an_empty_list_or_two_equal_answers_are_refused(answers: list[Answer]) -> None:
    with pytest.raises(ValueError, match="distinct"):
        answer_trie(answers, END)


def test_missing_logits_are_an_error_not_a_guess() -> None:
    with pytest.raises(ValueError):
        answer_trie([(1,), (2,)], END).probabilities([])


def test_softmax_survives_extreme_logits() -> None:
    rows = softmax(np.array([[3e4, -3e4, 3e4], [-1e4, -1e4, -1e4]], dtype=np.float32))
    assert rows[0].tolist() == [0.5, 0.0, 0.5]
    assert rows.sum(axis=-1) == pytest.approx([1, 1])
