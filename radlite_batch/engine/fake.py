"""A model without weights: logits are a hash of the tokens before them.

Deterministic, and true to the seam: it keeps the tokens of every sequence, so a wrongly shared prefix changes the
answers, and a wrong position, an overfull batch or a used sequence raises. It runs everything above the seam at
thousands of reports a second.
"""

import hashlib
import zlib
from collections.abc import Sequence

import numpy as np

from radlite_batch.engine.base import Limits, Logits, Run
from radlite_batch.errors import EngineError

_SPECIAL = 1 << 28
_END = _SPECIAL
_ANSWER_TOKENS = 12


class FakeLogits:
    """state: hash of all tokens up to here. source: tokens to copy when writing. begins: a text begins here."""

    def __init__(self, state: int, source: Sequence[int], begins: bool):
        self._state, self._source, self._begins = state, source, begins

    def of(self, tokens: np.ndarray) -> np.ndarray:
        mixed = (tokens.astype(np.uint64) + np.uint64(self._state)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)  # without this, two tokens' logits would always differ by the same amount
        mixed *= np.uint64(0xBF58476D1CE4E5B9)
        return ((mixed >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)) * 8

    def best(self) -> int:
        ends = 0 if self._begins and self._source else len(self._source) // _ANSWER_TOKENS + 1
        pick = self._state % (len(self._source) + ends)
        return self._source[pick] if pick < len(self._source) else _END


class FakeModel:
    """Tokens are up to three bytes of UTF-8. n_computed counts tokens, for tests of sharing."""

    def __init__(self, limits: Limits | None = None):
        self.limits = limits or Limits(n_batch=512, n_cells=8192, n_seqs=256)
        self.end = _END
        self.n_computed = 0
        self._sequences: dict[int, list[tuple[int, int]]] = {}  # (token, hash up to it)

    def tokenize(self, text: str, special: bool) -> list[int]:
        raw = text.encode("utf-8", "surrogatepass")
        return [_token(raw[i : i + 3]) for i in range(0, len(raw), 3)]

    def piece(self, token: int) -> bytes:
        return b"" if token >= _SPECIAL else (token & 0xFFFFFF).to_bytes(3, "big")[: token >> 24]

    def reserved(self, n: int) -> list[int]:
        return [_SPECIAL + 1 + i for i in range(n)]

    def ends(self, token: int) -> bool:
        return token == _END

    def decode(self, runs: Sequence[Run]) -> list[list[Logits]]:
        if sum(len(run.tokens) for run in runs) > self.limits.n_batch:
            raise EngineError("more tokens than a batch holds")
        rows: list[list[Logits]] = []
        for run in runs:
            lead = self._sequences.setdefault(run.seqs[0], [])
            for seq in run.seqs:
                if not 0 <= seq < self.limits.n_seqs or len(self._sequences.setdefault(seq, [])) != run.start:
                    raise EngineError(f"sequence {seq} does not end at position {run.start}")
                if seq != run.seqs[0] and self._sequences[seq] and self._sequences[seq][-1] != lead[-1]:
                    raise EngineError(f"sequence {seq} does not share the prefix")
            state, added = (lead[-1][1] if lead else 0), []
            for token in run.tokens.tolist():
                state = zlib.crc32(token.to_bytes(4, "big"), state)
                added.append((token, state))
            for seq in run.seqs:
                self._sequences[seq].extend(added)
            source = [token for token, _ in lead if token < _SPECIAL] if run.wants else []
            rows.append([FakeLogits(added[w][1], source, added[w][0] >= _SPECIAL) for w in run.wants])
            self.n_computed += len(added)
        return rows

    def share(self, source: int, target: int, n_tokens: int) -> None:
        if self._sequences.get(target):
            raise EngineError(f"sequence {target} is in use")
        self._sequences[target] = self._sequences[source][:n_tokens]

    def drop(self, seq: int) -> None:
        self._sequences.pop(seq, None)

    def memory(self) -> dict[str, int]:
        return {"kv": 0, "compute": 0, "output": 0}

    def close(self) -> None:
        self._sequences.clear()


def _token(chunk: bytes) -> int:
    return len(chunk) << 24 | int.from_bytes(chunk.ljust(3, b"\0"), "big")


def fake_sha256() -> str:
    """What stands in the place of a model file's checksum."""
    return hashlib.sha256(b"fake").hexdigest()
