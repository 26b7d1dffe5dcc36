"""The seam between the engine and whatever computes logits.

A Model is one context of one loaded model with at most one adapter. It keeps, for each live sequence, the tokens
computed so far; a token may belong to several sequences at once, and then is computed once. The engine above
decides what to compute; llama.py and fake.py compute it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True, slots=True)
class Limits:
    """n_batch: tokens in one decode call; n_cells: tokens kept over all sequences; n_seqs: sequences at once.

    n_streams: texts written at once, at most; all streams together have stream_cells tokens."""

    n_batch: int
    n_cells: int
    n_seqs: int
    n_streams: int = 64

    @property
    def stream_cells(self) -> int:
        """Twice n_cells: a step over few texts costs almost what one over many costs."""
        return 2 * self.n_cells

    def streams_of(self, size: int) -> int:
        """How many texts of so many tokens each are written at once; a single one may be longer than stream_cells."""
        return max(1, min(self.n_streams, self.stream_cells // size))


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


class AllLogits(Logits, Protocol):
    """Those of a text, of which any token may be the next."""

    def best(self) -> int:
        """The most probable token; the lowest id wins a tie."""
        ...


class Streams(Protocol):
    """n texts of at most `size` tokens each, kept apart: attention of one never runs over another.

    Those in use are always the first ones."""

    n: int
    size: int

    def put(self, stream: int, state: Any) -> None:
        """Replaces what the stream holds by what was taken from the model."""
        ...

    def move(self, source: int, target: int) -> None:
        """The stream `target` becomes what `source` is; `source` is free."""
        ...

    def step(self, tokens: np.ndarray, ends: Sequence[int]) -> list[list[AllLogits]]:
        """Adds tokens (n_used, k) int32 to the first n_used streams, which hold `ends` tokens each; logits of each."""
        ...

    def cut(self, stream: int, n_tokens: int) -> None:
        """Keeps the first n_tokens."""
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

    def take(self, seq: int) -> Any:
        """What a stream needs to go on from this sequence. The sequence stays."""
        ...

    def streams(self, size: int) -> Streams:
        """Empty streams of at least `size` tokens each, as many as limits allow; those given before are void."""
        ...

    def memory(self) -> dict[str, int]:
        """Bytes this context holds beside the weights: kv, compute, output."""
        ...

    def close(self) -> None:
        """Frees the context. Not to be used afterwards."""
        ...
