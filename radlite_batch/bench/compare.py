"""The benchmark: this engine and its peers in turn, on the same reports, the same model file and the same cores."""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from radlite_batch import machine
from radlite_batch.archive import ArchiveSpec
from radlite_batch.bench import figures, loop, ours, peers, picture, server
from radlite_batch.bench.figures import Result, System
from radlite_batch.bench.peers import Measure, Work
from radlite_batch.bench.sample import read_sample, write_sample
from radlite_batch.bench.server import ServerSettings
from radlite_batch.engine.base import Limits
from radlite_batch.engine.formats import Prepared
from radlite_batch.engine.open import ModelFile
from radlite_batch.engine.speed import prompt_speed
from radlite_batch.engine.tokens import Tokeniser
from radlite_batch.engine.trie import sort_paths
from radlite_batch.errors import UsageError, did_you_mean
from radlite_batch.job import Workers
from radlite_batch.pack import Pack, load_pack
from radlite_batch.placement import cores_of, place
from radlite_batch.plan import REPORTS_IN_HAND
from radlite_batch.records import Report
from radlite_batch.results.summary import host
from radlite_batch.tasks.base import Task
from radlite_batch.tasks.registry import tasks_named
from radlite_batch.tasks.render import render

ENGINE, LOOP, SERVER, LEAN = SYSTEMS = ("engine", "loop", "server", "server_lean")
ABOUT = {
    ENGINE: "this engine, from the archive to Parquet",
    LOOP: "llama_cpp.Llama, one instruction-first prompt after another, written answers",
    SERVER: "llama-server, concurrent instruction-first prompts, written answers",
    LEAN: "llama-server, the pack's own prompts as one-token requests, the report kept in its slot",
}
_WARM_UP = 4  # reports
_KERNEL_BATCHES = (256, 512)  # tokens; the faster one is the bound
_KERNEL_SECONDS = 3.0  # for each batch size, every round

MeasureFirst = Callable[[int], Measure]  # how a system does on the first reports of the sample, in one round


@dataclass(frozen=True, slots=True)
class _Ground:
    """What all systems have in common."""

    folder: Path
    sample: ArchiveSpec
    reports: list[Report]
    tasks: tuple[Task, ...]
    pack: Pack
    file: ModelFile
    path: Path
    prepared: Prepared
    tokeniser: Tokeniser
    core_sets: tuple[tuple[int, ...], ...]


def bench(
    spec: ArchiveSpec,
    tasks: Sequence[str],
    pack: str,
    out: Path,
    *,
    reports: int = 256,
    rounds: int = 5,
    loop_reports: int = 16,
    program: Path | None = None,
    slots: int = server.SLOTS,
    servers: int | None = None,
    systems: Sequence[str] = SYSTEMS,
    say: Callable[[str], None] = lambda line: None,
) -> Result:
    """Compares the systems over `reports` distinct reports; writes bench.json, bench.txt and bench.png into `out`.

    program: llama-server; without it the two systems on it are left out. slots: of each of its processes. servers:
    how many of them share the cores; as many as the engine has workers, where it is not said. loop_reports: the plain
    loop, whose speed does not hang on the number, answers so many, evenly spaced. Raises RadliteError."""
    for name in systems:
        if name not in SYSTEMS:
            raise UsageError(f"unknown system {name!r}{did_you_mean(name, SYSTEMS)}")
    if ENGINE not in systems or min(reports, rounds, loop_reports, slots) < 1:
        raise UsageError("a benchmark needs this engine, and at least one report, round, loop report and slot")
    if program is not None and not program.is_file():
        raise UsageError(f"{program}: no such program")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="radlite-bench-")))
        ground = _ground(spec, tasks_named(tasks), load_pack(pack), folder, reports, stack, say)
        served = ServerSettings(slots, _split(ground.core_sets, servers or len(ground.core_sets)))
        measures = _measures(ground, loop_reports, program, served)
        left_out = _left_out(ground, program)
        chosen = {name: measures[name] for name in SYSTEMS if name in systems and name not in left_out}
        result = _result(ground, {name: why for name, why in left_out.items() if name in systems})
        settings = _settings(ground, loop_reports, program, served)
        result.systems = {name: System(name, ABOUT[name], settings[name]) for name in chosen}
        _run_rounds(result, chosen, ground, rounds, say)
    out.mkdir(parents=True, exist_ok=True)
    figures.write(result, ENGINE, out)
    if picture.can_draw():
        picture.draw(result, ENGINE, out / "bench.png")
    else:
        say("no bench.png: matplotlib is not installed")
    return result


def _ground(
    spec: ArchiveSpec,
    tasks: tuple[Task, ...],
    pack: Pack,
    folder: Path,
    reports: int,
    stack: ExitStack,
    say: Callable[[str], None],
) -> _Ground:
    """The sample, and the one model that all systems run. Raises UsageError where they could not run the same one."""
    names = [task.name for task in tasks]
    models = list(pack.routes_of(names))
    if len(models) > 1:
        raise UsageError(f"pack {pack.name} answers these tasks with {len(models)} models; choose tasks of one")
    file, prepared = pack.prepare(models[0], say)
    if file.path is None or prepared is None:
        raise UsageError(f"pack {pack.name} has no weights that the peers could run")
    if file.adapter is not None:
        raise UsageError(f"pack {pack.name} adds an adapter at run time; the peers run the model file as it is")
    from radlite_batch.engine.context import Weights
    from radlite_batch.engine.llama import LlamaModel

    sample = write_sample(spec, reports, folder / "sample.parquet")
    weights = Weights(file.path)
    model = LlamaModel(weights, Limits(n_batch=64, n_cells=64, n_seqs=1), threads=1)
    stack.callback(weights.close)
    stack.callback(model.close)
    placed = place(Workers(), {file.name: file}, pack.writing(names), say)
    return _Ground(
        folder, sample, read_sample(sample), tasks, pack, file, file.path, prepared,
        Tokeniser(model, file.cue_names), cores_of(placed),
    )  # fmt: skip


def _split(core_sets: tuple[tuple[int, ...], ...], parts: int) -> tuple[tuple[int, ...], ...]:
    """The same cores in so many sets."""
    cores = [core for core_set in core_sets for core in core_set]
    if len(cores) % parts:
        raise UsageError(f"{len(cores)} cores cannot be shared evenly by {parts} servers")
    size = len(cores) // parts
    return tuple(tuple(cores[i * size : (i + 1) * size]) for i in range(parts))


def _measures(
    ground: _Ground, loop_reports: int, program: Path | None, served: ServerSettings
) -> dict[str, MeasureFirst]:
    """How to measure each system on the first n reports."""
    cores = tuple(machine.cores())

    @cache
    def instruct(n: int, most: int) -> Work:
        chosen = ground.reports[:n][:: max(1, -(-n // most))]
        return _fitting(peers.instruct_work(chosen, ground.tasks, ground.pack.style.markup, ground.tokeniser), ground)

    @cache
    def lean(n: int) -> Work:
        return _fitting(peers.lean_work(ground.reports[:n], ground.tasks, ground.pack.style, ground.tokeniser), ground)

    def on_server(work: Work) -> Measure:
        assert program is not None
        return server.measure(program, ground.path, work, served, ground.folder)

    names = tuple(task.name for task in ground.tasks)
    return {
        ENGINE: lambda n: ours.measure(
            ground.sample, n, names, str(ground.pack.path), len(ground.core_sets), ground.folder
        ),
        LOOP: lambda n: loop.measure(ground.path, instruct(n, loop_reports), cores),
        SERVER: lambda n: on_server(instruct(n, n)),
        LEAN: lambda n: on_server(lean(n)),
    }


def _fitting(work: Work, ground: _Ground) -> Work:
    if work.cells > ground.file.context:
        raise UsageError(
            f"a prompt takes {work.cells} tokens, the model has {ground.file.context}; use shorter reports"
        )
    return work


def _left_out(ground: _Ground, program: Path | None) -> dict[str, str]:
    """The systems that cannot run here, and why."""
    if program is None:
        return dict.fromkeys((SERVER, LEAN), "no llama-server was given")
    if ground.pack.style.name == "own":
        return {LEAN: "the pack's own prompts are written answers, which no request of one token can give"}
    return {}


def _settings(
    ground: _Ground, loop_reports: int, program: Path | None, served: ServerSettings
) -> dict[str, dict[str, Any]]:
    """How each system is run, for whoever reads the results."""
    split = {"processes": len(ground.core_sets), "threads": len(ground.core_sets[0])}
    cores = served.core_sets
    shape = {"processes": len(cores), "threads": len(cores[0]), "slots": served.slots, "flags": served.flags}
    program_version = {"version": server.version_of(program)} if program else {}
    return {
        ENGINE: split | {"reports_in_hand": REPORTS_IN_HAND},
        LOOP: {"processes": 1, "threads": len(machine.cores()), "reports": loop_reports, "order": "task by task"},
        SERVER: shape | program_version | {"order": "task by task, a stretch for each slot"},
        LEAN: shape | program_version | {"order": "report by report, the closed questions of one in one request"},
    }


def _result(ground: _Ground, left_out: dict[str, str]) -> Result:
    """The frame of a result: what is compared on what, without measures."""
    prompts = [
        ground.tokeniser.prompt(prompt)
        for report in ground.reports
        for task in ground.tasks
        if (blocks := task.blocks(report))
        for prompt in render(task, blocks, ground.pack.style).values()
    ]
    paths, _ = sort_paths([np.array(prompt, dtype=np.int32) for prompt in prompts])
    return Result(
        machine=host() | {"llama-cpp-python": version("llama-cpp-python")},
        pack=ground.pack.name,
        model={"name": ground.file.name, "sha256": ground.file.sha256, "form": ground.prepared.form},
        tasks=tuple(task.name for task in ground.tasks),
        reports=len(ground.reports),
        core_sets=ground.core_sets,
        unique_tokens=paths.unique_tokens,
        systems={},
        left_out=left_out,
    )


def _run_rounds(
    result: Result, measures: dict[str, MeasureFirst], ground: _Ground, rounds: int, say: Callable[[str], None]
) -> None:
    """All systems in turn, in an order that rotates, and llama.cpp's own speed beside them."""
    for name, measure_first in measures.items():
        say(f"warm-up: {name}")
        measure_first(min(_WARM_UP, result.reports))
    names = list(measures)
    for number in range(rounds):
        speeds = {size: prompt_speed(ground.path, ground.core_sets, size, _KERNEL_SECONDS) for size in _KERNEL_BATCHES}
        result.kernel.append(speeds)
        first = number % len(names)
        for name in names[first:] + names[:first]:
            measure = measures[name](result.reports)
            result.systems[name].measures.append(measure)
            say(f"round {number + 1} of {rounds}: {name} {measure.rate:,.0f} reports/hour")
