"""What a reader of a source yields, and how it says that a file is not as it should be."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from radlite_batch.records import Report
from radlite_batch.tasks.base import Block
from radlite_batch.tasks.registry import TASKS


@dataclass(frozen=True, slots=True)
class Sample:
    """A report with references for some questions of some tasks.

    id: unique within the source. group: what must not be split (patient, study, or one text's records). split: the
    source's own, "train", "dev" or "test", or None where `prepare` draws it. text and fields: as the archive reader
    gives them. targets: by task, by question of the task: a label, a list of labels of which one is right, spans as
    [start, end, label], or a text; a question without a target is not asked. subset: of the source, scored apart."""

    source: str
    id: str
    group: str
    text: str
    fields: Mapping[str, str] = field(default_factory=dict)
    targets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    split: str | None = None
    subset: str = ""

    def blocks(self, task: str) -> tuple[Block, ...] | None:
        """The task's inputs as the engine would build them, None where they are missing."""
        return TASKS[task].blocks(Report(0, self.id, self.text, dict(self.fields)))


def joined(**sections: str) -> str:
    """Sections joined as the archive reader joins several text columns: `NAME: text` lines, empty ones left out."""
    return "\n".join(f"{name.upper()}: {text}" for name, text in sections.items() if text.strip())


def flag(coded: bool) -> str | list[str]:
    """The target of a finding by whether human codes name it: where they do not, all but `positive` may be right."""
    return "positive" if coded else ["negative", "uncertain", "absent"]


def label_of(target: str | Sequence[str]) -> str:
    """A closed question's target as one name: a label, or those of which one is right with bars between."""
    return target if isinstance(target, str) else "|".join(target)


def digest(text: str) -> str:
    """Names a text, whatever its case and white space."""
    return hashlib.sha256(" ".join(text.casefold().split()).encode()).hexdigest()[:32]


def bare_digest(text: str) -> str:
    """Names a text, whatever its case, white space and signs: sources spell and split the same report differently."""
    return digest(re.sub(r"[\W_]+", "", text.casefold()))


def drawn(key: str) -> float:
    """A number in [0, 1) that depends on the key alone: the same draw on every machine, in any order."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2**64
