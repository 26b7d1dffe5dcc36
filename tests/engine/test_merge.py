"""An adapter merged into its base says what it says at run time, and a cue changes only what is read."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import gguf
import numpy as np
import pytest

from radlite_batch.engine.base import Limits, Run
from radlite_batch.engine.context import Weights
from radlite_batch.engine.formats import file_sha256
from radlite_batch.engine.llama import LlamaModel, convert
from radlite_batch.engine.merge import merge, merged, read_adapter
from radlite_batch.errors import PackError
from training.export import write_adapter, write_merged

RANK, ALPHA = 4, 8
LIMITS = Limits(n_batch=64, n_cells=256, n_seqs=4)
N_VOCAB, HIDDEN = 291, 64
CUE, TEXT = 3, 200  # a control token, a byte


def load_tiny() -> ModuleType:
    path = Path(__file__).parents[1] / "training" / "tiny.py"
    spec = importlib.util.spec_from_file_location("tiny", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny"] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


tiny = load_tiny()


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    shape = tiny.Shape("llama", request.param)
    path: Path = tiny.write_model(tmp_path / "base.gguf", shape, tiny.random_weights(shape))
    return path


def pairs(size: float = 0.2) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Random A and B of every projection."""
    random = np.random.default_rng(1)
    sizes = {"attn_q": (64, 64), "attn_k": (32, 64), "attn_v": (32, 64), "attn_output": (64, 64),
             "ffn_gate": (96, 64), "ffn_up": (96, 64), "ffn_down": (64, 96)}  # fmt: skip
    return {
        f"blk.{layer}.{name}.weight": (random.normal(size=(RANK, n)) * size, random.normal(size=(m, RANK)) * size)
        for layer in (0, 1)
        for name, (m, n) in sizes.items()
    }


def adapter(
    folder: Path,
    lora: dict[str, tuple[np.ndarray, np.ndarray]],
    cues: dict[str, tuple[int, np.ndarray]] | None = None,
    base_sha256: str = "",
    architecture: str = "llama",
) -> Path:
    path = folder / "adapter.gguf"
    write_adapter(path, architecture, lora, ALPHA, cues or {}, base_sha256, {})
    return path


def logits(path: Path, tokens: list[int], lora: Path | None = None, scale: float = 1.0) -> np.ndarray:
    """(n, vocabulary) after each token."""
    weights = Weights(path)
    model = LlamaModel(weights, LIMITS, 1, lora, scale)
    (rows,) = model.decode([Run(np.array(tokens, np.int32), 0, (0,), tuple(range(len(tokens))))])
    values = np.array([row.of(np.arange(N_VOCAB)) for row in rows])
    model.close()
    weights.close()
    return values


def tensors(path: Path) -> dict[str, np.ndarray]:
    return {t.name: gguf.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_merged_says_what_the_adapter_says_at_run_time(base: Path, tmp_path: Path, scale: float) -> None:
    lora, out, tokens = adapter(tmp_path, pairs()), tmp_path / "out.gguf", list(range(50, 90))
    merge(base, lora, scale, out)
    plain, at_run_time, in_file = logits(base, tokens), logits(base, tokens, lora, scale), logits(out, tokens)
    changed = np.abs(at_run_time - plain).mean()
    assert changed > 0.1
    assert np.abs(in_file - at_run_time).mean() < 0.03 * changed
    assert set(tensors(out)) == set(tensors(base))  # no head where nothing asks for one


def test_a_cue_changes_what_is_read_and_nothing_that_is_written(base: Path, tmp_path: Path) -> None:
    row = np.random.default_rng(2).normal(size=HIDDEN).astype(np.float32)
    merge(base, adapter(tmp_path, {}, {"n.stage": (CUE, row)}), 0.3, tmp_path / "out.gguf")
    merge(base, adapter(tmp_path, {}), 1.0, tmp_path / "plain.gguf")
    out, plain = tmp_path / "out.gguf", tmp_path / "plain.gguf"
    assert np.array_equal(logits(out, [TEXT, 60, 61]), logits(plain, [TEXT, 60, 61]))  # of the cue's token too
    assert np.abs(logits(out, [TEXT, CUE])[1] - logits(plain, [TEXT, CUE])[1]).mean() > 0.1
    before, after = tensors(base), tensors(out)
    changed = (after["token_embd.weight"] != tensors(plain)["token_embd.weight"]).any(axis=1)
    assert np.flatnonzero(changed).tolist() == [CUE]
    assert after["token_embd.weight"][CUE] == pytest.approx(row, rel=2**-8)  # whole, whatever the adapter's scale
    head = before.get("output.weight", before["token_embd.weight"])
    assert after["output.weight"] == pytest.approx(head, rel=2**-8)


def test_a_quantised_base_is_merged_into_bf16(base: Path, tmp_path: Path) -> None:
    convert(base, tmp_path / "q8.gguf", "q8_0")
    lora, out, tokens = adapter(tmp_path, pairs()), tmp_path / "out.gguf", list(range(50, 90))
    merge(tmp_path / "q8.gguf", lora, 1.0, out)
    plain, at_run_time = logits(base, tokens), logits(tmp_path / "q8.gguf", tokens, lora)
    assert np.abs(logits(out, tokens) - at_run_time).mean() < 0.05 * np.abs(at_run_time - plain).mean()
    kinds = {(len(t.shape), t.tensor_type.name) for t in gguf.GGUFReader(out).tensors}
    assert kinds == {(1, "F32"), (2, "BF16")}


def test_the_bases_metadata_is_kept(base: Path, tmp_path: Path) -> None:
    merge(base, adapter(tmp_path, pairs()), 1.0, tmp_path / "out.gguf")
    before, after = (
        {k: (f.contents(), f.types) for k, f in gguf.GGUFReader(path).fields.items() if not k.startswith("GGUF.")}
        for path in (base, tmp_path / "out.gguf")
    )
    assert after.pop("general.file_type")[0] == gguf.LlamaFileType.MOSTLY_BF16
    assert before.pop("general.file_type")[0] == gguf.LlamaFileType.ALL_F32
    assert after == before and "tokenizer.ggml.merges" in after


@pytest.mark.parametrize(("form", "least"), [("bf16", 0.9999), ("q8_0", 0.99), ("q4_k_m", 0.9)])
def test_a_merged_file_is_written_in_any_format(base: Path, tmp_path: Path, form: str, least: float) -> None:
    row = np.random.default_rng(2).normal(size=HIDDEN).astype(np.float32)
    lora, tokens = adapter(tmp_path, pairs(), {"n.stage": (CUE, row)}), [*range(50, 90), CUE]
    write_merged(base, lora, tmp_path / "out.gguf", form)
    merge(base, lora, 1.0, tmp_path / "whole.gguf")
    found, plain, wanted = (logits(tmp_path / f"{name}.gguf", tokens).ravel() for name in ("out", "base", "whole"))
    assert np.corrcoef(found, wanted)[0, 1] > least > 0.8 > np.corrcoef(plain, wanted)[0, 1]
    assert {path.name for path in tmp_path.iterdir()} == {"base.gguf", "adapter.gguf", "out.gguf", "whole.gguf"}


def first(change: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]) -> dict[str, tuple]:
    return {"blk.0.attn_q.weight": change(*pairs()["blk.0.attn_q.weight"])}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"architecture": "qwen2"}, "an adapter of architecture 'qwen2', "),
        ({"base_sha256": "0" * 64}, f"trained on a base of sha256 {'0' * 64}, "),
        ({"lora": {"blk.7.attn_q.weight": pairs()["blk.0.attn_q.weight"]}}, "changes blk.7.attn_q.weight, which "),
        ({"lora": first(lambda a, b: (a[:, :32], b))}, "blk.0.attn_q.weight of shapes (64, 4) x (4, 32), in "),
        ({"lora": first(lambda a, b: (a[:2], b))}, "blk.0.attn_q.weight of shapes (64, 4) x (2, 64), in "),
        ({"cues": {"n.stage": (CUE, np.ones(32))}}, "its cue rows do not fit the input table of "),
        ({"cues": {"n.stage": (N_VOCAB, np.ones(HIDDEN))}}, "its cue rows do not fit the input table of "),
    ],
)  # fmt: skip
def test_an_adapter_that_does_not_fit_is_refused(base: Path, tmp_path: Path, given: dict, message: str) -> None:
    path = adapter(tmp_path, **{"lora": pairs(), **given})
    with pytest.raises(PackError) as error:
        merge(base, path, 1.0, tmp_path / "out.gguf")
    assert str(error.value).startswith(f"{path}: {message}") and "\n" not in str(error.value)
    assert {path.name for path in tmp_path.iterdir()} == {"base.gguf", "adapter.gguf"}


def test_a_file_that_is_no_adapter_is_refused(base: Path, tmp_path: Path) -> None:
    whole = adapter(tmp_path, pairs()).read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.gguf").write_bytes(b"GGUF and nothing more")
    for name, message in (
        ("cut", "not a sound GGUF"),
        ("text", "not a sound GGUF"),
        ("base", "not a LoRA"),
        ("none", "No such file"),
    ):
        with pytest.raises(PackError, match=rf"{name}\.gguf: {message}"):
            read_adapter(tmp_path / f"{name}.gguf")


def test_an_adapter_is_merged_into_the_cache_once(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADLITE_CACHE", str(tmp_path / "cache"))
    lora, said = adapter(tmp_path, pairs()), list[str]()

    def once(scale: float) -> tuple[Path, str]:
        return merged(base, file_sha256(base), lora, file_sha256(lora), scale, said.append)

    path, sha256 = once(1.0)
    assert once(1.0) == (path, sha256) and file_sha256(path) == sha256
    assert said == ["merging adapter.gguf into base.gguf (once)"]
    assert once(0.5)[0] != path and len(said) == 2
    assert len(list((tmp_path / "cache").rglob("*.gguf"))) == 2
    (path.parent / "merged.json").write_text('{"sha', encoding="utf-8")  # as a full disk leaves it
    assert once(1.0) == (path, sha256) and len(said) == 3
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(PackError, match="not the file that was merged"):
        once(1.0)
