"""Which form of the fault tests runs, and the table of what the full form tried.

RADLITE_FAULTS=full (as `make faults` sets it) switches the long forms on; each test then appends its figures to
out/faults.jsonl, where those that are skipped are noted too, and this file as a program prints them.
"""

import json
import os
from pathlib import Path
from typing import Any

FULL = os.environ.get("RADLITE_FAULTS") == "full"
FIGURES = Path(__file__).parents[2] / "out" / "faults.jsonl"


def record(what: str, tried: int, lost: int | None) -> None:
    """Keeps a figure of the full form: how often `what` was tried, and how many rows were counted as missing after it.

    lost: None where no row is at stake."""
    _append({"what": what, "tried": tried, "lost": lost})


def record_skipped(test: str, reason: str) -> None:
    _append({"skipped": test, "reason": reason})


def _append(figure: dict[str, Any]) -> None:
    if FULL:
        FIGURES.parent.mkdir(exist_ok=True)
        with open(FIGURES, "a", encoding="utf-8") as file:
            file.write(json.dumps(figure) + "\n")


def lines() -> list[str]:
    """The figures as a table, tests that ran several times added up; then the tests that were skipped."""
    totals: dict[str, tuple[int, int | None]] = {}
    skipped = []
    for line in FIGURES.read_text(encoding="utf-8").splitlines():
        figure = json.loads(line)
        if "skipped" in figure:
            skipped.append(f"skipped: {figure['skipped']} ({figure['reason']})")
            continue
        tried, lost = totals.get(figure["what"], (0, None))
        more = figure["lost"]
        totals[figure["what"]] = tried + figure["tried"], lost if more is None else (lost or 0) + more
    rows = [f"| {what} | {tried:,} | {'-' if lost is None else lost} |" for what, (tried, lost) in totals.items()]
    return ["| tried | how often | rows lost |", "|---|---|---|", *rows, *skipped]


if __name__ == "__main__":
    print("\n".join(lines()))
