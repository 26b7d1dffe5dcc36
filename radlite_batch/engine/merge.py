"""A LoRA adapter in GGUF, and its merging into a base: once, into the cache, so that it costs no time per token.

An adapter of this project brings input rows for its cue tokens too. llama.cpp cannot add those at run time and reads
over them, so an adapter with cue rows must be merged.
"""

import fcntl
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from radlite_batch.engine.formats import file_sha256, keep, kept
from radlite_batch.engine.gguf_header import checked
from radlite_batch.errors import PackError
from radlite_batch.storage import cache_folder

BASE_SHA256, CUE_NAMES = "radlite.base.sha256", "radlite.cue.names"
CUE_TOKENS, CUE_ROWS = "radlite.cue.tokens", "radlite.cue.rows"

_INPUT, _OUTPUT = "token_embd.weight", "output.weight"
_BF16 = gguf.GGMLQuantizationType.BF16
_BLOCK = 4096  # rows of a matrix in hand at a time
_REWRITTEN = (gguf.Keys.General.ARCHITECTURE, gguf.Keys.General.FILE_TYPE, gguf.Keys.General.ALIGNMENT)

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter. pairs: A (rank, in) and B (out, rank) by the name of the base's tensor.

    base_sha256: of the base it was trained on, empty where it does not say. cue_rows: (n_cues, hidden), what the
    cue tokens of these names are read as; no scale applies to them."""

    path: Path
    architecture: str
    base_sha256: str
    alpha: float
    pairs: Mapping[str, tuple[Floats, Floats]]
    cue_names: tuple[str, ...]
    cue_tokens: NDArray[np.int32]
    cue_rows: Floats

    def check_base(self, base: Path, sha256: str) -> None:
        """Raises PackError where the adapter was trained on another base than this file."""
        if self.base_sha256 not in ("", sha256):
            raise PackError(f"{self.path}: trained on a base of sha256 {self.base_sha256}, {base} has {sha256}")

    def delta(self, name: str, scale: float, rows: slice) -> Floats | float:
        """(rows, in): what the adapter adds to these rows of a tensor, weighed as llama.cpp does; 0.0 for none."""
        if name not in self.pairs:
            return 0.0
        a, b = self.pairs[name]
        weight = scale * self.alpha / len(a) if self.alpha else scale
        return np.float32(weight) * (b[rows] @ a)


def read_adapter(path: Path) -> Adapter:
    """Raises PackError where the file is no LoRA adapter."""
    reader = _read(path)

    def field(key: str, default: Any) -> Any:
        return reader.fields[key].contents() if key in reader.fields else default

    if field(gguf.Keys.Adapter.TYPE, "") != "lora":
        raise PackError(f"{path}: not a LoRA adapter")
    halves = {tensor.name: _floats(path, tensor) for tensor in reader.tensors}
    names = sorted({name.rpartition(".lora_")[0] for name in halves})
    if set(halves) != {f"{name}.lora_{half}" for name in names for half in "ab"}:
        raise PackError(f"{path}: its tensors are not pairs of .lora_a and .lora_b")
    cues = tuple(field(CUE_NAMES, ()))
    tokens, rows = np.array(field(CUE_TOKENS, ()), np.int32), np.array(field(CUE_ROWS, ()), np.float32)
    if len(tokens) != len(cues) or len(rows) % max(1, len(cues)):
        raise PackError(f"{path}: {CUE_TOKENS} and {CUE_ROWS} are not those of its {len(cues)} cues")
    return Adapter(
        path, _architecture(reader), field(BASE_SHA256, ""),
        float(field(gguf.Keys.Adapter.LORA_ALPHA, 0.0)),
        {name: (halves[f"{name}.lora_a"], halves[f"{name}.lora_b"]) for name in names},
        cues, tokens, rows.reshape(len(cues), len(rows) // max(1, len(cues))),
    )  # fmt: skip


def merged(
    base: Path, base_sha256: str, adapter: Path, adapter_sha256: str, scale: float,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Path, str]:  # fmt: skip
    """The cached file of a base with its adapter in it, and its checksum; merges at first use. Raises PackError.

    The cached file is checked against its checksum each time."""
    key = hashlib.sha256(f"{base_sha256} {adapter_sha256} {scale}".encode()).hexdigest()
    folder = cache_folder() / key[:16]
    path, record = folder / "merged.gguf", folder / "merged.json"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if "sha256" not in kept(record):
            say(f"merging {adapter.name} into {base.name} (once)")
            merge(base, adapter, scale, path)
            keep(record, {"sha256": file_sha256(path)})
        sha256 = str(kept(record)["sha256"])
    if not path.exists() or file_sha256(path) != sha256:
        raise PackError(f"{path}: not the file that was merged; delete {folder} and run again")
    return path, sha256


def merge(base: Path, adapter: Path, scale: float, out: Path) -> None:
    """Writes the base with the adapter in it, and its cue rows as input rows: matrices in bf16, all else in f32.

    A base whose head is its input table gets a head of its own, so that cues change what is read and nothing that is
    written. Raises PackError where the two do not fit; `out` is there whole or not at all."""
    lora, reader = read_adapter(adapter), _read(base)
    _check_fit(lora, base, reader)
    growing = out.with_name(f"{out.name}.{os.getpid()}")
    try:
        _write(growing, base, reader, lora, scale)
        os.rename(growing, out)
    finally:
        growing.unlink(missing_ok=True)


def _check_fit(lora: Adapter, base: Path, reader: gguf.GGUFReader) -> None:
    architecture = _architecture(reader)
    if lora.architecture != architecture:
        raise PackError(f"{lora.path}: an adapter of architecture {lora.architecture!r}, {base} is {architecture!r}")
    lora.check_base(base, file_sha256(base))
    shapes = {tensor.name: _shape(tensor) for tensor in reader.tensors}
    for name, (a, b) in lora.pairs.items():
        if name not in shapes:
            raise PackError(f"{lora.path}: changes {name}, which {base} has not")
        if len(a) != b.shape[1] or (len(b), a.shape[1]) != shapes[name]:
            raise PackError(f"{lora.path}: {name} of shapes {b.shape} x {a.shape}, in {base} it is {shapes[name]}")
    n_vocab, hidden = shapes[_INPUT]
    fits = lora.cue_rows.shape[1] == hidden and set(lora.cue_tokens.tolist()) <= set(range(n_vocab))
    if lora.cue_names and not fits:
        raise PackError(f"{lora.path}: its cue rows do not fit the input table of {base}, {n_vocab} x {hidden}")


def _write(path: Path, base: Path, reader: gguf.GGUFReader, lora: Adapter, scale: float) -> None:
    """Tensor by tensor, so that memory holds one at a time."""
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    sources = dict(tensors)
    if lora.cue_names:
        sources.setdefault(_OUTPUT, tensors[_INPUT])
    writer = gguf.GGUFWriter(path, _architecture(reader))
    _copy_metadata(reader, writer)
    for name, tensor in sources.items():
        shape = _shape(tensor)
        kind, width = (_BF16, 2) if len(shape) > 1 else (gguf.GGMLQuantizationType.F32, 4)
        writer.add_tensor_info(name, shape, np.dtype(np.float32), tensor.n_elements * width, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, tensor in sources.items():
        if len(_shape(tensor)) == 1:
            writer.write_tensor_data(_floats(base, tensor))
            continue
        rows = _bf16_rows(base, tensor, partial(lora.delta, name, scale))
        if name == _INPUT and lora.cue_names:
            rows[lora.cue_tokens] = gguf.quantize(lora.cue_rows, _BF16)
        writer.write_tensor_data(rows)
    writer.close()


def _copy_metadata(reader: gguf.GGUFReader, writer: gguf.GGUFWriter) -> None:
    for key, field in reader.fields.items():
        value = field.contents()
        # The library cannot write an empty list; "GGUF." marks what it makes up itself.
        if not key.startswith("GGUF.") and key not in _REWRITTEN and value != []:
            writer.add_key_value(key, value, *field.types)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)


def _bf16_rows(base: Path, tensor: gguf.ReaderTensor, delta: Callable[[slice], Floats | float]) -> NDArray[np.uint8]:
    """(rows, 2 * columns): the bytes of a matrix with what is added to its rows."""
    shape = _shape(tensor)
    out = np.empty((*shape[:-1], 2 * shape[-1]), np.uint8)
    for start in range(0, len(out), _BLOCK):
        rows = slice(start, start + _BLOCK)
        out[rows] = gguf.quantize(_floats(base, tensor, rows) + delta(rows), _BF16)
    return out


def _architecture(reader: gguf.GGUFReader) -> str:
    name: str = reader.fields[gguf.Keys.General.ARCHITECTURE].contents()
    return name


def _shape(tensor: gguf.ReaderTensor) -> tuple[int, ...]:
    """In numpy's order; the file's is the other way round."""
    return tuple(tensor.shape.tolist()[::-1])


def _floats(path: Path, tensor: gguf.ReaderTensor, rows: slice = slice(None)) -> Floats:
    try:
        return gguf.dequantize(tensor.data[rows], tensor.tensor_type)
    except NotImplementedError:
        raise PackError(f"{path}: {tensor.name} is in {tensor.tensor_type.name}, which cannot be merged") from None


def _read(path: Path) -> gguf.GGUFReader:
    try:
        reader = gguf.GGUFReader(checked(path))
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise PackError(f"{path}: not a GGUF file that can be read ({error})") from None
    if gguf.Keys.General.ARCHITECTURE not in reader.fields:
        raise PackError(f"{path}: names no architecture")
    return reader
