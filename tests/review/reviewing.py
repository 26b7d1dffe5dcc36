"""What the tests of review share: rows, decisions, and readers of what was written."""

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from click.testing import CliRunner, Result

from radlite_batch.cli import main
from radlite_batch.review.cases import Selection

ROWS = 40
HOSTILE = "</script><script>alert(1)</script><!-- & <img src=x onerror=alert(2)>"


def text_of(i: int) -> str:
    """Row 6 tries to leave its place in a page; an emoji makes code points differ from UTF-16 units."""
    return f"zanzibar{i} \U0001f600 pleural effusion, lymph nodes enlarged. {HOSTILE if i == 6 else ''}"


def radlite(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def table(out: Path, task: str) -> pl.DataFrame:
    return pl.read_parquet(out / task / "*.parquet")


def rewrite(out: Path, task: str, row: int, **values: Any) -> None:
    for path in sorted((out / task).glob("*.parquet")):
        old = pl.read_parquet(path)
        rows = [{**each, **values} if each["source_row"] == row else each for each in old.to_dicts()]
        pl.DataFrame(rows, schema=old.schema).write_parquet(path)


def write_decisions(path: Path, lines: Sequence[Mapping[str, Any]], delimiter: str = ",") -> Path:
    names = list(dict.fromkeys(name for line in lines for name in line))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, delimiter=delimiter)
        writer.writeheader()
        writer.writerows(lines)
    return path


def stage(row: int, decision: str, correction: str = "", **more: Any) -> dict[str, Any]:
    return {"task": "n_staging", "source_row": row, "column": "stage", "decision": decision,
            "correction": correction, **more}  # fmt: skip


def reviewed(out: Path, task: str) -> pl.DataFrame:
    return pl.read_parquet(out / "_run" / "review" / "reviewed" / task / "*.parquet")


def decisions(out: Path) -> list[dict[str, Any]]:
    return pl.read_parquet(out / "_run" / "review" / "decisions.parquet").to_dicts()


def data_of(page: str) -> dict[str, Any]:
    [data] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    found: dict[str, Any] = json.loads(data)
    return found


def places(selection: Selection) -> list[tuple[str, int, str]]:
    return [(case.answer.task, case.answer.source_row, case.answer.column) for case in selection.cases]
