"""What a work item committed before, when its failed rows are answered again and all others stay as they are."""

from pathlib import Path
from typing import Any

from radlite_batch.records import WorkItem
from radlite_batch.results.manifest import in_place, receipt_path
from radlite_batch.results.tables import read_rows

_OF_OUTCOMES = ("dropped_spans", "cut_answers", "shortened_reports")  # failed rows have none of them


class Earlier:
    """A committed work item: the rows of its parts that stay, and what its receipt says of them."""

    def __init__(self, out: Path, item: WorkItem, receipt: dict[str, Any]):
        self._out, self._item, self._receipt = out, item, receipt
        self._kept = {task: self._staying(task) for task in item.tasks}

    def _staying(self, task: str) -> list[dict[str, Any]]:
        again = set(self._item.only)
        rows = read_rows(self._out, task, self._item.shard.number)
        return [row for row in rows if row["status"] != "failed" or row["source_row"] not in again]

    def kept(self, task: str) -> list[dict[str, Any]]:
        """The task's rows that stay as they are."""
        return self._kept[task]

    def add_to(self, receipt: dict[str, Any]) -> None:
        """Adds what is known of the kept rows to the receipt of those that were answered again."""
        for task, entry in receipt["tasks"].items():
            for key in _OF_OUTCOMES:
                entry[key] += self._receipt["tasks"][task][key]
        kept = {task: {row["source_row"] for row in rows} for task, rows in self._kept.items()}
        receipt["failures"] += [f for f in self._receipt["failures"] if f["source_row"] in kept[f["task"]]]
        receipt["failures"].sort(key=lambda f: (self._item.tasks.index(f["task"]), f["source_row"]))
        receipt["begin"] -= sum(self._receipt["seconds"].values())  # begin and all the seconds give when it ended
        for total in ("seconds", "counts"):
            for key, value in self._receipt[total].items():
                receipt[total][key] += value


def read_earlier(out: Path, item: WorkItem) -> Earlier | None:
    """What the item committed, if only some of its rows are to be answered; None where it begins anew: a part that is
    damaged has no rows that could stay."""
    receipt = in_place(out, receipt_path(out, item), checksums=True) if item.only else None
    return Earlier(out, item, receipt) if receipt else None
