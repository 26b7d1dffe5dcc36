"""RADS in one pass and in two: what the second pass costs, and how often both give the same label.

usage: python tests/benchmarks/rads_passes.py ARCHIVE.csv PACK [REPORTS]

ARCHIVE.csv has the columns findings and impression; PACK is a pack of native style. One pass asks for the system and,
over all systems' categories, for the category. Two passes ask for the category, over those of its system alone, when
the system is decided. One process, one thread, in turn.
"""

import sys
import time
from dataclasses import replace
from statistics import median

import polars as pl

from radlite_batch.engine.engine import Engine
from radlite_batch.engine.open import open_engine
from radlite_batch.pack import load_pack
from radlite_batch.records import Decide, Decided, Prompt, Report
from radlite_batch.tasks.base import Choice
from radlite_batch.tasks.rads_systems import SYSTEMS
from radlite_batch.tasks.registry import TASKS
from radlite_batch.tasks.render import render

ROUNDS = 5
RADS = TASKS["rads_assignment"]
CATEGORIES = RADS.questions[1].output
assert isinstance(CATEGORIES, Choice)
CODE = dict(zip(CATEGORIES.labels, CATEGORIES.codes, strict=True))
LEGAL = [[CODE[category.name] for category in system.categories] for system in SYSTEMS]


def probabilities(engine: Engine, prompts: list[Prompt]) -> list[tuple[float, ...]]:
    answers = engine.answer(prompts)
    return [answer.probabilities for answer in answers if isinstance(answer, Decided)]


def highest(of: tuple[float, ...]) -> int:
    return of.index(max(of))


def in_one(engine: Engine, systems: list[Prompt], categories: list[Prompt]) -> list[str]:
    found = probabilities(engine, [prompt for pair in zip(systems, categories, strict=True) for prompt in pair])
    labels = []
    for system, category in zip(found[::2], found[1::2], strict=True):
        legal = LEGAL[highest(system)] if highest(system) < len(SYSTEMS) else [""]
        of = dict(zip(CODE.values(), category, strict=True))
        labels.append(f"{highest(system)} {max(legal, key=lambda code: of.get(code, 0.0))}")
    return labels


def in_two(engine: Engine, systems: list[Prompt], categories: list[Prompt]) -> list[str]:
    labels = [str(highest(found)) for found in probabilities(engine, systems)]
    asked = [i for i, label in enumerate(labels) if int(label) < len(SYSTEMS)]
    second = [replace(categories[i], read=Decide(tuple(LEGAL[int(labels[i])]))) for i in asked]
    codes = dict(zip(asked, probabilities(engine, second), strict=True))
    return [f"{label} {LEGAL[int(label)][highest(codes[i])] if i in codes else ''}" for i, label in enumerate(labels)]


def main() -> None:
    archive, name, most = sys.argv[1], sys.argv[2], int((sys.argv[3:] or ["128"])[0])
    pack = load_pack(name)
    file, _ = pack.prepare(next(iter(pack.routes_of([RADS.name]))))
    engine = open_engine(file, threads=1)
    table = (
        pl.read_csv(archive, infer_schema=False)
        .select("findings", "impression")
        .drop_nulls()
        .unique(maintain_order=True)
    )
    texts = (f"FINDINGS: {findings}\nIMPRESSION: {impression}" for findings, impression in table.head(most).iter_rows())
    reports = [Report(i, str(i), text) for i, text in enumerate(texts)]
    prompts = [render(RADS, RADS.blocks(report) or (), pack.style) for report in reports]
    systems, categories = ([each[question] for each in prompts] for question in ("system", "category"))
    seconds: dict[str, list[float]] = {"one": [], "two": []}
    labels: dict[str, list[str]] = {}
    in_one(engine, systems[:8], categories[:8])
    for _ in range(ROUNDS):
        for passes, do in (("one", in_one), ("two", in_two)):
            begin = time.perf_counter()
            labels[passes] = do(engine, systems, categories)
            seconds[passes].append(time.perf_counter() - begin)
    ratios = [two / one for one, two in zip(seconds["one"], seconds["two"], strict=True)]
    same = sum(one == two for one, two in zip(labels["one"], labels["two"], strict=True))
    decided = sum(not label.startswith(f"{len(SYSTEMS)} ") for label in labels["one"])
    print(f"{len(reports)} reports, {decided} with a system; {same} labels the same")
    print(f"two passes take {median(ratios):.2f} x the time ({min(ratios):.2f} to {max(ratios):.2f}, {ROUNDS} rounds)")


if __name__ == "__main__":
    main()
