"""The seam between the engine and whatever computes logits.

A Model is one context of one loaded model with at most one adapter. It keeps, for each live sequence, the tokens
computed so far; a token may belong to several sequences at once, and then is computed once. The engine above
decides what to compute; llama.py and fake.py compute it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True, slots=True)
class Limits:
    """n_batch: tokens in one decode call; n_cells: tokens kept over all sequences; n_seqs: sequences at once.

    n_busy: tokens kept beyond which nothing joins texts that are being written. Attention runs over every cell that
    is in use, so the room for one long report is too much for many short ones."""

    n_batch: int
    n_cells: int
    n_seqs: int
    n_busy: int = 1024


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive tokens at positions start, start + 1, ... that belong to all of `seqs`.

    tokens: (n,) int32. wants: offsets into tokens whose logits will be read.
    """

    tokens: np.ndarray
    start: int
    seqs: tuple[int, ...]
    wants: tuple[int, ...] = ()


class Logits(Protocol):
    """The logits after one token; valid until the next decode."""

    def of(self, tokens: np.ndarray) -> np.ndarray:
        """(n,) float32 for these token ids."""
        ...

    def best(self) -> int:
        """The most probable token; the lowest id wins a tie."""
        ...


class Model(Protocol):
    limits: Limits
    end: int  # the token that ends an answer

    def tokenize(self, text: str, special: bool) -> Sequence[int]:
        """Token ids; special: read the model's special tokens in the text. No token is added before or after."""
        ...

    def piece(self, token: int) -> bytes:
        """The bytes a token stands for; the pieces of a report's tokens join to its UTF-8."""
        ...

    def reserved(self, n: int) -> list[int]:
        """n distinct tokens that plain text never or hardly ever needs, always the same ones: the cues."""
        ...

    def ends(self, token: int) -> bool:
        """Whether this token ends a generation."""
        ...

    def decode(self, runs: Sequence[Run]) -> list[list[Logits]]:
        """Computes at most n_batch tokens; a run's parents come before it. Logits per run, in order of `wants`.

        Raises EngineError when the context has no room or the library fails."""
        ...

    def share(self, source: int, target: int, n_tokens: int) -> None:
        """Makes the first n_tokens of sequence `source` the start of the empty sequence `target`."""
        ...

    def drop(self, seq: int) -> None:
        """Forgets a sequence; its number may be used again."""
        ...

    def memory(self) -> dict[str, int]:
        """Bytes this context holds beside the weights: kv, compute, output."""
        ...

    def close(self) -> None:
        """Frees the context. Not to be used afterwards."""
        ...
