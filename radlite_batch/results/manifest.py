"""The frozen plan of a run and the proofs that its work items are committed.

OUT/_run/manifest.json          what is run on what: checked again before a run goes on
OUT/_run/receipts/NAME.json     a work item whose parts are all in place, written after them
OUT/_run/finished/NNNNN.json    a shard whose wide and failure parts are in place too, made from these very receipts
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from radlite_batch.archive import SurveyedFile
from radlite_batch.errors import OutputError, RunChanged
from radlite_batch.records import Shard, WorkItem
from radlite_batch.results.commit import commit_json, read_json, remove
from radlite_batch.results.tables import staging_folder


@dataclass(frozen=True, slots=True)
class Manifest:
    """identity: everything the rows depend on beside the archive's bytes; two runs that differ in it never mix.

    job: what was asked for last, as JSON holds it; with it a run can be gone on with from its output alone."""

    identity: dict[str, Any]
    files: tuple[SurveyedFile, ...]
    shards: tuple[Shard, ...]
    routes: dict[str, tuple[str, ...]]  # tasks of each model
    job: dict[str, Any]

    @property
    def items(self) -> list[WorkItem]:
        return [item for shard in self.shards for item in self.items_of(shard)]

    def items_of(self, shard: Shard) -> list[WorkItem]:
        return [WorkItem(shard, model, tasks) for model, tasks in self.routes.items()]

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)


def run_folder(out: Path) -> Path:
    return out / "_run"


def lock_path(out: Path) -> Path:
    return run_folder(out) / "lock"


def receipt_path(out: Path, item: WorkItem) -> Path:
    return run_folder(out) / "receipts" / f"{item.name}.json"


def finished_path(out: Path, shard: int) -> Path:
    return run_folder(out) / "finished" / f"{shard:05d}.json"


def read_manifest(out: Path) -> Manifest | None:
    """The manifest of an output folder, None where no run was planned yet. Raises OutputError."""
    path = run_folder(out) / "manifest.json"
    if not path.exists():
        if next((run_folder(out) / "receipts").glob("*.json"), None):
            raise OutputError(f"{path}: gone, and {out} holds receipts; use another output folder")
        return None
    document = read_json(path)
    return Manifest(
        document["identity"],
        tuple(SurveyedFile(**file | {"shard_starts": tuple(file["shard_starts"])}) for file in document["files"]),
        tuple(Shard(**shard) for shard in document["shards"]),
        {model: tuple(tasks) for model, tasks in document["routes"].items()},
        document["job"],
    )


def write_manifest(out: Path, manifest: Manifest) -> None:
    commit_json(run_folder(out) / "manifest.json", staging_folder(out), asdict(manifest))


def refuse_changes(out: Path, old: Manifest, identity: Mapping[str, Any], checksums: Mapping[str, str]) -> None:
    """Raises RunChanged, naming what differs, unless the run in `out` can go on.

    checksums: sha256 of each file of the archive as it is now; further files than the manifest's are welcome."""
    for file in old.files:
        if file.path not in checksums:
            raise RunChanged(f"{file.path}: planned in {out}, but no longer in the archive; use another output folder")
        if checksums[file.path] != file.sha256:
            raise RunChanged(f"{file.path}: its bytes changed since {out} was planned; use another output folder")
    if difference := _difference("", old.identity, json.loads(json.dumps(identity))):
        raise RunChanged(f"{out} holds a run with another {difference}; use another output folder")


def _difference(name: str, old: Any, new: Any) -> str | None:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys((*old, *new)):
            if found := _difference(f"{name}.{key}".lstrip("."), old.get(key), new.get(key)):
                return found
        return None
    return None if old == new else f"{name} ({_short(old)}, now {_short(new)})"


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:12]}..."


def read_receipts(out: Path, items: Iterable[WorkItem]) -> dict[str, dict[str, Any]]:
    """The receipts there are, by item name. Raises OutputError for a damaged one."""
    paths = {item.name: receipt_path(out, item) for item in items}
    return {name: read_json(path) for name, path in paths.items() if path.exists()}


def withdraw(proof: Path) -> None:
    """Takes away what vouches for parts that are about to be written again."""
    if proof.exists():
        remove(proof)


def write_finished(
    out: Path, shard: int, parts: Sequence[Mapping[str, Any]], receipts: Mapping[str, Mapping[str, Any]]
) -> None:
    """parts: entries of the wide and failure parts. receipts: those that they were made from, by item name."""
    sources = {name: receipt["sha256"] for name, receipt in receipts.items()}
    commit_json(finished_path(out, shard), staging_folder(out), {"parts": parts, "receipts": sources})


@dataclass(frozen=True, slots=True)
class Committed:
    """What of a run is in place. items: names of work items. shards: numbers of those that are finished."""

    items: set[str]
    shards: set[int]


def read_committed(out: Path, manifest: Manifest, checksums: bool = False) -> Committed:
    """Looks at every receipt, and at the sizes of its parts; what is damaged or gone is to be made again.

    checksums: reads the parts too, for damage that leaves their size."""
    found = Committed(set(), set())
    for shard in manifest.shards:
        items = manifest.items_of(shard)
        receipts = {item.name: in_place(out, receipt_path(out, item), checksums) for item in items}
        found.items.update(name for name, receipt in receipts.items() if receipt)
        finished = in_place(out, finished_path(out, shard.number), checksums)
        if finished and finished["receipts"] == {name: r["sha256"] if r else None for name, r in receipts.items()}:
            found.shards.add(shard.number)
    return found


def proofs(out: Path) -> Iterator[dict[str, Any]]:
    """Every receipt and what is said of every finished shard; a damaged one vouches for nothing."""
    for path in (*run_folder(out).glob("receipts/*.json"), *run_folder(out).glob("finished/*.json")):
        with suppress(OutputError):
            yield read_json(path)


def parts_of(proof: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    """The entries (path, rows, sha256, bytes) of the parts that a receipt, or a finished shard, vouches for."""
    parts: Iterable[Mapping[str, Any]] = proof["tasks"].values() if "tasks" in proof else proof["parts"]
    return parts


def in_place(out: Path, path: Path, checksums: bool = False) -> dict[str, Any] | None:
    """A receipt, or what is said of a finished shard; None if it, or a part that it vouches for, is damaged or gone.

    checksums: else only the size of a part is looked at."""
    try:
        proof = read_json(path)
        whole = all(is_whole(out / part["path"], part, checksums) for part in parts_of(proof))
    except (OutputError, OSError):
        return None
    return proof if whole else None


def is_whole(path: Path, entry: Mapping[str, Any], checksum: bool = True) -> bool:
    """Whether a part that is there is what its proof says, in size alone or byte by byte. Raises OSError."""
    if path.stat().st_size != entry["bytes"]:
        return False
    same: bool = not checksum or hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]
    return same
