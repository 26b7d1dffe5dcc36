"""Which metrics a task is scored by, as functions of a system's answers; the reference is fixed beforehand.

Answers are the columns of the task's table by name, a value per report, None where there is no answer. Whoever gives
answers is measured alike: a run, a constant answer, a rule.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from radlite_batch.tasks.abnormality_detection import LABELS, NO_FINDING, AbnormalityDetection
from radlite_batch.tasks.base import ChoiceTask, Task
from radlite_batch.tasks.rads_assignment import RadsAssignment
from radlite_batch.tasks.rads_systems import NO_SYSTEM
from radlite_batch.tasks.spans import SpanTask
from training import confidence, rads_scores, scoring, text_scores
from training.confidence import Decisions
from training.reference import spans
from training.scoring import Allowed, Tally

Answers = Mapping[str, Sequence[Any]]
Key = tuple[str, str]  # a metric, and what it is about: a label, a system, a class, a share; "" for the whole task
Gold = Sequence[Any]  # as reference.gold gives it
TREATED = "LR-TR"  # the treatment responses of LI-RADS, a group of their own in the published figure
_OBSERVATIONS = tuple(label for label in LABELS if label != NO_FINDING)


@dataclass(frozen=True, slots=True)
class Measure:
    """constant: the most frequent answer of the reference for every report; of spans, none at all."""

    tally: Callable[[Answers], Tally]
    constant: Answers


def measures(task: Task, gold: Gold) -> dict[Key, Measure]:
    """The task's metrics against this reference."""
    if isinstance(task, AbnormalityDetection):
        return _flag_measures(gold)
    if isinstance(task, RadsAssignment):
        return _rads_measures(gold)
    if isinstance(task, ChoiceTask):
        return _choice_measures(task, gold)
    if isinstance(task, SpanTask):
        return _span_measures(task, gold)
    constant = {task.headline: scoring.majority(gold)}
    return {
        (name, ""): Measure(partial(_of_column, _TEXT_METRICS[name], gold, task.headline), constant)
        for name in task.metrics
    }


_TEXT_METRICS: dict[str, Callable[..., Tally]] = {
    "rouge_l": text_scores.rouge_l, "bleu": text_scores.bleu, "exact_match": text_scores.exact_match,
}  # fmt: skip


def _choice_measures(task: ChoiceTask, gold: Sequence[tuple[str, ...]]) -> dict[Key, Measure]:
    stated = sorted({allowed[0] for allowed in gold if len(allowed) == 1})
    metrics: dict[Key, Callable[..., Tally]] = {
        ("accuracy", ""): scoring.accuracy,
        ("macro_f1", ""): scoring.macro_f1,
        **{("f1", label): partial(scoring.label_f1, label) for label in stated},
    }
    constant = {task.column: scoring.majority(gold)}
    return {key: Measure(partial(_of_column, metric, gold, task.column), constant) for key, metric in metrics.items()}


def _of_column(metric: Callable[..., Tally], gold: Gold, column: str, answers: Answers) -> Tally:
    return metric(gold, answers[column])


def _rads_measures(gold: Sequence[tuple[str, ...]]) -> dict[Key, Measure]:
    systems = systems_of(gold)
    usual = {"label": scoring.majority(gold), "system": scoring.majority(systems)}
    found = {
        ("accuracy", ""): Measure(partial(_of_column, scoring.accuracy, gold, "label"), usual),
        ("macro_f1", ""): Measure(partial(_of_column, scoring.macro_f1, gold, "label"), usual),
        ("system_accuracy", ""): Measure(partial(_of_column, scoring.accuracy, systems, "system"), usual),
    }
    for group, rows in _rads_groups(gold, systems).items():
        within = [labels for labels, row in zip(gold, rows, strict=True) if row]
        if within:
            tally = partial(_of_rows, scoring.accuracy, gold, "label", np.array(rows))
            found["accuracy", group] = Measure(tally, {"label": scoring.majority(within)[:1] * len(gold)})
    applies = any(system != NO_SYSTEM for names in systems for system in names)
    for name in rads_scores.CLASSES if applies else ():
        found["severity", name] = Measure(partial(_severity, gold, name), usual)
    return found


def _rads_groups(gold: Sequence[tuple[str, ...]], systems: Sequence[tuple[str, ...]]) -> dict[str, list[bool]]:
    """Which reports are of each system alone, and which of LI-RADS are treatment responses."""
    named = dict.fromkeys(name for names in systems for name in names)
    groups = {system: [names == (system,) for names in systems] for system in named}
    return groups | {TREATED: [all(label.startswith("LI-RADS TR ") for label in labels) for labels in gold]}


def systems_of(gold: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The systems that each report's RADS labels allow."""
    return [tuple(dict.fromkeys(map(rads_scores.system_of, labels))) for labels in gold]


def _of_rows(metric: Callable[..., Tally], gold: Gold, column: str, rows: scoring.Bools, answers: Answers) -> Tally:
    return metric(gold, answers[column]).only(rows)


def _severity(gold: Sequence[Allowed], name: str, answers: Answers) -> Tally:
    return rads_scores.severity(scoring.in_favour(gold, answers["label"]), answers["label"], name)


def _flag_measures(gold: Sequence[Sequence[tuple[str, ...] | None]]) -> dict[Key, Measure]:
    """F1 is of the 13 observations: No Finding, the commonest flag of many collections, would outweigh them."""
    usual = dict(zip(LABELS, zip(*scoring.flag_majority(gold), strict=True), strict=True))
    observed = [[state for label, state in zip(LABELS, row, strict=True) if label != NO_FINDING] for row in gold]
    found: dict[Key, Measure] = {
        ("micro_f1", ""): Measure(partial(_flags, scoring.flag_micro_f1, observed, _OBSERVATIONS), usual),
        ("macro_f1", ""): Measure(partial(_flags, scoring.flag_macro_f1, observed, _OBSERVATIONS), usual),
        ("per_label_accuracy", ""): Measure(partial(_flags, scoring.flag_accuracy, gold, LABELS), usual),
    }
    for i, label in enumerate(LABELS):
        column = [[row[i]] for row in gold]
        labelled = np.array([row[0] is not None for row in column])
        if labelled.any():
            found["accuracy", label] = Measure(partial(_flag, scoring.flag_accuracy, column, label, labelled), usual)
        if any(row[0] == ("positive",) for row in column):
            found["f1", label] = Measure(partial(_flag, scoring.flag_micro_f1, column, label, labelled), usual)
    return found


def _flag(metric: Callable[..., Tally], gold: Gold, label: str, rows: scoring.Bools, answers: Answers) -> Tally:
    return _flags(metric, gold, (label,), answers).only(rows)


def _flags(metric: Callable[..., Tally], gold: Gold, labels: Sequence[str], answers: Answers) -> Tally:
    states = list(zip(*(answers[label] for label in labels), strict=True))
    stated = [
        [
            None if allowed is None else scoring.in_favour([allowed], [state])[0]
            for allowed, state in zip(*row, strict=True)
        ]
        for row in zip(gold, states, strict=True)
    ]
    return metric(stated, states)


def _span_measures(task: SpanTask, gold: Sequence[Sequence[Mapping[str, Any]]]) -> dict[Key, Measure]:
    named = [spans(task, structs) for structs in gold]
    metrics: dict[Key, Callable[..., Tally]] = {
        ("exact_f1", ""): scoring.span_f1,
        ("relaxed_f1", ""): partial(scoring.span_f1, relaxed=True),
        ("jaccard", ""): scoring.span_jaccard,
    }
    for label in task.output.labels:
        metrics["exact_f1", label] = partial(_of_label, label, scoring.span_f1)
        metrics["relaxed_f1", label] = partial(_of_label, label, partial(scoring.span_f1, relaxed=True))
    empty: Answers = {task.column: [[]] * len(gold)}
    found = {key: Measure(partial(_spans, metric, task, named), empty) for key, metric in metrics.items()}
    if all(isinstance(span.get(task.text_key), str) for structs in gold for span in structs):
        # As a published model writes its spans: lists of terms under headings, which alone score above 0.
        lists = [task.answer({task.column: structs}) for structs in gold]
        for name in ("rouge_l", "bleu"):
            found[name, ""] = Measure(partial(_written, _TEXT_METRICS[name], task, lists), empty)
    return found


def _spans(metric: Callable[..., Tally], task: SpanTask, gold: Gold, answers: Answers) -> Tally:
    given = answers[task.column]
    tally = metric(gold, [spans(task, structs or []) for structs in given])
    # A report without an answer is wrong, also where there was nothing to mark.
    hits, due = np.split(tally.addends, 2, axis=1)
    none = np.array([structs is None for structs in given], dtype=bool)[:, None]
    return replace(tally, addends=np.concatenate((hits * ~none, np.maximum(due, none)), axis=1))


def _of_label(label: str, metric: Callable[..., Tally], gold: Gold, found: Gold) -> Tally:
    return metric(*([[span for span in row if span[2] == label] for row in side] for side in (gold, found)))


def _written(metric: Callable[..., Tally], task: SpanTask, gold: Sequence[str], answers: Answers) -> Tally:
    lists = [None if structs is None else task.answer({task.column: structs}) for structs in answers[task.column]]
    return metric(gold, lists)


def sureness(task: Task, gold: Gold) -> dict[Key, Callable[[Answers], Tally]]:
    """Metrics of a closed task's confidences, for answers that have them; flags are pooled.

    accuracy_at X %: of the surest answers. ece: expected calibration error, over questions whose references are one
    label each: where several are allowed, none says whether the probability of one of them is right."""
    questions = closed(task, gold)
    found: dict[Key, Callable[[Answers], Tally]] = {}
    if questions:
        for percent in confidence.SHARES:
            found["accuracy_at", f"{percent} %"] = partial(_surest, questions, percent)
    if whole := stated_in_full(task, gold):
        found["ece", ""] = lambda answers: confidence.calibration_error(decisions(whole, answers))
    return found


@dataclass(frozen=True, slots=True)
class Closed:
    """A closed question: the columns of its answer and of the answer's probability, and the labels allowed, None where
    the report is not labelled."""

    column: str
    confidence: str
    allowed: Sequence[tuple[str, ...] | None]
    part: Callable[[str], str] = str  # what of a label the confidence speaks of


def stated_in_full(task: Task, gold: Gold) -> list[Closed]:
    """The task's closed questions whose references are one label each."""
    whole = (question for question in closed(task, gold) if any(question.allowed))
    if isinstance(task, RadsAssignment):
        whole = (replace(question, part=_without_neck) for question in whole)
    return [question for question in whole if all(labels is None or len(labels) == 1 for labels in question.allowed)]


def _without_neck(label: str) -> str:
    """The confidence is P(system) x P(category | system), and says nothing of NI-RADS's neck."""
    return label.partition(" // ")[0]


def closed(task: Task, gold: Gold) -> list[Closed]:
    if isinstance(task, AbnormalityDetection):
        return [Closed(label, f"{label}_confidence", [row[i] for row in gold]) for i, label in enumerate(LABELS)]
    if isinstance(task, RadsAssignment | ChoiceTask):
        return [Closed(task.column if isinstance(task, ChoiceTask) else task.headline, "confidence", gold)]
    return []


def decisions(questions: Sequence[Closed], answers: Answers) -> Decisions:
    """The answers of all these questions with their confidences."""
    several = []
    for question in questions:
        labelled = np.array([labels is not None for labels in question.allowed])
        allowed = [tuple(map(question.part, labels or ())) for labels in question.allowed]
        given = [None if label is None else question.part(label) for label in answers[question.column]]
        right = scoring.right(allowed, given)
        every = confidence.decisions(answers[question.confidence], right)
        several.append(
            replace(every, **{name: getattr(every, name)[labelled] for name in ("confidence", "right", "report")})
        )
    return confidence.pooled(several)


def _surest(questions: Sequence[Closed], percent: int, answers: Answers) -> Tally:
    return confidence.surest(decisions(questions, answers), percent)
