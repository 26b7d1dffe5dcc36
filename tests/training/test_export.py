"""A trained adapter in GGUF says in llama.cpp what it says in transformers: applied at run time, and merged."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed; the training extra brings it")
for library in ("transformers", "peft"):
    pytest.importorskip(library, reason=f"{library} is not installed; the training extra brings it")

import tiny  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM  # noqa: E402

from radlite_batch.engine.base import Limits, Run  # noqa: E402
from radlite_batch.engine.context import Weights  # noqa: E402
from radlite_batch.engine.engine import Engine  # noqa: E402
from radlite_batch.engine.formats import file_sha256  # noqa: E402
from radlite_batch.engine.llama import LlamaModel  # noqa: E402
from radlite_batch.engine.merge import merge, read_adapter  # noqa: E402
from radlite_batch.errors import PackError, UsageError  # noqa: E402
from radlite_batch.pack import load_pack  # noqa: E402
from radlite_batch.records import Decide, Decided, Prompt, Segment  # noqa: E402
from training.begin import parameters_of  # noqa: E402
from training.encode import Asked, Encoder, Row  # noqa: E402
from training.export import export_checkpoints, lora_pairs, pack_text  # noqa: E402
from training.lora import CHECKPOINT, LOG, fit  # noqa: E402
from training.model import Learner, load_base, probabilities  # noqa: E402
from training.recipe import BUILT_IN, Lora, Schedule, load_recipe  # noqa: E402

LORA = Lora(rank=4, alpha=8)
CUES = ("size.mm", "size.side")
REPORT = "Nodule 4 mm, left upper lobe; no effusion."
LIMITS = Limits(n_batch=128, n_cells=256, n_seqs=8)
# transformers reads no head size from a GGUF of qwen3 and takes that of the published ones, 128.
SHAPES = [
    pytest.param(tiny.Shape("llama", True), id="llama-tied"),
    pytest.param(tiny.Shape("llama", False, num_key_value_heads=4), id="llama-untied"),
    pytest.param(tiny.Shape("qwen2", True), id="qwen2-tied"),
    pytest.param(tiny.Shape("qwen3", True, head_dim=128), id="qwen3-tied"),
    pytest.param(tiny.Shape("qwen3", False, head_dim=128), id="qwen3-untied"),
]


@dataclass
class Trained:
    base: Path
    adapter: Path
    learner: Learner
    encoder: Encoder

    def expected(self, tokens: list[int]) -> np.ndarray:
        """(n, vocabulary): transformers' logits after each token."""
        n = len(tokens)
        row = Row(np.array(tokens), np.arange(n), np.zeros(n, int), np.array([-1]), ())
        with torch.inference_mode():
            head = self.learner.model.get_output_embeddings()
            values: np.ndarray = head(self.learner.hidden(row)).numpy()
        return values


def random_base(shape: tiny.Shape, path: Path) -> Path:
    """A base of this shape that transformers made, every weight, bias and norm drawn."""
    values = {key: value for key, value in asdict(shape).items() if key != "model_type"}
    rope = {"rope_type": "default", "rope_theta": tiny.ROPE_THETA}
    config = AutoConfig.for_model(shape.model_type, **values, rms_norm_eps=tiny.EPSILON, rope_parameters=rope)
    model = AutoModelForCausalLM.from_config(config)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        mean, deviation = (0.0, parameter.shape[1] ** -0.5) if parameter.dim() == 2 else (float("norm" in name), 0.1)
        torch.nn.init.normal_(parameter, mean, deviation)
    return tiny.write_model(path, shape, {name: values.numpy() for name, values in model.state_dict().items()})


def asked() -> list[Asked]:
    shared = (Segment("markup", "<|a|>"), Segment("report", REPORT))
    return [
        Asked(Prompt((*shared, Segment("cue", CUES[0])), Decide(("1", "2", "3"))), ("1", "3")),
        Asked(Prompt((*shared, Segment("cue", CUES[1])), Decide(("L", "R"))), ("L",)),
    ]


@pytest.fixture(scope="module", params=SHAPES)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A base with an adapter that was trained a step further from random weights, and exported."""
    folder = tmp_path_factory.mktemp("export")
    base = random_base(request.param, folder / "base.gguf")
    weights = Weights(base)
    encoder = Encoder(LlamaModel(weights, LIMITS, 1), CUES)
    learner = Learner(load_base(base, torch.float32), LORA, encoder.cue_words())
    torch.manual_seed(1)
    for parameter in learner.trainable().values():
        torch.nn.init.normal_(parameter, std=0.15)
    list(fit(learner, lambda step: [encoder.row(asked())], Schedule(1, 1e-2, warmup=1), folder))
    adapter = folder / "adapter.gguf"
    export_checkpoints(
        adapter, [folder / CHECKPOINT], learner.model.config, LORA.alpha, encoder.cues, file_sha256(base),
        {"general.name": "tiny size"},
    )  # fmt: skip
    return Trained(base, adapter, learner, encoder)


def logits(path: Path, tokens: list[int], adapter: Path | None = None) -> np.ndarray:
    """(n, vocabulary): llama.cpp's logits after each token."""
    weights = Weights(path)
    model = LlamaModel(weights, LIMITS, 1, adapter)
    (rows,) = model.decode([Run(np.array(tokens, np.int32), 0, (0,), tuple(range(len(tokens))))])
    values = np.array([row.of(np.arange(weights.n_vocab)) for row in rows])
    model.close()
    weights.close()
    return values


def report_tokens(trained: Trained) -> list[int]:
    return trained.encoder.tokenize(Segment("report", REPORT)).tolist()


def test_at_run_time_llama_cpp_says_what_transformers_says(trained: Trained) -> None:
    tokens = report_tokens(trained)
    wanted, found = trained.expected(tokens), logits(trained.base, tokens, trained.adapter)
    assert found == pytest.approx(wanted, abs=0.02)
    assert found.argmax(axis=1).tolist() == wanted.argmax(axis=1).tolist()
    assert np.abs(logits(trained.base, tokens) - wanted).mean() > 0.3


def test_without_the_adapter_it_is_the_base(trained: Trained) -> None:
    tokens = report_tokens(trained)
    with trained.learner.model.disable_adapter():
        assert logits(trained.base, tokens) == pytest.approx(trained.expected(tokens), abs=0.01)


def test_training_begins_with_what_was_exported(trained: Trained) -> None:
    parameters = parameters_of(read_adapter(trained.adapter), trained.learner, LORA)
    for name, parameter in trained.learner.trainable().items():
        assert parameters[name].numpy() == pytest.approx(parameter.detach().numpy(), rel=1e-3, abs=1e-4)
    with pytest.raises(UsageError, match="alpha is 8"):
        parameters_of(read_adapter(trained.adapter), trained.learner, Lora(rank=4, alpha=16))
    other = Learner(load_base(trained.base, torch.float32), Lora(rank=2, alpha=8), trained.encoder.cue_words())
    with pytest.raises(UsageError, match="has not the recipe's shape"):
        parameters_of(read_adapter(trained.adapter), other, Lora(rank=2, alpha=8))


def test_merged_it_reads_the_cues_too(trained: Trained, tmp_path: Path) -> None:
    out = tmp_path / "merged.gguf"
    merge(trained.base, trained.adapter, 1.0, out)
    tokens = [*report_tokens(trained), *trained.encoder.cues.values()]
    wanted, found = trained.expected(tokens), logits(out, tokens)
    changed = np.abs(logits(trained.base, tokens, trained.adapter) - wanted)
    assert np.abs(found - wanted).mean() < 0.02
    assert changed[: -len(CUES)].mean() < 0.02 and changed[-len(CUES) :].mean() > 0.1  # at run time they are not read
    sure = np.partition(wanted, -2, axis=1)[:, -2] < wanted.max(axis=1) - 0.3
    assert sure.sum() > 10
    assert found.argmax(axis=1)[sure].tolist() == wanted.argmax(axis=1)[sure].tolist()


def test_the_engine_answers_as_trained(trained: Trained, tmp_path: Path) -> None:
    out = tmp_path / "merged.gguf"
    merge(trained.base, trained.adapter, 1.0, out)
    weights = Weights(out)
    engine = Engine(LlamaModel(weights, LIMITS, 1), CUES)
    answers = engine.answer([question.prompt for question in asked()])
    found = [answer.probabilities for answer in answers if isinstance(answer, Decided)]
    wanted = probabilities(trained.learner, trained.encoder.row(asked()))
    assert len(found) == len(wanted) == len(CUES)
    for one, other in zip(found, wanted, strict=True):
        assert list(one) == pytest.approx(other, abs=0.03)
    engine.close()
    weights.close()


def test_the_file_says_what_it_is_of(trained: Trained) -> None:
    adapter, learner = read_adapter(trained.adapter), trained.learner
    assert adapter.architecture == learner.model.config.model_type
    assert adapter.base_sha256 == file_sha256(trained.base)
    assert (adapter.alpha, len(adapter.pairs)) == (LORA.alpha, 2 * 7)
    assert dict(zip(adapter.cue_names, adapter.cue_tokens.tolist(), strict=True)) == trained.encoder.cues
    assert np.array_equal(adapter.cue_rows, learner.cues.detach().numpy())


def test_an_adapter_is_of_one_base(trained: Trained, tmp_path: Path) -> None:
    other = tmp_path / "base.gguf"
    other.write_bytes(trained.base.read_bytes() + bytes(32))
    with pytest.raises(PackError, match="trained on a base of sha256"):
        merge(other, trained.adapter, 1.0, tmp_path / "out.gguf")


def test_a_checkpoint_of_a_gpu_is_read_without_one(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, learner, encoder = trained.base.with_name(CHECKPOINT), trained.learner, trained.encoder
    state = torch.load(own, weights_only=True)
    with monkeypatch.context() as on_a_gpu:
        on_a_gpu.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        torch.save(state, tmp_path / CHECKPOINT)
    (tmp_path / LOG).write_text(own.with_name(LOG).read_text())
    out = tmp_path / "adapter.gguf"
    export_checkpoints(out, [tmp_path / CHECKPOINT], learner.model.config, LORA.alpha, encoder.cues, "", {})
    assert np.array_equal(read_adapter(out).cue_rows, read_adapter(trained.adapter).cue_rows)
    other = Learner(load_base(trained.base, torch.float32), LORA, encoder.cue_words())
    assert list(fit(other, lambda step: [], Schedule(1, 1e-2, warmup=1), tmp_path)) == []
    assert all(torch.equal(p, other.trainable()[name]) for name, p in learner.trainable().items())


def test_of_several_checkpoints_the_mean_is_exported(trained: Trained, tmp_path: Path) -> None:
    own, config, cues = trained.base.with_name(CHECKPOINT), trained.learner.model.config, trained.encoder.cues
    state = torch.load(own, weights_only=True)
    state["parameters"] = {name: 3 * p for name, p in state["parameters"].items()}
    torch.save(state, tmp_path / CHECKPOINT)
    out = tmp_path / "adapter.gguf"
    export_checkpoints(out, [own, tmp_path / CHECKPOINT], config, LORA.alpha, cues, "", {})
    mean, alone = read_adapter(out), read_adapter(trained.adapter)
    assert mean.cue_rows == pytest.approx(2 * alone.cue_rows, rel=1e-3)
    for name, halves in alone.pairs.items():
        for found, half in zip(mean.pairs[name], halves, strict=True):
            assert found == pytest.approx(2 * half, rel=2e-3, abs=1e-4)


@pytest.mark.parametrize("name", sorted(path.stem for path in BUILT_IN.glob("*.toml")))
def test_the_pack_of_every_recipe_loads_wherever_it_lies(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RADLITE_BASES", "/bases")
    monkeypatch.chdir(tmp_path)
    recipe, adapter, path = load_recipe(name), tmp_path / "a.gguf", tmp_path / "packs" / "p.toml"
    adapter.touch()
    path.parent.mkdir()
    for base, wanted in ((recipe.base, recipe.base), ("models/x.gguf", str(tmp_path / "models" / "x.gguf"))):
        path.write_text(pack_text(replace(recipe, base=base), "0" * 64, adapter), encoding="utf-8")
        pack = load_pack(str(path))
        assert pack.models[pack.routes["n_staging"]].base == wanted


def test_what_cannot_be_exported_is_refused(trained: Trained, tmp_path: Path) -> None:
    config, checkpoint = trained.learner.model.config, trained.base.with_name(CHECKPOINT)
    with pytest.raises(UsageError, match="trained with 2 cues, not 1"):
        export_checkpoints(tmp_path / "a.gguf", [checkpoint], config, LORA.alpha, {"size.mm": 1}, "", {})
    with pytest.raises(UsageError, match="'gpt2' cannot be exported"):
        lora_pairs({}, AutoConfig.for_model("gpt2"))
    with pytest.raises(UsageError, match="embed_tokens"):
        lora_pairs({"model.embed_tokens.lora_A.default": np.ones((2, 2), np.float32)}, config)
    assert list(tmp_path.iterdir()) == []
