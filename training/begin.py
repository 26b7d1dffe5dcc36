"""Training that begins with an exported adapter instead of an empty one: the shipped one, for further reports."""

import numpy as np
import torch
from torch import Tensor

from radlite_batch.engine.merge import Adapter, Floats
from radlite_batch.errors import UsageError
from training.export import tensor_of
from training.model import Learner
from training.recipe import Lora

_NOTHING: Floats = np.empty(0, np.float32)


def parameters_of(adapter: Adapter, learner: Learner, lora: Lora) -> dict[str, Tensor]:
    """The values of learner.trainable() in an adapter.

    Raises UsageError for an adapter of another shape, alpha or number of cues than the learner's."""
    config, wanted = learner.model.config, learner.trainable()
    if adapter.alpha != lora.alpha:
        raise UsageError(f"{adapter.path}: its alpha is {adapter.alpha:g}, that of the recipe {lora.alpha}")
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    found = {"cues": adapter.cue_rows}
    for name in wanted.keys() - found.keys():
        tensor, projection, half = tensor_of(name)
        values = adapter.pairs[tensor]["AB".index(half)] if tensor in adapter.pairs else _NOTHING
        turned = half == "B" and config.model_type == "llama" and projection in heads
        found[name] = _halves(values, heads[projection]) if turned and values.size else values
    for name, parameter in wanted.items():
        if found[name].shape != parameter.shape:
            raise UsageError(f"{adapter.path}: {name} has not the recipe's shape {tuple(parameter.shape)}")
    return {name: torch.from_numpy(np.array(values, np.float32)) for name, values in found.items()}


def _halves(rows: Floats, n_heads: int) -> Floats:
    """Undoes the order of rows that GGUF's llama has."""
    return rows.reshape(n_heads, -1, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)
