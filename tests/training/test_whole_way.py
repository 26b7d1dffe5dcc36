"""Two tiny random models in the published shapes go the whole way: prepared, trained, exported, routed, run, scored."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch", reason="torch is not installed; the training extra brings it")
for library in ("transformers", "peft", "datasets"):
    pytest.importorskip(library, reason=f"{library} is not installed; the training extra brings it")

import tiny  # noqa: E402
from test_export import random_base  # noqa: E402

from radlite_batch.cli import main as radlite  # noqa: E402
from radlite_batch.tasks.registry import TASKS  # noqa: E402
from training.cli import main as train  # noqa: E402

SHAPES = {
    "qwen2-5-3b": tiny.Shape("qwen2", True),
    "qwen3-4b": tiny.Shape("qwen3", True, head_dim=128),
}
ROUTES = dict.fromkeys(TASKS, "qwen2-5-3b") | dict.fromkeys(
    ("temporal_comparison", "abnormality_detection", "radiology_ner"), "qwen3-4b"
)
RECIPE = """
name = "{name}"
licence = "none"
base = "{base}"
start = "<|a|>"
context = 2048
dtype = "float32"
[lora]
rank = 2
alpha = 4
[schedule]
steps = 2
warmup = 1
learning_rate = 0.01
[batch]
samples = 3
[development]
every = 1
samples = 2
[sources]
corpus = 1
"""
RECORDS = [
    {"id": "a", "findings": "{Node|present} in the {hilum|anatomy}.", "impression": "Node.", "n": "N1", "m": "M0",
     "marked": ["entities"], "qa": [["Where is the node?", "hilum"]]},
    {"id": "b", "text": "Effusion has {grown|worsened}.", "flags": {"pleural_effusion": "positive"}, "rads": "none",
     "marked": ["changes"], "prior_text": "Small effusion."},
    {"id": "c", "text": "Solid nodule, wider than tall, smooth, isoechoic.", "rads": "TI-RADS 3"},
    {"id": "d", "premise": "No node.", "hypothesis": "There is a node.", "label": "contradiction"},
]  # fmt: skip


def corpus(folder: Path) -> Path:
    for part in ("train", "heldout"):
        (folder / part).mkdir(parents=True)
        own = [{**record, "id": f"{part}-{record['id']}"} for record in RECORDS]
        for record in own:
            if "text" in record:
                record["text"] = f"{record['text']} {part}"
        (folder / part / "a.jsonl").write_text("\n".join(map(json.dumps, own)), encoding="utf-8")
    return folder


def call(command: object, *arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(command, [str(a) for a in arguments])  # type: ignore[arg-type]
    assert result.exit_code == code, result.output
    return result.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The folder of each model's exported pack; its recipe and base lie beside it."""
    folder = tmp_path_factory.mktemp("whole")
    data = corpus(folder / "corpus")
    packs = {}
    for name, shape in SHAPES.items():
        base = random_base(shape, folder / f"{name}.gguf")
        recipe = folder / f"{name}.toml"
        recipe.write_text(RECIPE.format(name=name, base=base), encoding="utf-8")
        mix, fitted, packs[name] = (folder / f"{name}-{part}" for part in ("mix", "fit", "pack"))
        call(train, "prepare", recipe, "--data", f"corpus={data}", "--output", mix)
        assert not any(path.stat().st_mode & 0o077 for path in (mix, *mix.rglob("*")))  # it holds report text
        call(train, "fit", recipe, "--data", mix, "--output", fitted, "--processes", 1)
        call(train, "export", recipe, "--fit", fitted, "--output", packs[name], "--merged", "q8_0")
        assert len((fitted / "loss.jsonl").read_text().splitlines()) == 2
        assert [json.loads(line)["step"] for line in (fitted / "development.jsonl").open()] == [1, 2]
    return packs


def archive(folder: Path) -> Path:
    path = folder / "reports.parquet"
    pl.DataFrame({
        "report_id": ["1", "2"], "text": ["Node in the left hilum.", "Effusion has grown."],
        "findings": ["Node in the left hilum.", "Effusion has grown."], "premise": ["No node.", "A node."],
        "hypothesis": ["A node.", "A node."], "question": ["Where?", "What?"],
    }).write_parquet(path)  # fmt: skip
    return path


def test_the_published_set_up_runs_with_adapters_on_two_bases(trained: Mapping[str, Path], tmp_path: Path) -> None:
    """ChatML, a think block before every answer, and the published routes."""
    answers = [f'[{task}]\ntext = "[TASK: {task}] {{report}}{{findings}}{{premise}}"\nmax_tokens = 4' for task in TASKS]
    (tmp_path / "prompts.toml").write_text("\n".join(answers), encoding="utf-8")
    lines = ['name = "two"', 'about = "a"', 'licence = "none"', 'style = "own"', 'prompts = "prompts.toml"', "[markup]"]
    lines.append(r'assistant = "<|im_start|>assistant\n<think>\n\n</think>\n\n"')
    for name, pack in trained.items():
        base, adapter = pack.parent / f"{name}.gguf", pack / f"{name}.gguf"
        sums = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (base, adapter)]
        lines += [f"[models.{name}]", f'base = "{base}"', f'sha256 = "{sums[0]}"', "context = 2048"]
        lines += [f'adapter = "{adapter}"', f'adapter_sha256 = "{sums[1]}"']
    lines += ["[routes]", *(f'{task} = "{model}"' for task, model in ROUTES.items())]
    (tmp_path / "two.toml").write_text("\n".join(lines), encoding="utf-8")
    out = tmp_path / "out"
    call(
        radlite, "run", "--input", archive(tmp_path), "--tasks", ",".join(TASKS), "--pack", tmp_path / "two.toml",
        "--output", out, "--workers", 1, code=3,
    )  # fmt: skip
    models = {task: pl.read_parquet(out / task / "*.parquet")["model"].unique().to_list() for task in TASKS}
    assert {task: [name] for task, name in ROUTES.items()} == models
    labels = tmp_path / "labels.parquet"
    pl.DataFrame({"report_id": ["1", "2"], "n_stage": ["N1", "NX"]}).write_parquet(labels)
    (accuracy,) = (
        score
        for score in json.loads(call(train, "evaluate", out, labels, "--json"))["scores"]
        if (score["task"], score["metric"]) == ("n_staging", "accuracy")
    )
    assert accuracy["n"] == 2 and accuracy["value"] == 0.0  # four random bytes name no stage


@pytest.mark.parametrize("name", SHAPES)
def test_an_exported_pack_answers_natively(trained: Mapping[str, Path], tmp_path: Path, name: str) -> None:
    pack = trained[name] / f"{name}.toml"
    pack.write_text(pack.read_text().replace("convert = true", "convert = false"), encoding="utf-8")
    out = tmp_path / "out"
    call(
        radlite, "run", "--input", archive(tmp_path), "--tasks", "n_staging,abnormality_detection,radiology_ner",
        "--pack", pack, "--output", out, "--workers", 1,
    )  # fmt: skip
    staged = pl.read_parquet(out / "n_staging" / "*.parquet")
    assert staged["status"].to_list() == ["ok", "ok"] and staged["stage"].is_in(["N0", "N1", "N2", "N3", "NX"]).all()
    assert (trained[name] / f"{name}-q8_0.gguf").stat().st_size > 100_000


def test_a_killed_training_goes_on_where_it_was(trained: Mapping[str, Path], tmp_path: Path) -> None:
    name = "qwen2-5-3b"
    folder = trained[name].parent
    fitted, best = folder / f"{name}-fit", folder / f"{name}-fit" / "best.pt"
    before = best.read_bytes()
    call(train, "fit", folder / f"{name}.toml", "--data", folder / f"{name}-mix", "--output", fitted)
    assert best.read_bytes() == before and len((fitted / "loss.jsonl").read_text().splitlines()) == 2
    changed = tmp_path / "other.toml"
    changed.write_text((folder / f"{name}.toml").read_text().replace("steps = 2", "steps = 3"), encoding="utf-8")
    call(train, "fit", changed, "--data", folder / f"{name}-mix", "--output", fitted, code=2)
