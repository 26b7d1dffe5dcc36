"""Two packs over held-out samples, in the published tables and figures.

    OUT/archives/NAME     the samples of a task, reports.parquet and labels.parquet, and the same of each source
    OUT/runs/PACK/NAME    an ordinary run over it
    OUT/reproduce.json    every count, score and size; index.html, tables/ and figures/ are made of it

NAME is a task or `few_shot`: RADS with three labelled reports of the training split in front of each report, written
into its text as the `instruct` prompt lays out a report. Running again goes on where it ended, and leaves finished runs
as they are.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from radlite_batch.archive import ArchiveSpec
from radlite_batch.engine.open import ModelFile
from radlite_batch.errors import UsageError
from radlite_batch.job import Job, Output
from radlite_batch.pack import Pack, load_pack
from radlite_batch.results.manifest import read_manifest, read_receipts
from radlite_batch.results.summary import host
from radlite_batch.run import run
from radlite_batch.tasks.rads_systems import NO_SYSTEM, format_label
from radlite_batch.tasks.registry import TASKS
from radlite_batch.tasks.spans import SpanTask
from training.batches import LABELLED_ONLY
from training.datasets.base import Sample, drawn
from training.evaluate import compare, evaluate
from training.prepare import read_document, read_prepared
from training.reference import write_archive, write_once
from training.report import write_report
from training.tables import FEW_SHOT, RADS

SHOTS = 3
_LONGEST_SHOT = 1500  # characters: three of them leave room for the report in a context of 2,048 tokens

Document = dict[str, Any]
Samples = Mapping[str, Sequence[Sample]]  # by name of the archive


@dataclass(frozen=True, slots=True)
class Entrant:
    """A pack in the comparison. group: "tuned" or "zero-shot", empty where only two packs are compared."""

    label: str
    group: str
    place: str  # as it was given
    pack: Pack

    def takes(self, name: str) -> bool:
        """Whether the pack can run this archive: it serves the task, and words before the report mean something."""
        return _task(name) in self.pack.routes and (name != FEW_SHOT or self.pack.style.name != "native")


def reproduce(
    packs: tuple[str, str], data: Path, out: Path, zero_shot: Sequence[str] = (), limit: int = 500,
    mix: Path | None = None, say: Callable[[str], None] = lambda line: None,
) -> int:  # fmt: skip
    """Runs what is not finished, then writes the page. Returns the exit code of a run that was stopped, or 0.

    limit: samples of each task. zero_shot: what the two packs were tuned from, one for both or one each. mix: the
    prepared training mix, where it is not `data`. Raises UsageError or PackError, RunChanged where a pack is another
    than before."""
    entrants = _entrants(packs, zero_shot)
    mixed = _mix(mix or data)
    samples = _held_out(data, limit)
    if RADS in samples and (before := _shots(read_prepared(data, "train"))):
        samples[FEW_SHOT] = [replace(sample, text=before + sample.text) for sample in samples[RADS]]
    if not samples:
        raise UsageError(f"{data}: holds no sample of its splits dev and test")
    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    _write_archives(samples, out)
    for entrant in {entrant.pack.name: entrant for entrant in entrants}.values():
        for name in filter(entrant.takes, samples):
            say(f"{entrant.pack.name}: {name}, {len(samples[name])} samples")
            code = _run(entrant, name, out)
            if code is not None:
                return code
    document = _document(entrants, samples, mixed, limit, out)
    (out / "reproduce.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    write_report(document, out)
    say(f"{out / 'index.html'}")
    return 0


def _entrants(packs: tuple[str, str], zero_shot: Sequence[str]) -> list[Entrant]:
    """The packs in the order of the columns. Raises UsageError where two different packs share a name."""
    if len(zero_shot) == 1:
        zero_shot = [*zero_shot] * 2
    if len(zero_shot) not in (0, 2):
        raise UsageError(f"{len(zero_shot)} zero-shot packs are given; one for both or one each is needed")
    given = [(place, "zero-shot") for place in zero_shot] + [(place, "tuned" if zero_shot else "") for place in packs]
    entrants: list[Entrant] = []
    for (place, group), letter in zip(given, "ABAB", strict=False):
        pack = load_pack(place)
        for other in entrants:
            if other.pack.name == pack.name and other.pack.path != pack.path:
                raise UsageError(f"{pack.path}: another pack of the comparison is named {pack.name!r} too")
        label = f"{letter} {pack.name}" + (f", {group}" if group else "")
        entrants.append(Entrant(label, group, place, pack))
    return entrants


def _mix(prepared: Path) -> Document:
    """Counts and weights of what was prepared, by task."""
    document = read_document(prepared)
    return {name: document[name] for name in ("tasks", "weights")}


def _held_out(data: Path, limit: int) -> dict[str, list[Sample]]:
    """At most `limit` samples of each task: those of the test split first, and of each source as many.

    Reports to which no RADS applies are left out of RADS: the published samples hold none."""
    samples = [sample for split in ("test", "dev") for sample in read_prepared(data, split)]
    chosen = {task: _drawn([sample for sample in samples if _due(sample, task)], task, limit) for task in TASKS}
    return {task: found for task, found in chosen.items() if found}


def _due(sample: Sample, task: str) -> bool:
    """Whether the sample has a label that a run's answer can be held against."""
    targets = sample.targets.get(task, {})
    if task == RADS:
        system = targets.get("system")
        return isinstance(system, str) and system != NO_SYSTEM and "category" in targets
    return bool(targets) and not (isinstance(TASKS[task], SpanTask) and sample.fields.get(LABELLED_ONLY) == "spans")


def _drawn(samples: Sequence[Sample], task: str, limit: int) -> list[Sample]:
    """Each with the task's target alone, and an id that names its source."""
    turns: Counter[tuple[str | None, str]] = Counter()
    queue = []
    for sample in sorted(samples, key=lambda s: drawn(f"{task} {s.source} {s.id}")):
        turns[sample.split, sample.source] += 1
        queue.append((sample.split != "test", turns[sample.split, sample.source], sample.source, sample))
    queue.sort(key=lambda place: place[:3])
    return [replace(s, id=f"{s.source}/{s.id}", targets={task: s.targets[task]}) for _, _, _, s in queue[:limit]]


def _shots(train: Sequence[Sample]) -> str:
    """Three reports of different RADS systems with their labels, as they stand before every report; "" where there
    are fewer."""
    chosen: dict[str, str] = {}
    for sample in sorted(train, key=lambda s: drawn(f"{FEW_SHOT} {s.source} {s.id}")):
        named = sample.targets.get(RADS, {})
        system, category, neck = (named.get(question.name) for question in TASKS[RADS].questions)
        if isinstance(system, str) and isinstance(category, str) and len(sample.text) <= _LONGEST_SHOT:
            label = format_label(system, category, neck)
            chosen.setdefault(system, f"{sample.text}\n\nRADS category: {label}\n\nReport:\n")
    return "".join([*chosen.values()][:SHOTS]) if len(chosen) >= SHOTS else ""


def _write_archives(samples: Samples, out: Path) -> None:
    """Raises UsageError where other samples stand there from before."""

    def write(folder: Path) -> None:
        for name, chosen in samples.items():
            write_archive(chosen, folder / name)
            for part in ("reports.parquet", "labels.parquet"):
                sources = sorted((folder / name).glob(f"*/{part}"))
                pl.concat([pl.read_parquet(path) for path in sources]).write_parquet(folder / name / part)

    write_once(out / "archives", samples, write)


def _task(name: str) -> str:
    return RADS if name == FEW_SHOT else name


def _run(entrant: Entrant, name: str, out: Path) -> int | None:
    """None once the run is complete, else the code to leave with."""
    archive = ArchiveSpec((str(out / "archives" / name / "reports.parquet"),))
    summary = run(Job(archive, (_task(name),), Output(_run_folder(out, entrant, name)), entrant.place))
    return None if summary.state == "complete" else summary.exit_code


def _run_folder(out: Path, entrant: Entrant, name: str) -> Path:
    return out / "runs" / entrant.pack.name / name


def _document(entrants: Sequence[Entrant], samples: Samples, mix: Document, limit: int, out: Path) -> Document:
    """What reproduce.json holds: counts and scores, no text."""
    columns = {entrant.pack.name: entrant for entrant in entrants}
    scores = {name: _scores(entrant, samples, out) for name, entrant in columns.items()}
    speeds = {name: _speed(entrant, samples, out) for name, entrant in columns.items()}
    held_out = Counter(
        (name, sample.source, sample.split) for name in samples if name in TASKS for sample in samples[name]
    )
    return {
        "limit": limit,
        "host": host(),
        "packs": [
            _pack(entrant) | {"scores": scores[entrant.pack.name], "speed": speeds[entrant.pack.name]}
            for entrant in entrants
        ],
        "paired": _paired(entrants, samples, out),
        "samples": [{"task": t, "source": s, "split": p, "n": n} for (t, s, p), n in held_out.items()],
        "mix": mix,
    }  # fmt: skip


def _pack(entrant: Entrant) -> Document:
    pack = entrant.pack
    files = {model: pack.prepare(model)[0] for model in sorted(set(pack.routes.values()))}
    return {
        "label": entrant.label, "group": entrant.group, "name": pack.name, "style": pack.style.name,
        "about": pack.about, "licence": pack.licence, "bytes": _bytes(files.values()),
        "models": {model: {"sha256": file.sha256} for model, file in files.items()},
    }  # fmt: skip


def _bytes(files: Iterable[ModelFile]) -> int:
    """On disk; a file that several models share counts once."""
    paths = {path.resolve() for file in files for path in (file.path, file.adapter) if path is not None}
    return sum(path.stat().st_size for path in paths)


def _scores(entrant: Entrant, samples: Samples, out: Path) -> list[Document]:
    """Every score of every archive that the pack ran; source: that of the samples, empty for all together."""
    found: list[Document] = []
    for name in filter(entrant.takes, samples):
        archive = out / "archives" / name
        for labels in (archive / "labels.parquet", *sorted(archive.glob("*/labels.parquet"))):
            source = "" if labels.parent == archive else labels.parent.name
            reports = None if name == FEW_SHOT else labels.with_name("reports.parquet")
            scored = evaluate(_run_folder(out, entrant, name), labels, reports)
            found += [{"archive": name, "source": source, **asdict(score)} for score in scored]
    return found


def _paired(entrants: Sequence[Entrant], samples: Samples, out: Path) -> list[Document]:
    """Each pack less the one it was tuned from, the one pack less the other, and three-shot less zero-shot."""
    first, second = entrants[-2:]
    pairs = [*zip((first, second), entrants[:-2], strict=False)]
    pairs += [(first, second)] if first.pack.path != second.pack.path else []
    found: list[Document] = []
    for one, than in pairs:
        for name in samples:
            if name in TASKS and one.takes(name) and than.takes(name):
                found += _differences(out, name, (one, name), (than, name), than.label)
    for entrant in entrants:
        if FEW_SHOT in samples and entrant.takes(FEW_SHOT):
            found += _differences(out, FEW_SHOT, (entrant, FEW_SHOT), (entrant, RADS), f"{entrant.label}, no examples")
    return found


def _differences(
    out: Path, archive: str, one: tuple[Entrant, str], than: tuple[Entrant, str], less: str
) -> list[Document]:
    labels = out / "archives" / archive / "labels.parquet"
    compared = compare(_run_folder(out, *one), _run_folder(out, *than), labels)
    return [{"archive": archive, "one": one[0].label, "than": less, **asdict(row)} for row in compared]


def _speed(entrant: Entrant, samples: Samples, out: Path) -> list[Document]:
    """What each archive's work items took, added up: inference alone, in seconds of one worker."""
    speeds = []
    for name in filter(entrant.takes, samples):
        folder = _run_folder(out, entrant, name)
        manifest = read_manifest(folder)
        assert manifest is not None
        receipts = read_receipts(folder, manifest.items).values()
        speeds.append({
            "archive": name,
            "rows": manifest.rows,
            "seconds": sum(receipt["seconds"]["infer"] for receipt in receipts),
            **{key: sum(receipt["counts"][key] for receipt in receipts) for key in ("asked", "computed", "written")},
        })  # fmt: skip
    return speeds
