"""Tiny models in GGUF with random weights and a tokenizer of bytes, without torch: for tests that load real files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

# Control tokens, enough for every cue; the first ends a text.
WORDS = ("<|end|>", *(f"<|{letter}|>" for letter in "abcdefghijklmnopqrstuvwxyzABCDEF"))
ROPE_THETA, EPSILON, CONTEXT = 10_000.0, 1e-6, 4096

_LAYER = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
_OUTSIDE = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}


@dataclass(frozen=True, slots=True)
class Shape:
    """Under the names of a transformers configuration."""

    model_type: str
    tie_word_embeddings: bool
    num_hidden_layers: int = 2
    hidden_size: int = 64
    intermediate_size: int = 96
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 16
    vocab_size: int = 256 + len(WORDS) + 2


def tokens() -> tuple[list[str], list[str]]:
    """(tokens, merges) of a byte-level BPE: control tokens, the bytes, and two merges."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = [b for b in range(256) if b not in plain]
    signs = {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(other)}
    merges = ["n o", "l e"]
    return [*WORDS, *(signs[b] for b in range(256)), *(merge.replace(" ", "") for merge in merges)], merges


def random_weights(shape: Shape, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights of a llama under transformers' names."""
    random = np.random.default_rng(seed)
    kv_size = shape.num_key_value_heads * shape.head_dim
    hidden, ffn = shape.hidden_size, shape.intermediate_size
    sizes = {
        "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (kv_size, hidden),
        "self_attn.v_proj": (kv_size, hidden), "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (ffn, hidden), "mlp.up_proj": (ffn, hidden), "mlp.down_proj": (hidden, ffn),
    }  # fmt: skip
    weights = {"model.norm.weight": np.ones(hidden, np.float32)}
    for name in ("model.embed_tokens", *([] if shape.tie_word_embeddings else ["lm_head"])):
        weights[f"{name}.weight"] = random.normal(size=(shape.vocab_size, hidden), scale=hidden**-0.5)
    for layer in range(shape.num_hidden_layers):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            weights[f"model.layers.{layer}.{norm}.weight"] = random.normal(size=hidden, loc=1.0, scale=0.1)
        for name, size in sizes.items():
            weights[f"model.layers.{layer}.{name}.weight"] = random.normal(size=size, scale=size[1] ** -0.5)
    return {name: values.astype(np.float32) for name, values in weights.items()}


def write_model(path: Path, shape: Shape, weights: Mapping[str, np.ndarray]) -> Path:
    """The model in f32. weights: under transformers' names; of a tied model the head's are left out."""
    writer = gguf.GGUFWriter(path, shape.model_type)
    writer.add_name("tiny")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_vocab_size(shape.vocab_size)
    writer.add_block_count(shape.num_hidden_layers)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_feed_forward_length(shape.intermediate_size)
    writer.add_head_count(shape.num_attention_heads)
    writer.add_head_count_kv(shape.num_key_value_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(ROPE_THETA)
    writer.add_layer_norm_rms_eps(EPSILON)
    _add_tokenizer(writer)
    for name, values in weights.items():
        if name != "lm_head.weight" or not shape.tie_word_embeddings:
            writer.add_tensor(_name(name), _in_order(shape, name, values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    words, merges = tokens()
    kinds = [gguf.TokenType.CONTROL if word in WORDS else gguf.TokenType.NORMAL for word in words]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(words)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)


def _name(name: str) -> str:
    parts = name.removeprefix("model.").split(".")
    if parts[0] == "layers":
        return f"blk.{parts[1]}.{_LAYER['.'.join(parts[2:-1])]}.{parts[-1]}"
    return f"{_OUTSIDE[parts[0]]}.{parts[-1]}"


def _in_order(shape: Shape, name: str, values: np.ndarray) -> np.ndarray:
    """A llama's q and k have, head by head, row i of the first half before row i of the second."""
    if shape.model_type != "llama" or not name.endswith(("q_proj.weight", "k_proj.weight")):
        return values
    half = shape.head_dim // 2
    order = [start + i + j * half for start in range(0, len(values), 2 * half) for i in range(half) for j in (0, 1)]
    return np.ascontiguousarray(values[order])
