"""Texts in streams: guesses that never change them, places that are filled again, and what is counted."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radlite_batch.engine.base import Limits, Logits, Streams
from radlite_batch.engine.drafts import Lookup
from radlite_batch.engine.fake import FakeModel
from radlite_batch.engine.writer import Text, Writer
from radlite_batch.records import Generate

END = 99


class Next:
    def __init__(self, token: int):
        self._token = token

    def of(self, tokens: np.ndarray) -> np.ndarray:
        raise AssertionError("a text reads its best token only")

    def best(self) -> int:
        return self._token


class Reciting(FakeModel):
    """Says the numbers after the last one, round and round up to `about`, until a text of its size is full."""

    end = END

    def __init__(self, about: int):
        super().__init__()
        self.about = about

    def ends(self, token: int) -> bool:
        return token == END

    def piece(self, token: int) -> bytes:
        return b"%d " % token


class Numbers:
    """Streams for Reciting; they raise where a text does not go on where it ended."""

    def __init__(self, model: Reciting, n: int, length: int):
        self.n, self.size = n, 1000
        self.held: list[list[int]] = [[] for _ in range(n)]
        self.steps: list[tuple[int, int]] = []
        self.model, self.length = model, length

    def put(self, stream: int, state: list[int]) -> None:
        self.held[stream] = list(state)

    def move(self, source: int, target: int) -> None:
        self.held[target], self.held[source] = self.held[source], []

    def cut(self, stream: int, n_tokens: int) -> None:
        del self.held[stream][n_tokens:]

    def step(self, tokens: np.ndarray, ends: Sequence[int]) -> list[list[Logits]]:
        self.steps.append((tokens.shape[0], tokens.shape[1]))
        rows: list[list[Logits]] = []
        for text, row, end in zip(self.held, tokens.tolist(), ends, strict=False):
            assert len(text) == end
            answers: list[Logits] = []
            for token in row:
                text.append(token)
                answers.append(Next(END if len(text) >= self.length else (token + 1) % self.model.about))
            rows.append(answers)
        return rows


def recite(
    starts: Sequence[int], n_streams: int, about: int = 5, length: int = 30
) -> tuple[list[Text], Numbers, Writer]:
    model = Reciting(about)
    streams = Numbers(model, n_streams, length)
    as_seam: Streams = streams
    writer = Writer(model, as_seam)
    texts = [Text(np.array([start], dtype=np.int32), Generate(100)) for start in starts]
    for text in texts:
        while writer.full:
            writer.step()
        writer.begin([text], None)
    while writer.busy:
        writer.step()
    return texts, streams, writer


def test_a_pair_that_stood_before_is_followed_by_what_followed_it() -> None:
    seen = Lookup([1, 2, 3, 4, 1, 2])
    assert seen.guess(3) == [3, 4, 1]
    seen.extend([3])
    assert seen.guess(1) == [4]
    seen.extend([7])
    assert seen.guess(3) == []
    assert Lookup([5]).guess(3) == []


def test_the_latest_place_counts() -> None:
    assert Lookup([1, 2, 3, 1, 2, 4, 1, 2]).guess(1) == [4]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=20), st.integers(1, 12), st.integers(5, 60))
def test_texts_are_those_of_one_token_after_another(starts: list[int], n_streams: int, length: int) -> None:
    texts, streams, writer = recite(starts, n_streams, length=length)
    for text, start in zip(texts, starts, strict=True):
        assert text.tokens == [(start + 1 + i) % 5 for i in range(length - 1)]
        assert text.ended and not text.cut
    assert writer.written == len(starts) * (length - 1)
    assert writer.computed == sum(used * tokens for used, tokens in streams.steps)
    assert max(used for used, _ in streams.steps) <= n_streams


def test_right_guesses_save_steps_and_are_counted() -> None:
    (text,), streams, writer = recite([0], 1, about=5, length=40)
    assert len(text.tokens) == 39
    assert len(streams.steps) < 20
    assert 0 < writer.accepted <= writer.drafted


def test_wrong_guesses_cost_no_token_of_the_text() -> None:
    class Contrary(Lookup):
        def guess(self, most: int) -> list[int]:
            return [77] * most

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("radlite_batch.engine.writer.Lookup", Contrary)
        (text,), _, writer = recite([0], 1, length=20)
    assert text.tokens == [(1 + i) % 5 for i in range(19)]
    assert (writer.accepted, writer.drafted > 0) == (0, True)


def test_many_texts_are_written_without_guesses() -> None:
    _, streams, writer = recite([0] * 40, 20)
    assert writer.drafted == 0
    assert streams.steps[0] == (20, 1)


def test_a_free_stream_is_filled_before_the_next_step() -> None:
    model = Reciting(5)
    streams = Numbers(model, 3, 1000)
    writer = Writer(model, streams)
    texts = [Text(np.array([0], dtype=np.int32), Generate(most)) for most in (3, 12, 12, 12)]
    for text in texts:
        writer.begin([text], None)
    while writer.busy:
        writer.step()
    assert [len(text.tokens) for text in texts] == [3, 12, 12, 12]
    assert all(used == 3 for used, _ in streams.steps[:-4])


def test_prompts_that_differ_in_their_last_token_go_on_from_one_state() -> None:
    model = Reciting(5)
    writer = Writer(model, Numbers(model, 3, 7))
    texts = [Text(np.array([3, last], dtype=np.int32), Generate(most)) for last, most in ((0, 9), (2, 9), (0, 2))]
    writer.begin(texts, [3])
    while writer.busy:
        writer.step()
    assert [text.tokens for text in texts] == [[1, 2, 3, 4, 0], [3, 4, 0, 1, 2], [1, 2]]
    assert [text.cut for text in texts] == [False, False, True]


@given(st.integers(256, 50_000), st.integers(1, 64), st.integers(1, 50_000))
def test_streams_never_take_more_than_the_memory_set_aside_for_them(n_cells: int, n_streams: int, size: int) -> None:
    limits = Limits(64, n_cells, 8, n_streams)
    assert 1 <= limits.streams_of(size) <= n_streams
    assert limits.streams_of(size) * size <= max(limits.stream_cells, size)
    assert limits.streams_of(limits.stream_cells // n_streams) == n_streams  # what a worker's memory is reckoned with
