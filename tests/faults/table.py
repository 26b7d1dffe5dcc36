"""Which form of the fault tests runs, and the table of what the full form tried.

RADLITE_FAULTS=full (as `make faults` sets it) switches the long forms on; each test then appends its figures to
out/faults.jsonl, and this file as a program prints them.
"""

import json
import os
from pathlib import Path

FULL = os.environ.get("RADLITE_FAULTS") == "full"
FIGURES = Path(__file__).parents[2] / "out" / "faults.jsonl"


def record(what: str, tried: int, lost: int = 0) -> None:
    """Keeps a figure of the full form: how often `what` was tried, and how many rows it cost."""
    if FULL:
        FIGURES.parent.mkdir(exist_ok=True)
        with open(FIGURES, "a", encoding="utf-8") as file:
            file.write(json.dumps({"what": what, "tried": tried, "lost": lost}) + "\n")


def lines() -> list[str]:
    """The figures as a table, tests that ran several times added up."""
    totals: dict[str, list[int]] = {}
    for line in FIGURES.read_text(encoding="utf-8").splitlines():
        figure = json.loads(line)
        total = totals.setdefault(figure["what"], [0, 0])
        total[0] += figure["tried"]
        total[1] += figure["lost"]
    rows = [f"| {what} | {tried:,} | {lost} |" for what, (tried, lost) in totals.items()]
    return ["| tried | how often | rows lost |", "|---|---|---|", *rows]


if __name__ == "__main__":
    print("\n".join(lines()))
