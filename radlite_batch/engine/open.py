"""From a checked model description to a running engine; the one place that knows the kinds of model there are."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radlite_batch.engine.base import Limits
from radlite_batch.engine.engine import Engine
from radlite_batch.engine.fake import FakeModel


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model ready to load: its file as it runs, its adapter, their checksums. path is None for the fake."""

    name: str
    path: Path | None
    sha256: str
    context: int  # tokens a context keeps: the longest prompt with its answer
    cue_names: tuple[str, ...]
    adapter: Path | None = None
    adapter_sha256: str = ""
    scale: float = 1.0


# On the machine measured (2 cores, SmolLM2-135M in bf16) 256 tokens a batch were faster than 512 and 1,024, and hold
# less memory.
N_BATCH = 256
N_SEQS = 128

_weights: dict[Path, Any] = {}  # one mapping per file and process, shared by its adapters' contexts


def open_engine(model: ModelFile, threads: int) -> Engine:
    """Loads (or maps again) the weights and makes a context. Raises PackError or EngineError."""
    limits = limits_of(model)
    if model.path is None:
        return Engine(FakeModel(limits), model.cue_names)
    from radlite_batch.engine.context import Weights  # takes half a second, and the fake needs no llama.cpp at all
    from radlite_batch.engine.llama import LlamaModel

    if model.path not in _weights:
        _weights[model.path] = Weights(model.path)
    context = LlamaModel(_weights[model.path], limits, threads, model.adapter, model.scale)
    return Engine(context, model.cue_names)


def limits_of(model: ModelFile) -> Limits:
    return Limits(N_BATCH, model.context, N_SEQS)


def release(model: ModelFile) -> None:
    """Unmaps the weights of a model whose engines are closed."""
    if model.path in _weights:
        _weights.pop(model.path).close()


def context_bytes(model: ModelFile, writes: bool) -> int:
    """What a worker takes beside weights and Python: keys and values, compute and output buffers.

    writes: also those of the streams of written answers."""
    if model.path is None:
        return 0
    from radlite_batch.engine.context import Weights
    from radlite_batch.engine.llama import LlamaModel

    weights = Weights(model.path)
    limits = limits_of(model)
    context = LlamaModel(weights, limits, 1)
    if writes:
        context.streams(limits.stream_cells // limits.n_streams)  # the longest that all have room for
    size: int = sum(context.memory().values()) + 4 * N_BATCH * weights.n_vocab
    context.close()
    weights.close()
    return size
