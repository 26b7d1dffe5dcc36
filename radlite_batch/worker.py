"""run_shard: one work item from reports to committed parts and a receipt. Read this after run.py.

    read -> prompt -> infer -> parse -> write
    Report  Prompt   Completion  Prediction  Parquet, then the receipt

A bad row is a status, never an exception. What is raised here ends the work item, and the executor finds the row.
"""

import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Any

from radlite_batch import lease, machine
from radlite_batch.archive import ArchiveReader, ArchiveSpec
from radlite_batch.engine import alarm
from radlite_batch.engine.engine import Engine
from radlite_batch.engine.open import ModelFile, open_engine
from radlite_batch.errors import ArchiveError, Unparsed
from radlite_batch.records import Completion, Decided, Prediction, Prompt, Report, Tagged, TooLong, WorkItem, Written
from radlite_batch.results.commit import commit_json
from radlite_batch.results.earlier import read_earlier
from radlite_batch.results.manifest import receipt_path, withdraw
from radlite_batch.results.tables import count_labels, staging_folder, write_task_part
from radlite_batch.tasks.base import Block, Task
from radlite_batch.tasks.registry import TASKS
from radlite_batch.tasks.render import WHOLE_TASK, PromptStyle, render


@dataclass(frozen=True, slots=True)
class Setting:
    """What every work item of a run has in common. metadata: of the Parquet files, by model.

    record_seconds: what a record may take, and a model for a step; 0: as long as it likes.
    memory: bytes that a worker may take for itself; 0: an equal share of what is free."""

    out: Path
    spec: ArchiveSpec
    style: PromptStyle
    models: Mapping[str, ModelFile]
    calibration: Mapping[str, float]
    metadata: Mapping[str, Mapping[str, str]]
    needs_text: bool
    threads: int
    reports_in_hand: int
    overlong: str
    record_seconds: float = 0.0
    memory: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a task's inputs. reason: of failed and unparsed rows; it quotes no report."""

    status: str
    prediction: Prediction | None = None
    reason: str = ""
    cut: int = 0  # answers that ran into their length limit
    shortened: bool = False  # the input was over the limit and lost its end, as the job says


@dataclass(slots=True)
class _Inputs:
    """One task's distinct inputs in a shard; rows with the same inputs are answered once."""

    task: Task
    blocks: tuple[Block, ...]
    outcome: Outcome | None = None
    shortened: bool = False


@dataclass(slots=True)
class _Process:
    """What a worker process keeps between work items: the archive's open file and the last model's engine."""

    reader: ArchiveReader | None = None
    reader_of: ArchiveSpec | None = None
    engine: Engine | None = None
    engine_of: tuple[ModelFile, int] | None = None


_process = _Process()


def run_shard(setting: Setting, item: WorkItem, doomed: Mapping[int, str] | None = None) -> dict[str, Any]:
    """Answers a work item, commits its parts and its receipt, and returns the receipt.

    doomed: reasons by source_row of rows that must not be tried (they killed a worker); they come out `failed`."""
    begin, clock = time.time(), time.perf_counter()
    reports, filtered = _read(setting, item)
    earlier = read_earlier(setting.out, item)
    asked = [report for report in reports if report.source_row in item.only] if earlier else reports
    read = time.perf_counter()
    engine = _engine(setting, item.model)
    loaded = time.perf_counter()
    before = asdict(engine.counts)
    with alarm.within(setting.record_seconds, len(asked)):
        outcomes = answer_reports(engine, setting, item.tasks, asked, doomed or {})
    answered = time.perf_counter()
    receipt: dict[str, Any] = {
        "item": item.name, "shard": item.shard.number, "model": item.model, "rows": len(reports), "filtered": filtered,
        "missing_ids": sum(report.report_id is None for report in reports), "lengths": _lengths(reports),
        "pid": os.getpid(), "begin": begin, "tasks": {}, "failures": [],
    }  # fmt: skip
    lease.check(setting.out)
    withdraw(receipt_path(setting.out, item))
    for name, rows in outcomes.items():
        kept = earlier.kept(name) if earlier else []
        _commit_task(setting, item, TASKS[name], list(zip(asked, rows, strict=True)), kept, receipt)
    written = time.perf_counter()
    receipt["seconds"] = {
        "read": read - clock, "load": loaded - read, "infer": answered - loaded, "write": written - answered,
    }  # fmt: skip
    receipt["counts"] = {key: count - before[key] for key, count in asdict(engine.counts).items()}
    receipt["memory"] = (machine.process_memory(os.getpid()) or {}) | engine.model.memory()
    if earlier:
        earlier.add_to(receipt)
    commit_json(receipt_path(setting.out, item), staging_folder(setting.out), receipt)
    return receipt


def _commit_task(
    setting: Setting,
    item: WorkItem,
    task: Task,
    answers: Sequence[tuple[Report, Outcome]],
    kept: list[dict[str, Any]],
    receipt: dict[str, Any],
) -> None:
    """Commits a task's rows, those just answered beside those kept from before, and enters them in the receipt."""
    staying = {row["source_row"] for row in kept}
    new = [(report, outcome) for report, outcome in answers if report.source_row not in staying]
    table = sorted([*kept, *(_row(task, item.model, *pair) for pair in new)], key=itemgetter("source_row"))
    entry = write_task_part(setting.out, task, item.shard.number, table, setting.metadata[item.model])
    receipt["tasks"][task.name] = entry | _tally(task, table, [outcome for _, outcome in new])
    receipt["failures"] += [
        {"report_id": report.report_id, "source_row": report.source_row, "task": task.name, "status": outcome.status,
         "reason": outcome.reason}
        for report, outcome in new if outcome.reason
    ]  # fmt: skip


def try_rows(setting: Setting, item: WorkItem, rows: Sequence[int]) -> bool:
    """Answers these source rows of a work item one by one, and keeps no answer: to find the row that ends a process.

    tried_row() names the row that was begun last, whatever became of this process. Returns True."""
    reports, _ = _read(setting, item)
    wanted = set(rows)
    engine = _engine(setting, item.model)
    note = _note(setting, item)
    note.parent.mkdir(exist_ok=True)
    for report in reports:
        if report.source_row in wanted:
            note.write_text(str(report.source_row), encoding="ascii")
            with alarm.within(setting.record_seconds, 1):
                answer_reports(engine, setting, item.tasks, [report], {})
    return True


def forget_row(setting: Setting, item: WorkItem) -> None:
    _note(setting, item).unlink(missing_ok=True)


def tried_row(setting: Setting, item: WorkItem) -> int | None:
    """The row of the item that try_rows began last; None where it came to none."""
    note = _note(setting, item)
    text = note.read_text(encoding="ascii") if note.exists() else ""
    return int(text) if text else None


def _note(setting: Setting, item: WorkItem) -> Path:
    return setting.out / "_run" / "slots" / item.name  # nodes of a cluster may search several items at a time


def answer_reports(
    engine: Engine, setting: Setting, tasks: Sequence[str], reports: Sequence[Report], doomed: Mapping[int, str]
) -> dict[str, list[Outcome]]:
    """One Outcome per task and report, in order."""
    plans, together = _distinct(tasks, reports, doomed)
    # Reports of like length side by side: texts are written in equal streams, as long as the longest needs.
    texts = sorted(together, key=len)
    for start in range(0, len(texts), setting.reports_in_hand):
        hand = texts[start : start + setting.reports_in_hand]
        _answer(engine, setting, [inputs for text in hand for inputs in together[text]])
    return {name: [p if isinstance(p, Outcome) else _done(p) for p in plan] for name, plan in plans.items()}


def _distinct(
    tasks: Sequence[str], reports: Sequence[Report], doomed: Mapping[int, str]
) -> tuple[dict[str, list[Outcome | _Inputs]], dict[str, list[_Inputs]]]:
    """What each task does with each report, and the distinct inputs that are to be answered, by the text they share."""
    distinct: dict[tuple[str, tuple[Block, ...]], _Inputs] = {}
    together: dict[str, list[_Inputs]] = {}
    plans: dict[str, list[Outcome | _Inputs]] = {name: [] for name in tasks}
    for report in reports:
        problem = report.problem or doomed.get(report.source_row)
        for name in tasks:
            blocks = None if problem else TASKS[name].blocks(report)
            if problem:
                plans[name].append(Outcome("failed", reason=problem))
            elif blocks is None:
                plans[name].append(Outcome("empty"))
            else:
                inputs = distinct.get((name, blocks))
                if inputs is None:
                    inputs = distinct[name, blocks] = _Inputs(TASKS[name], blocks)
                    together.setdefault(report.text or blocks[0].text, []).append(inputs)
                plans[name].append(inputs)
    return plans, together


def _answer(engine: Engine, setting: Setting, inputs: list[_Inputs]) -> None:
    """Fills in the outcomes; inputs over the model's limit are cut and tried again where the job says so."""
    asked = [render(each.task, each.blocks, setting.style) for each in inputs]
    prompts: list[Prompt] = [prompt for questions in asked for prompt in questions.values()]
    completions = iter(engine.answer(prompts))
    again: list[_Inputs] = []
    for each, questions in zip(inputs, asked, strict=True):
        answers = {question: next(completions) for question in questions}
        over = [answer for answer in answers.values() if isinstance(answer, TooLong)]
        if not over:
            each.outcome = _predict(each, answers, setting.calibration.get(each.task.name, 1.0))
        elif setting.overlong == "too_long" or not (shorter := _shorter(each.blocks, over)):
            each.outcome = Outcome("too_long")
        else:
            each.blocks, each.shortened = shorter, True
            again.append(each)
    if again:
        _answer(engine, setting, again)


def _shorter(blocks: tuple[Block, ...], over: list[TooLong]) -> tuple[Block, ...] | None:
    """The first block with its end cut off, in proportion; None when nothing would be left."""
    first, *rest = blocks
    share = min(answer.limit / answer.n_tokens for answer in over)
    keep = int(len(first.text) * share * 0.95)
    return (replace(first, text=first.text[:keep]), *rest) if first.text[:keep].strip() else None


def _predict(inputs: _Inputs, answers: dict[str, Completion], temperature: float) -> Outcome:
    try:
        if WHOLE_TASK in answers:
            written = answers[WHOLE_TASK]
            assert isinstance(written, Written)
            prediction = inputs.task.parse(written.text, inputs.blocks)
        else:
            calibrated = {question: _temper(answer, temperature) for question, answer in answers.items()}
            prediction = inputs.task.predict(calibrated, inputs.blocks)
    except Unparsed as reason:
        return Outcome("unparsed", reason=str(reason))
    cut = sum(isinstance(answer, Written) and answer.cut for answer in answers.values())
    return Outcome("ok", prediction, cut=cut, shortened=inputs.shortened)


def _temper(answer: Completion, temperature: float) -> Completion:
    """Probabilities as the softmax at this temperature would give them (Guo et al. 2017)."""
    if temperature == 1.0 or not isinstance(answer, Decided | Tagged):
        return answer
    if isinstance(answer, Decided):
        return Decided(_tempered(answer.probabilities, temperature))
    return Tagged(tuple(_tempered(row, temperature) for row in answer.probabilities))


def _tempered(probabilities: Sequence[float], temperature: float) -> tuple[float, ...]:
    powers = [p ** (1 / temperature) for p in probabilities]
    total = sum(powers)
    return tuple(power / total for power in powers)


def _done(inputs: _Inputs) -> Outcome:
    assert inputs.outcome is not None
    return inputs.outcome


def _read(setting: Setting, item: WorkItem) -> tuple[list[Report], int]:
    """The shard's reports that the filter admits, and how many it does not."""
    if _process.reader is None or _process.reader_of != setting.spec:
        _process.reader, _process.reader_of = ArchiveReader(setting.spec, setting.needs_text), setting.spec
    try:
        reports = list(_process.reader.reports(item.shard))
    except OSError as error:
        raise ArchiveError(f"{item.shard.path}: {error.strerror}") from None
    # A row that could not be read has no fields to filter by; it stays, to be accounted for.
    kept = [report for report in reports if report.problem or setting.spec.filter.admits(report)]
    return kept, len(reports) - len(kept)


def _engine(setting: Setting, model: str) -> Engine:
    wanted = (setting.models[model], setting.threads)
    if _process.engine is None or _process.engine_of != wanted:
        if _process.engine is not None:
            _process.engine.close()
        _process.engine, _process.engine_of = open_engine(*wanted), wanted
    return _process.engine


def _row(task: Task, model: str, report: Report, outcome: Outcome) -> dict[str, Any]:
    values = outcome.prediction.values if outcome.prediction else {}
    return {
        "report_id": report.report_id, "source_row": report.source_row, "status": outcome.status,
        "confidence": outcome.prediction.confidence if outcome.prediction else None, "model": model,
        **{column.name: values.get(column.name) for column in task.columns},
    }  # fmt: skip


def _lengths(reports: Sequence[Report]) -> dict[str, int]:
    """How many texts have n to 2n - 1 code points, by n, a power of two."""
    return dict(Counter(str(1 << len(report.text).bit_length() - 1) for report in reports if report.text))


def _tally(task: Task, table: list[dict[str, Any]], outcomes: list[Outcome]) -> dict[str, Any]:
    """Counts for the receipt; never of free text."""
    return {
        "status": dict(Counter(row["status"] for row in table)),
        "labels": count_labels(task, table),
        "dropped_spans": sum(outcome.prediction.dropped for outcome in outcomes if outcome.prediction),
        "cut_answers": sum(outcome.cut for outcome in outcomes),
        "shortened_reports": sum(outcome.shortened for outcome in outcomes),
    }
