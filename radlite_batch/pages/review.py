"""The page on which a person decides: one file with the texts of the chosen rows, its style and its script.

Whatever stands in a text, the page runs only its own script, by checksum, and fetches nothing.
"""

import base64
import hashlib
import html
import json
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from radlite_batch.review.answers import label_key, legal_labels, reviewed_columns
from radlite_batch.review.cases import Case, Selection
from radlite_batch.tasks.base import Task
from radlite_batch.tasks.registry import TASKS

_HERE = Path(__file__)


def review_page(title: str, selection: Selection) -> bytes:
    """The whole file."""
    template, style, script = (
        _HERE.with_suffix(suffix).read_text(encoding="utf-8") for suffix in (".html", ".css", ".js")
    )
    policy = (
        f"default-src 'none'; style-src {_checksum(style)}; script-src {_checksum(script)}; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
    )
    page = Template(template).substitute(
        title=html.escape(title), policy=policy, style=style, script=script, data=_inert(_data(selection))
    )
    return page.encode()


def _checksum(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _inert(data: Mapping[str, Any]) -> str:
    """JSON in which no tag, comment or entity can begin."""
    written = json.dumps(data, separators=(",", ":"))
    return written.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")


def _data(selection: Selection) -> dict[str, Any]:
    """What the script reads: every text once; items point at theirs, and at their labels, by number and name."""
    texts: dict[str, int] = {}
    labels: dict[str, tuple[str, ...]] = {}
    items = []
    for case in selection.cases:
        answer, task = case.answer, TASKS[case.answer.task]
        legal = _choices(task, case)
        name = None if legal is None else f"{answer.task}.{answer.column}" if legal else ""
        if name:
            labels[name] = legal or ()
        items.append(
            {
                "task": answer.task, "row": answer.source_row, "id": answer.report_id, "column": answer.column,
                "start": answer.start, "end": answer.end, "title": _title(task, answer.column),
                "answer": answer.answer, "confidence": answer.confidence, "alternatives": answer.alternatives,
                "other": answer.other, "labels": name, "marks": case.marks, "note": _note(task, case),
                "blocks": [(block, texts.setdefault(text, len(texts))) for block, text in case.blocks],
            }
        )  # fmt: skip
    return {"run": selection.run, "labels": labels, "texts": list(texts), "items": items}


def _choices(task: Task, case: Case) -> tuple[str, ...] | None:
    """What the answer may be corrected to; None: words. Where a row has no spans there is none to put a label on."""
    legal = legal_labels(task, case.answer.column)
    return (legal if case.answer.answer else ()) if legal else None


def _title(task: Task, column: str) -> str:
    words = task.name.replace("_", " ")
    return f"{words}, {column.replace('_', ' ')}" if len(reviewed_columns(task)) > 1 else words


def _note(task: Task, case: Case) -> str:
    column = next(each for each in reviewed_columns(task) if each.name == case.answer.column)
    if label_key(column):
        about = "Marked: the span that is decided on; paler: others of this report that are under review."
        return about if case.marks else ""
    if not legal_labels(task, column.name):
        return "The model wrote this answer; it names no evidence."
    if case.marks:
        return "The model names no evidence. Marked: where the text names what is asked, found by its spelling."
    return "The model names no evidence."
