"""What a run will do: files, shards, models, and the split of the machine into processes and threads, with reasons."""

import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from radlite_batch import machine
from radlite_batch.archive import ArchiveReader, SurveyedFile, discover, plan_shards, survey
from radlite_batch.engine.formats import Prepared, file_sha256
from radlite_batch.engine.open import ModelFile, open_engine
from radlite_batch.executor import Placement
from radlite_batch.job import Job, Workers
from radlite_batch.pack import Pack, load_pack
from radlite_batch.records import Shard
from radlite_batch.results.manifest import Manifest, read_manifest, refuse_changes
from radlite_batch.results.schemas import SCHEMA_VERSION
from radlite_batch.tasks.registry import tasks_named
from radlite_batch.tasks.render import fingerprint
from radlite_batch.worker import Setting, answer_reports

REPORTS_IN_HAND = 128
_FILES_SHOWN = 8
_PYTHON_BYTES = 200 << 20  # what a worker holds beside model, KV and buffers
_BUFFER_BYTES = 100 << 20  # compute and output buffers of a context, as seen on models of this size


@dataclass(frozen=True, slots=True)
class Plan:
    """A checked job with everything it needs in place.

    why: a line for each decision, for people. old: the manifest of the run that this one continues."""

    job: Job
    pack: Pack
    manifest: Manifest
    setting: Setting
    placement: Placement
    prepared: dict[str, Prepared | None]
    why: tuple[str, ...]
    old: Manifest | None


def make_plan(job: Job, say: Callable[[str], None] = lambda line: None) -> Plan:
    """Checks the job against pack, archive and output; writes nothing to the output.

    Raises JobError, PackError, ArchiveError or RunChanged."""
    pack = load_pack(job.pack)
    tasks = tasks_named(job.tasks)
    names = tuple(task.name for task in tasks)
    routes = pack.routes_of(names)
    # What is cheap to check comes before the models, which may take half a minute the first time.
    found = discover(job.archive.paths)
    needs_text = any(task.uses_text for task in tasks)
    old = read_manifest(job.output.path)
    files, shards = _files(job, found, needs_text, old)
    ready = {model: pack.prepare(model, say) for model in routes}
    models = {model: file for model, (file, _) in ready.items()}
    prompts = fingerprint(tasks, pack.style)
    identity = _identity(job, pack, models, prompts)
    if old is not None:
        refuse_changes(job.output.path, old, identity, {str(path): file_sha256(path) for path in found})
    manifest = Manifest(identity, files, shards, routes)
    placement, threads, why = place(job.workers, models)
    in_hand = job.workers.reports_in_hand or REPORTS_IN_HAND
    split = f"{placement.processes} processes x {threads} threads x {in_hand} reports in hand"
    setting = Setting(
        job.output.path, job.archive, pack.style, models, pack.calibration,
        {model: _metadata(pack, file, prompts, split) for model, file in models.items()},
        needs_text, threads, in_hand, job.limits.overlong,
    )  # fmt: skip
    return Plan(job, pack, manifest, setting, placement, {m: p for m, (_, p) in ready.items()}, why, old)


def _files(
    job: Job, found: list[Path], needs_text: bool, old: Manifest | None
) -> tuple[tuple[SurveyedFile, ...], tuple[Shard, ...]]:
    """Planned files and shards: the old plan's as they are, then those of files that were added since."""
    known = {file.path for file in old.files} if old else set()
    size, most = job.output.shard_rows, job.limits.max_rows
    files: list[SurveyedFile] = list(old.files) if old else []
    shards = list(old.shards) if old else []
    for path in found:
        rows = sum(file.rows for file in files)
        if str(path) in known or (most is not None and rows >= most):
            continue
        file = survey(path, job.archive, needs_text, size, None if most is None else most - rows)
        shards += plan_shards([file], size, len(shards), rows)
        files.append(file)
    return tuple(files), tuple(shards)


def _identity(job: Job, pack: Pack, models: Mapping[str, ModelFile], prompts: Mapping[str, str]) -> dict[str, Any]:
    spec = asdict(job.archive)
    del spec["paths"]  # the files themselves are compared, by checksum
    return {
        "schema": SCHEMA_VERSION,
        "version": version("radlite-batch"),
        "archive": spec,
        "shard_rows": job.output.shard_rows,
        "max_rows": job.limits.max_rows,
        "overlong": job.limits.overlong,
        "pack": pack.name,
        "prompts": dict(prompts),
        "calibration": dict(pack.calibration),
        "models": {
            name: {"sha256": m.sha256, "adapter": m.adapter_sha256, "scale": m.scale, "context": m.context}
            for name, m in models.items()
        },
    }


def _metadata(pack: Pack, model: ModelFile, prompts: Mapping[str, str], split: str) -> dict[str, str]:
    return {
        "radlite.schema_version": SCHEMA_VERSION,
        "radlite.version": version("radlite-batch"),
        "radlite.pack": pack.name,
        "radlite.model": model.name,
        "radlite.model_sha256": model.sha256,
        "radlite.adapter_sha256": model.adapter_sha256,
        "radlite.prompt_sha256": " ".join(f"{task}={print_}" for task, print_ in prompts.items()),
        "radlite.plan": split,
    }


def place(workers: Workers, models: Mapping[str, ModelFile]) -> tuple[Placement, int, tuple[str, ...]]:
    """Splits the cores: (core sets, threads per process, reasons)."""
    cores = machine.cores()
    threads = min(workers.threads or 1, len(cores))
    why = [f"{threads} thread(s) per process: " + ("as the job says" if workers.threads else (
        "processes share the weights and never wait for each other, threads do"))]  # fmt: skip
    most = len(cores) // threads
    weights = sum(m.path.stat().st_size for m in models.values() if m.path)
    # 128 KiB of keys and values a token is above every model up to 4B parameters with grouped heads.
    worker = _PYTHON_BYTES + max(_BUFFER_BYTES + m.context * (128 << 10 if m.path else 0) for m in models.values())
    free = machine.memory_available()
    fit = max(1, (free - weights) // worker)
    processes = workers.processes or min(most, fit)
    reason = (
        f"{len(cores)} cores, {free >> 20} MiB free, one copy of {weights >> 20} MiB, at most {worker >> 20} MiB each"
    )
    why.append(f"{processes} process(es): " + ("as the job says" if workers.processes else reason))
    core_sets = tuple(tuple(cores[(i * threads + t) % len(cores)] for t in range(threads)) for i in range(processes))
    why.append("cores: " + ", ".join("+".join(map(str, core_set)) for core_set in core_sets))
    return Placement(core_sets), threads, tuple(why)


def describe(plan: Plan) -> list[str]:
    """The plan in lines for a person."""
    manifest = plan.manifest
    lines = [f"output    {plan.job.output.path}" + (" (goes on)" if plan.old else "")]
    lines += [f"archive   {file.path}: {file.rows} rows" for file in manifest.files[:_FILES_SHOWN]]
    if len(manifest.files) > _FILES_SHOWN:
        lines.append(f"archive   and {len(manifest.files) - _FILES_SHOWN} more files: {manifest.rows} rows in all")
    lines.append(f"shards    {len(manifest.shards)} of at most {plan.job.output.shard_rows} rows")
    for model, tasks in manifest.routes.items():
        prepared = plan.prepared[model]
        form = f" ({prepared.form})" if prepared else ""
        lines.append(f"model     {model}{form}: {', '.join(tasks)}")
    lines += [f"workers   {line}" for line in plan.why]
    lines.append(f"in hand   {plan.setting.reports_in_hand} reports a process")
    return lines


def estimate(plan: Plan, reports: int = 24) -> tuple[float, float]:
    """(reports per hour, seconds for the whole run), by answering the first reports in this process."""
    done, seconds = 0, 0.0
    for item in plan.manifest.items[: len(plan.manifest.routes)]:
        chosen = list(itertools.islice(ArchiveReader(plan.job.archive).reports(item.shard), reports))
        engine = open_engine(plan.setting.models[item.model], plan.setting.threads)
        begin = time.perf_counter()
        answer_reports(engine, plan.setting, item.tasks, chosen, {})
        seconds += time.perf_counter() - begin
        done = len(chosen)
        engine.close()
    rate = done / seconds * plan.placement.processes if seconds else 0.0
    return rate * 3600, plan.manifest.rows / rate if rate else 0.0
