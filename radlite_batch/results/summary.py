"""The RunSummary: what a run did, added up from its receipts. Counts and timings only."""

import datetime
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from radlite_batch import machine
from radlite_batch.errors import OutputError
from radlite_batch.results.commit import read_json
from radlite_batch.results.manifest import run_folder
from radlite_batch.storage import shown

EXIT_COMPLETE, EXIT_INCOMPLETE = 0, 3


@dataclass(slots=True)
class TaskSummary:
    rows: int = 0
    status: dict[str, int] = field(default_factory=dict)
    labels: dict[str, dict[str, int]] = field(default_factory=dict)
    dropped_spans: int = 0
    cut_answers: int = 0
    shortened_reports: int = 0

    def add(self, entry: Mapping[str, Any]) -> None:
        self.rows += entry["rows"]
        _add(self.status, entry["status"])
        for column, counts in entry["labels"].items():
            _add(self.labels.setdefault(column, {}), counts)
        self.dropped_spans += entry["dropped_spans"]
        self.cut_answers += entry["cut_answers"]
        self.shortened_reports += entry["shortened_reports"]


@dataclass(slots=True)
class RunSummary:
    """state: complete, stopped or running. rows: planned rows. begin, end: of this execution, ISO times with the offset
    from UTC. seconds: of this execution; busy: of all workers.

    tokens: asked (one prompt after another), computed (with sharing), written. memory: peaks in bytes."""

    state: str
    exit_code: int
    rows: int
    shards: int
    shards_done: int
    rows_done: int = 0
    rows_filtered: int = 0
    missing_ids: int = 0
    duplicate_ids: int = 0
    begin: str = ""
    end: str = ""
    seconds: float = 0.0
    busy_seconds: float = 0.0
    write_seconds: float = 0.0
    rows_this_time: int = 0
    reports_per_hour: float = 0.0
    tasks: dict[str, TaskSummary] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    identity: dict[str, Any] = field(default_factory=dict)
    plan: list[str] = field(default_factory=list)
    host: dict[str, str] = field(default_factory=dict)

    def add(self, receipts: Iterable[Mapping[str, Any]]) -> None:
        """Adds work items. Rows are counted once, whatever the number of models that answer them."""
        seen: set[int] = set()
        for receipt in receipts:
            if receipt["shard"] not in seen:
                seen.add(receipt["shard"])
                self.rows_done += receipt["rows"]
                self.rows_filtered += receipt["filtered"]
                self.missing_ids += receipt["missing_ids"]
            for name, entry in receipt["tasks"].items():
                self.tasks.setdefault(name, TaskSummary()).add(entry)
            _add(self.tokens, receipt["counts"])
            self.busy_seconds += sum(receipt["seconds"].values())
            self.write_seconds += receipt["seconds"]["write"]

    def ends_after(self, seconds: float) -> None:
        """This execution took so long, and ends now."""
        end = datetime.datetime.now().astimezone()
        begin = end - datetime.timedelta(seconds=seconds)
        self.begin, self.end = (at.isoformat(timespec="milliseconds") for at in (begin, end))
        self.seconds = seconds

    @property
    def unanswered(self) -> int:
        """Rows of task tables that are failed or unparsed."""
        return sum(task.status.get("failed", 0) + task.status.get("unparsed", 0) for task in self.tasks.values())

    def document(self) -> dict[str, Any]:
        return asdict(self)


def _add(total: dict[str, int], counts: Mapping[str, int]) -> None:
    for key, count in counts.items():
        total[key] = total.get(key, 0) + count


def host() -> dict[str, str]:
    """Versions and machine of this execution."""
    packages = ("radlite-batch", "polars", "pyarrow", "joblib", "numpy")
    found = {name: version(name) for name in packages}
    return found | {"python": platform.python_version(), "cpu": machine.cpu_name(), "cores": str(len(machine.cores()))}


def read_summary(out: Path) -> dict[str, Any] | None:
    """The document of the last execution that came to its end; None where there is none, or a damaged one.

    A damaged one is nothing to stop at: a run writes it anew."""
    try:
        return read_json(run_folder(out) / "summary.json")
    except OutputError:
        return None


def summary_lines(summary: Mapping[str, Any], out: Path) -> list[str]:
    """A summary document as a person reads it on a terminal."""
    tokens, memory = summary["tokens"], summary["memory"]
    saved = tokens.get("asked", 0) - tokens.get("computed", 0)
    lines = [
        f"{summary['state']}: {summary['rows_done']} of {summary['rows'] - summary['rows_filtered']} rows, "
        f"{summary['shards_done']} of {summary['shards']} shards, in {shown(out)}",
        f"speed     {summary['reports_per_hour']:,.0f} reports/hour ({summary['rows_this_time']} rows in "
        f"{summary['seconds']:.1f} s)",
        f"tokens    {tokens.get('computed', 0):,} computed, {max(saved, 0):,} saved by sharing, "
        f"{tokens.get('written', 0):,} written",
        f"memory    peak {memory.get('pss', 0) >> 20} MiB PSS over all processes, {memory.get('rss', 0) >> 20} MiB RSS",
    ]
    for name, task in summary["tasks"].items():
        status = ", ".join(f"{count} {status}" for status, count in task["status"].items())
        extra = [f"{task['dropped_spans']} spans not in the text"] if task["dropped_spans"] else []
        extra += [f"{task['cut_answers']} answers cut at the limit"] if task["cut_answers"] else []
        extra += [f"{task['shortened_reports']} reports lost their end"] if task["shortened_reports"] else []
        lines.append(f"{name:<24}{status}" + (f" ({'; '.join(extra)})" if extra else ""))
    oddities = ("rows_filtered", "missing_ids", "duplicate_ids")
    lines += [f"{key.replace('_', ' ')}: {summary[key]}" for key in oddities if summary[key]]
    return lines
