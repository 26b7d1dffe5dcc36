"""Examples as packed rows: a report's tokens once, each question a branch, and the places where loss is taken.

A row is the trie of its prompts, segment by segment, laid flat: a node holds a segment's tokens, its positions go on
from its parent's, and a token sees its own node and the nodes above it. That is what the engine computes, and the
tokens are the engine's own. The answer of a free text is one more node.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radlite_batch.engine.base import Limits, Model
from radlite_batch.engine.context import Weights
from radlite_batch.engine.llama import LlamaModel
from radlite_batch.engine.tokens import Tokeniser
from radlite_batch.errors import PackError, UsageError
from radlite_batch.records import Decide, Generate, Prompt, Segment, Tag
from radlite_batch.tasks.base import Block, Choice, Question, Spans, Task
from radlite_batch.tasks.registry import cue_names
from radlite_batch.tasks.render import PromptStyle, render
from radlite_batch.tasks.spans import tags_of, words

Ints = NDArray[np.int64]

# A report has some 60 words to tag and some 20 to write for each decision; these keep them from drowning it.
TAG_WEIGHT, TEXT_WEIGHT = 0.2, 0.1


@dataclass(frozen=True, slots=True)
class Example:
    """A task over a report's inputs, with its reference.

    targets: by question name, a label, several labels of which one is right (a partial label), spans as (start, end,
    label), {"only": spans} where nothing is known of the words outside them, or a text. A question without a target
    is not asked."""

    task: Task
    blocks: tuple[Block, ...]
    targets: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt with what is right after it: the allowed answers of a Decide, a Tag's tag of each word (None where it is
    not known), or one text."""

    prompt: Prompt
    right: tuple[str | None, ...]


def ask(example: Example, style: PromptStyle) -> list[Asked]:
    """The example's native prompts with their answers. Raises UsageError for a target its question cannot have."""
    prompts = render(example.task, example.blocks, style)
    questions = {question.name: question for question in example.task.questions}
    asked = []
    for name, target in example.targets.items():
        if name not in questions:
            raise UsageError(f"{example.task.name} has no question {name!r}")
        asked.append(Asked(prompts[name], _right(example, questions[name], target)))
    return asked


def _right(example: Example, question: Question, target: Any) -> tuple[str | None, ...]:
    output = question.output
    if isinstance(output, Choice):
        allowed = {target} if isinstance(target, str) else set(target)
        if not allowed or not allowed <= set(output.labels):
            raise UsageError(f"{example.task.name}.{question.name}: a target is no label of the question")
        return tuple(code for label, code in zip(output.labels, output.codes, strict=True) if label in allowed)
    if isinstance(output, Spans):
        only = isinstance(target, Mapping)
        tags = tags_of(output, words(example.blocks[0].text), target["only"] if only else target)
        return tuple(None if only and not tag else output.tags[tag] for tag in tags)
    return (str(target),)


@dataclass(frozen=True, slots=True)
class Want:
    """A place of a row whose next token is learnt.

    candidates: the tokens that compete, None for the whole vocabulary. right: indices into them; their summed
    probability is learnt. weight: in the loss."""

    place: int
    candidates: tuple[int, ...] | None
    right: tuple[int, ...]
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Row:
    """n tokens for one forward pass. tokens, positions, nodes: (n,). parents: (n_nodes,), -1 for none, each below its
    own index. wants come in the order of the questions asked; counts: how many of them each question has."""

    tokens: Ints
    positions: Ints
    nodes: Ints
    parents: Ints
    wants: tuple[Want, ...]
    counts: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.tokens)

    def mask(self) -> NDArray[np.bool_]:
        """(n, n), True where the token of the first axis sees that of the second."""
        sees = np.eye(len(self.parents), dtype=bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                sees[node] |= sees[parent]
        mask: NDArray[np.bool_] = sees[np.ix_(self.nodes, self.nodes)] & np.tri(len(self), dtype=bool)
        return mask


def pack(rows: Iterable[Row], length: int) -> list[Row]:
    """The rows joined in order to at most `length` tokens each (a longer one stays alone); none sees another."""
    groups: list[list[Row]] = []
    filled = length
    for row in rows:
        filled += len(row)
        if filled > length:
            groups.append([])
            filled = len(row)
        groups[-1].append(row)
    return [_join(group) for group in groups]


def _join(rows: Sequence[Row]) -> Row:
    token = np.cumsum([0, *(len(row) for row in rows)])
    node = np.cumsum([0, *(len(row.parents) for row in rows)])
    return Row(
        np.concatenate([row.tokens for row in rows]),
        np.concatenate([row.positions for row in rows]),
        np.concatenate([row.nodes + n for row, n in zip(rows, node, strict=False)]),
        np.concatenate([np.where(row.parents < 0, -1, row.parents + n) for row, n in zip(rows, node, strict=False)]),
        tuple(
            replace(want, place=int(want.place + t)) for row, t in zip(rows, token, strict=False) for want in row.wants
        ),
        tuple(count for row in rows for count in row.counts),
    )


class Encoder:
    """Rows in a model's own tokens. cues: the token of each cue name, given out as the engine gives them out."""

    def __init__(self, model: Model, cue_names: Sequence[str]):
        self._model = model
        self._tokeniser = Tokeniser(model, cue_names)
        self.cues = self._tokeniser.cues

    def row(self, asked: Iterable[Asked]) -> Row:
        """One row of all these prompts; prompts of one report share what they begin with.

        Raises PackError where an answer code is not one token, KeyError for a cue the encoder does not know."""
        tree = _Tree()
        nodes: dict[tuple[Segment, ...], int] = {}
        wants: list[list[Want]] = []
        for question in asked:
            segments = question.prompt.segments
            node = -1
            for depth, segment in enumerate(segments, 1):
                begun = segments[:depth]
                if begun not in nodes:
                    nodes[begun] = tree.add(self.tokenize(segment), node)
                node = nodes[begun]
            wants.append(self._wants(question, node, tree))
        return tree.row(wants)

    def cue_words(self) -> dict[int, list[int]]:
        """For each cue token the tokens of what it is named after: its question, or the task of an only question."""
        tasks = [name.partition(".")[0] for name in self.cues]
        named = {}
        for name, cue in self.cues.items():
            task, _, question = name.partition(".")
            words_of_name = (question if tasks.count(task) > 1 else task).replace("_", " ")
            named[cue] = list(self._model.tokenize(f" {words_of_name}", False))
        return named

    def tokenize(self, segment: Segment) -> Ints:
        return self._tokeniser.segment(segment).astype(np.int64)

    def _wants(self, asked: Asked, node: int, tree: "_Tree") -> list[Want]:
        read = asked.prompt.read
        if isinstance(read, Decide):
            right = tuple(read.answers.index(str(answer)) for answer in asked.right)
            return [Want(tree.last(node), self._codes(read.answers), right)]
        if isinstance(read, Tag):
            codes, start = self._codes(read.tags), tree.start(node)
            ends = self._tokeniser.word_ends(asked.prompt.segments[-1].text, tree.tokens(node), read.words)
            known = [(end, tag) for end, tag in zip(ends, asked.right, strict=True) if tag is not None]
            return [Want(start + end, codes, (read.tags.index(tag),), TAG_WEIGHT) for end, tag in known]
        return self._text_wants(read, str(asked.right[0]), node, tree)

    def _text_wants(self, read: Generate, text: str, node: int, tree: "_Tree") -> list[Want]:
        # The engine writes no more than max_tokens, so the last is not read again, and a longer text has no end.
        learnt = [*self._model.tokenize(text, False), self._model.end][: read.max_tokens]
        first = tree.last(node)
        written = tree.start(tree.add(np.array(learnt[:-1], dtype=np.int64), node))
        places = [first, *range(written, written + len(learnt) - 1)]
        return [Want(place, None, (token,), TEXT_WEIGHT) for place, token in zip(places, learnt, strict=True)]

    def _codes(self, answers: Collection[str]) -> tuple[int, ...]:
        rows = [self._model.tokenize(answer, False) for answer in answers]
        if any(len(row) != 1 for row in rows):
            raise PackError("an answer code is not one token of this base; it cannot be trained natively")
        return tuple(row[0] for row in rows)


def open_encoder(base: Path) -> Encoder:
    """The encoder of a GGUF's own tokens, with every cue there is."""
    return Encoder(LlamaModel(Weights(base), Limits(64, 64, 1), 1), cue_names())


@dataclass(slots=True)
class _Tree:
    """The trie of a row's prompts while it grows; nodes are numbered as they come, parents first."""

    _parts: list[Ints] = field(default_factory=list)
    _parents: list[int] = field(default_factory=list)
    _starts: list[int] = field(default_factory=list)  # index of a node's first token in the row
    _depths: list[int] = field(default_factory=list)  # position of a node's first token
    _size: int = 0

    def add(self, tokens: Ints, parent: int) -> int:
        self._depths.append(self._depths[parent] + len(self._parts[parent]) if parent >= 0 else 0)
        self._parts.append(tokens)
        self._parents.append(parent)
        self._starts.append(self._size)
        self._size += len(tokens)
        return len(self._parts) - 1

    def start(self, node: int) -> int:
        return self._starts[node]

    def last(self, node: int) -> int:
        return self._starts[node] + len(self._parts[node]) - 1

    def tokens(self, node: int) -> Ints:
        return self._parts[node]

    def row(self, wants: list[list[Want]]) -> Row:
        spans = [np.arange(d, d + len(p)) for d, p in zip(self._depths, self._parts, strict=True)]
        nodes = np.repeat(np.arange(len(self._parts)), [len(part) for part in self._parts])
        return Row(
            np.concatenate(self._parts), np.concatenate(spans), nodes, np.array(self._parents),
            tuple(want for group in wants for want in group), tuple(map(len, wants)),
        )  # fmt: skip
