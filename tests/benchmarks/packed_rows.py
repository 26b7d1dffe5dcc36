"""A training step over reports with all their questions in one row, beside a row for every question.

usage: python tests/benchmarks/packed_rows.py PREPARED [REPORTS]

PREPARED is what `radlite-train prepare smol` wrote. Both do the same forward and backward passes over the same
questions on one thread, in turn; printed are the tokens each computes, and the ratio of their times.
"""

import sys
import time
from pathlib import Path
from statistics import median

import torch

from radlite_batch.tasks.registry import TASKS
from training.batches import encoded
from training.datasets.base import drawn
from training.encode import Asked, Encoder, Example, Row, ask, open_encoder, pack
from training.model import Learner, load_base
from training.prepare import read_prepared
from training.recipe import load_recipe

ROUNDS = 5


def questions(prepared: Path, encoder: Encoder, n: int) -> list[list[Asked]]:
    """Of n reports with 17 questions or more, in an order that does not change."""
    recipe = load_recipe("smol")
    samples = sorted(read_prepared(prepared, "train"), key=lambda sample: drawn(sample.id))
    chosen = [e for e in encoded(samples[: 40 * n], encoder, recipe.style, 512) if len(e.tasks) > 16][:n]
    found = []
    for e in chosen:
        asked: list[Asked] = []
        for name, targets in e.sample.targets.items():
            if blocks := e.sample.blocks(name):
                asked += ask(Example(TASKS[name], blocks, dict(targets)), recipe.style)
        found.append(asked)
    return found


def seconds(learner: Learner, rows: list[Row]) -> float:
    begin = time.perf_counter()
    for row in rows:
        learner.loss(row).backward()
    return time.perf_counter() - begin


def main(prepared: Path, n: int) -> None:
    torch.set_num_threads(1)
    recipe = load_recipe("smol")
    base, _ = recipe.base_file()
    encoder = open_encoder(base)
    learner = Learner(load_base(base, torch.bfloat16), recipe.lora, encoder.cue_words())
    asked = questions(prepared, encoder, n)
    together = pack([encoder.row(of_report) for of_report in asked], recipe.batch.row_tokens)
    apart = pack([encoder.row([one]) for of_report in asked for one in of_report], recipe.batch.row_tokens)
    times = [(seconds(learner, together), seconds(learner, apart)) for _ in range(ROUNDS)]
    ratios = sorted(two / one for one, two in times)
    tokens = [sum(map(len, rows)) for rows in (together, apart)]
    print(f"{len(asked)} reports, {sum(map(len, asked))} questions")
    print(f"one row a report    {tokens[0]:>7,} tokens, {median(t[0] for t in times):6.1f} s")
    print(f"one row a question  {tokens[1]:>7,} tokens, {median(t[1] for t in times):6.1f} s")
    print(f"ratio of times {median(ratios):.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f}, {ROUNDS} rounds)")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 12)
