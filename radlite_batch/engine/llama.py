"""llama.cpp behind the seam: a model of one context for prompts and one for the texts that are written."""

import ctypes
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from radlite_batch.engine import gguf_header
from radlite_batch.engine.base import AllLogits, Limits, Logits, Run
from radlite_batch.engine.context import Context, Use, Weights, last_error, pointer, quiet
from radlite_batch.engine.head import Head, fits
from radlite_batch.errors import EngineError, PackError

FILE_TYPES = {
    "bf16": llama_cpp.LLAMA_FTYPE_MOSTLY_BF16,
    "f16": llama_cpp.LLAMA_FTYPE_MOSTLY_F16,
    "q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
    "q4_k_m": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M,
}

_SIGNS = re.compile(rb"(?!(?s:(.)\1*\Z))[!-/:-@\[-`{-~]{3,}")  # three or more ASCII signs, not all the same
_STREAM_CELLS = 256  # the library rounds a stream's size up to a multiple of this
_STREAM_BATCH = 16  # tokens of a step over few streams, with their drafts


class LlamaModel:
    """One context over shared weights, with at most one adapter. threads: CPU threads of a decode call."""

    def __init__(self, weights: Weights, limits: Limits, threads: int, adapter: Path | None = None, scale: float = 1.0):
        self.limits, self._weights = limits, weights
        self._use = Use(threads, adapter, scale)
        # With an adapter at run time the head may be another than the file's.
        plain = adapter is None and fits(weights.header)
        head = Head(weights.path, weights.header) if plain else None
        self._context = Context(weights, limits.n_cells, limits.n_batch, limits.n_seqs, True, self._use, head)
        self._streams: LlamaStreams | None = None
        end = int(llama_cpp.llama_vocab_eos(weights.vocab))
        self.end = end if end >= 0 else int(llama_cpp.llama_vocab_eot(weights.vocab))
        self._pieces: dict[int, bytes] = {}

    def close(self) -> None:
        self._context.close()
        if self._streams is not None:
            self._streams.close()

    def tokenize(self, text: str, special: bool) -> list[int]:
        raw = text.encode("utf-8", "surrogatepass")
        size = len(raw) + 8
        while True:
            buffer = (llama_cpp.llama_token * size)()
            n = llama_cpp.llama_tokenize(self._weights.vocab, raw, len(raw), buffer, size, False, special)
            if n >= 0:
                return buffer[:n]
            size = -n

    def piece(self, token: int) -> bytes:
        if token not in self._pieces:
            buffer = ctypes.create_string_buffer(256)
            n = llama_cpp.llama_token_to_piece(self._weights.vocab, token, buffer, 256, 0, False)
            self._pieces[token] = buffer.raw[: max(n, 0)]
        return self._pieces[token]

    def reserved(self, n: int) -> list[int]:
        # Control tokens that the chat does not use, then the rarest tokens (the last merges) that are signs only:
        # the rarest of all are words, and "Emergency" does begin a report.
        vocab, total = self._weights.vocab, self._weights.n_vocab
        marks = {llama_cpp.llama_vocab_bos(vocab), llama_cpp.llama_vocab_eos(vocab), self.end}
        chat = llama_cpp.llama_model_chat_template(self._weights.handle, None) or b""
        control = [
            t
            for t in range(total)
            if llama_cpp.llama_vocab_is_control(vocab, t)
            and not self.ends(t)
            and t not in marks
            and llama_cpp.llama_vocab_get_text(vocab, t) not in chat
        ]
        plain = (t for t in range(total - 1, -1, -1) if _SIGNS.fullmatch(self.piece(t)))
        return [*control[:n], *(t for t, _ in zip(plain, range(n - len(control[:n])), strict=False))]

    def ends(self, token: int) -> bool:
        return bool(llama_cpp.llama_vocab_is_eog(self._weights.vocab, token))

    def decode(self, runs: Sequence[Run]) -> list[list[Logits]]:
        wanted: list[list[int]] = []
        for run in runs:
            first = self._context.add(run.tokens, run.start, run.seqs)
            wanted.append([first + want for want in run.wants])
        return self._context.decode(wanted)

    def share(self, source: int, target: int, n_tokens: int) -> None:
        llama_cpp.llama_memory_seq_cp(self._context.memory, source, target, 0, n_tokens)

    def drop(self, seq: int) -> None:
        self._context.cut(seq, 0)

    def take(self, seq: int) -> np.ndarray:
        size = llama_cpp.llama_state_seq_get_size(self._context.handle, seq)
        state = np.empty(size // 4, np.uint32)
        raw = pointer(state, ctypes.c_uint8)
        if llama_cpp.llama_state_seq_get_data(self._context.handle, raw, state.nbytes, seq) != size:
            raise EngineError("a sequence cannot be taken out of the context")
        return state

    def streams(self, size: int) -> "LlamaStreams":
        size = -(-size // _STREAM_CELLS) * _STREAM_CELLS
        n = self.limits.streams_of(size)
        if self._streams is None or (self._streams.n, self._streams.size) != (n, size):
            if self._streams is not None:
                self._streams.close()
                self._streams = None  # there may be no room for others
            self._streams = LlamaStreams(self._weights, n, size, self._use)
        return self._streams

    def memory(self) -> dict[str, int]:
        own, streams = self._context.sizes(), self._streams.sizes() if self._streams else {}
        return {kind: size + streams.get(kind, 0) for kind, size in own.items()}


class LlamaStreams:
    """Streams of a LlamaModel: a context whose sequences have cells of their own."""

    def __init__(self, weights: Weights, n: int, size: int, use: Use):
        self.n, self.size = n, size
        self._context = Context(weights, n * size, max(n, _STREAM_BATCH), n, False, use)

    def put(self, stream: int, state: Any) -> None:
        self._context.cut(stream, 0)
        # A state lists the cells of every stream of its context: of one, where n are expected here, all others empty.
        # (The pinned release writes a mark, the sequence, the number of streams, then for each its number of cells.)
        state = np.concatenate([state[:2], [np.uint32(self.n)], state[3:], np.zeros(self.n - 1, np.uint32)])
        raw = pointer(state, ctypes.c_uint8)
        if not llama_cpp.llama_state_seq_set_data(self._context.handle, raw, state.nbytes, stream):
            raise EngineError(f"a stream of {self.size} tokens cannot take a prompt")

    def move(self, source: int, target: int) -> None:
        self._context.cut(target, 0)
        llama_cpp.llama_memory_seq_cp(self._context.memory, source, target, -1, -1)
        self._context.cut(source, 0)

    def step(self, tokens: np.ndarray, ends: Sequence[int]) -> list[list[AllLogits]]:
        wanted = []
        for stream, (row, end) in enumerate(zip(tokens, ends, strict=True)):
            first = self._context.add(row, end, (stream,))
            wanted.append(list(range(first, first + len(row))))
        return self._context.decode_all(wanted)

    def cut(self, stream: int, n_tokens: int) -> None:
        self._context.cut(stream, n_tokens)

    def sizes(self) -> dict[str, int]:
        return self._context.sizes()

    def close(self) -> None:
        self._context.close()


def convert(source: Path, target: Path, form: str) -> None:
    """Writes `source` in another number format (a key of FILE_TYPES). Raises PackError."""
    quiet()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize, params.nthread = FILE_TYPES[form], True, 0
    if llama_cpp.llama_model_quantize(bytes(gguf_header.checked(source)), bytes(target), ctypes.byref(params)):
        raise PackError(f"{source}: cannot be converted to {form} ({last_error()})")
