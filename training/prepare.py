"""Training data from its sources: read, split, rid of repeats across splits, capped, and written for `datasets`.

    OUT/{train,dev,test}   a DatasetDict: source, id, group, split, text, fields and targets (JSON); no empty split
    OUT/prepare.json       the mix, the terms of its sources, a digest of the samples, and counts by task, split, source
                           and label
    OUT/prepare.png        the same as a picture, where matplotlib is installed

The sources are read once, to a file beside OUT; what is kept in memory is a kilobyte or two a sample.
"""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from radlite_batch.errors import ArchiveError, UsageError, did_you_mean
from radlite_batch.tasks.base import Choice, Question, Spans
from radlite_batch.tasks.registry import TASKS
from training.datasets.base import Sample, label_of
from training.datasets.mix import SPLITS, Entry, Fate, Mix, decide, entry
from training.datasets.picture import can_draw, draw
from training.datasets.registry import SOURCES

COLUMNS = ("source", "id", "group", "split", "text", "fields", "targets", "subset")
Document = dict[str, Any]


def prepare(mix: Mix, out: Path) -> Document:
    """Writes OUT, whole or not at all, and returns what is in prepare.json.

    Raises UsageError where OUT is there already, ArchiveError where a source is not as it should be."""
    if out.exists():
        raise UsageError(f"{out}: is there already")
    growing = out.with_name(f".{out.name}.{os.getpid()}")
    growing.mkdir(parents=True)
    try:
        document = _prepare(mix, growing)
        os.rename(growing, out)
    finally:
        shutil.rmtree(growing, ignore_errors=True)
    return document


def read_prepared(out: Path, split: str) -> list[Sample]:
    """The samples of a split, in the order of their sources. Raises UsageError where `prepare` did not write OUT."""
    from datasets import load_from_disk

    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}{did_you_mean(split, SPLITS)}")
    read_document(out)
    if not (out / split).is_dir():
        return []
    return [_sample(row) for row in load_from_disk(str(out / split))]


def read_document(out: Path) -> Document:
    """What is in prepare.json. Raises UsageError where `prepare` did not write OUT."""
    try:
        document: Document = json.loads((out / "prepare.json").read_text(encoding="utf-8"))
    except OSError:
        raise UsageError(f"{out}: nothing prepared is here") from None
    except ValueError:
        raise UsageError(f"{out / 'prepare.json'}: damaged; prepare it again") from None
    return document


def prepared_sha256(out: Path) -> str:
    """Names the samples that `prepare` kept, wherever they came from. Raises UsageError where there are none."""
    document = read_document(out)
    if "sha256" not in document:
        raise UsageError(f"{out}: an earlier version prepared it; prepare it again")
    return str(document["sha256"])


def summary_lines(document: Document) -> list[str]:
    """The counts of training and held-out samples by task, and each source with its terms, as a plain table."""
    lines = [f"{'task':<24}" + "".join(f"{split:>9}" for split in SPLITS) + f"{'weight':>9}"]
    for task, counts in document["tasks"].items():
        numbers = "".join(f"{counts.get(split, {}).get('samples', 0):>9,}" for split in SPLITS)
        lines.append(f"{task:<24}{numbers}{document['weights'].get(task, 1.0):>8g}x")
    lines += ["", f"{'source':<16}{'read':>9}{'kept':>9}  terms"]
    for name, source in document["sources"].items():
        lines.append(f"{name:<16}{source['read']:>9,}{source['kept']:>9,}  {source['terms']}")
    dropped = (f"{number:,} {reason}" for reason, number in document["dropped"].items())
    return [*lines, "", f"dropped: {'; '.join(dropped) or 'none'}"]


def _prepare(mix: Mix, folder: Path) -> Document:
    spool = folder / "spool.jsonl"
    entries = list(_spool(mix, spool))
    if not entries:
        raise UsageError("the sources of the mix hold no sample")
    fates = decide(entries, mix)
    _write(spool, fates, folder)
    document = _document(mix, Counter(entry.source for entry in entries), spool, fates)
    spool.unlink()
    (folder / "prepare.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if can_draw():
        draw(document, folder / "prepare.png")
    return document


def _spool(mix: Mix, path: Path) -> Iterator[Entry]:
    """Writes every sample of the sources to the file, a line each, and yields what its fate depends on."""
    with open(path, "w", encoding="utf-8") as file:
        for name, folder in mix.sources.items():
            for sample in SOURCES[name].read(folder):
                if problem := _problem(sample):
                    raise ArchiveError(f"{folder}: {name} sample {sample.id}: {problem}")
                file.write(json.dumps(asdict(sample)) + "\n")
                yield entry(sample)


def _problem(sample: Sample) -> str | None:
    """Why the sample cannot be trained on: an input that is missing, or a target that its question cannot have."""
    for task, targets in sample.targets.items():
        blocks = sample.blocks(task) if task in TASKS else None
        if blocks is None:
            return f"{task} has a target but not its input"
        questions = {question.name: question.output for question in TASKS[task].questions}
        for name, target in targets.items():
            output = questions.get(name)
            if isinstance(output, Choice):
                legal = bool(target) and ({target} if isinstance(target, str) else set(target)) <= set(output.labels)
            elif isinstance(output, Spans):
                length = len(blocks[0].text)
                legal = all(0 <= a < b <= length and label in output.labels for a, b, label in target)
            else:
                legal = output is not None and isinstance(target, str) and bool(target.strip())
            if not legal:
                return f"{task}.{name} has a target that it cannot have"
    return None


def _kept(spool: Path, fates: Sequence[Fate], splits: Collection[str] = SPLITS) -> Iterator[Sample]:
    """The samples that are kept in these splits, with their split and the targets they keep."""
    with open(spool, encoding="utf-8") as file:
        for line, fate in zip(file, fates, strict=True):
            if fate.split in splits:
                sample = Sample(**json.loads(line))
                targets = {task: sample.targets[task] for task in fate.tasks}
                yield replace(sample, split=fate.split, targets=targets)


def _write(spool: Path, fates: Sequence[Fate], folder: Path) -> None:
    from datasets import Dataset, DatasetDict, Features, NamedSplit, Value, disable_progress_bars

    def rows(split: str) -> Iterator[dict[str, Any]]:
        yield from (_row(sample) for sample in _kept(spool, fates, (split,)))

    disable_progress_bars()
    features, cache = Features({column: Value("string") for column in COLUMNS}), folder / "cache"
    parts = {}
    for split in sorted({fate.split for fate in fates if fate.split}, key=SPLITS.index):
        named = {"split": NamedSplit(split), "fingerprint": split, "gen_kwargs": {"split": split}}
        parts[split] = Dataset.from_generator(rows, features, str(cache), **named)
    DatasetDict(parts).save_to_disk(str(folder))
    shutil.rmtree(cache, ignore_errors=True)


def _row(sample: Sample) -> dict[str, Any]:
    row = asdict(sample)
    return row | {name: json.dumps(row[name]) for name in ("fields", "targets")}


def _sample(row: dict[str, Any]) -> Sample:
    return Sample(**row | {name: json.loads(row[name]) for name in ("fields", "targets")})


def _document(mix: Mix, read: Mapping[str, int], spool: Path, fates: Sequence[Fate]) -> Document:
    """What prepare.json holds. A label of which one of several is right counts as those labels with bars between."""
    tasks: Document = {name: {} for name in TASKS}
    kept: Counter[str] = Counter()
    digest = hashlib.sha256()
    for sample in _kept(spool, fates):
        digest.update(json.dumps(asdict(sample)).encode() + b"\n")
        kept[sample.source] += 1
        for task, targets in sample.targets.items():
            counts = tasks[task].setdefault(sample.split, {"samples": 0, "sources": Counter(), "labels": {}})
            counts["samples"] += 1
            counts["sources"][sample.source] += 1
            for question in TASKS[task].questions:
                labels = counts["labels"].setdefault(question.name, Counter())
                labels.update(_labels(question, targets.get(question.name)))
    return {
        "seed": mix.seed,
        "dev_share": mix.dev_share,
        "caps": dict(mix.caps),
        "weights": dict(mix.weights),
        "sources": {
            name: {
                "folder": str(folder),
                "terms": SOURCES[name].terms,
                "weight": mix.source_weights.get(name, 1.0),
                "read": read.get(name, 0),
                "kept": kept[name],
            }
            for name, folder in mix.sources.items()
        },
        "sha256": digest.hexdigest(),
        "dropped": Counter(fate.reason for fate in fates if not fate.split),
        "tasks": {task: counts for task, counts in tasks.items() if counts},
    }


def _labels(question: Question, target: Any) -> list[str]:
    if target is None:
        return []
    if isinstance(question.output, Choice):
        return [label_of(target)]
    return [label for _, _, label in target] if isinstance(question.output, Spans) else []
