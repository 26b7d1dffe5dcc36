"""Spans in a report: its words, the best legal tag sequence over them, and terms found again in the text.

Offsets are code points of the report's text throughout, so report[start:end] is the span's text.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from radlite_batch.errors import Unparsed
from radlite_batch.records import Completion, Prediction, Tagged, Written
from radlite_batch.tasks.base import Block, Spans, Task, strip_think

Span = tuple[int, int, str]  # start, end, label

_WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+(?:['\u2019][^\W\d_]+)*|[^\s\w]|_")


def words(text: str) -> tuple[tuple[int, int], ...]:
    """The units that carry a tag: numbers, runs of letters, single signs."""
    return tuple(match.span() for match in _WORD.finditer(text))


def best_tags(output: Spans, probabilities: Sequence[Sequence[float]]) -> list[int]:
    """The most probable tag sequence in which every inside tag continues a span of its own label (Viterbi).

    probabilities: (n_words, n_tags) in the order of output.tags. Ties go to the earlier tag."""
    n_tags = len(output.tags)
    # Tags are ".", then begin and inside of each label: an inside tag has an even index above 0.
    before = {t: (t - 1, t) for t in range(2, n_tags, 2)}
    score = [0.0 if t not in before else float("-inf") for t in range(n_tags)]
    paths: list[list[int]] = []
    for i, row in enumerate(probabilities):
        logs = [_log(p) for p in row]
        if i == 0:
            score = [s + x for s, x in zip(score, logs, strict=True)]
            continue
        anywhere = max(range(n_tags), key=lambda t: (score[t], -t))
        come = [max(before[t], key=lambda b: (score[b], -b)) if t in before else anywhere for t in range(n_tags)]
        score = [score[come[t]] + logs[t] for t in range(n_tags)]
        paths.append(come)
    if not probabilities:
        return []
    best = [max(range(n_tags), key=lambda t: (score[t], -t))]
    for come in reversed(paths):
        best.append(come[best[-1]])
    return best[::-1]


def _log(p: float) -> float:
    return math.log(max(p, 1e-30))


def spans_of(output: Spans, spots: Sequence[tuple[int, int]], tags: Sequence[int]) -> list[tuple[Span, list[int]]]:
    """(span, indices of its words) for a legal tag sequence."""
    found: list[tuple[Span, list[int]]] = []
    for i, tag in enumerate(tags):
        if tag and tag % 2:
            found.append(((*spots[i], output.labels[tag // 2]), [i]))
        elif tag:
            (start, _, label), indices = found[-1]
            found[-1] = ((start, spots[i][1], label), [*indices, i])
    return found


def tags_of(output: Spans, spots: Sequence[tuple[int, int]], spans: Iterable[Span]) -> list[int]:
    """The tag of every word for these spans: the training target, inverse of spans_of."""
    tags = [0] * len(spots)
    for start, end, label in spans:
        begin = 1 + 2 * output.labels.index(label)
        inside = [i for i, (a, b) in enumerate(spots) if a < end and b > start]
        for i in inside:
            tags[i] = begin if i == inside[0] else begin + 1
    return tags


def align(text: str, terms: Iterable[tuple[str, str]]) -> tuple[list[Span], int]:
    """Finds (term, label) pairs in the text, each label's terms in order of occurrence, none overlapping.

    Returns the spans in order of position and the number of terms that do not stand in the text."""
    cursors: dict[str, int] = {}
    taken: list[Span] = []
    dropped = 0
    for term, label in terms:
        # Whole words only, and "5 cm" does not stand in "2.5 cm".
        words_of_term = r"\s+".join(map(re.escape, term.split()))
        pattern = re.compile(rf"(?<!\w)(?<!\d[.,]){words_of_term}(?!\w)(?![.,]\d)", re.IGNORECASE)
        free = [m.span() for m in pattern.finditer(text) if not any(m.start() < e and m.end() > s for s, e, _ in taken)]
        if not term.split() or not free:
            dropped += 1
            continue
        start, end = next((f for f in free if f[0] >= cursors.get(label, 0)), free[0])
        cursors[label] = end
        taken.append((start, end, label))
    return sorted(taken), dropped


class SpanTask(Task):
    """A task of one Spans question whose spans fill one list column."""

    text_key: ClassVar[str]  # names of the struct's members for the text and the label
    label_key: ClassVar[str]
    column: ClassVar[str]

    @property
    def output(self) -> Spans:
        output = self.questions[0].output
        assert isinstance(output, Spans)
        return output

    def predict(self, answers: Mapping[str, Completion], blocks: tuple[Block, ...]) -> Prediction:
        answer = answers[self.questions[0].name]
        if isinstance(answer, Written):
            return self.parse(answer.text, blocks)
        assert isinstance(answer, Tagged)
        spots = words(blocks[0].text)
        tags = best_tags(self.output, answer.probabilities)
        found = spans_of(self.output, spots, tags)
        sure = [p[t] for p, t in zip(answer.probabilities, tags, strict=True)]
        # A span is as probable as all its tags together; with no span the answer is the row of "." tags.
        scores = [_product(sure[i] for i in indices) for _, indices in found] or sure
        return self._prediction(blocks, [span for span, _ in found], 0, sum(scores) / len(scores) if scores else 1.0)

    def parse(self, raw: str, blocks: tuple[Block, ...]) -> Prediction:
        spans, dropped = align(blocks[0].text, self.read_terms(strip_think(raw)))
        return self._prediction(blocks, spans, dropped, None)

    def read_terms(self, raw: str) -> list[tuple[str, str]]:
        """(term, label) pairs of a written answer: `Header: term; term` lines. Raises Unparsed."""
        heads = dict(zip((h.casefold() for h in self.output.headers), self.output.labels, strict=True))
        terms: list[tuple[str, str]] = []
        seen = False
        for line in raw.splitlines():
            head, colon, rest = line.strip().lstrip("-* ").partition(":")
            label = heads.get(head.strip().casefold())
            if colon and label:
                seen = True
                named = (term.strip().rstrip(".") for term in rest.split(";"))
                terms += [(term, label) for term in named if term and term.casefold() != "none"]
        if not seen:
            raise Unparsed(f"{self.name}: no line begins with {', '.join(self.output.headers)}")
        return terms

    def answer(self, values: Mapping[str, Any]) -> str:
        lists: dict[str, list[str]] = {label: [] for label in self.output.labels}
        for span in values[self.column]:
            lists[span[self.label_key]].append(" ".join(span[self.text_key].split()))
        heads = dict(zip(self.output.labels, self.output.headers, strict=True))
        return "\n".join(f"{heads[label]}: {'; '.join(terms) or 'none'}" for label, terms in lists.items())

    def targets(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {self.questions[0].name: [(s["start"], s["end"], s[self.label_key]) for s in values[self.column]]}

    def _prediction(self, blocks: tuple[Block, ...], spans: list[Span], dropped: int, sure: float | None) -> Prediction:
        text = blocks[0].text
        column = [{self.text_key: text[a:b], self.label_key: label, "start": a, "end": b} for a, b, label in spans]
        return Prediction({self.column: column}, sure, dropped)


def _product(factors: Iterable[float]) -> float:
    product = 1.0
    for factor in factors:
        product *= factor
    return product
