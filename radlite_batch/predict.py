"""One report, answered in this process: for trying a task, and for other programs."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from radlite_batch.archive import FIELDS, ArchiveSpec, is_utf8
from radlite_batch.engine.open import open_engine
from radlite_batch.errors import UsageError, did_you_mean
from radlite_batch.pack import load_pack
from radlite_batch.records import Report
from radlite_batch.tasks.registry import tasks_named
from radlite_batch.worker import Setting, answer_reports


def from_input() -> str:
    """The report on standard input. Raises UsageError where that is closed or not UTF-8."""
    if sys.stdin is None:
        raise UsageError("standard input is closed; give the report with --text")
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"standard input: byte {error.start} is not UTF-8") from None


def predict(
    text: str,
    tasks: Sequence[str],
    pack_name: str,
    fields: Mapping[str, str],
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, dict[str, Any]]:
    """status, confidence and the task's columns, by task. Raises UsageError, JobError or PackError."""
    for name in fields:
        if name not in FIELDS:
            raise UsageError(f"unknown field {name!r}{did_you_mean(name, FIELDS)}")
    for name, value in {"text": text, **fields}.items():
        if not is_utf8(value):
            raise UsageError(f"{name}: it is not UTF-8")
    names = [task.name for task in tasks_named(tasks)]
    pack = load_pack(pack_name)
    report = Report(0, None, text, dict(fields))
    answers: dict[str, dict[str, Any]] = {}
    for model, routed in pack.routes_of(names).items():
        file, _ = pack.prepare(model, say)
        setting = Setting(
            Path(), ArchiveSpec(()), pack.style, {model: file}, pack.calibration, {}, True, 1, 1, "too_long"
        )
        engine = open_engine(file, 1)
        for name, outcomes in answer_reports(engine, setting, routed, [report], {}).items():
            prediction = outcomes[0].prediction
            answer: dict[str, Any] = {"status": outcomes[0].status}
            if prediction:
                answer |= {"confidence": prediction.confidence, **prediction.values}
            answers[name] = answer
        engine.close()
    return {name: answers[name] for name in names}
