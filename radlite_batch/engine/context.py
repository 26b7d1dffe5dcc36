"""llama.cpp's weights and contexts. With llama.py this is all that imports llama_cpp.

Weights are mapped read-only and unpacked, so that the page cache holds one copy for all processes. Python's `Llama`
class is not used: with an adapter it turns mapping off, and it cannot turn repacking (private copies) off.
"""

import ctypes
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp._ggml import libggml

from radlite_batch.engine import alarm, gguf_header
from radlite_batch.engine.base import AllLogits, Logits
from radlite_batch.engine.head import STATES, Head
from radlite_batch.errors import EngineError, PackError

_BUFFER = re.compile(r"\b(KV|compute|output) buffer size\s*=\s*([\d.]+) MiB")
_DEBUG = 1  # GGML_LOG_LEVEL_DEBUG
libggml.ggml_get_name.argtypes, libggml.ggml_get_name.restype = [ctypes.c_void_p], ctypes.c_char_p
libggml.ggml_get_data.argtypes, libggml.ggml_get_data.restype = [ctypes.c_void_p], ctypes.c_void_p
_messages: list[str] = []  # the library's last lines; they hold sizes and file names, never prompt text


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _keep_message(level: int, text: bytes, user_data: ctypes.c_void_p) -> None:
    if level != _DEBUG:
        _messages.append(text.decode("utf-8", "replace"))
        del _messages[:-200]


def quiet() -> None:
    """Keeps what the library says to itself."""
    llama_cpp.llama_log_set(_keep_message, ctypes.c_void_p(0))


def last_error() -> str:
    """Why the library refused."""
    lines = [line.strip() for line in "".join(_messages).splitlines() if "error" in line or "failed" in line]
    return lines[-1] if lines else "no reason given"


class Weights:
    """A GGUF mapped into memory, shared by every context of this process. Raises PackError if it cannot be read.

    repack: let the library make a private copy of quantised weights in the order its kernels like."""

    def __init__(self, path: Path, repack: bool = False):
        quiet()
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.use_mmap, params.use_extra_bufts, params.n_gpu_layers = True, repack, 0
        self.path, self.header = path, gguf_header.read_header(path)
        self._adapters: dict[Path, Any] = {}
        self.handle = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self.handle:
            raise PackError(f"{path}: not a model llama.cpp can load ({last_error()})")
        self.vocab = llama_cpp.llama_model_get_vocab(self.handle)
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(self.vocab)
        self.n_ctx_train = llama_cpp.llama_model_n_ctx_train(self.handle)

    def close(self) -> None:
        """Unmaps the file; its contexts must be closed before."""
        llama_cpp.llama_model_free(self.handle)

    def adapter(self, path: Path) -> Any:
        """A LoRA adapter on these weights. Raises PackError if it does not fit them."""
        if path not in self._adapters:
            handle = llama_cpp.llama_adapter_lora_init(self.handle, bytes(gguf_header.checked(path)))
            if not handle:
                raise PackError(f"{path}: not an adapter of {self.path.name} ({last_error()})")
            self._adapters[path] = handle
        return self._adapters[path]


class _Row:
    """All logits after a token."""

    __slots__ = ("_values",)

    def __init__(self, values: np.ndarray):
        self._values = values

    def of(self, tokens: np.ndarray) -> np.ndarray:
        chosen: np.ndarray = self._values[tokens]
        return chosen

    def best(self) -> int:
        return int(self._values.argmax())


class _State:
    """The state after a token, from which logits are computed as they are read."""

    __slots__ = ("_head", "_values")

    def __init__(self, values: np.ndarray, head: Head):
        self._values, self._head = values, head

    def of(self, tokens: np.ndarray) -> np.ndarray:
        return self._head.logits(self._values, tokens)


@dataclass(frozen=True, slots=True)
class Use:
    """threads: CPU threads of a decode call. adapter, scale: LoRA on the weights, if any."""

    threads: int
    adapter: Path | None
    scale: float


class Context:
    """A llama.cpp context and the batch it computes next. unified: whether sequences share their cells.

    head: computes logits where only some are read; the graph of such a batch ends before its own head."""

    def __init__(
        self, weights: Weights, n_cells: int, n_batch: int, n_seqs: int, unified: bool, use: Use,
        head: Head | None = None,
    ):  # fmt: skip
        quiet()
        lora = weights.adapter(use.adapter) if use.adapter is not None else None
        _messages.clear()
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = n_cells, n_batch, n_batch
        params.n_seq_max, params.kv_unified = n_seqs, unified
        params.n_threads = params.n_threads_batch = use.threads
        params.no_perf = True
        self._head, self._states, self._n_states = head, np.empty((0, 0), np.float32), 0
        self._raised: BaseException | None = None  # a signal's, say, while the library called us
        if head is not None:
            self._eval = llama_cpp.ggml_backend_sched_eval_callback(self._evaluated)
            params.cb_eval = self._eval
        self.handle = llama_cpp.llama_init_from_model(weights.handle, params)
        if not self.handle:
            raise EngineError(f"no context of {n_cells} tokens on {weights.path.name} ({last_error()})")
        if lora is not None:
            handles = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(lora)
            if llama_cpp.llama_set_adapters_lora(self.handle, handles, 1, (ctypes.c_float * 1)(use.scale)):
                raise EngineError(f"{use.adapter}: cannot be set on {weights.path.name}")
        self.memory = llama_cpp.llama_get_memory(self.handle)
        self._n_vocab, self._n_batch = weights.n_vocab, n_batch
        self._buffers = {kind.lower(): int(float(s) * (1 << 20)) for kind, s in _BUFFER.findall("".join(_messages))}
        self._most_wants = self._n = 0
        self._keep: list[np.ndarray] = []  # the batch points into these
        self._tokens, self._positions = np.zeros(n_batch, np.int32), np.zeros(n_batch, np.int32)
        self._n_seqs, self._seqs = np.zeros(n_batch, np.int32), np.zeros(n_batch, np.uintp)
        self._wants = np.zeros(n_batch, np.int8)

    def close(self) -> None:
        llama_cpp.llama_free(self.handle)

    def add(self, tokens: np.ndarray, start: int, seqs: Sequence[int]) -> int:
        """Puts tokens into the batch, from position `start` of all these sequences; returns the first one's index."""
        first, stop = self._n, self._n + len(tokens)
        if stop > self._n_batch:
            self._n = 0
            raise EngineError("more tokens than a batch holds")
        ids = np.array(seqs, np.int32)
        self._keep.append(ids)
        self._tokens[first:stop] = tokens
        self._positions[first:stop] = np.arange(start, start + len(tokens))
        self._n_seqs[first:stop], self._seqs[first:stop] = len(ids), ids.ctypes.data
        self._n = stop
        return first

    def decode(self, wanted: list[list[int]]) -> list[list[Logits]]:
        """Computes the batch and empties it; logits after the tokens of these indices."""
        self._compute(wanted, 0 if self._head is None else sum(map(len, wanted)))
        if self._head is None or not len(self._states):
            return [[self._row(i) for i in indices] for indices in wanted]
        place = {index: i for i, index in enumerate(sorted(index for indices in wanted for index in indices))}
        return [[_State(self._states[place[i]], self._head) for i in indices] for indices in wanted]

    def decode_all(self, wanted: list[list[int]]) -> list[list[AllLogits]]:
        """As decode, with the library's own head."""
        self._compute(wanted, 0)
        return [[self._row(i) for i in indices] for indices in wanted]

    def _compute(self, wanted: list[list[int]], n_states: int) -> None:
        alarm.step()
        n, self._n = self._n, 0
        self._wants[:] = 0
        for indices in wanted:
            self._wants[indices] = 1
        self._most_wants = max(self._most_wants, sum(map(len, wanted)))
        self._n_states, self._states = n_states, np.empty((0, 0), np.float32)
        code = llama_cpp.llama_decode(self.handle, self._batch(n))
        self._keep.clear()
        if self._raised is not None:
            raised, self._raised = self._raised, None
            raise raised
        if code:
            raise EngineError(f"llama_decode failed with {code} on {n} tokens")

    def _evaluated(self, tensor: int, asks: bool, user_data: Any) -> bool:
        """llama.cpp asks of each tensor whether to stop after it, and then whether to go on."""
        assert self._head is not None
        try:
            if asks:
                return bool(self._n_states) and libggml.ggml_get_name(tensor) == STATES
            size = self._n_states * self._head.n_embd
            values = (ctypes.c_float * size).from_address(libggml.ggml_get_data(tensor))
            self._states = np.array(values, np.float32).reshape(self._n_states, self._head.n_embd)
        except BaseException as error:  # cannot pass through the library
            self._raised = error
        return False

    def cut(self, seq: int, n_tokens: int) -> None:
        llama_cpp.llama_memory_seq_rm(self.memory, seq, n_tokens, -1)

    def sizes(self) -> dict[str, int]:
        """Bytes: kv, compute, output."""
        # The library grows the output buffer to the most logits ever asked for at once, and says nothing.
        output = max(self._buffers.get("output", 0), 4 * self._most_wants * self._n_vocab)
        return self._buffers | {"output": output}

    def _batch(self, n: int) -> llama_cpp.llama_batch:
        return llama_cpp.llama_batch(
            n_tokens=n,
            token=pointer(self._tokens, llama_cpp.llama_token),
            embd=None,
            pos=pointer(self._positions, llama_cpp.llama_pos),
            n_seq_id=pointer(self._n_seqs, ctypes.c_int32),
            seq_id=pointer(self._seqs, ctypes.POINTER(llama_cpp.llama_seq_id)),
            logits=pointer(self._wants, ctypes.c_int8),
        )

    def _row(self, index: int) -> _Row:
        logits = llama_cpp.llama_get_logits_ith(self.handle, index)
        return _Row(np.ctypeslib.as_array(logits, shape=(self._n_vocab,)))


def pointer(array: np.ndarray, kind: type) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(kind))
