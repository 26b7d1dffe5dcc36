"""`fit`: a prepared mix and a recipe become an adapter with its cue rows.

OUT/checkpoint.pt, loss.jsonl   where a killed run goes on
OUT/best.pt                     the parameters with the best development score
OUT/development.jsonl           the score of each evaluation, by task
OUT/curve.png                   both as a picture, where matplotlib is installed
"""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch

from radlite_batch.engine.formats import file_sha256
from radlite_batch.engine.merge import read_adapter
from radlite_batch.errors import UsageError
from training import lora
from training.batches import Encoded, draws, encoded, weights
from training.begin import parameters_of
from training.curve import draw_curve
from training.datasets.base import drawn
from training.encode import Encoder, Row, open_encoder, pack
from training.export import conditions
from training.model import Learner, load_base, right
from training.prepare import prepared_sha256, read_prepared
from training.recipe import Recipe

BEST, DEVELOPMENT, CURVE = "best.pt", "development.jsonl", "curve.png"
OVER = "the development score no longer rises"
_DECISIVE = ("batch", "sources", "tasks", "seed", "dtype", "four_bit")


def fit(
    recipe: Recipe,
    prepared: Path,
    out: Path,
    processes: int,
    say: Callable[[str], None],
    begin_with: Path | None = None,
) -> None:
    """Trains to the recipe's end, or until the development score no longer rises; goes on from OUT's checkpoint, and
    does nothing where the score had ceased to rise.

    processes: of one thread each, on a CPU. begin_with: an exported adapter, which the first step begins with. Raises
    UsageError for data without a training sample, or an adapter that is not the recipe's, PackError for a base that is
    not, RunChanged for a checkpoint of another recipe, base, mix or begin_with."""
    base, sha256 = recipe.base_file()
    known = conditions(recipe, sha256) | _conditions(recipe, prepared, begin_with)
    begun = lora.read_checkpoint(lora.schedule_conditions(recipe.schedule) | known, out) is not None
    if begun and _is_over(_history(out), recipe):
        say(OVER)
        return
    torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    encoder = open_encoder(base)
    train = _encoded(prepared, "train", encoder, recipe, say)
    if not train:
        raise UsageError(f"{prepared}: no training sample of the recipe's sources")
    held = held_out(prepared, encoder, recipe, say)
    loaded = load_base(base, getattr(torch, recipe.dtype), recipe.four_bit)
    learner = Learner(loaded, recipe.lora, encoder.cue_words())
    if begin_with is not None:
        adapter = read_adapter(begin_with)
        adapter.check_base(base, sha256)
        learner.load(parameters_of(adapter, learner, recipe.lora))
    odds = weights([e.sample for e in train], recipe.sources, recipe.tasks)
    drawable, odds = [e for e, p in zip(train, odds, strict=True) if p > 0], odds[odds > 0]
    if not drawable:
        raise UsageError(f"recipe {recipe.name}: its weights leave no sample of {prepared} to draw")

    batch = recipe.batch.samples
    order = draws(odds, recipe.schedule.steps * batch, _draws_key(recipe, begin_with))

    def rows(step: int) -> list[Row]:
        chosen = order[step * batch : (step + 1) * batch]
        return pack([drawable[i].row for i in chosen], recipe.batch.row_tokens)

    if not begun:  # what is there is of a run that was killed before its first checkpoint, maybe of another
        for name in (DEVELOPMENT, BEST):
            (out / name).unlink(missing_ok=True)
    run = _Run(recipe, learner, held, out, known, say)
    if begin_with is not None and held and not _history(out):
        run.evaluate(0)  # what the run adds must show against what it began with
    run.train(rows, 0 if torch.cuda.is_available() else processes - 1)


def _conditions(recipe: Recipe, prepared: Path, begin_with: Path | None) -> dict[str, str]:
    """What the steps hang on beside the schedule and what the adapter's meaning hangs on."""
    named = {name: json.dumps(value, sort_keys=True) for name, value in asdict(recipe).items() if name in _DECISIVE}
    return named | {"mix": prepared_sha256(prepared), "begin_with": file_sha256(begin_with) if begin_with else ""}


def _draws_key(recipe: Recipe, begin_with: Path | None) -> tuple[int, ...]:
    """Another for each adapter to begin with: a round must not draw what the round before it drew."""
    return (recipe.seed, int(file_sha256(begin_with)[:8], 16)) if begin_with else (recipe.seed,)


@dataclass(frozen=True, slots=True)
class _Run:
    recipe: Recipe
    learner: Learner
    held: Sequence[Encoded]
    out: Path
    conditions: Mapping[str, str]
    say: Callable[[str], None]

    def train(self, rows: Callable[[int], list[Row]], helpers: int) -> None:
        begin, schedule, every = time.monotonic(), self.recipe.schedule, self.recipe.development.every
        for step in lora.fit(self.learner, rows, schedule, self.out, helpers, self.conditions, self.recipe.seed):
            if step.number % 50 == 0:
                self.say(f"step {step.number} of {schedule.steps}, loss {step.loss:.3f}, {_minutes(begin)} min")
            if self.held and (step.number % every == 0 or step.number == schedule.steps):
                history = self.evaluate(step.number)
                draw_curve(self.out / lora.LOG, history, self.out / CURVE)
                if _is_over(history, self.recipe):
                    self.say(OVER)
                    return
        if not self.held:
            self.save(schedule.steps)
            draw_curve(self.out / lora.LOG, [], self.out / CURVE)

    def evaluate(self, step: int) -> list[dict[str, Any]]:
        """Scores the parameters, and saves them where no earlier ones were better; returns all the evaluations."""
        scores = development_scores(self.learner, self.held, self.recipe.batch.row_tokens)
        history = _record(self.out, step, scores)
        self.say(f"step {step}: " + ", ".join(f"{task} {score:.3f}" for task, score in scores.items()))
        if _best(history)["step"] == step:
            self.save(step)
        return history

    def save(self, step: int) -> None:
        growing = (self.out / BEST).with_suffix(".growing")
        parameters = {name: p.detach() for name, p in self.learner.trainable().items()}
        torch.save({"step": step, "conditions": dict(self.conditions), "parameters": parameters}, growing)
        os.rename(growing, self.out / BEST)


def development_scores(learner: Learner, held: Sequence[Encoded], row_tokens: int) -> dict[str, float]:
    """By task, the share of questions with the right answer first: of decisions, of words to tag, of tokens of texts
    that the texts before them predict; and `mean` over the tasks."""
    hits: dict[str, list[float]] = {}
    order = sorted(held, key=lambda e: len(e.row))
    answers = [answer for row in pack([e.row for e in order], row_tokens) for answer in right(learner, row)]
    place = 0
    for e in order:
        for task, count in zip(e.tasks, e.row.counts, strict=True):
            hits.setdefault(task, []).extend(answers[place : place + count])
            place += count
    scores = {task: float(np.mean(of)) for task, of in sorted(hits.items()) if of}
    return scores | {"mean": float(np.mean(list(scores.values())))}


def _encoded(prepared: Path, split: str, encoder: Encoder, recipe: Recipe, say: Callable[[str], None]) -> list[Encoded]:
    samples = [s for s in read_prepared(prepared, split) if recipe.sources.get(s.source)]
    found = encoded(samples, encoder, recipe.style, recipe.batch.most_tokens)
    n_tokens, left_out = sum(len(e.row) for e in found), len(samples) - len(found)
    say(f"{split}: {len(found):,} samples, {n_tokens:,} tokens; {left_out} left out")
    return found


def held_out(prepared: Path, encoder: Encoder, recipe: Recipe, say: Callable[[str], None]) -> list[Encoded]:
    """What development scores are taken on, the same at every call: the recipe's number times that of the sources, by
    turns of each source and task, so that no task is left with few."""
    queues: dict[tuple[str, str], list[Encoded]] = {}
    every = _encoded(prepared, "dev", encoder, recipe, say)
    for e in sorted(every, key=lambda e: drawn(f"{e.sample.source} {e.sample.id}")):
        for task in dict.fromkeys(e.tasks):
            queues.setdefault((e.sample.source, task), []).append(e)
    most = recipe.development.samples * len({source for source, _ in queues})
    turns = chain.from_iterable(zip_longest(*queues.values()))
    chosen = {(e.sample.source, e.sample.id): e for e in turns if e is not None}
    return [*chosen.values()][:most]


def _history(out: Path) -> list[dict[str, Any]]:
    path = out / DEVELOPMENT
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _best(history: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The first of the evaluations with the highest mean."""
    return max(history, key=lambda point: float(point["mean"]))


def _is_over(history: Sequence[dict[str, Any]], recipe: Recipe) -> bool:
    """Whether so many evaluations have followed the best that the recipe's patience is at its end."""
    since = [point for point in history if point["step"] > _best(history)["step"]]
    return bool(history) and len(since) >= recipe.development.patience


def _record(out: Path, step: int, scores: dict[str, float]) -> list[dict[str, Any]]:
    """Adds an evaluation to the history, in place of any later one a killed run left; returns it."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / DEVELOPMENT
    history = [*(point for point in _history(out) if point["step"] < step), {"step": step, **scores}]
    growing = path.with_suffix(".growing")
    growing.write_text("".join(json.dumps(point) + "\n" for point in history), encoding="utf-8")
    os.rename(growing, path)
    return history


def _minutes(begin: float) -> int:
    return round((time.monotonic() - begin) / 60)
