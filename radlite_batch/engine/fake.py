"""A model without weights: logits are a hash of the tokens before them.

Deterministic, and true to the seam: it keeps the tokens of every sequence, so a wrongly shared prefix changes the
answers, and a wrong position, an overfull batch or a used sequence raises. It runs everything above the seam at
thousands of reports a second.
"""

import ctypes
import hashlib
import os
import signal
import zlib
from collections.abc import Callable, Sequence

import numpy as np

from radlite_batch.engine import alarm
from radlite_batch.engine.base import AllLogits, Limits, Logits, Run
from radlite_batch.errors import EngineError

_SPECIAL = 1 << 28
_END = _SPECIAL
_ANSWER_TOKENS = 12


class FakeLogits:
    """After one token of a text, which holds (token, hash of everything up to it) for each of its tokens."""

    def __init__(self, text: Sequence[tuple[int, int]], position: int):
        self._text, self._position = text, position
        self._token, self._state = text[position]

    def of(self, tokens: np.ndarray) -> np.ndarray:
        mixed = (tokens.astype(np.uint64) + np.uint64(self._state)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)  # without this, two tokens' logits would always differ by the same amount
        mixed *= np.uint64(0xBF58476D1CE4E5B9)
        return ((mixed >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)) * 8

    def best(self) -> int:
        """A token of the text so far, or the end; a text that begins here does not end at once."""
        source = [token for token, _ in self._text[: self._position + 1] if token < _SPECIAL]
        ends = 0 if self._token >= _SPECIAL and source else len(source) // _ANSWER_TOKENS + 1
        pick = self._state % (len(source) + ends)
        return source[pick] if pick < len(source) else _END


class FakeModel:
    """Tokens are up to three bytes of UTF-8. n_computed counts tokens, for tests of sharing.

    Where the environment says RADLITE_FAKE_FAULTS=1, a text that holds a key of FAULTS has that fault."""

    def __init__(self, limits: Limits | None = None):
        self.limits = limits or Limits(n_batch=512, n_cells=8192, n_seqs=256)
        self.end = _END
        self.n_computed = 0
        self._sequences: dict[int, list[tuple[int, int]]] = {}  # (token, hash up to it)
        self._faults = FAULTS if os.environ.get("RADLITE_FAKE_FAULTS") == "1" else {}

    def tokenize(self, text: str, special: bool) -> list[int]:
        for word, fault in self._faults.items():
            if word in text:
                fault(text)
        raw = text.encode("utf-8", "surrogatepass")
        return [_token(raw[i : i + 3]) for i in range(0, len(raw), 3)]

    def piece(self, token: int) -> bytes:
        return b"" if token >= _SPECIAL else (token & 0xFFFFFF).to_bytes(3, "big")[: token >> 24]

    def reserved(self, n: int) -> list[int]:
        return [_SPECIAL + 1 + i for i in range(n)]

    def ends(self, token: int) -> bool:
        return token == _END

    def decode(self, runs: Sequence[Run]) -> list[list[Logits]]:
        alarm.step()
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
            added = _hashed(run.tokens.tolist(), lead[-1][1] if lead else 0)
            for seq in run.seqs:
                self._sequences[seq].extend(added)
            rows.append([FakeLogits(lead, run.start + want) for want in run.wants])
            self.n_computed += len(added)
        return rows

    def share(self, source: int, target: int, n_tokens: int) -> None:
        if self._sequences.get(target):
            raise EngineError(f"sequence {target} is in use")
        self._sequences[target] = self._sequences[source][:n_tokens]

    def drop(self, seq: int) -> None:
        self._sequences.pop(seq, None)

    def take(self, seq: int) -> list[tuple[int, int]]:
        return list(self._sequences[seq])

    def streams(self, size: int) -> "FakeStreams":
        return FakeStreams(self, self.limits.streams_of(size), size)

    def memory(self) -> dict[str, int]:
        return {"kv": 0, "compute": 0, "output": 0}

    def close(self) -> None:
        self._sequences.clear()


class FakeStreams:
    """Streams of a FakeModel; whatever is used wrongly raises."""

    def __init__(self, model: FakeModel, n: int, size: int):
        self.n, self.size = n, size
        self._model = model
        self._texts: list[list[tuple[int, int]]] = [[] for _ in range(n)]

    def put(self, stream: int, state: list[tuple[int, int]]) -> None:
        self._texts[stream] = list(state)

    def move(self, source: int, target: int) -> None:
        self._texts[target], self._texts[source] = self._texts[source], []

    def step(self, tokens: np.ndarray, ends: Sequence[int]) -> list[list[AllLogits]]:
        alarm.step()
        rows: list[list[AllLogits]] = []
        for text, row, end in zip(self._texts, tokens.tolist(), ends, strict=False):
            if len(text) != end or end + len(row) > self.size:
                raise EngineError(f"a stream of {len(text)} tokens is asked to go on from {end}")
            text.extend(_hashed(row, text[-1][1] if text else 0))
            self._model.n_computed += len(row)
            rows.append([FakeLogits(text, position) for position in range(end, len(text))])
        return rows

    def cut(self, stream: int, n_tokens: int) -> None:
        del self._texts[stream][n_tokens:]


def _hashed(tokens: Sequence[int], state: int) -> list[tuple[int, int]]:
    """(token, hash of everything up to it)"""
    added = []
    for token in tokens:
        state = zlib.crc32(token.to_bytes(4, "big"), state)
        added.append((token, state))
    return added


def _token(chunk: bytes) -> int:
    return len(chunk) << 24 | int.from_bytes(chunk.ljust(3, b"\0"), "big")


_held: list[bytes] = []  # what a leak would keep


def _be_killed(text: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _segfault(text: str) -> None:
    ctypes.string_at(0)


def _loop(text: str) -> None:
    while True:
        pass


def _grow(text: str) -> None:
    taken = []
    while True:
        taken.append(bytes(16 << 20))


def _hold(text: str) -> None:
    _held.append(b"\1" * (16 << 20))


def _fail(text: str) -> None:
    raise EngineError("the model fails")


def _stumble(text: str) -> None:
    raise ValueError(text)


FAULTS: dict[str, Callable[[str], None]] = {
    "FAULT-KILLED": _be_killed, "FAULT-SEGFAULT": _segfault, "FAULT-LOOP": _loop, "FAULT-GROW": _grow,
    "FAULT-HOLD": _hold, "FAULT-FAIL": _fail, "FAULT-STUMBLE": _stumble,
}  # fmt: skip


def fake_sha256() -> str:
    """What stands in the place of a model file's checksum."""
    return hashlib.sha256(b"fake").hexdigest()
