"""A model file with a changed or cut header is refused or loaded, and never ends the process that looks at it.

usage as a program: python test_gguf_header.py model|adapter|numbers FILE N BASE
    tries N changes of the file's header, each in a process of its own, and prints a line of JSON
"""

import importlib.util
import json
import math
import os
import random
import resource
import signal
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import gguf
import numpy as np
import pytest
from small import write_archive
from table import FULL, record

from radlite_batch.engine.formats import file_sha256
from radlite_batch.engine.gguf_header import checked
from radlite_batch.errors import PackError

LIMIT = 4 << 30  # bytes that a process under test may take
SECONDS = 60  # and how long it may
NUMBERS = [
    *(struct.pack("<I", n) for n in (0, 1, 2, 3, 5, 63, 127, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)),
    *(struct.pack("<f", x) for x in (-1.0, 1e-30, 1e30, math.inf, math.nan)),
]


def load_tiny() -> ModuleType:
    path = Path(__file__).parents[1] / "training" / "tiny.py"
    spec = importlib.util.spec_from_file_location("tiny", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny"] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


tiny = load_tiny()


def numbers_at(path: Path) -> list[int]:
    """Where the numbers of four bytes stand that the header gives under its keys."""
    four = (gguf.GGUFValueType.UINT32, gguf.GGUFValueType.INT32, gguf.GGUFValueType.FLOAT32)
    fields = [field for field in gguf.GGUFReader(path).fields.values() if field.types and field.types[0] in four]
    return [field.offset + sum(part.nbytes for part in field.parts[: field.data[0]]) for field in fields]


def with_numbers(original: bytes, numbers: list[int], n: int) -> list[bytes]:
    """n of the files that have one of their numbers replaced by one of NUMBERS, evenly chosen."""
    files = [original[:at] + number + original[at + 4 :] for at in numbers for number in NUMBERS]
    return files[:: -(-len(files) // n)]


def mutated(original: bytes, header: int, numbers: list[int], seed: int) -> bytes:
    """The file with one to four changes in its first `header` bytes, or cut off somewhere."""
    rng = random.Random(seed)
    data = bytearray(original)
    if rng.random() < 0.1:
        return bytes(data[: rng.randrange(len(data)) if rng.random() < 0.3 else rng.randrange(header)])
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(header)
        way = rng.randrange(8)
        if way == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif way == 1:
            data[at] = rng.randrange(256)
        elif way in (2, 7):
            at, size = (at, rng.choice((4, 8))) if way == 2 else (rng.choice(numbers), 4)
            most = (1 << 8 * size) - 1
            number = rng.choice((0, 1, 2, 0x7F, 0xFFFF, 1 << 31, (1 << 31) - 1, most, rng.randint(0, most)))
            data[at : at + size] = number.to_bytes(size, "little")
        elif way == 3:
            del data[at : at + rng.randint(1, 16)]
        elif way == 4:
            data[at:at] = rng.randbytes(rng.randint(1, 16))
        elif way == 5:
            other = rng.randrange(header)
            data[at : at + 8], data[other : other + 8] = data[other : other + 8], data[at : at + 8]
        else:
            data[at : at + 16] = bytes(16)
    return bytes(data)


def use_model(path: Path) -> str:
    """Loads the file and computes with it; what came of that."""
    from radlite_batch.engine.base import Limits, Run
    from radlite_batch.engine.context import Weights
    from radlite_batch.engine.llama import LlamaModel
    from radlite_batch.errors import EngineError, PackError

    try:
        model = LlamaModel(Weights(path), Limits(32, 256, 2), 1)
        tokens = np.array(model.tokenize("No nodes.", False)[:16] or [0], np.int32)
        model.reserved(2)
        model.decode([Run(tokens, 0, (0,), (len(tokens) - 1,))])[0][0].of(tokens)
    except PackError:
        return "refused"
    except EngineError:
        return "no context"
    return "loaded"


def use_adapter(weights: Any, path: Path) -> str:
    """Reads the file as the pack does, then computes with it on these weights."""
    from radlite_batch.engine.base import Limits, Run
    from radlite_batch.engine.llama import LlamaModel
    from radlite_batch.engine.merge import read_adapter
    from radlite_batch.errors import EngineError, PackError

    try:
        read_adapter(path)
        model = LlamaModel(weights, Limits(32, 256, 2), 1, path)
        tokens = np.array([7, 8, 9], np.int32)
        model.decode([Run(tokens, 0, (0,), (2,))])[0][0].of(tokens)
    except PackError:
        return "refused"
    except EngineError:
        return "no context"
    return "loaded"


def tried(content: bytes, path: Path, use: Callable[[Path], str]) -> str:
    """What came of a file of this content in a process of its own: what `use` says, or the signal that ended it."""
    path.write_bytes(content)
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
        signal.alarm(SECONDS)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            os.write(theirs, use(path).encode())
        except BaseException as error:
            os.write(theirs, type(error).__name__.encode())
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else said


def main(kind: str, file: str, n: str, base: str) -> None:
    from radlite_batch.engine.context import Weights

    use = partial(use_adapter, Weights(Path(base))) if kind == "adapter" else use_model
    original, numbers, header = Path(file).read_bytes(), numbers_at(Path(file)), gguf.GGUFReader(file).data_offset
    if kind == "numbers":
        files = with_numbers(original, numbers, int(n))
    else:
        files = [mutated(original, int(header), numbers, seed) for seed in range(int(n))]
    found = [tried(content, Path(file).with_suffix(".mutated"), use) for content in files]
    odd = {i: what for i, what in enumerate(found) if what not in ("refused", "no context", "loaded")}
    print(json.dumps({"counts": Counter(found), "odd": odd}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model and an adapter of it, both sound."""
    folder = tmp_path_factory.mktemp("gguf")
    shape = tiny.Shape("llama", tie_word_embeddings=False)
    tiny.write_model(folder / "model.gguf", shape, tiny.random_weights(shape))
    writer = gguf.GGUFWriter(str(folder / "adapter.gguf"), "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 4.0)
    for layer in range(2):
        for half, size in (("a", (4, 64)), ("b", (64, 4))):
            writer.add_tensor(f"blk.{layer}.attn_q.weight.lora_{half}", np.ones(size, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder


@pytest.mark.parametrize(
    ("kind", "n"),
    [("model", 4000 if FULL else 100), ("adapter", 2000 if FULL else 100), ("numbers", 1000 if FULL else 40)],
)
def test_no_change_of_a_header_ends_the_process(folder: Path, kind: str, n: int) -> None:
    file, base = folder / f"{'adapter' if kind == 'adapter' else 'model'}.gguf", folder / "model.gguf"
    result = subprocess.run(
        [sys.executable, __file__, kind, str(file), str(n), str(base)], capture_output=True, text=True, check=True,
        env=os.environ | {"GGML_NO_BACKTRACE": "1"},
    )  # fmt: skip
    figures = json.loads(result.stdout)
    tried = sum(figures["counts"].values())
    print(f"{kind}: {figures['counts']}")
    assert figures["odd"] == {}
    assert figures["counts"]["refused"] > tried / 10 and tried > n / 4
    record("changed headers of model files and adapters", tried, None)


def test_sound_files_pass(folder: Path) -> None:
    for path in (folder / "model.gguf", folder / "adapter.gguf"):
        assert checked(path) == path
    assert use_model(folder / "model.gguf") == "loaded"


def changed(data: bytes, old: bytes, new: bytes) -> bytes:
    assert data.count(old) == 1
    return data.replace(old, new)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"", "empty file"),
        (lambda data: b"GGML" + data[4:], "does not begin as one"),
        (lambda data: data[:4] + b"\0\0\0\3" + data[8:], "does not begin as one"),
        (lambda data: data[:100], "end within the header"),
        (lambda data: data[:-500], "its tensors need"),
        (lambda data: data[:8] + b"\xff" * 8 + data[16:], "name"),
        (lambda data: data[:16] + b"\xff" * 8 + data[24:], "name"),
        (lambda data: changed(data, b"llama.context_length", b"llama.context_lengt\xff"), "name"),
        (lambda data: changed(data, b"no\2" + bytes(7) + b"le", b"no\2" + bytes(7) + b"no"), "holds a token twice"),
        (lambda data: changed(data, b"\4" + bytes(7) + b"tiny", b"\4" + bytes(7) + b"t\xffny"), "not UTF-8"),
        (lambda data: changed(data, b"blk.1.attn_q.weight", b"blk.0.attn_q.weight"), "stands there twice"),
        (lambda data: changed(data, b"tokenizer.ggml.token_type", b"tokenizer.ggml.token_typo"), None),
    ],
)
def test_what_is_wrong_is_named(
    folder: Path, tmp_path: Path, change: Callable[[bytes], bytes], message: str | None
) -> None:
    path = tmp_path / "changed.gguf"
    path.write_bytes(change((folder / "model.gguf").read_bytes()))
    if message is None:
        assert checked(path) == path
    else:
        with pytest.raises(PackError, match=message) as caught:
            checked(path)
        assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PackError, match=r"gone\.gguf: No such file"):
        checked(tmp_path / "gone.gguf")


@pytest.mark.parametrize("convert", [False, True])
def test_a_corrupt_model_ends_a_run_with_one_line(folder: Path, tmp_path: Path, convert: bool) -> None:
    """Its checksum is in the pack, so that nothing but the header itself gives it away."""
    data = (folder / "model.gguf").read_bytes()
    (tmp_path / "model.gguf").write_bytes(data[: len(data) // 2])
    pack = tmp_path / "pack.toml"
    pack.write_text(
        'name = "x"\nabout = "x"\nlicence = "x"\nstyle = "instruct"\n[models.x]\nbase = "model.gguf"\n'
        f'sha256 = "{file_sha256(tmp_path / "model.gguf")}"\ncontext = 512\n'
        f'convert = {str(convert).lower()}\n[routes]\nn_staging = "x"\n',
        encoding="utf-8",
    )
    archive = write_archive(tmp_path / "archive.csv", 4)
    command = [sys.executable, "-m", "radlite_batch.cli", "run", "--input", str(archive), "--tasks", "n_staging"]
    result = subprocess.run(
        [*command, "--pack", str(pack), "--output", str(tmp_path / "out")], capture_output=True, text=True,
        env=os.environ | {"RADLITE_CACHE": str(tmp_path / "cache")},
    )  # fmt: skip
    *said, error = result.stderr.splitlines()
    assert (result.returncode, len(said)) == (2, convert)  # that a conversion begins is said before
    assert error.startswith("radlite: ") and "model.gguf: not a sound GGUF file" in error
    assert not (tmp_path / "out").exists()


if __name__ == "__main__":
    main(*sys.argv[1:])
