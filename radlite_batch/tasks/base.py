"""What a task is: its inputs, its questions with their output types, and how an answer becomes columns.

A task is declared once, in a file of its own, and serves three readers: the renderer (prompts), the worker
(columns) and training (targets). Standard library only, so that both packages can share it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from radlite_batch.errors import Unparsed
from radlite_batch.records import Completion, Decided, Prediction, Report, Written


@dataclass(frozen=True, slots=True)
class Choice:
    """One label of a closed list.

    codes: one ASCII character per label, the native answer; every byte-level vocabulary holds each as one
    token, and no label is a prefix of another. words: how `instruct` prompts spell the labels.
    """

    labels: tuple[str, ...]
    codes: str
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.codes)) != len(self.labels) or len(self.codes) != len(self.labels):
            raise ValueError("one distinct code per label")
        if self.words and len(set(self.words)) != len(self.labels):
            raise ValueError("one distinct word per label")

    @property
    def spoken(self) -> tuple[str, ...]:
        return self.words or self.labels


@dataclass(frozen=True, slots=True)
class Spans:
    """Labelled stretches of the report, in order, not overlapping.

    codes: one letter per label; natively a word's tag is the capital where a span begins, the small letter
    inside it and "." outside. headers: the line heads under which a generated answer lists its terms.
    """

    labels: tuple[str, ...]
    codes: str
    headers: tuple[str, ...]
    max_tokens: int

    @property
    def tags(self) -> tuple[str, ...]:
        return (".", *(t for c in self.codes for t in (c.upper(), c.lower())))


@dataclass(frozen=True, slots=True)
class FreeText:
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Question:
    """One decision over a report. `ask` is its wording in `instruct` prompts."""

    name: str
    output: Choice | Spans | FreeText
    ask: str


@dataclass(frozen=True, slots=True)
class Column:
    """type: string, strings, float32, alternatives, or spans:<text key>:<label key> (list of structs with offsets)."""

    name: str
    type: str
    about: str
    vocabulary: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Block:
    """One input as it stands in the prompt; the first block of a task is what its questions share.

    heading: what stands before the text in a report that was joined from columns. Native prompts write it, so that a
    section that begins the report shares its tokens."""

    name: str
    text: str
    heading: str = ""


class Task(ABC):
    """A clinical task. Subclasses fill the class attributes and say how answers become a Prediction."""

    name: ClassVar[str]
    about: ClassVar[str]
    needs: ClassVar[str]  # its input fields, for people
    questions: ClassVar[tuple[Question, ...]]
    columns: ClassVar[tuple[Column, ...]]
    headline: ClassVar[str]  # the column that stands for the task in the wide table
    uses_text: ClassVar[bool] = True  # whether it reads the report's text
    metrics: ClassVar[tuple[str, ...]]  # names training/ scores by

    def blocks(self, report: Report) -> tuple[Block, ...] | None:
        """The task's inputs in prompt order, or None where they are missing (status `empty`)."""
        return (Block("report", report.text),) if report.text.strip() else None

    @property
    def headline_column(self) -> Column:
        return next(column for column in self.columns if column.name == self.headline)

    def headline_of(self, values: Mapping[str, Any]) -> Any:
        """The wide table's value for a row of the task's table (None where it has no answer)."""
        return values[self.headline]

    @abstractmethod
    def predict(self, answers: Mapping[str, Completion], blocks: tuple[Block, ...]) -> Prediction:
        """Columns from the completions of this task's own questions, by question name.

        Raises Unparsed where a written answer says nothing."""

    @abstractmethod
    def parse(self, raw: str, blocks: tuple[Block, ...]) -> Prediction:
        """Columns from one raw answer, as a published model writes it. Raises Unparsed."""

    @abstractmethod
    def answer(self, values: Mapping[str, Any]) -> str:
        """The raw answer that stands for these columns: parse(answer(values)) gives them back."""

    @abstractmethod
    def targets(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The training target of each question: a label, a list of (start, end, label), or a text."""


class ChoiceTask(Task):
    """A task of one closed question whose label is one column, with alternatives."""

    column: ClassVar[str]

    @property
    def choice(self) -> Choice:
        output = self.questions[0].output
        assert isinstance(output, Choice)
        return output

    def predict(self, answers: Mapping[str, Completion], blocks: tuple[Block, ...]) -> Prediction:
        decided = answers[self.questions[0].name]
        assert isinstance(decided, Decided)
        ranked = ranking(self.choice.labels, decided.probabilities)
        return Prediction({self.column: ranked[0][0], "alternatives": alternatives(ranked)}, ranked[0][1])

    @abstractmethod
    def read_label(self, raw: str) -> str:
        """The label a raw answer names. Raises Unparsed."""

    def parse(self, raw: str, blocks: tuple[Block, ...]) -> Prediction:
        return Prediction({self.column: self.read_label(strip_think(raw)), "alternatives": []})

    def answer(self, values: Mapping[str, Any]) -> str:
        return str(values[self.column])

    def targets(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {self.questions[0].name: values[self.column]}


class TextTask(Task):
    """A task whose answer is free text in one column; it carries no confidence."""

    def predict(self, answers: Mapping[str, Completion], blocks: tuple[Block, ...]) -> Prediction:
        written = answers[self.questions[0].name]
        assert isinstance(written, Written)
        return self.parse(written.text, blocks)

    def parse(self, raw: str, blocks: tuple[Block, ...]) -> Prediction:
        text = strip_think(raw)
        if not text:
            raise Unparsed(f"{self.name}: the answer is empty")
        return Prediction({self.headline: text})

    def answer(self, values: Mapping[str, Any]) -> str:
        return str(values[self.headline])

    def targets(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {self.questions[0].name: values[self.headline]}


def ranking(labels: tuple[str, ...], probabilities: tuple[float, ...]) -> list[tuple[str, float]]:
    """(label, probability), most probable first; ties keep the order of the labels."""
    return sorted(zip(labels, probabilities, strict=True), key=lambda pair: -pair[1])


def alternatives(ranked: list[tuple[str, float]], most: int = 5) -> list[dict[str, Any]]:
    """The best answers as the `alternatives` column holds them, the chosen one first."""
    return [{"label": label, "probability": p} for label, p in ranked[:most]]


def strip_think(raw: str) -> str:
    """A raw answer without the think block that some models put before it."""
    text = raw.strip()
    if text.startswith("<think>"):
        text = text.partition("</think>")[2]
    return text.strip()


ALTERNATIVES = Column("alternatives", "alternatives", "the most probable answers, the chosen one first")
