"""Trains the built-in base on Open-i twice, with one trained token per question or with cues in words, and compares.

usage: python tests/benchmarks/cue_trial.py --data OPENI.csv --style token --out token.json
       python tests/benchmarks/cue_trial.py --data OPENI.csv --style words --out words.json
       python tests/benchmarks/cue_trial.py --compare token.json words.json

Both arms see the same reports in the same order. Nine findings and normal/abnormal are asked; an Open-i code says that
a finding is there, and its absence says only that it was not coded, so `positive` is trained and scored against the
other three states together. The JSON file holds the scores on unseen texts after every so many steps: on some of them
on the way, on all of them at the end, and then the answers to each text too. Of two such files --compare prints the
differences with the paired bootstrap's 95 % interval.
"""

import csv
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from radlite_batch.engine.base import Limits
from radlite_batch.engine.context import Weights
from radlite_batch.engine.llama import LlamaModel
from radlite_batch.errors import ArchiveError
from radlite_batch.pack import find_file, load_pack
from radlite_batch.records import Segment
from radlite_batch.tasks.base import Block
from radlite_batch.tasks.registry import TASKS, cue_names
from radlite_batch.tasks.render import PromptStyle
from training.encode import Asked, Encoder, Example, Row, ask, pack
from training.lora import fit, visits
from training.model import Learner, load_base, probabilities
from training.recipe import Lora, Schedule
from training.scoring import Score, Tally, accuracy, difference, flag_majority, flag_micro_f1, majority, score

TASK = TASKS["abnormality_detection"]
COLUMNS = {  # the data's columns that say what one of the task's labels says
    "cardiomegaly": ("cardiomegaly",),
    "lung_lesion": ("mass", "nodule"),
    "edema": ("edema",),
    "consolidation": ("consolidation",),
    "pneumonia": ("pneumonia",),
    "atelectasis": ("atelectasis",),
    "pneumothorax": ("pneumothorax",),
    "pleural_effusion": ("effusion",),
    "pleural_other": ("pleural_thickening",),
    "no_finding": ("normal",),
}
REST = ("negative", "uncertain", "absent")
ROW_TOKENS = 256
ON_THE_WAY = 100  # test texts of an evaluation before the last


@dataclass(frozen=True, slots=True)
class Coded:
    """A report's text and which of COLUMNS its codes name."""

    text: str
    flags: dict[str, bool]


def read(path: Path) -> list[Coded]:
    """The data's distinct texts, the first of each."""
    coded: dict[str, Coded] = {}
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            missing = {column for columns in COLUMNS.values() for column in columns} - row.keys()
            if missing:
                raise ArchiveError(f"{path}: no column {min(missing)!r}")
            text = "\n".join(f"{name.upper()}: {row[name]}" for name in ("findings", "impression") if row[name].strip())
            flags = {label: any(row[column] == "1" for column in columns) for label, columns in COLUMNS.items()}
            if text:
                coded.setdefault(text, Coded(text, flags))
    return list(coded.values())


def example(coded: Coded) -> Example:
    targets: dict[str, Any] = {label: "positive" if there else REST for label, there in coded.flags.items()}
    targets["no_finding"] = "positive" if coded.flags["no_finding"] else "absent"
    return Example(TASK, (Block("report", coded.text),), targets)


def in_words(asked: Asked) -> Asked:
    """The same question with its cue in words."""
    *shared, cue = asked.prompt.segments
    name = cue.text.partition(".")[2].replace("_", " ").capitalize()
    return replace(asked, prompt=replace(asked.prompt, segments=(*shared, Segment("words", f"\n{name}:"))))


def built_in() -> tuple[LlamaModel, Encoder, Learner, PromptStyle]:
    """The built-in base with an empty adapter, its tokens and its prompts."""
    pack = load_pack("smol")
    base = find_file(pack.models["smol"].base, pack.path.parent)
    model = LlamaModel(Weights(base), Limits(64, 64, 1), 1)
    encoder = Encoder(model, cue_names())
    learner = Learner(load_base(base, torch.bfloat16), Lora(), encoder.cue_words())
    return model, encoder, learner, PromptStyle("native", pack.style.markup)


class Arm:
    """A learner of one style, with its rows."""

    def __init__(self, style: str):
        self.words = style == "words"
        _, self._encoder, self.learner, self._style = built_in()

    def asked(self, coded: Coded) -> list[Asked]:
        asked = ask(example(coded), self._style)
        return [in_words(question) for question in asked] if self.words else asked

    def row(self, coded: Coded) -> Row:
        return self._encoder.row(self.asked(coded))

    def separate(self, coded: Coded) -> list[Row]:
        """A row for each question, the report in each."""
        return [self._encoder.row([question]) for question in self.asked(coded)]

    def answers(self, rows: Sequence[Row]) -> np.ndarray:
        """(texts, questions): whether `positive` is likelier than the rest."""
        found = [p[0] > 0.5 for row in pack(rows, ROW_TOKENS) for p in probabilities(self.learner, row)]
        return np.array(found).reshape(len(rows), len(COLUMNS))


def tallies(gold: np.ndarray, answers: np.ndarray) -> tuple[Tally, Tally]:
    """Micro-F1 of the findings and accuracy of normal/abnormal, of two arrays (texts, questions)."""
    normal, said = (_normal(flags) for flags in (gold, answers))
    return flag_micro_f1(_states(gold[:, :-1]), _states(answers[:, :-1])), accuracy(normal, said)


def scores(gold: np.ndarray, answers: np.ndarray) -> list[Score]:
    f1, right = tallies(gold, answers)
    states, normal = _states(gold[:, :-1]), _normal(gold)
    return [
        score("findings", "micro_f1", f1, flag_micro_f1(states, flag_majority(states))),
        score("normal", "accuracy", right, accuracy(normal, majority(normal))),
    ]


def compare(context: click.Context, option: click.Parameter, paths: tuple[Path, Path] | None) -> None:
    """Prints the scores of the first result less those of the second, and ends."""
    if not paths:
        return
    one, other = (json.loads(path.read_text(encoding="utf-8")) for path in paths)
    if one.get("gold") != other.get("gold") or "gold" not in one:
        raise click.UsageError("the two results are not finished, or not of the same texts")
    pairs = (tallies(np.array(of["gold"]), np.array(of["answers"])) for of in (one, other))
    for name, first, second in zip(("findings micro_f1", "normal accuracy"), *pairs, strict=True):
        d = difference(name, "", "", first, second)
        print(f"{name}: {d.value:.3f} less {d.other:.3f} is {d.difference:+.3f} [{d.low:+.3f}, {d.high:+.3f}], n {d.n}")
    context.exit()


def _normal(flags: np.ndarray) -> list[str]:
    return [row[0] for row in _states(flags[:, -1:])]


def _states(flags: np.ndarray) -> list[list[str]]:
    return [["positive" if flag else "absent" for flag in row] for row in flags]


def speed(arm: Arm, train: Sequence[Coded]) -> None:
    """Prints tokens and reports per second of forward and backward passes, packed and with a row per question."""
    shared = [arm.row(coded) for coded in train[:16]]
    alone = [row for coded in train[:4] for row in arm.separate(coded)]
    arm.learner.loss(shared[0]).backward()  # the first pass allocates
    for name, rows, n_reports in (("packed", shared, 16), ("a row per question", alone, 4)):
        begin = time.perf_counter()
        for row in pack(rows, ROW_TOKENS):
            arm.learner.loss(row).backward()
        seconds = time.perf_counter() - begin
        n_tokens = sum(map(len, rows))
        print(
            f"{name}: {n_tokens / n_reports:.0f} tokens a report, {n_tokens / seconds:.0f} tokens/s, "
            f"{n_reports / seconds:.2f} reports/s"
        )


def write(path: Path, document: dict[str, Any]) -> None:
    growing = path.with_suffix(f".{os.getpid()}")
    growing.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    os.rename(growing, path)


@click.command(help=__doc__)
@click.option("--data", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True)
@click.option("--style", type=click.Choice(["token", "words"]), required=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="the curve; its checkpoint lies beside it")
@click.option("--steps", default=275, show_default=True)
@click.option("--batch", default=16, show_default=True, help="reports a step")
@click.option("--cue-factor", default=1.0, show_default=True, help="how many times faster the cue rows learn")
@click.option("--minutes", default=40.0, show_default=True, help="stop training after this long, at whatever step")
@click.option("--every", default=50, show_default=True, help="steps between evaluations")
@click.option("--test", "n_test", default=400, show_default=True, help="texts that are never trained on")
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option(
    "--compare",
    nargs=2,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=compare,
    help="two results, and nothing else",
)
def main(
    data: Path, style: str, out: Path | None, steps: int, batch: int, cue_factor: float, minutes: float,
    every: int, n_test: int, seed: int, threads: int,
) -> None:  # fmt: skip
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    coded = read(data)
    order = np.random.default_rng(seed).permutation(len(coded))
    test, train = [coded[i] for i in order[:n_test]], [coded[i] for i in order[n_test:]]
    arm = Arm(style)
    if out is None:
        speed(arm, train)
        return
    train_rows, test_rows = [arm.row(c) for c in train], [arm.row(c) for c in test]
    curve: list[dict[str, Any]] = json.loads(out.read_text(encoding="utf-8"))["curve"] if out.exists() else []
    setting = {"style": style, "steps": steps, "batch": batch, "cue_factor": cue_factor, "seed": seed}
    document = {**setting, "n_train": len(train), "curve": curve}
    begin = time.monotonic()

    def rows(step: int) -> list[Row]:
        return pack([train_rows[i] for i in visits(len(train), batch, step, seed)], ROW_TOKENS)

    for step in fit(arm.learner, rows, Schedule(steps, cue_factor=cue_factor, save_every=10), out.with_suffix("")):
        spent = (time.monotonic() - begin) / 60
        last = step.number == steps or spent > minutes
        if last or step.number % every == 0:
            n = n_test if last else min(n_test, ON_THE_WAY)
            gold, answers = np.array([[*c.flags.values()] for c in test[:n]]), arm.answers(test_rows[:n])
            found = {s.task: asdict(s) for s in scores(gold, answers)}
            point = {"step": step.number, "visits": step.number * batch, "minutes": round(spent, 1), **found}
            # A run that goes on from its checkpoint comes by here again.
            curve[:] = [*(before for before in curve if before["step"] < step.number), point]
            if last:
                document |= {"gold": gold.tolist(), "answers": answers.tolist()}
            write(out, document)
            print(json.dumps(point), flush=True)
        if last:
            break


if __name__ == "__main__":
    main()
