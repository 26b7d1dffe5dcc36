"""Temperatures: found again where they are known, fitted on one half and tested on the other, written into a pack."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from radlite_batch.errors import PackError, UsageError
from radlite_batch.pack import load_pack
from radlite_batch.records import Decided
from radlite_batch.tasks.rads_assignment import RadsAssignment
from radlite_batch.tasks.registry import TASKS
from radlite_batch.worker import _temper
from training.calibrate import CLOSED, ask, calibrate, calibration_lines, draw_reliability, fit, write_temperatures
from training.datasets.base import Sample
from training.datasets.picture import can_draw
from training.temperature import Answered, Questions, best_temperature, judged_rads, tempered

STAGES = ("N0", "N1", "N2", "N3", "NX")


def stages(temperature: float, n: int = 1500) -> list[Answered]:
    """Labels drawn from distributions, and a model that tells these sharpened by `temperature`."""
    draws, rows = np.random.default_rng(5), []
    for i in range(n):
        true = draws.dirichlet(np.full(5, 0.5))
        told = tempered(true[None], np.array([1 / temperature]))[0]
        target = {"n_staging": {"stage": STAGES[draws.choice(5, p=true)]}}
        rows.append(Answered(Sample("made", str(i), f"patient {i // 2}", "x", targets=target), {"stage": told}))
    return rows


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_known_temperature_is_found_again(temperature: float) -> None:
    assert best_temperature(Questions(TASKS["n_staging"], stages(temperature)).nll) == pytest.approx(
        temperature, rel=0.1
    )


def test_the_search_finds_a_minimum_and_the_ends() -> None:
    assert best_temperature(lambda t: (math.log(t) - 0.7) ** 2) == pytest.approx(math.exp(0.7), rel=1e-4)
    assert best_temperature(lambda t: t) == pytest.approx(0.05, rel=0.01)
    assert best_temperature(lambda t: -t) == pytest.approx(20, rel=0.01)


def test_tempering_is_the_workers() -> None:
    p = (0.7, 0.2, 0.1, 0.0)
    worker = _temper(Decided(p), 1.7)
    assert isinstance(worker, Decided)
    assert tempered(np.array([p]), np.array([1.7]))[0].tolist() == pytest.approx(worker.probabilities)


def test_an_overconfident_model_is_put_right_on_samples_not_fitted_on() -> None:
    found = fit(TASKS["n_staging"], stages(3.0))
    assert found is not None
    assert (found.samples, found.n, found.temperature) == (1500, 1500, pytest.approx(3, rel=0.1))
    assert found.ece_before[0] > 0.15 and found.nll_after < found.nll_before
    assert found.ece_after[0] < found.ece_if_calibrated[2] * 1.2 < found.ece_before[1]
    assert {name: one.n for name, one in found.sources.items()} == {"made": 1500}
    assert found.sources["made"].ece_after == found.ece_after
    assert found.ece_before[1] < found.ece_before[0] < found.ece_before[2]
    (line,) = calibration_lines([found])[1:]
    assert line.split()[:3] == ["n_staging", "1500", "1500"]


def test_the_answers_of_each_source_are_judged_apart() -> None:
    rows = stages(1.0, 600)
    wrong = []
    for row in rows:
        never = STAGES[int(np.argmin(row.probabilities["stage"]))]
        sample = replace(row.sample, source="other", targets={"n_staging": {"stage": never}})
        wrong.append(replace(row, sample=sample))
    found = fit(TASKS["n_staging"], [*rows[:300], *wrong[300:]])
    assert found is not None
    apart = found.sources
    assert [one.n for one in apart.values()] == [300, 300]
    assert apart["other"].ece_after[0] > apart["other"].ece_if_calibrated[2]
    lines = calibration_lines([found])
    assert [line.split()[:2] for line in lines[2:]] == [["made", "300"], ["other", "300"]]


def flags(rows: list[tuple[str, Any, tuple[float, ...]]]) -> Questions:
    samples = [
        Answered(
            Sample(source, str(i), str(i), "x", targets={"abnormality_detection": {"edema": target}}), {"edema": p}
        )
        for i, (source, target, p) in enumerate(rows)
    ]
    return Questions(TASKS["abnormality_detection"], samples)


NOT_CODED = ["negative", "uncertain", "absent"]


def test_a_partial_label_is_as_likely_as_its_labels_together() -> None:
    questions = flags([("a", NOT_CODED, (0.2, 0.5, 0.2, 0.1)), ("a", "positive", (0.6, 0.2, 0.1, 0.1))])
    assert questions.nll(1.0) == pytest.approx(-(math.log(0.8) + math.log(0.6)) / 2)


def test_labels_that_a_source_does_not_tell_apart_are_judged_together() -> None:
    rows = [("a", NOT_CODED, (0.3, 0.3, 0.2, 0.2)), ("a", "positive", (0.4, 0.3, 0.2, 0.1))]
    judged = flags([*rows, ("b", "negative", (0.4, 0.35, 0.2, 0.05))]).judged(1.0)
    # Source a says "positive" or not: 0.7 against 0.3, right; 0.6 against 0.4, wrong. Source b tells all four apart.
    assert judged.confidence.tolist() == pytest.approx([0.7, 0.6, 0.4])
    assert judged.right.tolist() == [True, False, False]


def rads(targets: dict[str, Any], system: str, category: str) -> Answered:
    """A model that gives 0.6 to a system and 0.5 to a category, the rest to all alike."""
    task, told = RadsAssignment(), {}
    for question, label, p in zip(task.questions, (system, category, "1"), (0.6, 0.5, 0.9), strict=True):
        labels = question.output.labels
        told[question.name] = [p if name == label else (1 - p) / (len(labels) - 1) for name in labels]
    return Answered(Sample("made", "1", "1", "x", targets={"rads_assignment": targets}), told)


def test_a_rads_answer_is_judged_as_the_task_gives_it() -> None:
    right = rads({"system": "PI-RADS", "category": "4"}, "PI-RADS", "4")
    wrong = rads({"system": "PI-RADS", "category": "4"}, "PI-RADS", "5")
    none = rads({"system": "none"}, "none", "4")
    unknown = rads({"system": "PI-RADS"}, "PI-RADS", "4")
    judged = judged_rads(RadsAssignment(), [right, wrong, none, unknown], 1.0)
    assert judged.right.tolist() == [True, False, True] and judged.report.tolist() == [0, 1, 2]
    other = 0.5 / (len(RadsAssignment().questions[1].output.labels) - 1)
    within = 0.5 / (0.5 + 5 * other)  # of the six categories of PI-RADS
    assert judged.confidence.tolist() == pytest.approx([0.6 * within, 0.6 * within, 0.6])
    assert Questions(RadsAssignment(), [right]).nll(1.0) == pytest.approx(-(math.log(0.6) + math.log(within)) / 2)
    assert judged_rads(RadsAssignment(), [right], 2.0).confidence[0] < judged.confidence[0]


SAMPLES = [
    Sample(
        "made", str(i), f"patient {i}", f"Report {i}.", {"premise": "No mass.", "hypothesis": f"Mass {i}."},
        {
            "n_staging": {"stage": STAGES[i % 5]},
            "abnormality_detection": {"edema": "positive" if i % 2 else NOT_CODED, "no_finding": "absent"},
            "rads_assignment": {"system": "BI-RADS", "category": "2"} if i % 3 else {"system": "none"},
            "radiology_nli": {"label": "neutral"},
            "radiology_qa": {"answer": "No."},
        },
    )
    for i in range(24)
]  # fmt: skip


def test_the_model_is_asked_what_a_worker_asks() -> None:
    answered = ask(load_pack("fake"), SAMPLES, limit=10)
    assert {task: len(rows) for task, rows in answered.items()} == {
        "rads_assignment": 10, "n_staging": 10, "m_staging": 0, "abnormality_detection": 10, "radiology_nli": 10,
    }  # fmt: skip
    assert tuple(answered) == CLOSED
    first = answered["abnormality_detection"][0].probabilities
    assert len(first) == 14 and all(sum(p) == pytest.approx(1) for p in first.values())


def test_a_pack_is_calibrated_and_the_temperatures_stand_in_its_file(tmp_path: Path) -> None:
    pack = load_pack("fake")
    said: list[str] = []
    found = calibrate(pack, SAMPLES, say=said.append)
    assert said == ["m_staging: too few labels, left as it is"]
    assert [(one.task, one.samples, one.n) for one in found] == [
        ("rads_assignment", 24, 24), ("n_staging", 24, 24), ("abnormality_detection", 24, 48),
        ("radiology_nli", 24, 24),
    ]  # fmt: skip
    assert all(one.nll_after < one.nll_before for one in found)  # a hash is sure of itself for no reason
    path = tmp_path / "fake.toml"
    path.write_text(pack.path.read_text())
    temperatures = {one.task: one.temperature for one in found}
    write_temperatures(path, temperatures)
    assert load_pack(str(path)).calibration == pytest.approx(temperatures, abs=1e-4)
    assert path.read_text().startswith(pack.path.read_text())
    if can_draw():
        draw_reliability(found, tmp_path / "reliability.png")
        assert (tmp_path / "reliability.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_is_fitted_on_what_is_for_evaluation_only() -> None:
    held_out = [replace(sample, source="ct_rate_dev") for sample in SAMPLES]
    pack = load_pack("fake")
    assert calibrate(pack, [*SAMPLES, *held_out]) == calibrate(pack, SAMPLES)
    with pytest.raises(UsageError, match="too few labels"):
        calibrate(pack, held_out)


def test_where_no_answer_can_be_judged_there_is_nothing_to_fit() -> None:
    unknown = rads({"system": "PI-RADS"}, "PI-RADS", "4")
    rows = [replace(unknown, sample=replace(unknown.sample, group=str(i))) for i in range(20)]
    assert fit(TASKS["rads_assignment"], rows) is None


def test_too_few_samples_and_written_answers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too few labels"):
        calibrate(load_pack("fake"), SAMPLES[:1])
    (tmp_path / "prompts.toml").write_text("[n_staging]\ntext = 'N of {report}'\n")
    (tmp_path / "own.toml").write_text(
        'name = "own"\nabout = ""\nlicence = ""\nstyle = "own"\nprompts = "prompts.toml"\n'
        '[models.fake]\nbase = "fake"\nsha256 = ""\ncontext = 512\n[routes]\nn_staging = "fake"\n'
    )
    with pytest.raises(PackError, match="pack own: its answers are written"):
        calibrate(load_pack(str(tmp_path / "own.toml")), SAMPLES)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("# a\nname = 'x'\n", "# a\nname = 'x'\n\n[calibration]\nn_staging = 1.25\n"),
        (
            "[calibration]  # fitted\n# on dev\nm_staging = 2.0\n\n# the model\n[models]\n",
            "[calibration]  # fitted\n# on dev\nm_staging = 2.0\nn_staging = 1.25\n\n# the model\n[models]\n",
        ),
        ("[calibration]\n", "[calibration]\nn_staging = 1.25\n"),
        ("[calibration]\nn_staging = 2.0\n", "[calibration]\nn_staging = 1.25\n"),
    ],
)
def test_the_table_is_replaced_or_added_and_all_else_stays(tmp_path: Path, before: str, after: str) -> None:
    path = tmp_path / "pack.toml"
    path.write_text(before)
    write_temperatures(path, {"n_staging": 1.25})
    assert path.read_text() == after
    assert list(tmp_path.iterdir()) == [path]


def test_a_calibration_written_otherwise_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "pack.toml"
    path.write_text("calibration = { n_staging = 2.0 }\n")
    with pytest.raises(PackError, match="not written as a table"):
        write_temperatures(path, {"n_staging": 1.25})
    assert path.read_text() == "calibration = { n_staging = 2.0 }\n"
