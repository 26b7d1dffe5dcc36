"""Whether a model file in another number format still gives the same labels, on a few invented reports."""

import hashlib
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from radlite_batch.engine.open import ModelFile, open_engine, release
from radlite_batch.records import Decide, Decided, Prompt, Report
from radlite_batch.tasks.registry import TASKS
from radlite_batch.tasks.render import PromptStyle, render

_REPORTS = Path(__file__).parent / "packs" / "probe.txt"


def judge(model: ModelFile, style: PromptStyle) -> str:
    """Stands for all that `agreement` depends on beside the two files; part of a file's name."""
    asked = (_prompts(style), model.cue_names, model.adapter_sha256, model.scale, version("llama-cpp-python"))
    return hashlib.sha256(repr(asked).encode()).hexdigest()[:12]


def agreement(model: ModelFile, style: PromptStyle, reference: Path, candidate: Path) -> float:
    """The share of closed answers that are the same on both files; 0 where the style has no closed answers."""
    prompts = _prompts(style)
    if not prompts:
        return 0.0
    ours = _labels(replace(model, path=reference), prompts)
    theirs = _labels(replace(model, path=candidate), prompts)
    return sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(ours)


def _prompts(style: PromptStyle) -> list[Prompt]:
    """Those with a closed answer; a pack's own prompts have written ones only, and not for every task."""
    if style.name == "own":
        return []
    reports = [Report(i, str(i), line) for i, line in enumerate(_REPORTS.read_text(encoding="utf-8").splitlines())]
    asked = [
        prompt
        for report in reports
        for task in TASKS.values()
        if (blocks := task.blocks(report)) is not None
        for prompt in render(task, blocks, style).values()
    ]
    return [prompt for prompt in asked if isinstance(prompt.read, Decide)]


def _labels(model: ModelFile, prompts: list[Prompt]) -> list[int]:
    engine = open_engine(model, threads=1)
    try:
        answers = [answer.probabilities for answer in engine.answer(prompts) if isinstance(answer, Decided)]
    finally:
        engine.close()
        release(model)
    return [row.index(max(row)) for row in answers]
