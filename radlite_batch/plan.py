"""What a run will do: files, shards, models, and the split of the machine into processes and threads, with reasons."""

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from radlite_batch import machine
from radlite_batch.archive import ArchiveReader, ArchiveSpec, Filter, SurveyedFile, discover, plan_shards, survey
from radlite_batch.engine.formats import Prepared, file_sha256
from radlite_batch.engine.open import ModelFile, open_engine
from radlite_batch.errors import ArchiveError, UsageError
from radlite_batch.executor import Placement
from radlite_batch.job import Job, Output, RunLimits, Workers
from radlite_batch.pack import Pack, load_pack
from radlite_batch.placement import Placed, place
from radlite_batch.records import Report, Shard
from radlite_batch.results.manifest import Manifest, read_manifest, refuse_changes
from radlite_batch.results.mirror import refresh
from radlite_batch.results.schemas import SCHEMA_VERSION
from radlite_batch.storage import shown, use_endpoint
from radlite_batch.tasks.registry import TASKS, tasks_named
from radlite_batch.tasks.render import fingerprint
from radlite_batch.worker import Setting, answer_reports

REPORTS_IN_HAND = 128
_FILES_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Plan:
    """A checked job with everything it needs in place.

    why: a line for each decision, for people. old: the manifest of the run that this one continues. stamps: of each of
    the archive's files, where it lies here, its size and the time of its last change."""

    job: Job
    pack: Pack
    manifest: Manifest
    setting: Setting
    placement: Placement
    prepared: dict[str, Prepared | None]
    why: tuple[str, ...]
    old: Manifest | None
    stamps: Mapping[str, tuple[Path, int, int]]

    def is_unchanged(self, file: str) -> bool:
        """Whether this file of the archive is as it was when the plan was made."""
        path, *stamp = self.stamps[file]
        try:
            return _stamp(path) == tuple(stamp)
        except ArchiveError:
            return False


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise ArchiveError(f"{path}: {error.strerror}") from None
    return status.st_size, status.st_mtime_ns


def make_plan(job: Job, say: Callable[[str], None] = lambda line: None) -> Plan:
    """Checks the job against pack, archive and output; writes nothing to the output.

    Raises JobError, PackError, ArchiveError or RunChanged."""
    use_endpoint(job.storage.endpoint_url)
    refresh(job.output.path, tables=False)
    pack = load_pack(job.pack)
    tasks = tasks_named(job.tasks)
    names = tuple(task.name for task in tasks)
    routes = pack.routes_of(names)
    # What is cheap to check comes before the models, which may take half a minute the first time.
    found = discover(job.archive.paths, job.output.path)
    stamps = {shown(path): (path, *_stamp(path)) for path in found}
    needs_text = any(task.uses_text for task in tasks)
    old = read_manifest(job.output.path)
    files, shards = _files(job, found, needs_text, old)
    ready = {model: pack.prepare(model, say, job.workers.format) for model in routes}
    models = {model: file for model, (file, _) in ready.items()}
    prompts = fingerprint(tasks, pack.style)
    identity = _identity(job, pack, routes, models, prompts)
    if old is not None:
        refuse_changes(job.output.path, old, identity, {shown(path): file_sha256(path) for path in found})
    manifest = Manifest(identity, files, shards, routes, _asked(job))
    placed = _elsewhere(job.workers) if job.workers.scheduler else place(job.workers, models, pack.writing(names), say)
    in_hand = job.workers.reports_in_hand or REPORTS_IN_HAND
    split = f"{placed.placement.processes} processes x {placed.threads} threads x {in_hand} reports in hand"
    setting = Setting(
        job.output.path, job.archive, pack.style, models, pack.calibration,
        {model: _metadata(pack, file, prompts, split) for model, file in models.items()},
        needs_text, placed.threads, in_hand, job.limits.overlong, job.limits.record_seconds, job.workers.memory << 20,
    )  # fmt: skip
    prepared = {model: prepared for model, (_, prepared) in ready.items()}
    return Plan(job, pack, manifest, setting, placed.placement, prepared, placed.why, old, stamps)


def _elsewhere(workers: Workers) -> Placed:
    """The placement of a cluster, of which this host sees one process at most: that of an estimate."""
    threads = workers.threads or 1
    split = f"a process for every {threads} thread(s) of the Dask workers at {workers.scheduler}; times are of one"
    return Placed(Placement((tuple(machine.cores()[:threads]),)), threads, (split,))


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
        if shown(path) in known or (most is not None and rows >= most):
            continue
        file = survey(path, job.archive, needs_text, size, None if most is None else most - rows)
        shards += plan_shards([file], size, len(shards), rows)
        files.append(file)
    return tuple(files), tuple(shards)


def _identity(
    job: Job,
    pack: Pack,
    routes: Mapping[str, tuple[str, ...]],
    models: Mapping[str, ModelFile],
    prompts: Mapping[str, str],
) -> dict[str, Any]:
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
        "columns": {name: hashlib.sha256(repr(TASKS[name].columns).encode()).hexdigest() for name in prompts},
        "calibration": dict(pack.calibration),
        "routes": {task: model for model, tasks in routes.items() for task in tasks},
        "models": {
            name: {"sha256": m.sha256, "adapter": m.adapter_sha256, "scale": m.scale, "context": m.context}
            for name, m in models.items()
        },
    }


def _asked(job: Job) -> dict[str, Any]:
    """The job as the manifest keeps it; the archive's files stand there by themselves."""
    asked = asdict(job)
    asked["output"]["path"] = shown(Path(os.path.abspath(job.output.path)))
    asked["pack"] = os.path.abspath(job.pack) if job.pack.endswith(".toml") else job.pack
    del asked["archive"]["paths"], asked["storage"]  # each host has its own way to the storage
    return asked


def planned_job(out: Path) -> Job:
    """The job that `out` was planned for, over the files that were planned. Raises UsageError or OutputError."""
    manifest = read_manifest(out)
    if manifest is None:
        raise UsageError(f"{out}: no run was planned there")
    asked, archive = manifest.job, manifest.job["archive"]
    rows = Filter(**archive["filter"] | {"modality": tuple(archive["filter"]["modality"])})
    files = tuple(file.path for file in manifest.files)
    spec = ArchiveSpec(**archive | {"paths": files, "text": tuple(archive["text"]), "filter": rows})
    output, workers, limits = asked["output"], Workers(**asked["workers"]), RunLimits(**asked["limits"])
    return Job(spec, tuple(asked["tasks"]), Output(**output | {"path": out}), asked["pack"], workers, limits)


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


def describe(plan: Plan) -> list[str]:
    """The plan in lines for a person."""
    manifest = plan.manifest
    lines = [f"output    {shown(plan.job.output.path)}" + (" (goes on)" if plan.old else "")]
    lines += [f"archive   {file.path}: {file.rows} rows" for file in manifest.files[:_FILES_SHOWN]]
    if len(manifest.files) > _FILES_SHOWN:
        lines.append(f"archive   and {len(manifest.files) - _FILES_SHOWN} more files: {manifest.rows} rows in all")
    lines.append(f"shards    {len(manifest.shards)} of at most {plan.job.output.shard_rows} rows")
    for model, tasks in manifest.routes.items():
        prepared = plan.prepared[model]
        form = f" ({prepared.form})" if prepared else ""
        lines.append(f"model     {model}{form}: {', '.join(tasks)}")
        lines += [f"          {line}" for line in prepared.measured()] if prepared else []
    lines += [f"workers   {line}" for line in plan.why]
    lines.append(f"in hand   {plan.setting.reports_in_hand} reports a process")
    return lines


def estimate(plan: Plan, reports: int = 24) -> tuple[float, float]:
    """(reports per hour, seconds for the whole run), by answering the first reports in this process.

    (0, 0) where the filter admits none. Raises ArchiveError."""
    chosen, read = _first_reports(plan, reports)
    if not chosen:
        return 0.0, 0.0
    seconds = 0.0
    for model, tasks in plan.manifest.routes.items():
        engine = open_engine(plan.setting.models[model], plan.setting.threads)
        begin = time.perf_counter()
        answer_reports(engine, plan.setting, tasks, chosen, {})
        seconds += time.perf_counter() - begin
        engine.close()
    rate = len(chosen) / seconds * plan.placement.processes
    return rate * 3600, plan.manifest.rows * len(chosen) / read / rate


def _first_reports(plan: Plan, most: int) -> tuple[list[Report], int]:
    """The first reports that the filter admits, and how many rows were read for them."""
    reader, chosen, read = ArchiveReader(plan.job.archive, plan.setting.needs_text), list[Report](), 0
    for report in (report for shard in plan.manifest.shards for report in reader.reports(shard)):
        read += 1
        if report.problem or plan.job.archive.filter.admits(report):
            chosen.append(report)
        if len(chosen) == most:
            break
    return chosen, read
