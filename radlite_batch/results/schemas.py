"""Arrow schemas of the output tables, derived from the tasks' columns."""

from collections.abc import Iterable, Mapping

import pyarrow as pa

from radlite_batch.tasks.base import Column, Task

SCHEMA_VERSION = "1"

_FIXED = (
    (pa.field("report_id", pa.string()), "the archive's id, as written"),
    (pa.field("source_row", pa.int64(), nullable=False), "row of the archive, counted over its files in planned order"),
    (pa.field("status", pa.string(), nullable=False), "ok, empty, too_long, unparsed or failed"),
    (pa.field("confidence", pa.float32()), "probability of the answer; null for free text"),
    (pa.field("model", pa.dictionary(pa.int32(), pa.string())), "the pack's model that answered"),
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
    fields = [field.with_metadata({"description": about}) for field, about in _FIXED]
    fields += [pa.field(c.name, arrow_type(c)).with_metadata({"description": c.about}) for c in task.columns]
    return pa.schema(fields, metadata=dict(metadata))


def wide_schema(tasks: Iterable[Task], metadata: Mapping[str, str]) -> pa.Schema:
    """report_id, source_row, then each task's headline column under the task's name, and its confidence."""
    fields = [field for field, _ in _FIXED[:2]]
    for task in tasks:
        fields.append(pa.field(task.name, arrow_type(task.headline_column)))
        fields.append(pa.field(f"{task.name}_confidence", pa.float32()))
    return pa.schema(fields, metadata=dict(metadata))


FAILURES = pa.schema(
    [
        pa.field("report_id", pa.string()),
        pa.field("source_row", pa.int64(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
