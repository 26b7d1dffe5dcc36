"""How far a run is, read from its files alone; works while it runs, and after a crash."""

from collections import Counter
from pathlib import Path
from typing import Any

from radlite_batch.errors import UsageError
from radlite_batch.results.commit import is_locked
from radlite_batch.results.manifest import finished_path, lock_path, read_manifest, read_receipts, run_folder
from radlite_batch.results.summary import read_summary
from radlite_batch.storage import shown

_LAST = 4096  # bytes that hold the last line of a log


def _ended(log: Path) -> bool:
    """Whether the last thing that a run wrote is that it ended."""
    if not log.exists():  # a run elsewhere was killed before it stored it
        return False
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - _LAST))
        return b'"event": "end"' in file.read().rstrip().rpartition(b"\n")[2]


def read_status(out: Path) -> dict[str, Any]:
    """state: complete, running, stopped. Rows and statuses count committed work; rows outside the filter count nowhere.

    Raises UsageError where no run was planned, OutputError where manifest or a receipt is damaged."""
    manifest = read_manifest(out)
    if manifest is None:
        raise UsageError(f"{shown(out)}: no run was planned there")
    shards = done = filtered = 0
    tasks: dict[str, Counter[str]] = {}
    for shard in manifest.shards:
        receipts = list(read_receipts(out, manifest.items_of(shard)).values())
        for task, entry in (pair for receipt in receipts for pair in receipt["tasks"].items()):
            tasks.setdefault(task, Counter()).update(entry["status"])
        filtered += receipts[0]["filtered"] if receipts else 0
        if receipts and finished_path(out, shard.number).exists():
            shards, done = shards + 1, done + receipts[0]["rows"]
    state = "complete" if (out / "_SUCCESS").exists() else "running" if is_locked(lock_path(out)) else "stopped"
    last = read_summary(out) or {"state": None}
    # Else it is that of an earlier run.
    code = last["exit_code"] if last["state"] == state and _ended(run_folder(out) / "log.jsonl") else None
    return {
        "output": shown(out), "state": state, "exit_code": code, "rows": manifest.rows - filtered, "rows_done": done,
        "shards": len(manifest.shards), "shards_done": shards,
        "tasks": {name: dict(counts) for name, counts in tasks.items()},
    }  # fmt: skip


def status_lines(status: dict[str, Any]) -> list[str]:
    lines = [
        f"{status['state']}: {status['rows_done']} of {status['rows']} rows, "
        f"{status['shards_done']} of {status['shards']} shards, in {status['output']}"
    ]
    for name, counts in status["tasks"].items():
        lines.append(f"{name:<24}" + ", ".join(f"{count} {key}" for key, count in counts.items()))
    return lines
