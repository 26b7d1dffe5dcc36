"""The nouns that travel between the parts; no behaviour beyond what a record knows of itself."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

STATUSES = ("ok", "empty", "too_long", "unparsed", "failed")


@dataclass(frozen=True, slots=True)
class Report:
    """One row of an archive. `text` is the joined text that every offset counts in (Unicode code points)."""

    source_row: int
    report_id: str | None
    text: str
    fields: dict[str, str] = field(default_factory=dict)  # findings, impression, prior_text, premise, ...
    problem: str | None = None  # why the row could not be read; such a row is `failed` in every task


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of prompt text that is tokenised by itself.

    markup: the pack's own text, special tokens on; words: our text, special tokens off;
    report: text from the archive, special tokens off; cue: one reserved token, named after its question.
    """

    kind: Literal["markup", "words", "report", "cue"]
    text: str


@dataclass(frozen=True, slots=True)
class Decide:
    """Score these answers after the prompt; one of them is the answer."""

    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tag:
    """Score `tags` (one token each) at the last token of each word of the prompt's last segment.

    words: (start, end) in code points of that segment.
    """

    tags: tuple[str, ...]
    words: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Generate:
    """Write at most max_tokens after the prompt, greedily, up to a stop string or the model's end token.

    opening: the prompt's last words that already belong to the answer.
    """

    max_tokens: int
    stop: tuple[str, ...] = ()
    opening: str = ""


@dataclass(frozen=True, slots=True)
class Prompt:
    segments: tuple[Segment, ...]
    read: Decide | Tag | Generate


@dataclass(frozen=True, slots=True)
class Decided:
    probabilities: tuple[float, ...]  # one per answer, sum 1


@dataclass(frozen=True, slots=True)
class Tagged:
    probabilities: tuple[tuple[float, ...], ...]  # (n_words, n_tags), rows sum to 1


@dataclass(frozen=True, slots=True)
class Written:
    text: str
    cut: bool = False  # stopped by max_tokens


@dataclass(frozen=True, slots=True)
class TooLong:
    n_tokens: int
    limit: int


Completion = Decided | Tagged | Written | TooLong


@dataclass(frozen=True, slots=True)
class Prediction:
    """A parsed answer: the task's columns, and the confidence column (None for free text)."""

    values: dict[str, Any]
    confidence: float | None = None
    dropped: int = 0  # spans the model named that do not stand in the report


@dataclass(frozen=True, slots=True)
class Shard:
    """A fixed run of one file's rows: file rows [start, start + rows), archive rows from first_row on."""

    number: int
    path: str
    start: int
    rows: int
    first_row: int
    byte_offset: int | None = None  # CSV: where record `start` begins; None for Parquet


@dataclass(frozen=True, slots=True)
class WorkItem:
    """A shard for one model and its tasks. only: the source rows to answer again, where the others stay as they are."""

    shard: Shard
    model: str
    tasks: tuple[str, ...]
    only: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.shard.number:05d}-{self.model}"

    @property
    def source_rows(self) -> Sequence[int]:
        """The rows it answers."""
        return self.only or range(self.shard.first_row, self.shard.first_row + self.shard.rows)
