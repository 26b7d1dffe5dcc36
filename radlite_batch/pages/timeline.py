"""Throughput and memory over the time a run was worked on; the pauses between its executions are left out."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from radlite_batch.report import Execution, Work

STEPS = 60


@dataclass(frozen=True, slots=True)
class Timeline:
    """seconds: worked in all. rates: reports per hour in each of STEPS equal stretches; memory: bytes of PSS of the
    workers; restarts: where an execution began after another, 0 to 1."""

    seconds: float
    rates: list[float]
    memory: list[int]
    restarts: list[float]


def timeline(work: Sequence[Work], executions: Sequence[Execution], models: int) -> Timeline:
    """models: work items of each shard; a report counts when all of them answered it. work is in order of time."""
    spans = _spans(work, executions)
    total = sum(end - begin for begin, end in spans) or 1.0
    step = total / STEPS
    rows = [0.0] * STEPS
    sizes: list[dict[int, int]] = [defaultdict(int) for _ in range(STEPS)]
    for item in work:
        begin, end = _worked(item.begin, spans) / step, _worked(item.end, spans) / step
        for i in range(min(int(begin), STEPS - 1), max(min(math.ceil(end), STEPS), min(int(begin), STEPS - 1) + 1)):
            share = (min(end, i + 1) - max(begin, i)) / (end - begin) if end > begin else 1.0
            rows[i] += item.rows * share
            sizes[i][item.pid] = max(sizes[i][item.pid], item.pss)
    restarts, at = [], 0.0
    for begin, end in spans[:-1]:
        at += end - begin
        restarts.append(at / total)
    return Timeline(total, [n / models / step * 3600 for n in rows], [sum(pids.values()) for pids in sizes], restarts)


def _spans(work: Sequence[Work], executions: Sequence[Execution]) -> list[tuple[float, float]]:
    """When the run was worked on; an execution that ended without a word lasted until its last committed item."""
    spans = []
    for i, execution in enumerate(executions):
        until = executions[i + 1].begin if i + 1 < len(executions) else math.inf
        ends = [item.end for item in work if execution.begin <= item.end < until]
        spans.append((execution.begin, max([execution.end, *ends])))
    if not spans and work:
        spans = [(work[0].begin, max(item.end for item in work))]
    return [(begin, end) for begin, end in spans if end > begin]


def _worked(at: float, spans: Sequence[tuple[float, float]]) -> float:
    """Seconds worked until `at`."""
    return sum(min(max(at - begin, 0.0), end - begin) for begin, end in spans)
