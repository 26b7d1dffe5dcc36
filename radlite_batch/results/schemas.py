"""Arrow schemas of the output tables, derived from the tasks' columns, and the dictionary of all of them."""

from collections.abc import Iterable, Iterator, Mapping

import pyarrow as pa

from radlite_batch.tasks.base import Column, Task

SCHEMA_VERSION = "1"


def _field(name: str, kind: pa.DataType, about: str, nullable: bool = True) -> pa.Field:
    return pa.field(name, kind, nullable, {"description": about})


_FIXED = (
    _field("report_id", pa.string(), "the archive's id, as written"),
    _field("source_row", pa.int64(), "row of the archive, counted over its files in planned order", nullable=False),
    _field("status", pa.string(), "ok, empty, too_long, unparsed or failed", nullable=False),
    _field("confidence", pa.float32(), "probability of the answer; null for free text"),
    _field("model", pa.dictionary(pa.int32(), pa.string()), "the pack's model that answered"),
)


def arrow_type(column: Column) -> pa.DataType:
    """The type of a task's column: string, strings, float32, alternatives or spans:<text key>:<label key>."""
    kind, *keys = column.type.split(":")
    if kind == "spans":
        text, label = keys
        members = {text: pa.string(), label: pa.string(), "start": pa.int64(), "end": pa.int64()}
        return pa.list_(pa.struct(list(members.items())))
    if kind == "alternatives":
        return pa.list_(pa.struct([("label", pa.string()), ("probability", pa.float32())]))
    return {"string": pa.string(), "strings": pa.list_(pa.string()), "float32": pa.float32()}[kind]


def task_schema(task: Task, metadata: Mapping[str, str]) -> pa.Schema:
    fields = [*_FIXED, *(_field(column.name, arrow_type(column), column.about) for column in task.columns)]
    return pa.schema(fields, metadata=dict(metadata))


def wide_schema(tasks: Iterable[Task], metadata: Mapping[str, str]) -> pa.Schema:
    """report_id, source_row, then each task's headline column under the task's name, and its confidence."""
    fields = list(_FIXED[:2])
    for task in tasks:
        fields.append(_field(task.name, arrow_type(task.headline_column), task.headline_column.about))
        fields.append(_field(f"{task.name}_confidence", pa.float32(), f"confidence of {task.name}"))
    return pa.schema(fields, metadata=dict(metadata))


FAILURES = pa.schema(
    [
        *_FIXED[:2],
        _field("task", pa.string(), "the task that has no answer", nullable=False),
        _field("status", pa.string(), "failed or unparsed", nullable=False),
        _field("reason", pa.string(), "why; it quotes no report", nullable=False),
    ]
)


def dictionary_lines(tasks: Iterable[Task]) -> Iterator[str]:
    """The data dictionary of these tasks' output as Markdown: a table for each folder, a row for each column."""
    tasks = tuple(tasks)
    for task in tasks:
        values = {column.name: column.vocabulary for column in task.columns}
        yield from _table_lines(task.name, f"{task.about}; needs {task.needs}", task_schema(task, {}), values)
    headlines = {task.name: task.headline_column.vocabulary for task in tasks}
    yield from _table_lines("wide", "one row per report: each task's answer", wide_schema(tasks, {}), headlines)
    yield from _table_lines("failures", "one row per task and row that failed or is unparsed", FAILURES, {})


def _table_lines(
    folder: str, about: str, schema: pa.Schema, vocabularies: Mapping[str, tuple[str, ...]]
) -> Iterator[str]:
    yield from (f"## {folder}", "", f"`{folder}/part-NNNNN.parquet`: {about}", "")
    yield from ("| column | type | null | meaning | values |", "|---|---|---|---|---|")
    for field in schema:
        about = field.metadata[b"description"].decode()
        null = "yes" if field.nullable else "no"
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        yield f"| {field.name} | {kind} | {null} | {about} | {', '.join(vocabularies.get(field.name, ()))} |"
    yield ""
