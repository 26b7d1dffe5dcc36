"""The base with its LoRA adapter and trained cues: log-probabilities at the wanted places of a row.

The base is read from the GGUF that runs, and stays frozen, its output head too: only the adapter and one input row for
each cue learn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from training.encode import Row, Want

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True, slots=True)
class Lora:
    rank: int = 16
    alpha: int = 32


@dataclass(frozen=True, slots=True)
class Scored:
    """Log-probabilities of wants with the same candidates. which: indices into the row's wants. values: (wants,
    candidates), or (wants, vocabulary)."""

    which: list[int]
    values: Tensor


def load_base(path: Path, dtype: torch.dtype) -> Any:
    """The causal language model of a GGUF, dequantised, with attention that takes a mask for every pair of tokens."""
    return AutoModelForCausalLM.from_pretrained(
        str(path.parent), gguf_file=path.name, dtype=dtype, attn_implementation="sdpa"
    )


class Learner:
    """A frozen base with an adapter and cue rows that learn.

    cues: for each cue token the tokens of the words it is named after; its row starts as the mean of theirs."""

    def __init__(self, base: Any, lora: Lora, cues: Mapping[int, Sequence[int]]):
        embedding = base.get_input_embeddings()
        start = [embedding.weight[list(named)].float().mean(dim=0) for named in cues.values()]
        rows = torch.stack(start) if start else torch.empty(0, embedding.embedding_dim)
        self.cues = nn.Parameter(rows.detach().clone())
        self._slots = torch.full((embedding.num_embeddings,), -1)
        self._slots[list(cues)] = torch.arange(len(cues))
        config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=PROJECTIONS, task_type="CAUSAL_LM")
        self.model: Any = get_peft_model(base, config)
        self._body, self._head = base.model, base.get_output_embeddings().weight
        if cues:
            embedding.register_forward_hook(self._place_cues)

    def _place_cues(self, module: Any, inputs: tuple[Tensor, ...], fixed: Tensor) -> Tensor:
        slots = self._slots[inputs[0]]
        return torch.where((slots >= 0)[..., None], self.cues[slots.clamp(min=0)].to(fixed.dtype), fixed)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Every parameter that learns, by name."""
        adapter = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        return adapter | {"cues": self.cues}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Sets the parameters of trainable() to these values."""
        with torch.no_grad():
            for name, parameter in self.trainable().items():
                parameter.copy_(state[name])

    def hidden(self, row: Row) -> Tensor:
        """(n, hidden): the last layer's states, each token under the row's own mask and positions."""
        # The adapter's own numbers are float32; without autocast a bfloat16 base would be cast back and forth.
        with torch.autocast("cpu", torch.bfloat16, enabled=self._head.dtype == torch.bfloat16):
            output = self._body(
                input_ids=torch.from_numpy(row.tokens)[None],
                position_ids=torch.from_numpy(row.positions)[None],
                attention_mask=torch.from_numpy(row.mask())[None, None],
                use_cache=False,
            )
        states: Tensor = output.last_hidden_state[0]
        return states

    def scores(self, row: Row) -> list[Scored]:
        """Log-probabilities at the row's wants; only the rows of the output head that compete are multiplied."""
        hidden = self.hidden(row)
        groups: dict[tuple[int, ...] | None, list[int]] = {}
        for i, want in enumerate(row.wants):
            groups.setdefault(want.candidates, []).append(i)
        scored = []
        for candidates, which in groups.items():
            head = self._head if candidates is None else self._head[list(candidates)]
            places = [row.wants[i].place for i in which]
            # In float32, as the engine's: bfloat16 logits are too coarse for a probability.
            logits = nn.functional.linear(hidden[places].float(), head.float())
            scored.append(Scored(which, logits.log_softmax(dim=-1)))
        return scored

    def loss(self, row: Row) -> Tensor:
        """The sum over the row's wants of -log of the summed probability of what is right."""
        losses = [_loss(scored.values, [row.wants[i] for i in scored.which]) for scored in self.scores(row)]
        return torch.stack(losses).sum()


def _loss(values: Tensor, wants: Sequence[Want]) -> Tensor:
    right = torch.zeros_like(values, dtype=torch.bool)
    for i, want in enumerate(wants):
        right[i, list(want.right)] = True
    return -values.masked_fill(~right, -torch.inf).logsumexp(dim=-1).sum()


def probabilities(learner: Learner, row: Row) -> list[list[float]]:
    """The candidates' probabilities at each want of the row, in its order."""
    found: dict[int, list[float]] = {}
    with torch.inference_mode():
        for scored in learner.scores(row):
            found |= dict(zip(scored.which, scored.values.exp().tolist(), strict=True))
    return [found[i] for i in range(len(row.wants))]
