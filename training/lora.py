"""The training loop: steps of packed rows, a checkpoint that a killed run goes on from, a loss log in JSON lines."""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from radlite_batch.errors import RunChanged
from training.encode import Row
from training.model import Learner
from training.recipe import Schedule
from training.saved import read_saved
from training.team import Team

CHECKPOINT, LOG = "checkpoint.pt", "loss.jsonl"


def rate(schedule: Schedule, step: int) -> float:
    """The learning rate of step 0, 1, ..."""
    if step < schedule.warmup:
        return schedule.learning_rate * (step + 1) / schedule.warmup
    done = (step - schedule.warmup) / max(1, schedule.steps - schedule.warmup)
    return schedule.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True, slots=True)
class Step:
    """number: steps done. loss: mean over the step's wants. tokens: computed in it."""

    number: int
    loss: float
    tokens: int


def visits(n: int, batch: int, step: int, seed: int) -> list[int]:
    """The examples of a step, out of n: epoch after epoch, each in an order of its own that the seed fixes."""
    orders: dict[int, Any] = {}
    chosen = []
    for visit in range(step * batch, (step + 1) * batch):
        epoch = visit // n
        if epoch not in orders:
            orders[epoch] = np.random.default_rng((seed, epoch)).permutation(n)
        chosen.append(int(orders[epoch][visit % n]))
    return chosen


def fit(
    learner: Learner, batch: Callable[[int], Sequence[Row]], schedule: Schedule, folder: Path, helpers: int = 0,
    conditions: Mapping[str, str] = MappingProxyType({}), seed: int = 0,
) -> Iterator[Step]:  # fmt: skip
    """Trains, and yields after each step, before its checkpoint; a folder with a checkpoint is gone on from.

    batch: the rows of step 0, 1, ..., the same at every call. The gradient is that of the weighted mean over all wants
    of the step. helpers: processes beside this one. conditions: what else a checkpoint hangs on. seed: of the
    dropout, which is the same for a step at every call. Raises RunChanged for a checkpoint of another schedule, or of
    other conditions."""
    folder.mkdir(parents=True, exist_ok=True)
    parameters = learner.trainable()
    adapter = [p for p in parameters.values() if p is not learner.cues]
    groups = [{"params": adapter, "factor": 1.0}, {"params": [learner.cues], "factor": schedule.cue_factor}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    conditions = schedule_conditions(schedule) | dict(conditions)
    done = _resume(learner, optimizer, conditions, folder)
    team = Team(learner, helpers)
    with open(folder / LOG, "a", encoding="utf-8") as log:
        for number in range(done, schedule.steps):
            rows = batch(number)
            for group in optimizer.param_groups:
                group["lr"] = rate(schedule, number) * group["factor"]
            step = Step(number + 1, team.gradient(rows, (seed, number)), sum(map(len, rows)))
            torch.nn.utils.clip_grad_norm_(parameters.values(), schedule.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            log.write(json.dumps(asdict(step)) + "\n")
            log.flush()
            yield step
            # After the yield: what is done with a step is done again where a kill came in between.
            if step.number % schedule.save_every == 0 or step.number == schedule.steps:
                _save(learner, optimizer, conditions, step.number, folder)


def schedule_conditions(schedule: Schedule) -> dict[str, str]:
    return {name: json.dumps(value) for name, value in asdict(schedule).items()}


def _save(
    learner: Learner, optimizer: torch.optim.Optimizer, conditions: Mapping[str, str], step: int, folder: Path
) -> None:
    state = {
        "step": step,
        "conditions": dict(conditions),
        "parameters": {name: p.detach() for name, p in learner.trainable().items()},
        "optimizer": optimizer.state_dict(),
    }
    growing = folder / f"{CHECKPOINT}.growing"
    with open(growing, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(growing, folder / CHECKPOINT)


def _resume(learner: Learner, optimizer: torch.optim.Optimizer, conditions: Mapping[str, str], folder: Path) -> int:
    """Sets everything to the checkpoint, and cuts the log to it. Returns the steps done, 0 without a checkpoint."""
    state = read_checkpoint(conditions, folder)
    if state is None:
        (folder / LOG).unlink(missing_ok=True)
        return 0
    learner.load(state["parameters"])
    optimizer.load_state_dict(state["optimizer"])
    step = int(state["step"])
    lines = (folder / LOG).read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / LOG).write_text("".join(lines[:step]), encoding="utf-8")
    return step


def read_checkpoint(conditions: Mapping[str, str], folder: Path) -> dict[str, Any] | None:
    """The folder's checkpoint, None where there is none. Raises RunChanged naming what it was trained under instead,
    UsageError for a damaged one."""
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    state = read_saved(path)  # on the CPU; what is loaded into parameters and optimizer goes to where these are
    before = state.get("conditions", {})
    changed = [key for key, value in conditions.items() if before.get(key) != value]
    if changed:
        raise RunChanged(f"{path}: trained under another {', '.join(changed)}; use another folder")
    return state
