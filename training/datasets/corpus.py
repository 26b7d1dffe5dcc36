"""The written corpus: reports and sentence pairs in JSON Lines, written for this project; and their recombination.

`test` was written from briefs that knew nothing of what the adapters get wrong, and no choice is made by it.

A record's sections are joined as the archive reader joins columns. Spans are marked in the text, `{words|codes}`:
anatomy, present, absent, uncertain for entities; new, worsened, improved, resolved, unchanged for changes.

Terms: written by this project; Apache-2.0.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from radlite_batch.errors import ArchiveError
from radlite_batch.tasks import abnormality_detection, temporal_comparison
from radlite_batch.tasks.rads_systems import parse_label
from training.criteria import CATEGORY, metastatic_stage, nodal_stage
from training.datasets.base import Sample, joined

SECTIONS = ("indication", "technique", "comparison", "findings", "impression")
_KEYS = {
    "id", "modality", "text", *SECTIONS, "prior_text", "rads", "facts", "n", "m", "flags", "marked", "qa",
    "group", "premise", "hypothesis", "label",
}  # fmt: skip
_ENTITIES = {"anatomy": "anatomy"} | {s: f"observation_{s}" for s in ("present", "absent", "uncertain")}
_MARK = re.compile(r"\{([^{}|]*)\|([^{}|]*)\}")
Spans = list[list[Any]]  # [start, end, label]


def read(folder: Path) -> Iterator[Sample]:
    """Records of folder/train, folder/heldout ("dev") and folder/test; the last two may be missing.

    Raises ArchiveError naming file and line."""
    if not any((folder / "train").glob("*.jsonl")):
        raise ArchiveError(f"{folder}: no train/*.jsonl is here")
    for part, split in (("train", "train"), ("heldout", "dev"), ("test", "test")):
        for path in sorted((folder / part).glob("*.jsonl")):
            try:
                lines = path.read_text(encoding="utf-8").splitlines()
            except UnicodeDecodeError:
                raise ArchiveError(f"{path}: not UTF-8") from None
            for number, line in enumerate(lines, 1):
                try:
                    yield from samples(json.loads(line), "corpus", split)
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise ArchiveError(f"{path}, line {number}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return f"no {error}" if isinstance(error, KeyError) else str(error)


def samples(record: Mapping[str, Any], source: str, split: str) -> Iterator[Sample]:
    """A record's samples: the report, and one for each of its questions. Raises ValueError, KeyError."""
    unknown = sorted(record.keys() - _KEYS)
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r}")
    key = str(record["id"])
    if "premise" in record:
        pair = {name: record[name] for name in ("premise", "hypothesis")}
        label = {"radiology_nli": {"label": record["label"]}}
        yield Sample(source, key, str(record.get("group", key)), "", pair, label, split)
        return
    text, entities, changes = plain(record.get("text") or joined(**{s: record.get(s, "") for s in SECTIONS}))
    fields = {s: plain(record[s])[0] for s in ("findings", "impression") if record.get(s)}
    if "prior_text" in record:
        fields["prior_text"] = record["prior_text"]
    targets: dict[str, dict[str, Any]] = _labels(record)
    marked = record.get("marked", ())
    if "entities" in marked:
        targets["radiology_ner"] = {"entities": entities}
    if "changes" in marked:
        targets["temporal_comparison"] = {"changes": changes}
    if fields.keys() >= {"findings", "impression"}:
        targets["impression_generation"] = {"impression": fields["impression"]}
    yield Sample(source, key, key, text, fields, targets, split)
    for i, (question, answer) in enumerate(record.get("qa", ()), 1):
        asked = {"radiology_qa": {"answer": answer}}
        yield Sample(source, f"{key}-q{i}", key, text, {"question": question}, asked, split)


def plain(marked: str) -> tuple[str, Spans, Spans]:
    """The text without its marks, and its entities and changes. Raises ValueError for a mark that is not one."""
    text, entities, changes, end = "", [], [], 0
    for mark in _MARK.finditer(marked):
        text += marked[end : mark.start()]
        span = [len(text), len(text) + len(mark[1])]
        for code in mark[2].split(","):
            if code in _ENTITIES:
                entities.append([*span, _ENTITIES[code]])
            elif code in temporal_comparison.LABELS:
                changes.append([*span, code])
            else:
                raise ValueError(f"unknown mark {code!r}")
        text += mark[1]
        end = mark.end()
    text += marked[end:]
    if "{" in text or "}" in text:
        raise ValueError("a brace outside a mark")
    return text, entities, changes


def _labels(record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    targets: dict[str, dict[str, Any]] = {}
    if "rads" in record:
        system, category, neck = parse_label(record["rads"])
        named = {"system": system, "category": category, "neck": neck}
        targets["rads_assignment"] = {question: label for question, label in named.items() if label is not None}
        if "facts" in record and system in CATEGORY and CATEGORY[system](record["facts"]) != category:
            raise ValueError(f"the facts of {record['id']} do not give {record['rads']}")
    if "n" in record:
        targets["n_staging"] = {"stage": record["n"]}
        if "site" in record.get("facts", {}) and nodal_stage(record["facts"]) != record["n"]:
            raise ValueError(f"the facts of {record['id']} do not give {record['n']}")
    if "m" in record:
        targets["m_staging"] = {"stage": record["m"]}
        if "metastases" in record.get("facts", {}) and metastatic_stage(record["facts"]) != record["m"]:
            raise ValueError(f"the facts of {record['id']} do not give {record['m']}")
    if "flags" in record:
        targets["abnormality_detection"] = _flags(record["flags"])
    return targets


def _flags(stated: Mapping[str, str]) -> dict[str, str]:
    """All 14, `absent` where not stated. Raises ValueError where "No Finding" stands beside one (CheXbert's rule)."""
    unknown = sorted(stated.keys() - set(abnormality_detection.LABELS))
    if unknown:
        raise ValueError(f"unknown flag {unknown[0]!r}")
    found = {name for name, state in stated.items() if state in ("positive", "uncertain")}
    if "no_finding" in found and found - {"no_finding", "support_devices"}:
        raise ValueError("no_finding beside a finding")
    return {name: stated.get(name, "absent") for name in abnormality_detection.LABELS}
