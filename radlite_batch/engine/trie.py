"""The prompts in hand as a trie of tokens, kept as a sorted list of paths.

Sorted lexicographically, the trie is fully described by each path's length and by how many tokens it shares with the
path before it. Whatever is shared - an instruction, a report, a whole prompt - is shared by this one rule.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Paths:
    """Distinct token paths in trie order.

    tokens[i]: (length,) int32. shared[i]: tokens path i has in common with path i - 1 (0 for the first).
    """

    tokens: list[np.ndarray]
    shared: list[int]

    @property
    def lengths(self) -> list[int]:
        return [len(path) for path in self.tokens]

    @property
    def unique_tokens(self) -> int:
        return sum(self.lengths) - sum(self.shared)

    def owner(self, path: int, position: int) -> int:
        """The path whose own run holds this token: the first in order that passes through it."""
        while self.shared[path] > position:
            path -= 1
        return path


def sort_paths(prompts: Sequence[np.ndarray]) -> tuple[Paths, list[int]]:
    """The trie of these prompts and, for each prompt, its path. Equal prompts share one path."""
    # Big-endian bytes compare as the token ids do, so that one bytes comparison orders two prompts.
    keys = [np.asarray(prompt, dtype=">i4").tobytes() for prompt in prompts]
    number = {key: i for i, key in enumerate(sorted(set(keys)))}
    tokens = [np.frombuffer(key, dtype=">i4").astype(np.int32) for key in number]
    shared = [0, *(_common(a, b) for a, b in itertools.pairwise(tokens))]
    return Paths(tokens, shared[: len(tokens)]), [number[key] for key in keys]


def _common(a: np.ndarray, b: np.ndarray) -> int:
    n = min(len(a), len(b))
    differ = a[:n] != b[:n]
    first = int(differ.argmax()) if n else 0
    return first if n and differ[first] else n
