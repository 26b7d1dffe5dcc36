"""The output head for the few tokens whose logits are read.

llama.cpp multiplies every state it is asked for by the whole head, tens of thousands of tokens, where a decision reads
a handful. Here the graph ends before its head, and the states are multiplied by the rows of those tokens alone.
"""

from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from radlite_batch.engine.gguf_header import Header

# Those whose logits are the product of state and head, and nothing else: no bias, scale or cap.
_ARCHITECTURES = ("llama", "qwen2", "qwen3")
STATES = b"result_norm"  # llama.cpp's name for what the head is multiplied by
_OWN, _SHARED, _BIAS = "output.weight", "token_embd.weight", "output.bias"


def fits(header: Header) -> bool:
    """Whether the model's logits are what Head computes; a file of these families may carry a bias all the same."""
    return header.architecture in _ARCHITECTURES and _BIAS not in header.tensors


class Head:
    """Reads rows of the head from a model file, and keeps those it has read."""

    def __init__(self, path: Path, header: Header):
        """Raises KeyError for a file without a head."""
        tensor = header.tensors.get(_OWN) or header.tensors[_SHARED]
        self.n_embd, n_vocab = tensor.shape
        self._kind = gguf.GGMLQuantizationType(tensor.kind)
        row = tensor.n_bytes // n_vocab
        self._raw = np.memmap(path, np.uint8, "r", tensor.offset, (n_vocab, row))
        self._rows: dict[bytes, NDArray[np.float32]] = {}

    def logits(self, state: NDArray[np.float32], tokens: NDArray[np.int32]) -> NDArray[np.float32]:
        """(n_tokens,) after a state (n_embd,)."""
        key = tokens.tobytes()
        if key not in self._rows:
            rows = gguf.dequantize(self._raw[tokens], self._kind)
            self._rows[key] = np.ascontiguousarray(rows, np.float32)
        product: NDArray[np.float32] = self._rows[key] @ state
        return product
