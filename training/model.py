"""The base with its LoRA adapter and trained cues: log-probabilities at the wanted places of a row.

The base is read from the GGUF that runs, and stays frozen, its output head too: only the adapter and one input row for
each cue learn.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GgufConfig

from radlite_batch.errors import UsageError
from training.encode import Row, Want
from training.recipe import Lora

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True, slots=True)
class Scored:
    """Log-probabilities of wants with the same candidates. which: indices into the row's wants. values: (wants,
    candidates), or (wants, vocabulary)."""

    which: list[int]
    values: Tensor


def load_base(path: Path, dtype: torch.dtype, four_bit: bool = False) -> Any:
    """The causal language model of a GGUF, dequantised, on a GPU where there is one, with attention that takes a mask
    for every pair of tokens. four_bit: NF4 weights; the dense ones lie in a temporary folder on the way. Raises
    UsageError where that needs what is not installed."""
    if four_bit and find_spec("bitsandbytes") is None:
        raise UsageError("four_bit needs the Python package bitsandbytes")
    if four_bit:
        return _in_four_bits(path, dtype)
    base = _dense(path, dtype)
    return base.to("cuda") if torch.cuda.is_available() else base


def _dense(path: Path, dtype: torch.dtype) -> Any:
    config = GgufConfig(dequantize=True)  # blocks of a GGUF cannot be multiplied backwards
    return _loaded(path.parent, dtype, config, gguf_file=path.name)


def _in_four_bits(path: Path, dtype: torch.dtype) -> Any:
    """Read twice, the second time from the dense weights: transformers quantises nothing while it reads a GGUF."""
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    with TemporaryDirectory() as folder:
        _dense(path, dtype).save_pretrained(folder)
        return _loaded(Path(folder), dtype, config)


def _loaded(folder: Path, dtype: torch.dtype, config: Any, **more: Any) -> Any:
    # With a mask of its own, torch's fused attention makes a step 1.5 times as long on a CPU; on a GPU the other one
    # keeps six bytes for each head and pair of tokens of a layer.
    attention = "sdpa" if torch.cuda.is_available() else "eager"
    return AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=dtype, attn_implementation=attention, quantization_config=config, **more
    )


class Learner:
    """A frozen base with an adapter and cue rows that learn.

    cues: for each cue token the tokens of the words it is named after; its row starts as the mean of theirs."""

    def __init__(self, base: Any, lora: Lora, cues: Mapping[int, Sequence[int]]):
        embedding = base.get_input_embeddings()
        start = [embedding.weight[list(named)].float().mean(dim=0) for named in cues.values()]
        rows = torch.stack(start) if start else torch.empty(0, embedding.embedding_dim)
        self.cues = nn.Parameter(rows.detach().clone())
        self._slots = torch.full((embedding.num_embeddings,), -1, device=rows.device)
        self._slots[list(cues)] = torch.arange(len(cues), device=rows.device)
        config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=PROJECTIONS)
        self.model: Any = get_peft_model(base, config)
        self._body = base.model
        # In float32, as the engine's: bfloat16 logits are too coarse for a probability.
        self._head = base.get_output_embeddings().weight.detach().float()
        self._dtype, self._device = base.dtype, base.device
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
        sees = torch.from_numpy(row.mask()).to(self._device)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._dtype == torch.bfloat16):
            output = self._body(
                input_ids=torch.from_numpy(row.tokens)[None].to(self._device),
                position_ids=torch.from_numpy(row.positions)[None].to(self._device),
                attention_mask=torch.where(sees, 0.0, torch.finfo(self._dtype).min).to(self._dtype)[None, None],
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
            logits = nn.functional.linear(hidden[places].float(), head)
            scored.append(Scored(which, logits.log_softmax(dim=-1)))
        return scored

    def loss(self, row: Row) -> Tensor:
        """The weighted sum over the row's wants of -log of the summed probability of what is right."""
        losses = [_loss(scored.values, [row.wants[i] for i in scored.which]) for scored in self.scores(row)]
        return torch.stack(losses).sum()


def _loss(values: Tensor, wants: Sequence[Want]) -> Tensor:
    allowed = torch.zeros_like(values, dtype=torch.bool)
    for i, want in enumerate(wants):
        allowed[i, list(want.right)] = True
    weights = torch.tensor([want.weight for want in wants], device=values.device)
    return -(weights * values.masked_fill(~allowed, -torch.inf).logsumexp(dim=-1)).sum()


@contextmanager
def _judging(learner: Learner) -> Iterator[None]:
    """Without dropout, and without gradients."""
    learner.model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        learner.model.train()


def probabilities(learner: Learner, row: Row) -> list[list[float]]:
    """The candidates' probabilities at each want of the row, in its order."""
    found: dict[int, list[float]] = {}
    with _judging(learner):
        for scored in learner.scores(row):
            found |= dict(zip(scored.which, scored.values.exp().tolist(), strict=True))
    return [found[i] for i in range(len(row.wants))]


def right(learner: Learner, row: Row) -> list[bool]:
    """Whether what is likeliest is right, at each want of the row, in its order."""
    found: dict[int, bool] = {}
    with _judging(learner):
        for scored in learner.scores(row):
            best = scored.values.argmax(dim=-1).tolist()
            found |= {i: b in row.wants[i].right for i, b in zip(scored.which, best, strict=True)}
    return [found[i] for i in range(len(row.wants))]
