"""Whether a GGUF file is what its header says: looked at before llama.cpp maps the file, because it trusts much of it.

    magic, version, counts | keys with typed values | tensors: name, shape, type, offset | padding | data

Every length is held against the file's size before it is used, so that a corrupt or truncated file is refused whatever
stands in it.
"""

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf

from radlite_batch.errors import PackError

_U32, _I32, _F32, _STRING, _ARRAY = 4, 5, 6, 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", _U32: "I", _I32: "i", _F32: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
_VERSIONS = (2, 3)
_TOKENS = "tokenizer.ggml.tokens"
_MOST_LAYERS = 512  # of llama.cpp
_LONGEST_KEY, _LONGEST_NAME, _MOST_DIMENSIONS, _LARGEST_ALIGNMENT = 1024, 63, 4, 1 << 16
_BLOCKS = {int(kind): sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items()}  # (elements, bytes) of a block


@dataclass(frozen=True, slots=True)
class Tensor:
    """shape: the fastest dimension first. kind: a GGMLQuantizationType. offset: of its first byte in the file."""

    shape: tuple[int, ...]
    kind: int
    offset: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class Header:
    architecture: str  # "" where the file names none
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class _Array:
    """kind: of its elements."""

    kind: int
    length: int


class _Corrupt(Exception):
    """What is wrong, in words that name a key or a tensor."""


def checked(path: Path) -> Path:
    """The path of a file whose header is sound. Raises as read_header does."""
    read_header(path)
    return path


def read_header(path: Path) -> Header:
    """Raises PackError naming the file and what is wrong in its header."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _read(_Cursor(content))
    except OSError as error:
        raise PackError(f"{path}: {error.strerror}") from None
    except (_Corrupt, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise PackError(f"{path}: not a sound GGUF file: {error}") from None


class _Cursor:
    """Reads forward through the file, and never beyond its end."""

    def __init__(self, content: mmap.mmap):
        self.at, self.size = 0, len(content)
        self._content = content

    def take(self, n_bytes: int) -> int:
        """Where the next n_bytes begin; goes on behind them."""
        start, self.at = self.at, self.at + n_bytes
        if self.at > self.size:
            raise _Corrupt(f"its {self.size} bytes end within the header")
        return start

    def number(self, form: str) -> Any:
        layout = f"<{form}"
        return struct.unpack_from(layout, self._content, self.take(struct.calcsize(layout)))[0]

    def string(self) -> bytes:
        n_bytes = self.number("Q")
        start = self.take(n_bytes)
        return self._content[start : start + n_bytes]

    def name(self, longest: int) -> str:
        raw = self.string()
        if not 0 < len(raw) <= longest or not raw.isascii():
            raise _Corrupt(f"the name that ends at byte {self.at} is none")
        return raw.decode("ascii")


def _read(cursor: _Cursor) -> Header:
    if cursor.number("4s") != b"GGUF" or cursor.number("I") not in _VERSIONS:
        raise _Corrupt(f"it does not begin as one of version {' or '.join(map(str, _VERSIONS))}")
    n_tensors, n_keys = cursor.number("Q"), cursor.number("Q")
    keys: dict[str, Any] = {}
    for _ in range(n_keys):
        key = cursor.name(_LONGEST_KEY)
        if key in keys:
            raise _Corrupt(f"the key {key} stands there twice")
        keys[key] = _value(cursor, key)
    _check_shape(keys)
    _check_vocabulary(keys)
    architecture = keys.get(gguf.Keys.General.ARCHITECTURE)
    tensors = _tensors(cursor, n_tensors, _alignment(keys))
    return Header(architecture if isinstance(architecture, str) else "", tensors)


def _value(cursor: _Cursor, key: str) -> Any:
    """A number, a string, or what an array holds."""
    kind = cursor.number("I")
    if kind == _STRING:
        return _text(cursor, key)
    if kind != _ARRAY:
        return cursor.number(_form(kind, key))
    array = _Array(cursor.number("I"), cursor.number("Q"))
    if key == _TOKENS and array.kind == _STRING:
        if len({cursor.string() for _ in range(array.length)}) < array.length:
            raise _Corrupt(f"the key {key} holds a token twice")
    elif array.kind == _STRING:
        for _ in range(array.length):
            _text(cursor, key)
    else:
        cursor.take(array.length * struct.calcsize(_form(array.kind, key)))
    return array


def _text(cursor: _Cursor, key: str) -> str:
    try:
        return cursor.string().decode("utf-8")
    except UnicodeDecodeError:
        raise _Corrupt(f"the key {key} holds what is not UTF-8") from None


def _form(kind: int, key: str) -> str:
    if kind not in _SCALARS:
        raise _Corrupt(f"the key {key} has a value of unknown type {kind}")
    return _SCALARS[kind]


def _alignment(keys: Mapping[str, Any]) -> int:
    alignment = keys.get("general.alignment", 32)
    if alignment not in (1 << i for i in range(_LARGEST_ALIGNMENT.bit_length())):
        raise _Corrupt("general.alignment is no power of two")
    return int(alignment)


def _check_shape(keys: Mapping[str, Any]) -> None:
    """What llama.cpp asserts instead of refusing it."""
    for key, given in keys.items():
        value = given if isinstance(given, int | float) else math.nan
        if key.endswith(".block_count") and not 0 < value <= _MOST_LAYERS:
            raise _Corrupt(f"the key {key} is not 1 to {_MOST_LAYERS}")
        if key.endswith("_epsilon") and not 0 <= value <= 1:
            raise _Corrupt(f"the key {key} is not 0 to 1")


def _check_vocabulary(keys: Mapping[str, Any]) -> None:
    """llama.cpp reads the lists beside the tokens without a look at their lengths."""
    tokens = keys.get(_TOKENS)
    n_tokens = tokens.length if isinstance(tokens, _Array) else 0
    kinds = {"tokens": (_STRING,), "merges": (_STRING,), "scores": (_F32,), "token_type": (_I32, _U32)}
    for name, allowed in kinds.items():
        key = f"tokenizer.ggml.{name}"
        array = keys.get(key)
        if array is None:
            continue
        if not isinstance(array, _Array) or array.kind not in allowed:
            raise _Corrupt(f"the key {key} holds no such list")
        if name in ("scores", "token_type") and array.length != n_tokens:
            raise _Corrupt(f"the key {key} holds {array.length} values for {n_tokens} tokens")


def _tensors(cursor: _Cursor, n_tensors: int, alignment: int) -> dict[str, Tensor]:
    """By name. Their data follow one another, each padded to the alignment, and lie within the file."""
    found: dict[str, Tensor] = {}
    end = last = 0
    for _ in range(n_tensors):
        name = cursor.name(_LONGEST_NAME)
        n_dimensions = cursor.number("I")
        if name in found or n_dimensions > _MOST_DIMENSIONS:
            raise _Corrupt(f"the tensor {name} stands there twice, or has {n_dimensions} dimensions")
        shape = tuple(cursor.number("Q") for _ in range(n_dimensions))
        kind, offset = cursor.number("I"), cursor.number("Q")
        if kind not in _BLOCKS or not shape or 0 in shape or shape[0] % _BLOCKS[kind][0]:
            raise _Corrupt(f"the tensor {name} has shape {list(shape)} in type {kind}")
        if offset != end:
            raise _Corrupt(f"the tensor {name} does not begin where the one before it ends")
        elements, n_bytes = _BLOCKS[kind]
        found[name] = Tensor(shape, kind, offset, math.prod(shape) // elements * n_bytes)
        last = offset + found[name].n_bytes
        end = _aligned(last, alignment)
    begin = _aligned(cursor.at, alignment)
    if begin + last > cursor.size:
        raise _Corrupt(f"it has {cursor.size} bytes, its tensors need {begin + last}")
    return {name: replace(tensor, offset=begin + tensor.offset) for name, tensor in found.items()}


def _aligned(n_bytes: int, alignment: int) -> int:
    return -(-n_bytes // alignment) * alignment
