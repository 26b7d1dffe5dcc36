"""Closed answers as a trie of tokens: where to read the logits, and the probability of every answer.

Each inner node of the trie where answers part is one position to read; the forced tokens before it are part of the
prompt. All positions of an answer list are computed in one go, so the probabilities are exact and no second pass is
needed. Where one answer is the beginning of another (4 and 4A), every answer ends in the model's end token.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Fork:
    """A node where answers part. prefix: forced tokens up to it. tokens: (n,) the legal next ones.

    members: for each legal token, the indices of the answers that go on with it.
    """

    prefix: tuple[int, ...]
    tokens: np.ndarray
    members: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class AnswerTrie:
    forks: tuple[Fork, ...]
    n_answers: int

    def probabilities(self, logits: Sequence[np.ndarray]) -> tuple[float, ...]:
        """One per answer, sum 1. logits: for each fork, those of its tokens."""
        result = np.ones(self.n_answers)
        for fork, row in zip(self.forks, logits, strict=True):
            for p, members in zip(softmax(row), fork.members, strict=True):
                result[list(members)] *= p
        return tuple(result.tolist())


def answer_trie(answers: Sequence[Sequence[int]], end: int) -> AnswerTrie:
    """Builds the trie over token sequences. Raises ValueError on an empty list or two equal answers."""
    rows = [tuple(answer) for answer in answers]
    if not rows or len(set(rows)) != len(rows):
        raise ValueError("answers must be distinct, and at least one")
    if any(a != b and b[: len(a)] == a for a in rows for b in rows):
        rows = [(*row, end) for row in rows]
    forks: list[Fork] = []
    _collect(rows, tuple(range(len(rows))), 0, forks)
    return AnswerTrie(tuple(forks), len(rows))


def _collect(rows: list[tuple[int, ...]], members: tuple[int, ...], depth: int, forks: list[Fork]) -> None:
    if len(members) == 1:
        return
    by_token: dict[int, list[int]] = {}
    for i in members:
        by_token.setdefault(rows[i][depth], []).append(i)
    if len(by_token) > 1:
        groups = tuple(tuple(group) for group in by_token.values())
        forks.append(Fork(rows[members[0]][:depth], np.array(list(by_token), dtype=np.int32), groups))
    for group in by_token.values():
        _collect(rows, tuple(group), depth + 1, forks)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    normal: np.ndarray = shifted / shifted.sum(axis=-1, keepdims=True)
    return normal
