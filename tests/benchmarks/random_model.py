"""Writes a model of a published shape with random weights, in Q4_K_M, and a pack file that names it.

usage: python tests/benchmarks/random_model.py SHAPE FOLDER [SEED]

Speed and memory depend on a model's shape, number format and vocabulary size, not on what it has learnt: they can be
measured without the published weights. What it answers is noise. The tokenizer is the built-in model's, padded with
unused tokens to the published vocabulary size, so a report has nearly the tokens it would have there, not the same.

The file depends on shape and seed, and on how the machine's arithmetic rounds while llama.cpp quantises: its checksum
is therefore in a pack file written beside it. FOLDER needs room for about 2.7 bytes per parameter.
"""

import argparse
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from radlite_batch.engine.formats import file_sha256
from radlite_batch.engine.llama import convert
from radlite_batch.errors import PackError
from radlite_batch.pack import find_file, load_pack

PACK = """\
# Random weights in the shape of {shape}: for measuring speed and memory. Its answers are noise.
name = "{shape}-shape"
about = "random weights in the shape of {shape}; for benchmarks only"
licence = "Apache-2.0"
style = "native"

[markup]
start = "<|im_start|>"

[models.random]
base = "{file}"
sha256 = "{sha256}"
context = {context}
convert = false

[routes]
default = "random"
"""


@dataclass(frozen=True, slots=True)
class Shape:
    """A transformer's hyper-parameters, under the names of its config.json. Embeddings are tied."""

    architecture: str  # qwen2: biases on q, k and v; qwen3: norms on the heads of q and k
    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int


SHAPES = {
    "qwen2.5-3b": Shape("qwen2", 36, 2048, 11008, 16, 2, 128, 151936, 32768),
    "qwen3-4b": Shape("qwen3", 36, 2560, 9728, 32, 8, 128, 151936, 40960),
    "tiny-qwen2": Shape("qwen2", 2, 256, 512, 4, 2, 64, 49408, 2048),
    "tiny-qwen3": Shape("qwen3", 2, 256, 512, 4, 2, 128, 49408, 2048),
}
ROPE_THETA, RMS_NORM_EPS = 1e6, 1e-6  # of all of them
CONTEXT = 8192  # the pack's, where the model's own is not shorter


@dataclass(frozen=True, slots=True)
class Tensor:
    """Normal random numbers. size: (rows, columns) of a matrix, (n,) of a norm or bias."""

    name: str
    size: tuple[int, ...]
    mean: float
    deviation: float

    @property
    def dtype(self) -> type[np.floating]:
        return np.float16 if len(self.size) == 2 else np.float32

    def draw(self, random: np.random.Generator) -> np.ndarray:
        values = random.standard_normal(self.size, dtype=np.float32)
        values *= self.deviation
        values += self.mean
        return values.astype(self.dtype, copy=False)


def matrix(name: str, rows: int, columns: int) -> Tensor:
    """A projection that keeps the scale of what it is given, as trained ones roughly do."""
    return Tensor(f"{name}.weight", (rows, columns), 0.0, 1 / math.sqrt(columns))


def norm(name: str, size: int) -> Tensor:
    return Tensor(f"{name}.weight", (size,), 1.0, 0.02)


def tensors(shape: Shape) -> Iterator[Tensor]:
    """Everything in the file, in its order. Logits come out with a deviation of about one."""
    hidden, ffn = shape.hidden_size, shape.intermediate_size
    q_size, kv_size = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
    yield Tensor("token_embd.weight", (shape.vocab_size, hidden), 0.0, 1 / math.sqrt(hidden))
    yield norm("output_norm", hidden)
    for layer in range(shape.num_hidden_layers):
        block = f"blk.{layer}"
        yield norm(f"{block}.attn_norm", hidden)
        for part, size in (("q", q_size), ("k", kv_size), ("v", kv_size)):
            yield matrix(f"{block}.attn_{part}", size, hidden)
            if shape.architecture == "qwen2":
                yield Tensor(f"{block}.attn_{part}.bias", (size,), 0.0, 0.02)
            elif part != "v":
                yield norm(f"{block}.attn_{part}_norm", shape.head_dim)
        yield matrix(f"{block}.attn_output", hidden, q_size)
        yield norm(f"{block}.ffn_norm", hidden)
        yield matrix(f"{block}.ffn_gate", ffn, hidden)
        yield matrix(f"{block}.ffn_up", ffn, hidden)
        yield matrix(f"{block}.ffn_down", hidden, ffn)


def add_shape(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_block_count(shape.num_hidden_layers)
    writer.add_context_length(shape.max_position_embeddings)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_feed_forward_length(shape.intermediate_size)
    writer.add_head_count(shape.num_attention_heads)
    writer.add_head_count_kv(shape.num_key_value_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_freq_base(ROPE_THETA)
    writer.add_layer_norm_rms_eps(RMS_NORM_EPS)


def add_tokenizer(writer: gguf.GGUFWriter, vocab_size: int) -> None:
    """The built-in model's tokenizer, chat marks and all, with unused tokens up to vocab_size."""
    fields = gguf.GGUFReader(find_file(load_pack("smol").models["smol"].base, Path())).fields
    unused = range(len(fields[gguf.Keys.Tokenizer.LIST].data), vocab_size)
    more = {
        gguf.Keys.Tokenizer.LIST: [f"[PAD{i}]" for i in unused],
        gguf.Keys.Tokenizer.TOKEN_TYPE: [int(gguf.TokenType.UNUSED) for _ in unused],
    }
    for key, field in fields.items():
        if key.startswith("tokenizer."):
            value = field.contents()
            if key in more:
                value += more[key]
            writer.add_key_value(key, value, *field.types)


def write_f16(name: str, shape: Shape, path: Path, seed: int) -> None:
    """The unquantised model, written tensor by tensor; memory holds one at a time."""
    writer = gguf.GGUFWriter(path, shape.architecture)
    writer.add_name(f"random weights in the shape of {name}")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    add_shape(writer, shape)
    add_tokenizer(writer, shape.vocab_size)
    for tensor in tensors(shape):
        n_bytes = math.prod(tensor.size) * np.dtype(tensor.dtype).itemsize
        writer.add_tensor_info(tensor.name, tensor.size, np.dtype(tensor.dtype), n_bytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    random = np.random.default_rng(seed)
    for tensor in tensors(shape):
        writer.write_tensor_data(tensor.draw(random))
    writer.close()


def make(name: str, folder: Path, seed: int = 0) -> Path:
    """Writes NAME-shape-Q4_K_M.gguf and NAME-shape.toml into `folder`; returns the pack file. Raises PackError."""
    shape = SHAPES[name]
    folder.mkdir(parents=True, exist_ok=True)
    model, unquantized = folder / f"{name}-shape-Q4_K_M.gguf", folder / f"{name}-shape-F16.gguf"
    try:
        write_f16(name, shape, unquantized, seed)
        convert(unquantized, model, "q4_k_m")
    finally:
        unquantized.unlink(missing_ok=True)
    pack = folder / f"{name}-shape.toml"
    context = min(CONTEXT, shape.max_position_embeddings)
    pack.write_text(PACK.format(shape=name, file=model.name, sha256=file_sha256(model), context=context))
    return pack


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("seed", type=int, nargs="?", default=0)
    arguments = parser.parse_args()
    try:
        pack = make(arguments.shape, arguments.folder, arguments.seed)
    except PackError as error:
        sys.exit(f"error: {error}")
    spec = load_pack(str(pack)).models["random"]
    model = find_file(spec.base, pack.parent)
    print(f"{model}: {model.stat().st_size:,} bytes, sha256 {spec.sha256}")
    print(f"{pack}: the pack that names it")


if __name__ == "__main__":
    main()
