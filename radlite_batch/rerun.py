"""Answers a random share of a run's rows again, and compares the answers with those in its tables."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from radlite_batch.archive import ArchiveReader
from radlite_batch.engine.engine import Engine
from radlite_batch.engine.open import open_engine
from radlite_batch.plan import Plan, make_plan, planned_job
from radlite_batch.records import WorkItem
from radlite_batch.results.manifest import read_committed
from radlite_batch.results.tables import part_path, read_rows
from radlite_batch.tasks.base import Task
from radlite_batch.tasks.registry import TASKS
from radlite_batch.worker import Outcome, answer_reports

NEAR_TIE = 0.02  # probability by which a label of a batch may differ from that of a prompt alone


@dataclass(slots=True)
class Rerun:
    """labels: how many were compared. near_ties: labels that fell the other way, within NEAR_TIE. findings: others."""

    rows: int = 0
    labels: int = 0
    near_ties: int = 0
    findings: list[str] = field(default_factory=list)


def rerun(out: Path, share: float, say: Callable[[str], None] = lambda line: None) -> Rerun:
    """Answers this share of the committed rows, at least one, in this process.

    Failed rows are left out: they may have killed a worker. Written texts are not compared, for one near tie changes
    the rest of a text. Raises RadliteError where the run cannot be repeated."""
    plan, result = make_plan(planned_job(out), say), Rerun()
    committed = read_committed(out, plan.manifest).items
    items = [item for item in plan.manifest.items if item.name in committed]
    places = [(item, row) for item in items for row in item.source_rows]
    chosen: dict[WorkItem, set[int]] = {}
    for item, row in random.sample(places, min(len(places), max(1, round(share * len(places))))):
        chosen.setdefault(item, set()).add(row)
    for model in plan.manifest.routes:
        engine = open_engine(plan.setting.models[model], plan.setting.threads)
        for item, rows in chosen.items():
            if item.model == model:
                _compare(plan, engine, item, rows, result)
        engine.close()
    return result


def _compare(plan: Plan, engine: Engine, item: WorkItem, rows: set[int], result: Rerun) -> None:
    out, setting = plan.job.output.path, plan.setting
    old = {name: {row["source_row"]: row for row in read_rows(out, name, item.shard.number)} for name in item.tasks}
    reports = [
        report
        for report in ArchiveReader(setting.spec, setting.needs_text).reports(item.shard)
        if report.source_row in rows
        and all(rows_of.get(report.source_row, _FAILED)["status"] != "failed" for rows_of in old.values())
    ]
    result.rows += len(reports)
    for name, outcomes in answer_reports(engine, setting, item.tasks, reports, {}).items():
        for report, outcome in zip(reports, outcomes, strict=True):
            where = f"{part_path(out, name, item.shard.number)}: row {report.source_row}"
            _compare_row(TASKS[name], old[name][report.source_row], outcome, where, result)


_FAILED = {"status": "failed"}


def _compare_row(task: Task, row: Mapping[str, Any], outcome: Outcome, where: str, result: Rerun) -> None:
    prediction = outcome.prediction
    if outcome.status != row["status"]:
        result.findings.append(f"{where}: {row['status']}, and {outcome.status} when it was answered again")
    elif prediction is not None:
        new = {"confidence": prediction.confidence, **prediction.values}
        for column in task.columns:
            if column.vocabulary:
                result.labels += 1
                sure = f"{column.name}_confidence" if f"{column.name}_confidence" in row else "confidence"
                if new.get(column.name) == row[column.name]:
                    continue
                if abs((new[sure] or 0) - (row[sure] or 0)) < NEAR_TIE:
                    result.near_ties += 1
                else:
                    result.findings.append(f"{where}: another {column.name} when it was answered again")
