"""`fit` ends early, keeps the best step, and loses nothing to a kill."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed; the training extra brings it")
for library in ("transformers", "peft", "datasets"):
    pytest.importorskip(library, reason=f"{library} is not installed; the training extra brings it")

import tiny  # noqa: E402
from test_export import random_base  # noqa: E402
from test_whole_way import RECIPE, call, corpus  # noqa: E402

from radlite_batch.errors import RunChanged, UsageError  # noqa: E402
from radlite_batch.tasks.registry import TASKS  # noqa: E402
from training import fit as fitting  # noqa: E402
from training.cli import main as train  # noqa: E402
from training.datasets.base import Sample  # noqa: E402
from training.datasets.picture import can_draw  # noqa: E402
from training.encode import open_encoder  # noqa: E402
from training.export import export  # noqa: E402
from training.fit import BEST, CURVE, DEVELOPMENT, OVER, fit, held_out  # noqa: E402
from training.lora import CHECKPOINT, LOG  # noqa: E402
from training.recipe import load_recipe  # noqa: E402

STEPS = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe on a tiny random base, and its mix with and without held-out samples."""
    made = tmp_path_factory.mktemp("fit")
    text = RECIPE.format(name="small", base=random_base(tiny.Shape("llama", True), made / "base.gguf"))
    text = text.replace("steps = 2", f"steps = {STEPS}\nsave_every = 1")
    (made / "small.toml").write_text(text.replace("samples = 2", "samples = 2\npatience = 2"), encoding="utf-8")
    data = corpus(made / "corpus")
    call(train, "prepare", made / "small.toml", "--data", f"corpus={data}", "--output", made / "mix")
    (data / "heldout" / "a.jsonl").unlink()
    call(train, "prepare", made / "small.toml", "--data", f"corpus={data}", "--output", made / "no-dev")
    return made


def scripted(monkeypatch: pytest.MonkeyPatch, *means: float) -> list[dict[str, Any]]:
    """Development scores as given; the list holds what the learner was at each."""
    left, seen = list(means), []

    def scores(learner: Any, *_: Any) -> dict[str, float]:
        seen.append({name: p.detach().clone() for name, p in learner.trainable().items()})
        mean = left.pop(0)
        if mean < 0:
            raise KeyboardInterrupt
        return {"n_staging": mean, "mean": mean}

    monkeypatch.setattr(fitting, "development_scores", scores)
    return seen


def history(out: Path) -> list[tuple[int, float]]:
    return [(point["step"], point["mean"]) for point in map(json.loads, (out / DEVELOPMENT).open())]


def fitted(folder: Path, out: Path, mix: str = "mix", say: Callable[[str], None] = lambda line: None) -> None:
    fit(load_recipe(str(folder / "small.toml")), folder / mix, out, 1, say)


def test_it_ends_where_the_score_no_longer_rises_and_keeps_the_best_step(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = scripted(monkeypatch, 0.1, 0.5, 0.5, 0.2, 0.9)
    fitted(folder, tmp_path)
    assert history(tmp_path) == [(1, 0.1), (2, 0.5), (3, 0.5), (4, 0.2)]
    best = torch.load(tmp_path / BEST, weights_only=True)
    assert best["step"] == 2
    assert all(torch.equal(p, seen[1][name]) for name, p in best["parameters"].items())
    assert any(not torch.equal(p, seen[3][name]) for name, p in best["parameters"].items())
    assert (tmp_path / CURVE).exists() == can_draw()


def test_what_ended_early_is_left_as_it_is(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, 0.5, 0.2, 0.1)
    fitted(folder, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(fitting, "load_base", None)  # a call would raise
    said: list[str] = []
    fitted(folder, tmp_path, say=said.append)
    assert said == [OVER]
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    text = (folder / "small.toml").read_text()
    (tmp_path / "other.toml").write_text(text.replace(f"steps = {STEPS}", "steps = 99"))
    with pytest.raises(RunChanged, match="another steps; use"):
        fit(load_recipe(str(tmp_path / "other.toml")), folder / "mix", tmp_path, 1, said.append)


def test_another_recipe_or_mix_takes_no_checkpoint_and_no_adapter(folder: Path, tmp_path: Path) -> None:
    fitted(folder, tmp_path / "out", "no-dev")
    text = (folder / "small.toml").read_text()
    assert "alpha = 4" in text
    (tmp_path / "other.toml").write_text("seed = 7\n" + text.replace("alpha = 4", "alpha = 8"))
    other = load_recipe(str(tmp_path / "other.toml"))
    with pytest.raises(RunChanged, match="another lora, seed, mix; use"):
        fit(other, folder / "mix", tmp_path / "out", 1, lambda line: None)
    with pytest.raises(UsageError, match=r"best\.pt: trained under another lora than the recipe's"):
        export(other, [tmp_path / "out"], tmp_path / "pack", None)
    best = torch.load(tmp_path / "out" / BEST, weights_only=True)
    del best["conditions"]
    torch.save(best, tmp_path / "out" / BEST)
    with pytest.raises(UsageError, match="trained under another lora, base, start than"):
        export(other, [tmp_path / "out"], tmp_path / "pack", None)


def test_a_run_that_makes_its_adapter_worse_gives_back_what_it_began_with(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted(folder, tmp_path / "first", "no-dev")
    recipe = load_recipe(str(folder / "small.toml"))
    adapter = export(recipe, [tmp_path / "first"], tmp_path / "pack", None)[0]
    seen = scripted(monkeypatch, 0.5, 0.4, 0.3)
    fit(recipe, folder / "mix", tmp_path / "second", 1, lambda line: None, adapter)
    assert history(tmp_path / "second") == [(0, 0.5), (1, 0.4), (2, 0.3)]
    other = tmp_path / "other.gguf"
    other.write_bytes(adapter.read_bytes() + b"\0")
    for begin_with in (other, None):
        with pytest.raises(RunChanged, match="another begin_with; use"):
            fit(recipe, folder / "mix", tmp_path / "second", 1, lambda line: None, begin_with)
    best = torch.load(tmp_path / "second" / BEST, weights_only=True)
    assert best["step"] == 0
    assert all(torch.equal(p, seen[0][name]) for name, p in best["parameters"].items())


def test_weights_that_leave_nothing_to_draw_are_refused(folder: Path, tmp_path: Path) -> None:
    text = (folder / "small.toml").read_text()
    (tmp_path / "none.toml").write_text("\n".join([text, "[tasks]", *(f"{task} = 0" for task in TASKS)]))
    with pytest.raises(UsageError, match="its weights leave no sample of"):
        fit(load_recipe(str(tmp_path / "none.toml")), folder / "no-dev", tmp_path / "out", 1, lambda line: None)


def test_an_evaluation_that_was_cut_short_is_made_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, 0.1, -1)
    with pytest.raises(KeyboardInterrupt):
        fitted(folder, tmp_path)
    scripted(monkeypatch, 0.4, 0.2, 0.1)
    fitted(folder, tmp_path)
    assert history(tmp_path) == [(1, 0.1), (2, 0.4), (3, 0.2), (4, 0.1)]


def test_scores_of_a_run_that_was_killed_before_its_first_checkpoint_are_forgotten(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / DEVELOPMENT).write_text('{"step": 0, "mean": 0.9}\n')
    (tmp_path / BEST).write_bytes(b"of another adapter")
    scripted(monkeypatch, 0.3, 0.2, 0.1)
    fitted(folder, tmp_path)
    assert history(tmp_path) == [(1, 0.3), (2, 0.2), (3, 0.1)]
    assert torch.load(tmp_path / BEST, weights_only=True)["step"] == 1


def test_what_is_damaged_is_named(folder: Path, tmp_path: Path) -> None:
    for name in (CHECKPOINT, BEST):
        (tmp_path / name).write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(UsageError, match=rf"{CHECKPOINT}: damaged"):
        fitted(folder, tmp_path)
    with pytest.raises(UsageError, match=rf"{BEST}: damaged"):
        export(load_recipe(str(folder / "small.toml")), [tmp_path], tmp_path / "pack", None)


def test_every_task_has_its_share_of_the_development_samples(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, pair = {"n_staging": {"stage": "N0"}}, {"radiology_nli": {"label": "neutral"}}
    staged = [Sample("corpus", f"n{i}", "", f"Report {i}.", {}, stage) for i in range(50)]
    pairs = [
        Sample("corpus", f"p{i}", "", "", {"premise": "Node.", "hypothesis": f"Node {i}."}, pair) for i in range(5)
    ]
    monkeypatch.setattr(fitting, "read_prepared", lambda prepared, split: [*staged, *pairs])
    recipe = load_recipe(str(folder / "small.toml"))
    recipe = replace(recipe, development=replace(recipe.development, samples=12))
    held = held_out(folder / "mix", open_encoder(recipe.base_file()[0]), recipe, lambda line: None)
    assert Counter(e.tasks for e in held) == {("n_staging",): 7, ("radiology_nli",): 5}


def test_without_held_out_samples_the_last_step_is_kept_and_the_curve_drawn(folder: Path, tmp_path: Path) -> None:
    fitted(folder, tmp_path, "no-dev")
    assert torch.load(tmp_path / BEST, weights_only=True)["step"] == STEPS
    assert (tmp_path / CURVE).exists() == can_draw() and not (tmp_path / DEVELOPMENT).exists()


def test_a_fit_that_was_killed_goes_on_to_the_same_parameters(folder: Path, tmp_path: Path) -> None:
    arguments = [str(folder / "small.toml"), "--data", str(folder / "no-dev"), "--processes", "1", "--output"]
    command = [sys.executable, "-c", "from training.cli import main; main()", "fit", *arguments, str(tmp_path / "cut")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    log, end = tmp_path / "cut" / LOG, time.monotonic() + 60
    while not log.exists() or len(log.read_bytes().splitlines()) < STEPS // 3:
        assert process.poll() is None and time.monotonic() < end, "it ended, or took a minute to begin"
        time.sleep(0.001)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert torch.load(tmp_path / "cut" / CHECKPOINT, weights_only=True)["step"] < STEPS
    for name in ("cut", "whole"):
        fitted(folder, tmp_path / name, "no-dev")
    cut, whole = (torch.load(tmp_path / name / BEST, weights_only=True) for name in ("cut", "whole"))
    assert cut["step"] == whole["step"] == STEPS
    assert all(torch.equal(p, cut["parameters"][name]) for name, p in whole["parameters"].items())
    assert log.read_text() == (tmp_path / "whole" / LOG).read_text()
