"""A temperature for each closed task of a pack, fitted on held-out samples (Guo et al. 2017).

The engine is asked as a worker asks it, but all its probabilities are kept. What a temperature is worth is measured on
samples that it was not fitted on: two folds by group, each with the temperature of the other. The one that goes into
the pack is fitted on all.
"""

import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from radlite_batch import machine
from radlite_batch.engine.engine import Engine
from radlite_batch.engine.open import open_engine
from radlite_batch.errors import PackError, UsageError
from radlite_batch.pack import Pack
from radlite_batch.records import Decided
from radlite_batch.tasks.base import Choice, Task
from radlite_batch.tasks.rads_assignment import RadsAssignment
from radlite_batch.tasks.registry import TASKS
from radlite_batch.tasks.render import PromptStyle, render
from training.confidence import Decisions, calibration_error, error_if_calibrated, reliability
from training.datasets.base import Sample, drawn
from training.datasets.registry import EVALUATION_ONLY
from training.scoring import Groups, interval, value
from training.temperature import Answered, Questions, best_temperature, judged_rads

CLOSED = tuple(name for name, task in TASKS.items() if all(isinstance(q.output, Choice) for q in task.questions))
IN_HAND = 16  # samples asked about at once

Range = tuple[float, float, float]  # a value and the two ends of its interval
Bins = list[tuple[float, float, int]]


@dataclass(frozen=True, slots=True)
class OfSource:
    """n: answers. ece_after, ece_if_calibrated: as of a Calibration."""

    n: int
    ece_after: Range
    ece_if_calibrated: Range


@dataclass(frozen=True, slots=True)
class Calibration:
    """One task's temperature, and what temperatures do to answers that they were not fitted on.

    n: answers whose confidence is judged. nll: mean over questions. ece: expected calibration error with its 95 %
    interval over groups; ece_if_calibrated: what chance alone would show. reliability: mean confidence, share of right
    answers and their number, by bin. sources: the answers of each source alone."""

    task: str
    temperature: float
    samples: int
    n: int
    nll_before: float
    nll_after: float
    ece_before: Range
    ece_after: Range
    ece_if_calibrated: Range
    reliability_before: Bins
    reliability_after: Bins
    sources: Mapping[str, OfSource]


def calibrate(
    pack: Pack, samples: Sequence[Sample], limit: int | None = None, say: Callable[[str], None] = lambda line: None
) -> list[Calibration]:
    """Each closed task that the pack serves and both folds have labels of, from sources that may be fitted on.

    limit: most samples of a task, all without one. Raises PackError for a pack whose answers are written, UsageError
    where no task can be calibrated."""
    answered = ask(pack, [sample for sample in samples if sample.source not in EVALUATION_ONLY], limit, say)
    found = []
    for name, rows in answered.items():
        fitted = fit(TASKS[name], rows) if len({_fold(row) for row in rows}) == 2 else None
        if fitted:
            found.append(fitted)
        else:
            say(f"{name}: too few labels, left as it is")
    if not found:
        raise UsageError(f"the samples hold too few labels to calibrate pack {pack.name}")
    return found


def ask(
    pack: Pack, samples: Sequence[Sample], limit: int | None, say: Callable[[str], None] = lambda line: None
) -> dict[str, list[Answered]]:
    """The model's answers by task, without the pack's temperatures; samples too long for the model are left out."""
    if pack.style.name == "own":
        raise PackError(f"pack {pack.name}: its answers are written, so it has no probabilities to calibrate")
    tasks = [name for name in CLOSED if name in pack.routes]
    chosen = _chosen(samples, tasks, limit)
    found: dict[str, list[Answered]] = {name: [] for name in tasks}
    for model, names in pack.routes_of(tasks).items():
        engine = open_engine(pack.prepare(model, say)[0], threads=len(machine.cores()))
        wanted = [(sample, kept) for sample, due in chosen if (kept := [name for name in names if name in due])]
        for start in range(0, len(wanted), IN_HAND):
            for name, answered in _answers(engine, pack.style, wanted[start : start + IN_HAND]):
                found[name].append(answered)
        engine.close()
        left_out = sum(len(kept) for _, kept in wanted) - sum(len(found[name]) for name in names)
        if left_out:
            say(f"{left_out} questions are too long for model {model}, and left out")
    return found


def _chosen(samples: Sequence[Sample], tasks: Iterable[str], limit: int | None) -> list[tuple[Sample, set[str]]]:
    """The samples drawn for some tasks, with those tasks; at most `limit` of each task."""
    due: list[set[str]] = [set() for _ in samples]
    for name in tasks:
        labelled = [i for i, sample in enumerate(samples) if name in sample.targets and sample.blocks(name)]
        labelled.sort(key=lambda i: drawn(f"calibrate {samples[i].source} {samples[i].id}"))
        for i in labelled[:limit]:
            due[i].add(name)
    return [(sample, names) for sample, names in zip(samples, due, strict=True) if names]


def _answers(
    engine: Engine, style: PromptStyle, wanted: Sequence[tuple[Sample, Sequence[str]]]
) -> Iterator[tuple[str, Answered]]:
    asked = [
        (name, sample, render(TASKS[name], sample.blocks(name) or (), style))
        for sample, names in wanted
        for name in names
    ]
    completions = iter(engine.answer([prompt for _, _, prompts in asked for prompt in prompts.values()]))
    for name, sample, prompts in asked:
        answers = {question: next(completions) for question in prompts}
        decided = {q: answer.probabilities for q, answer in answers.items() if isinstance(answer, Decided)}
        if len(decided) == len(answers):
            yield name, Answered(sample, decided)


def fit(task: Task, answered: Sequence[Answered]) -> Calibration | None:
    """The task's temperature, fitted on all, and its effect, cross-fitted; None where no answer can be judged. Both
    folds must hold samples."""
    whole, fold = Questions(task, answered), np.array([_fold(row) for row in answered])
    crossed = np.empty(len(answered))
    for number in (0, 1):
        others = [row for row, own in zip(answered, fold, strict=True) if own != number]
        crossed[fold == number] = best_temperature(Questions(task, others).nll)
    if isinstance(task, RadsAssignment):
        before, after = (judged_rads(task, answered, temperature) for temperature in (1.0, crossed))
    else:
        before, after = whole.judged(1.0), whole.judged(crossed)
    if not len(after.right):
        return None
    groups = np.unique([row.sample.group for row in answered], return_inverse=True)[1]
    return Calibration(
        task.name, best_temperature(whole.nll), len(answered), len(after.right), whole.nll(1.0), whole.nll(crossed),
        _error(before, groups), _error(after, groups), error_if_calibrated(after.confidence),
        reliability(before), reliability(after), _by_source(answered, after, groups),
    )  # fmt: skip


def _by_source(answered: Sequence[Answered], judged: Decisions, groups: Groups) -> dict[str, OfSource]:
    sources = np.array(["-".join(filter(None, (row.sample.source, row.sample.subset))) for row in answered])
    found = {}
    for source in np.unique(sources[judged.report]).tolist():
        own = sources[judged.report] == source
        part = Decisions(judged.confidence[own], judged.right[own], judged.report[own], judged.n_reports)
        found[source] = OfSource(int(own.sum()), _error(part, groups), error_if_calibrated(part.confidence))
    return found


def _fold(row: Answered) -> int:
    return int(drawn(f"fold {row.sample.group}") < 0.5)


def _error(judged: Decisions, groups: Groups) -> Range:
    tally = calibration_error(judged)
    return (value(tally), *interval(tally, groups))


def write_temperatures(path: Path, temperatures: Mapping[str, float]) -> None:
    """Puts them into the pack file's table [calibration], or adds the table; other tasks and comments stay.

    Raises PackError where the file writes its calibration in another way than as a table."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    merged = {**tomllib.loads(text).get("calibration", {}), **temperatures}
    values = [f"{task} = {round(temperature, 4)}" for task, temperature in merged.items()]
    header = next((i for i, line in enumerate(lines) if re.match(r"\s*\[\s*calibration\s*\]", line)), None)
    if header is None:
        lines += ["", "[calibration]", *values]
    else:
        end = next((i for i in range(header + 1, len(lines)) if lines[i].lstrip().startswith("[")), len(lines))
        is_value = [bool(line.strip()) and not line.lstrip().startswith("#") for line in lines[header + 1 : end]]
        first = is_value.index(True) if any(is_value) else 0
        kept = [line for line, value in zip(lines[header + 1 : end], is_value, strict=True) if not value]
        lines[header + 1 : end] = [*kept[:first], *values, *kept[first:]]
    written = "\n".join(lines) + "\n"
    _check(path, text, written, merged)
    growing = path.with_name(f".{path.name}.{os.getpid()}")
    growing.write_text(written, encoding="utf-8")
    os.replace(growing, path)


def _check(path: Path, before: str, after: str, temperatures: Mapping[str, float]) -> None:
    wanted = tomllib.loads(before) | {"calibration": {task: round(t, 4) for task, t in temperatures.items()}}
    try:
        same = tomllib.loads(after) == wanted
    except tomllib.TOMLDecodeError:
        same = False
    if not same:
        raise PackError(f"{path}: calibration is not written as a table [calibration], so it cannot be replaced")


def calibration_lines(found: Sequence[Calibration]) -> list[str]:
    """The temperatures and what they do, as a plain table."""
    lines = [
        f"{'task':<24}{'samples':>8}{'answers':>8}{'T':>7}{'nll':>8}{'after':>8}{'ece':>8}{'after':>8}"
        f"  {'95 % interval':<16}{'by chance':>9}  95 % of the time"
    ]
    for c in found:
        lines.append(
            f"{c.task:<24}{c.samples:>8}{c.n:>8}{c.temperature:>7.3f}{c.nll_before:>8.3f}{c.nll_after:>8.3f}"
            f"{c.ece_before[0]:>8.3f}{_shown(c.ece_after, c.ece_if_calibrated)}"
        )
        if len(c.sources) > 1:
            lines += [
                f"  {name:<30}{one.n:>8}{'':>31}{_shown(one.ece_after, one.ece_if_calibrated)}"
                for name, one in c.sources.items()
            ]
    return lines


def _shown(error: Range, chance: Range) -> str:
    return f"{error[0]:>8.3f}  [{error[1]:.3f}, {error[2]:.3f}]  {chance[0]:>9.3f}  [{chance[1]:.3f}, {chance[2]:.3f}]"


def draw_reliability(found: Sequence[Calibration], path: Path) -> None:
    """Share of right answers over confidence, by bin, before and after. Needs matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * len(found), 3.6), layout="constrained")
    for axes, c in zip(figure.subplots(1, len(found), squeeze=False).flat, found, strict=True):
        axes.plot((0, 1), (0, 1), color="#b9c2cc", lw=1)
        for bins, label, colour in (
            (c.reliability_before, "as the model gives it", "#d98b3a"), (c.reliability_after, "calibrated", "#1f6f8b"),
        ):  # fmt: skip
            sure, right, _ = zip(*bins, strict=True)
            axes.plot(sure, right, marker="o", ms=4, label=label, color=colour)
        axes.set_title(f"{c.task.replace('_', ' ')}, n = {c.n:,}", loc="left", fontsize=9)
        axes.set_xlabel("confidence")
        axes.set_ylabel("share right")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=160)
