"""A trained adapter leaves as GGUF: as a LoRA file with its cue rows, or merged into its base in a number format."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from radlite_batch.engine import llama
from radlite_batch.engine.formats import file_sha256
from radlite_batch.engine.merge import BASE_SHA256, CUE_NAMES, CUE_ROWS, CUE_TOKENS, Floats, merge
from radlite_batch.errors import UsageError
from radlite_batch.pack import find_file
from training.encode import open_encoder
from training.recipe import Recipe
from training.saved import read_saved

ARCHITECTURES = ("llama", "qwen2", "qwen3")  # the same names in transformers and in GGUF
_NAMES = {
    "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output",
    "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down",
}  # fmt: skip
_PARAMETER = re.compile(r"\.layers\.(\d+)\.\w+\.(\w+)\.lora_([AB])\.")

Pairs = Mapping[str, tuple[Floats, Floats]]


def export(recipe: Recipe, fitted: Sequence[Path], out: Path, form: str | None) -> list[Path]:
    """Writes the adapter of `fit`, a pack that runs it, and where a form of llama.FILE_TYPES is named the merged base.

    fitted: folders of fits. Of several, each begun with the adapter of the one before, it takes the mean of the
    parameters, which is often better than each of them ("Model soups", Wortsman et al. 2022).

    Raises UsageError where nothing was fitted here, or under another recipe, PackError for a base that is not the
    recipe's."""
    from transformers import AutoConfig

    found = [folder / "best.pt" for folder in fitted]
    for folder, best in zip(fitted, found, strict=True):
        if not best.is_file():
            raise UsageError(f"{folder}: no best.pt of `fit` is here")
    base, sha256 = recipe.base_file()
    for best in found:
        _check_conditions(best, conditions(recipe, sha256))
    out.mkdir(parents=True, exist_ok=True)
    adapter, pack = out / f"{recipe.name}.gguf", out / f"{recipe.name}.toml"
    config = AutoConfig.from_pretrained(str(base.parent), gguf_file=base.name)
    about = {gguf.Keys.General.NAME: recipe.name, gguf.Keys.General.LICENSE: recipe.licence}
    export_checkpoints(adapter, found, config, recipe.lora.alpha, open_encoder(base).cues, sha256, about)
    pack.write_text(pack_text(recipe, sha256, adapter), encoding="utf-8")
    merged = [out / f"{recipe.name}-{form}.gguf"] if form else []
    for path in merged:
        write_merged(base, adapter, path, str(form))
    return [adapter, pack, *merged]


def conditions(recipe: Recipe, base_sha256: str) -> dict[str, str]:
    """What an adapter's meaning hangs on: its recipe's LoRA, the base, and what opens every prompt."""
    return {
        "lora": json.dumps(asdict(recipe.lora), sort_keys=True), "base": base_sha256, "start": json.dumps(recipe.start),
    }  # fmt: skip


def _check_conditions(best: Path, wanted: Mapping[str, str]) -> None:
    fitted = read_saved(best, mmap=True).get("conditions", {})
    changed = [name for name, value in wanted.items() if fitted.get(name) != value]
    if changed:
        raise UsageError(f"{best}: trained under another {', '.join(changed)} than the recipe's")


def pack_text(recipe: Recipe, sha256: str, adapter: Path) -> str:
    """The TOML of a pack whose one model answers all tasks."""
    values = {
        "base": _from_anywhere(recipe.base), "sha256": sha256, "context": recipe.context, "convert": True,
        "adapter": adapter.name, "adapter_sha256": file_sha256(adapter), "merge": True,
    }  # fmt: skip
    about = {"name": recipe.name, "about": f"{recipe.name}, tuned", "licence": recipe.licence, "style": "native"}
    tables: dict[str, dict[str, Any]] = {
        "markup": {"start": recipe.start},
        f"models.{json.dumps(recipe.name)}": values,  # quoted, for a name may hold a dot
        "routes": {"default": recipe.name},
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in about.items()]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def _from_anywhere(base: str) -> str:
    """A relative path counts from where the recipe ran, and would count from the pack's folder."""
    return os.path.abspath(base) if find_file(base, Path.cwd()) == Path.cwd() / base else base


def export_checkpoints(
    out: Path, checkpoints: Sequence[Path], config: Any, alpha: float, cues: Mapping[str, int], base_sha256: str,
    metadata: Mapping[str, str],
) -> None:  # fmt: skip
    """Writes the adapter of a training checkpoint, or the mean of several. config: of the base in transformers. alpha:
    the LoRA's.

    cues: the token of each cue name, in the order of training. Raises UsageError where they do not fit."""
    found = [read_saved(path)["parameters"] for path in checkpoints]
    arrays = {name: np.mean([p[name].float().numpy() for p in found], axis=0) for name in found[0]}
    rows = arrays.pop("cues")
    if len(rows) != len(cues):
        raise UsageError(f"{checkpoints[0]}: trained with {len(rows)} cues, not {len(cues)}")
    named = {name: (token, row) for (name, token), row in zip(cues.items(), rows, strict=True)}
    write_adapter(out, config.model_type, lora_pairs(arrays, config), alpha, named, base_sha256, metadata)


def lora_pairs(parameters: Mapping[str, Floats], config: Any) -> dict[str, tuple[Floats, Floats]]:
    """A (rank, in) and B (out, rank) by the name of the GGUF's tensor, from the parameters' names in peft.

    Raises UsageError for an architecture whose order of rows is not known, or a parameter of no projection."""
    if config.model_type not in ARCHITECTURES:
        raise UsageError(f"an adapter of {config.model_type!r} cannot be exported; known: {', '.join(ARCHITECTURES)}")
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    halves: dict[str, dict[str, Floats]] = {}
    for name, values in parameters.items():
        tensor, projection, half = tensor_of(name)
        if half == "B" and config.model_type == "llama" and projection in heads:
            values = _interleaved(values, heads[projection])
        halves.setdefault(tensor, {})[half] = values
    return {name: (pair["A"], pair["B"]) for name, pair in halves.items()}


def tensor_of(name: str) -> tuple[str, str, str]:
    """(the GGUF's tensor, the projection, "A" or "B") of a LoRA parameter's name in peft. Raises UsageError."""
    found = _PARAMETER.search(name)
    if found is None or found[2] not in _NAMES:
        raise UsageError(f"{name}: not a LoRA matrix of a known projection")
    layer, projection, half = found.groups()
    return f"blk.{layer}.{_NAMES[projection]}.weight", projection, half


def _interleaved(rows: Floats, n_heads: int) -> Floats:
    """Each head's rows in the order of GGUF's llama, whose rotary embedding turns neighbours, not halves."""
    return rows.reshape(n_heads, 2, -1, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def write_adapter(
    out: Path, architecture: str, pairs: Pairs, alpha: float, cues: Mapping[str, tuple[int, Floats]],
    base_sha256: str, metadata: Mapping[str, str],
) -> None:  # fmt: skip
    """Writes a LoRA adapter that llama.cpp loads, in f16. pairs: as of lora_pairs. cues: token and row (hidden,) of
    each name, kept as metadata in f32. base_sha256: of the base's file, so that another is refused; empty for any.
    metadata: more keys."""
    writer = gguf.GGUFWriter(None, architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(alpha))
    for key, value in {BASE_SHA256: base_sha256, **metadata}.items():
        writer.add_string(key, value)
    if cues:
        rows = np.stack([row for _, row in cues.values()]).astype(np.float32)
        writer.add_array(CUE_NAMES, list(cues))
        _add_numbers(writer, CUE_TOKENS, [token for token, _ in cues.values()], gguf.GGUFValueType.INT32)
        _add_numbers(writer, CUE_ROWS, rows.ravel().tolist(), gguf.GGUFValueType.FLOAT32)
    for name, (a, b) in pairs.items():
        writer.add_tensor(f"{name}.lora_a", a.astype(np.float16))
        writer.add_tensor(f"{name}.lora_b", b.astype(np.float16))
    growing = out.with_name(f"{out.name}.{os.getpid()}")
    try:
        writer.write_header_to_file(growing)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        os.rename(growing, out)
    finally:
        growing.unlink(missing_ok=True)


def _add_numbers(writer: gguf.GGUFWriter, key: str, values: list[Any], kind: gguf.GGUFValueType) -> None:
    writer.add_key_value(key, values, gguf.GGUFValueType.ARRAY, kind)


def write_merged(base: Path, adapter: Path, out: Path, form: str, scale: float = 1.0) -> None:
    """Writes the base with the adapter and its cue rows in it, in a format of llama.FILE_TYPES. Raises PackError."""
    if form == "bf16":
        return merge(base, adapter, scale, out)
    whole, growing = (out.with_name(f"{out.name}.{part}.{os.getpid()}") for part in ("bf16", form))
    try:
        merge(base, adapter, scale, whole)
        llama.convert(whole, growing, form)
        os.rename(growing, out)
    finally:
        for path in (whole, growing):
            path.unlink(missing_ok=True)
