"""Trains the built-in base to mark entities, as tags over the echoed report and as text that is then found in it.

usage: python tests/benchmarks/spans_trial.py --data NEGEX_FOLDER --out spans.json

Both arms see the same sentences in the same order, for as many steps, from the same seed. NegEx marks one concept of a
sentence, so here that concept is all there is to mark, in both arms. Unseen sentences are tagged by the most probable
legal sequence of tags, and written to greedily; the written terms are aligned to the sentence as the pack does it. The
JSON file holds exact and relaxed span F1 of each arm and their paired differences, with n and 95 % intervals.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from cue_trial import ROW_TOKENS, built_in, write

from radlite_batch.errors import Unparsed
from radlite_batch.records import Generate, Tagged, Written
from radlite_batch.tasks.base import Block
from radlite_batch.tasks.radiology_ner import RadiologyNer
from radlite_batch.tasks.spans import Span
from training.datasets import negex
from training.datasets.base import Sample
from training.encode import Asked, Example, Row, Want, ask, pack
from training.lora import fit, visits
from training.model import probabilities
from training.recipe import Schedule
from training.scoring import difference, score, span_f1

TASK = RadiologyNer()
QUESTION = TASK.questions[0].name
STYLES = ("tags", "text")
MOST_WRITTEN = 64  # tokens; three lists with one concept need fewer


def spans(sample: Sample) -> list[Span]:
    return [(start, end, label) for start, end, label in sample.targets[TASK.name][QUESTION]]


class Arm:
    """A learner of one style, with its rows and its answers."""

    def __init__(self, style: str):
        self.style = style
        self._model, self._encoder, self.learner, self._prompts = built_in()

    def row(self, sample: Sample) -> Row:
        blocks = (Block("report", sample.text),)
        (asked,) = ask(Example(TASK, blocks, {QUESTION: spans(sample)}), self._prompts)
        return self._encoder.row([asked if self.style == "tags" else self._written(asked, sample)])

    def _written(self, asked: Asked, sample: Sample) -> Asked:
        """The same question, its answer the lists of terms that a pack would write after the cue."""
        columns = [
            {"text": sample.text[start:end], "label": label, "start": start, "end": end}
            for start, end, label in spans(sample)
        ]
        *before, _ = asked.prompt.segments  # the report to echo
        prompt = replace(asked.prompt, segments=tuple(before), read=Generate(TASK.output.max_tokens))
        return Asked(prompt, (TASK.answer({TASK.column: columns}),))

    def found(self, samples: Sequence[Sample], rows: Sequence[Row]) -> list[list[Span]]:
        return [self._found(sample, row) for sample, row in zip(samples, rows, strict=True)]

    def _found(self, sample: Sample, row: Row) -> list[Span]:
        blocks = (Block("report", sample.text),)
        answer: Tagged | Written
        if self.style == "tags":
            answer = Tagged(tuple(map(tuple, probabilities(self.learner, row))))
        else:
            answer = Written(self._write(row.tokens[: row.wants[0].place + 1]), False)
        try:
            marked = TASK.predict({QUESTION: answer}, blocks).values[TASK.column]
        except Unparsed:
            return []
        return [(span["start"], span["end"], span["label"]) for span in marked]

    def _write(self, tokens: np.ndarray) -> str:
        """What comes after these tokens, the likeliest each time; nothing is kept between tokens, which is slow."""
        written: list[int] = []
        while len(written) < MOST_WRITTEN:
            n = len(tokens)
            row = Row(tokens, np.arange(n), np.zeros(n, int), np.array([-1]), (Want(n - 1, None, (0,)),))
            with torch.inference_mode():
                token = int(self.learner.scores(row)[0].values.argmax())
            if self._model.ends(token):
                break
            written.append(token)
            tokens = np.append(tokens, token)
        return b"".join(map(self._model.piece, written)).decode("utf-8", "replace")


def trained(style: str, train: Sequence[Sample], folder: Path, steps: int, batch: int, seed: int) -> Arm:
    torch.manual_seed(seed)
    arm = Arm(style)

    def drawn(step: int) -> list[Row]:
        return pack([arm.row(train[i]) for i in visits(len(train), batch, step, seed)], ROW_TOKENS)

    for step in fit(arm.learner, drawn, Schedule(steps), folder):
        if step.number % 10 == 0:
            print(f"{style}: step {step.number} of {steps}, loss {step.loss:.3f}", flush=True)
    return arm


def document(gold: Sequence[Sequence[Span]], found: dict[str, list[list[Span]]]) -> dict[str, Any]:
    """The scores of both arms, and the first less the second."""
    metrics = {"exact_f1": False, "relaxed_f1": True}
    tallies = {(s, m): span_f1(gold, found[s], relaxed) for s in STYLES for m, relaxed in metrics.items()}
    return {
        "scores": [asdict(score(style, metric, tally)) for (style, metric), tally in tallies.items()],
        "differences": [asdict(difference("tags less text", m, "", *(tallies[s, m] for s in STYLES))) for m in metrics],
    }


@click.command(help=__doc__)
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="checkpoints lie beside it")
@click.option("--steps", default=150, show_default=True)
@click.option("--batch", default=16, show_default=True, help="sentences a step")
@click.option("--test", "n_test", default=200, show_default=True, help="sentences that are never trained on")
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", default=1, show_default=True)
def main(data: Path, out: Path, steps: int, batch: int, n_test: int, seed: int, threads: int) -> None:
    torch.set_num_threads(threads)
    samples = list({sample.group: sample for sample in negex.read(data)}.values())  # a sentence once
    order = np.random.default_rng(seed).permutation(len(samples))
    test, train = [samples[i] for i in order[:n_test]], [samples[i] for i in order[n_test:]]
    found = {}
    for style in STYLES:
        arm = trained(style, train, out.with_suffix(f".{style}"), steps, batch, seed)
        found[style] = arm.found(test, [arm.row(sample) for sample in test])
    result = document([spans(sample) for sample in test], found)
    for row in result["scores"]:
        print(f"{row['task']} {row['metric']}: {row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}], n {row['n']}")
    for row in result["differences"]:
        print(f"{row['task']} {row['metric']}: {row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]")
    write(out, {"steps": steps, "batch": batch, "seed": seed, "n_train": len(train), **result})


if __name__ == "__main__":
    main()
