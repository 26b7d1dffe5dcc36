"""Texts written side by side: greedy, many at a time, each in a stream of its own.

A prompt's keys and values are moved from the shared cache, where prompts are computed, into a stream, where attention
runs over that one text only. In the shared cache every written token would pay for the cells of all other texts.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from radlite_batch.engine.base import AllLogits, Model, Streams
from radlite_batch.engine.drafts import Lookup
from radlite_batch.records import Generate, Written

# (most texts in hand, tokens guessed for each): a step of n tokens costs less than n steps of one only while few texts
# are written. With many, a wrong guess costs as much as a right one saves.
_DRAFTED = ((4, 3), (8, 1))
MOST_DRAFTED = 3


@dataclass(slots=True)
class Text:
    """A text to be written after a prompt. path: (n,) int32, the prompt."""

    path: np.ndarray
    read: Generate
    tokens: list[int] = field(default_factory=list)
    cut: bool = False
    ended: bool = False

    def add(self, model: Model, token: int) -> None:
        """Takes the next token, unless the text has ended."""
        if self.ended:
            return
        last = model.ends(token)
        if not last:
            self.tokens.append(token)
        stopped = last or self._stopped(model)
        self.cut = not stopped and len(self.tokens) >= self.read.max_tokens
        self.ended = stopped or self.cut

    def written(self, model: Model) -> Written:
        """What was written, up to a stop string."""
        raw = b"".join(model.piece(token) for token in self.tokens).decode("utf-8", "replace")
        ends = [raw.find(stop) for stop in self.read.stop if stop in raw]
        return Written(self.read.opening + raw[: min(ends, default=len(raw))], self.cut)

    def _stopped(self, model: Model) -> bool:
        stops = [stop.encode() for stop in self.read.stop]
        # A token has at least a byte, so a stop that ends with the last token begins in these.
        tail = b"".join(model.piece(token) for token in self.tokens[-max(map(len, stops), default=1) :])
        return any(stop in tail for stop in stops)


@dataclass(slots=True)
class _Place:
    """The texts of one prompt in a stream. Equal prompts are written once, each as far as it asks.

    state: what the stream holds at first, the prompt but for its last token; None for nothing. tokens: all that was
    written. seen: made when guesses are wanted."""

    texts: Sequence[Text]
    state: object
    tokens: list[int] = field(default_factory=list)
    seen: Lookup | None = None

    @property
    def last(self) -> int:
        """The last token, which is not in the stream yet."""
        return self.tokens[-1] if self.tokens else int(self.texts[0].path[-1])

    @property
    def ended(self) -> bool:
        return all(text.ended for text in self.texts)

    @property
    def end(self) -> int:
        """Tokens in the stream."""
        return len(self.texts[0].path) + len(self.tokens) - 1

    @property
    def most(self) -> int:
        """Tokens it may still write."""
        return max(text.read.max_tokens for text in self.texts) - len(self.tokens)

    def guess(self, n_tokens: int) -> list[int]:
        if n_tokens < 1:
            return []
        if self.seen is None:
            self.seen = Lookup([*self.texts[0].path.tolist(), *self.tokens])
        return self.seen.guess(n_tokens)

    def add(self, model: Model, token: int) -> None:
        self.tokens.append(token)
        if self.seen is not None:
            self.seen.extend([token])
        for text in self.texts:
            text.add(model, token)


class Writer:
    """Writes texts in streams. computed, written, drafted, accepted: tokens so far."""

    def __init__(self, model: Model, streams: Streams):
        self._model, self._streams = model, streams
        self._waiting: deque[_Place] = deque()
        self._places: list[_Place | None] = [None] * streams.n  # by stream
        self.computed = self.written = self.drafted = self.accepted = 0

    @property
    def busy(self) -> bool:
        """Whether a text is unfinished."""
        return bool(self._waiting) or any(self._places)

    @property
    def full(self) -> bool:
        """Whether there is a text for every stream."""
        return len(self._waiting) + sum(place is not None for place in self._places) >= self._streams.n

    def begin(self, texts: Iterable[Text], state: object) -> None:
        """Texts whose prompts differ in their last token at most, and what the model gave before it; None: nothing."""
        by_last: dict[int, list[Text]] = {}
        for text in texts:
            by_last.setdefault(int(text.path[-1]), []).append(text)
        self._waiting += [_Place(of, state) for of in by_last.values()]
        self._fill()

    def step(self) -> None:
        """Adds a token or more to every text in hand."""
        places = self._settle()
        guesses = self._guesses(places)
        longest = max(map(len, guesses))
        # Every stream takes equally many tokens: a text with a shorter guess repeats its last one, unread.
        rows = [[p.last, *g, *[p.last] * (longest - len(g))] for p, g in zip(places, guesses, strict=True)]
        tokens, ends = np.array(rows, dtype=np.int32), [place.end for place in places]
        logits = self._streams.step(tokens, ends)
        self.computed += tokens.size
        for stream, (place, guess) in enumerate(zip(places, guesses, strict=True)):
            n_right = self._verify(place, guess, logits[stream])
            self.drafted += len(guess)
            self.accepted += n_right
            if place.ended:
                self._places[stream] = None
            elif n_right < longest:
                self._streams.cut(stream, ends[stream] + 1 + n_right)

    def _verify(self, place: _Place, guess: Sequence[int], logits: Sequence[AllLogits]) -> int:
        """Adds what the model says after the text and after each right guess; returns how many were right."""
        for n_right, row in enumerate(logits[: len(guess) + 1]):
            token = row.best()
            self._add(place, token)
            if place.ended or n_right == len(guess) or token != guess[n_right]:
                return n_right
        raise AssertionError("a step gives logits for every token")

    def _fill(self) -> None:
        """Puts waiting texts into free streams."""
        free = (i for i, place in enumerate(self._places) if place is None)
        for stream, place in zip(free, [*self._waiting], strict=False):
            self._places[stream] = self._waiting.popleft()
            if place.state is None:
                self._streams.cut(stream, 0)
            else:
                self._streams.put(stream, place.state)
            place.state = None

    def _settle(self) -> list[_Place]:
        """Fills the streams, and puts what is left into the first ones; returns the texts in order."""
        self._fill()
        taken = [i for i, place in enumerate(self._places) if place is not None]
        for target in range(len(taken)):
            if self._places[target] is None:
                source = taken.pop()
                self._streams.move(source, target)
                self._places[target], self._places[source] = self._places[source], None
        return [place for place in self._places if place is not None]

    def _guesses(self, places: Sequence[_Place]) -> list[list[int]]:
        n_drafts = next((n for most, n in _DRAFTED if len(places) <= most), 0)
        return [place.guess(min(n_drafts, place.most - 1)) for place in places]

    def _add(self, place: _Place, token: int) -> None:
        self.written += not self._model.ends(token)
        place.add(self._model, token)
