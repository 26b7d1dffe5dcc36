"""Reference labels in a file: what `evaluate` reads, and a prepared split as an archive with its labels.

A reference is a Parquet file with `report_id`, unique, and columns of REFERENCE_COLUMNS; null means not labelled. A
label may be several of which one is right, with bars between ("negative|uncertain|absent"). Spans are structs as in the
tasks' tables; their offsets count in the text that the run reads, and the member that repeats the text may be missing.
`patient_id` and `text_sha` are optional: what reports belong together, and which stand for the same inputs.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from radlite_batch.errors import ArchiveError, UsageError
from radlite_batch.results.schemas import arrow_type
from radlite_batch.tasks.abnormality_detection import LABELS, STATES, AbnormalityDetection
from radlite_batch.tasks.base import ChoiceTask, Task
from radlite_batch.tasks.rads_assignment import RadsAssignment
from radlite_batch.tasks.rads_systems import NI_RADS_NECK, NO_SYSTEM, format_label, parse_label
from radlite_batch.tasks.registry import TASKS
from radlite_batch.tasks.spans import SpanTask
from training.batches import LABELLED_ONLY
from training.datasets.base import Sample, bare_digest
from training.scoring import Span

REFERENCE_COLUMNS: dict[str, tuple[str, ...]] = {
    "rads_assignment": ("rads_label",),
    "n_staging": ("n_stage",),
    "m_staging": ("m_stage",),
    "abnormality_detection": LABELS,
    "radiology_ner": ("entities",),
    "temporal_comparison": ("changes",),
    "impression_generation": ("impression",),
    "radiology_qa": ("answer",),
    "radiology_nli": ("nli_label",),
}
REPORT_COLUMNS = (
    "report_id", "patient_id", "text", "findings", "impression", "prior_text", "premise", "hypothesis", "question",
)  # fmt: skip
_BAR = "|"


def write_archive(samples: Iterable[Sample], folder: Path) -> list[str]:
    """Writes FOLDER/<source>/reports.parquet and labels.parquet, or <source>-<subset>; returns their names.

    Left out, as nothing that a run writes answers them: RADS labels without a category, and spans where only some words
    are labelled. A sample of nothing else is left out too. Raises UsageError where FOLDER is there already,
    ArchiveError naming a sample whose RADS label does not exist."""
    if folder.exists():
        raise UsageError(f"{folder}: is there already")
    rows: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for sample in samples:
        labels = _labels_of(sample)
        if any(label is not None for label in labels.values()):
            key = {"report_id": sample.id, "patient_id": sample.group}
            report = {name: sample.fields.get(name) or None for name in REPORT_COLUMNS[3:]}
            pair = key | {"text": sample.text or None} | report, key | {"text_sha": text_sha(sample)} | labels
            rows.setdefault("-".join(filter(None, (sample.source, sample.subset))), []).append(pair)
    for source, pairs in rows.items():
        (folder / source).mkdir(parents=True)
        reports, labels_of_reports = zip(*pairs, strict=True)
        schema = pa.schema([(name, pa.string()) for name in REPORT_COLUMNS])
        pq.write_table(pa.Table.from_pylist(list(reports), schema), folder / source / "reports.parquet")
        pq.write_table(pa.Table.from_pylist(list(labels_of_reports), _schema()), folder / source / "labels.parquet")
    return list(rows)


def write_once(folder: Path, samples: Any, write: Callable[[Path], object]) -> None:
    """Lets `write` fill the folder, which appears as a whole; nothing where it is there already, of these samples.

    Raises UsageError where it is of others."""
    sha256 = hashlib.sha256(repr(samples).encode()).hexdigest()
    if folder.exists():
        if (folder / "sha256").read_text() != sha256:
            raise UsageError(f"{folder}: holds other samples, of an earlier call; use another output folder")
        return
    growing = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        write(growing)
        (growing / "sha256").write_text(sha256)
        os.rename(growing, folder)
    finally:
        shutil.rmtree(growing, ignore_errors=True)


def text_sha(sample: Sample) -> str:
    """Names the inputs of a sample, signs and spaces aside: a text, with its question if any, or two sentences."""
    inputs = (sample.text, *(sample.fields.get(name, "") for name in ("question", "premise", "hypothesis")))
    return "-".join(bare_digest(text) for text in inputs if text)


def _schema() -> pa.Schema:
    fields = [(name, pa.string()) for name in ("report_id", "patient_id", "text_sha")]
    for name, columns in REFERENCE_COLUMNS.items():
        task = TASKS[name]
        kind = arrow_type(task.headline_column) if isinstance(task, SpanTask) else pa.string()
        fields += [(column, kind) for column in columns]
    return pa.schema(fields)


def _labels_of(sample: Sample) -> dict[str, Any]:
    labels: dict[str, Any] = {}
    for name, columns in REFERENCE_COLUMNS.items():
        task, targets = TASKS[name], sample.targets.get(name, {})
        if isinstance(task, RadsAssignment):
            labels[columns[0]] = _rads_label(sample, targets)
        elif isinstance(task, SpanTask):
            labels[columns[0]] = _structs(task, sample, targets.get(task.questions[0].name))
        else:
            for column, question in zip(columns, task.questions, strict=True):
                target = targets.get(question.name)
                labels[column] = target if target is None or isinstance(target, str) else _BAR.join(target)
    return labels


def _rads_label(sample: Sample, targets: Mapping[str, Any]) -> str | None:
    system = targets.get("system")
    if system == NO_SYSTEM:
        return NO_SYSTEM
    if not isinstance(system, str) or "category" not in targets:
        return None
    categories, necks = (
        [target] if target is None or isinstance(target, str) else target
        for target in (targets["category"], targets.get("neck"))
    )
    try:
        return _BAR.join(format_label(system, category, neck) for category in categories for neck in necks)
    except ValueError:
        raise ArchiveError(f"{sample.source} sample {sample.id}: {system} has no such category") from None


def _structs(
    task: SpanTask, sample: Sample, target: Sequence[tuple[int, int, str]] | None
) -> list[dict[str, Any]] | None:
    if target is None or sample.fields.get(LABELLED_ONLY) == "spans":
        return None
    text = sample.text
    return [{task.text_key: text[a:b], task.label_key: label, "start": a, "end": b} for a, b, label in target]


def read_reference(path: Path) -> pl.DataFrame:
    """The table, its ids as strings. Raises UsageError where it is not one."""
    try:
        labels = pl.read_parquet(path, glob=False)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except (OSError, pl.exceptions.PolarsError):
        raise UsageError(f"{path}: not readable as a Parquet file") from None
    if "report_id" not in labels.columns:
        raise UsageError(f"{path}: column 'report_id' is missing")
    ids = labels["report_id"].cast(pl.String)
    if ids.null_count():
        raise UsageError(f"{path}: a row has no report_id")
    refuse_duplicates(ids, path)
    return labels.with_columns(ids)


def refuse_duplicates(ids: pl.Series, path: Path) -> None:
    twice = ids.filter(ids.is_duplicated())
    if len(twice):
        raise UsageError(f"{path}: report_id {twice[0]!r} stands in more than one row")


def gold(task: Task, rows: pl.DataFrame, path: Path) -> list[Any]:
    """The task's reference for each row, which has one: the labels allowed (of 14 flags, some may be None), spans as
    structs, or a text. Raises UsageError for a label that no run can answer."""
    columns = REFERENCE_COLUMNS[task.name]
    if isinstance(task, AbnormalityDetection):
        flags = [_read(rows, path, column, _allowed(_one_of(STATES)), " | ".join(STATES)) for column in columns]
        return list(zip(*flags, strict=True))
    if isinstance(task, RadsAssignment):
        return _read(rows, path, columns[0], _allowed(_rads), "a RADS label")
    if isinstance(task, ChoiceTask):
        legal = task.choice.labels
        return _read(rows, path, columns[0], _allowed(_one_of(legal)), " | ".join(legal))
    if isinstance(task, SpanTask):
        wanted = f"a list of spans with {task.label_key}, start, end"
        return _read(rows, path, columns[0], lambda value: (spans(task, value), value)[1], wanted)
    return _read(rows, path, columns[0], _text, "text")


def spans(task: SpanTask, structs: Iterable[Mapping[str, Any]]) -> list[Span]:
    """Raises KeyError, TypeError or ValueError for what is no span of the task."""
    found = [(int(span["start"]), int(span["end"]), str(span[task.label_key])) for span in structs]
    if any(label not in task.output.labels for _, _, label in found):
        raise ValueError
    return found


def _read(rows: pl.DataFrame, path: Path, column: str, read: Callable[[Any], Any], wanted: str) -> list[Any]:
    labels = []
    for report_id, label in rows.select("report_id", column).iter_rows():
        try:
            labels.append(None if label is None else read(label))
        except (AttributeError, KeyError, TypeError, ValueError):
            raise UsageError(f"{path}: {column} of report {report_id!r} is not {wanted}") from None
    return labels


def _allowed(read: Callable[[str], tuple[str, ...]]) -> Callable[[str], tuple[str, ...]]:
    return lambda cell: tuple(label for part in cell.split(_BAR) for label in read(part))


def _one_of(legal: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def read(label: str) -> tuple[str, ...]:
        if label not in legal:
            raise ValueError
        return (label,)

    return read


def _rads(label: str) -> tuple[str, ...]:
    """As a run writes it. NI-RADS without a category of the neck allows any there."""
    system, category, neck = parse_label(label)
    whole = format_label(system, category, neck)
    if system != "NI-RADS" or neck is not None:
        return (whole,)
    return (whole, *(format_label(system, category, other) for other in NI_RADS_NECK))


def _text(label: Any) -> str:
    if not isinstance(label, str):
        raise TypeError
    return label
