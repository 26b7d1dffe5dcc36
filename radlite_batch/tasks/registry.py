"""The nine tasks, in the order of their tables. A tenth is one file and one line here."""

from collections.abc import Iterable

from radlite_batch.errors import JobError, did_you_mean
from radlite_batch.tasks.abnormality_detection import AbnormalityDetection
from radlite_batch.tasks.base import Task
from radlite_batch.tasks.impression_generation import ImpressionGeneration
from radlite_batch.tasks.m_staging import MStaging
from radlite_batch.tasks.n_staging import NStaging
from radlite_batch.tasks.radiology_ner import RadiologyNer
from radlite_batch.tasks.radiology_nli import RadiologyNli
from radlite_batch.tasks.radiology_qa import RadiologyQa
from radlite_batch.tasks.rads_assignment import RadsAssignment
from radlite_batch.tasks.temporal_comparison import TemporalComparison

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        RadsAssignment(),
        NStaging(),
        MStaging(),
        AbnormalityDetection(),
        RadiologyNer(),
        TemporalComparison(),
        ImpressionGeneration(),
        RadiologyQa(),
        RadiologyNli(),
    )
}


def tasks_named(names: Iterable[str]) -> tuple[Task, ...]:
    """These tasks, in registry order. Raises JobError on an unknown name or an empty list."""
    wanted = set(names)
    for name in sorted(wanted):
        if name not in TASKS:
            raise JobError(f"unknown task {name!r}{did_you_mean(name, TASKS)}")
    if not wanted:
        raise JobError("no task is named")
    return tuple(task for name, task in TASKS.items() if name in wanted)


def cue_names() -> tuple[str, ...]:
    """One name per question of every task, in a fixed order: the order in which a base's cue tokens are given out."""
    return tuple(f"{task.name}.{question.name}" for task in TASKS.values() for question in task.questions)
