"""RadGraph, RadGraph2 and RadGraph-XL (Jain et al. 2021, Khanna et al. 2023, Delbrouck et al. 2024): marked entities.

Terms: PhysioNet credentialed health data licence 1.5.0; the Stanford part of RadGraph-XL under its AIMI agreement.

Two forms, by the file's suffix. `.json`: reports by path, `text` with a blank between tokens, entities with the
indices of their first and last token; a report marked by two people counts as the first marked it. `.jsonl` (DyGIE):
`sentences` of tokens, `ner` as [first, last, label], `relations` as [first, last, first, last, type]. A change of
RadGraph2 stands at the finding that it modifies, or else at the word that says it, and has no label among the entities.
A device that lies elsewhere than before is left out: none of the five changes says so.

Of RadGraph the three files marked by people are read. The files of the other two are not known by name: whatever is in
their folder is read, so it should hold what people marked and no model's output.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radlite_batch.errors import ArchiveError
from training.datasets.base import Sample
from training.datasets.files import SPLITS, Record, json_file, json_lines, present, record

_CHANGES = {
    "CON-AP": "new", "DEV-AP": "new", "AP": "new", "CON-RES": "resolved", "DEV-DISA": "resolved", "DISA": "resolved",
    "WOR": "worsened", "CON-WOR": "worsened", "IMP": "improved", "CON-IMP": "improved",
    "NC": "unchanged",
}  # fmt: skip
_MOVED = ("CHAN-DEV-PLACE", "CHAN-DISP")  # DISP: the older name
_STATUS = {
    "DP": "observation_present", "definitely present": "observation_present",
    "DA": "observation_absent", "definitely absent": "observation_absent",
    "U": "observation_uncertain", "uncertain": "observation_uncertain",
}  # fmt: skip
_MIMIC = re.compile(r"(?:^|/)p(\d{8})(?:/|$)")


FILES = ("train.json", "dev.json", "test.json")


def read(folder: Path) -> Iterator[Sample]:
    """RadGraph: a sample for every report. Raises ArchiveError naming file, report and field."""
    return _read("radgraph", present(folder, FILES))


def read_radgraph2(folder: Path) -> Iterator[Sample]:
    """RadGraph2: a sample for every report, with its changes. Raises ArchiveError naming file, report and field."""
    return _read("radgraph2", _all(folder))


def read_radgraph_xl(folder: Path) -> Iterator[Sample]:
    """RadGraph-XL: a sample for every report. Raises ArchiveError naming file, report and field."""
    return _read("radgraph_xl", _all(folder))


def _all(folder: Path) -> list[Path]:
    paths = sorted(path for ending in ("json", "jsonl", "json.gz", "jsonl.gz") for path in folder.glob(f"*.{ending}"))
    if not paths:
        raise ArchiveError(f"{folder}: no .json or .jsonl file is here")
    return paths


def _read(source: str, paths: Sequence[Path]) -> Iterator[Sample]:
    for path in paths:
        for name, report, tokens, entities in _of_dygie(path) if ".jsonl" in path.name else _of_json(path):
            patient = _MIMIC.search(name)
            group = f"mimic:{patient[1]}" if patient else f"{source}:{name}"
            targets = _targets(report, tokens, entities, source == "radgraph2")
            yield Sample(source, f"{path.stem}:{name}", group, " ".join(tokens), {}, targets, _split(report, path))


@dataclass(frozen=True, slots=True)
class Entity:
    """first, last: its tokens. modified: the tokens of what it modifies."""

    first: int
    last: int
    label: str
    modified: tuple[int, int] | None


Report = tuple[str, Record, Sequence[str], list[Entity]]


def _of_json(path: Path) -> Iterator[Report]:
    for name, value in json_file(path, dict).items():
        report = record(f"{path}: report {name}", value)
        marked = report
        if "entities" not in report.values and "labeler_1" in report.values:
            marked = Record(f"{report.where}: labeler_1", report.of("labeler_1", dict))
        entities = marked.of("entities", dict)
        read = {key: record(f"{marked.where}: entity {key}", entity) for key, entity in entities.items()}
        tokens = {key: (entity.of("start_ix", int), entity.of("end_ix", int)) for key, entity in read.items()}
        found = []
        for key, entity in read.items():
            try:
                modified = [tokens.get(str(other)) for kind, other in entity.of("relations", list) if kind == "modify"]
            except (TypeError, ValueError):
                raise ArchiveError(f"{entity.where}: field 'relations' holds no pairs") from None
            found.append(Entity(*tokens[key], entity.text("label"), next(iter(modified), None)))
        yield name, report, report.of("text", str).split(" "), found


def _of_dygie(path: Path) -> Iterator[Report]:
    for line in json_lines(path):
        try:
            tokens = [str(token) for sentence in line.of("sentences", list) for token in sentence]
            modified = {(a, b): (c, d) for a, b, c, d, kind, *_ in _flat(line, "relations") if kind == "modify"}
            found = [Entity(int(a), int(b), str(label), modified.get((a, b))) for a, b, label, *_ in _flat(line, "ner")]
        except (TypeError, ValueError):
            raise ArchiveError(f"{line.where}: 'sentences', 'ner' and 'relations' are not those of DyGIE") from None
        yield line.text("doc_key"), line, tokens, found


def _flat(line: Record, name: str) -> list[Any]:
    return [item for sentence in line.of(name, list) for item in sentence]


def _split(report: Record, path: Path) -> str | None:
    """The report's own, else that in the file's name."""
    named = report.values.get("data_split")
    return SPLITS.get(str(named)) or next((SPLITS[s] for s in re.split(r"\W|_", path.stem) if s in SPLITS), None)


def _targets(report: Record, tokens: Sequence[str], found: list[Entity], with_changes: bool) -> dict[str, Any]:
    starts = [0]
    for token in tokens:
        starts.append(starts[-1] + len(token) + 1)

    def span(first: int, last: int) -> tuple[int, int]:
        if not 0 <= first <= last < len(tokens):
            raise ArchiveError(f"{report.where}: an entity's indices lie outside the text")
        return starts[first], starts[last + 1] - 1

    entities: dict[tuple[int, int], str] = {}
    changes: dict[tuple[int, int], str] = {}
    for entity in found:
        if entity.label in _MOVED:
            continue
        kind, meaning = _meaning(report, entity.label)
        if kind == "change":
            changes.setdefault(span(*(entity.modified or (entity.first, entity.last))), meaning)
        else:
            entities.setdefault(span(entity.first, entity.last), meaning)
    targets = {"radiology_ner": {"entities": _spans(entities)}}
    return targets | ({"temporal_comparison": {"changes": _spans(changes)}} if with_changes else {})


def _spans(labels: dict[tuple[int, int], str]) -> list[list[Any]]:
    return [[*span, label] for span, label in sorted(labels.items())]


def _meaning(report: Record, label: str) -> tuple[str, str]:
    """ "OBS-DP", "Observation::measurement::definitely present", "CHAN-CON-AP" as kind and label of the task."""
    head, _, rest = label.replace("::", "-", 1).partition("-")
    if head == "CHAN" and rest in _CHANGES:
        return "change", _CHANGES[rest]
    if head in ("ANAT", "Anatomy"):
        return "entity", "anatomy"
    status = rest.rpartition("::")[2]
    if head in ("OBS", "Observation") and status in _STATUS:
        return "entity", _STATUS[status]
    raise ArchiveError(f"{report.where}: an entity's label is none of RadGraph's")
