"""Batches over any paths and limits: everything is computed, once, in the room there is."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radlite_batch.engine.base import Limits
from radlite_batch.engine.scheduler import Scheduler, Step
from radlite_batch.engine.trie import sort_paths

Path = tuple[int, ...]


class Context:
    """What a model would hold: for each sequence its cells; a cell may stand in several sequences."""

    def __init__(self, paths: Sequence[Path], writes: list[int], limits: Limits):
        self.paths, self.writes, self.limits = paths, writes, limits
        self.seqs: dict[int, list[object]] = {}
        self.token_of: dict[object, int | str] = {}
        self.computed: Counter[Path] = Counter()
        self.written: Counter[int] = Counter()
        self.started: list[int] = []
        self.ended: list[int] = []
        self.most_writing = 0

    @property
    def cells(self) -> int:
        return len({cell for cells in self.seqs.values() for cell in cells})

    def tokens(self, seq: int) -> list[int | str]:
        return [self.token_of[cell] for cell in self.seqs.get(seq, [])]

    def take(self, step: Step, scheduler: Scheduler) -> None:
        was_writing = len(self.started) > len(self.ended)
        for source, target, n_tokens in step.copies:
            assert not self.seqs.get(target), "a copy goes into an empty sequence"
            assert len(self.seqs[source]) >= n_tokens > 0, "a copy's source holds all of it"
            self.seqs[target] = self.seqs[source][:n_tokens]
        for path, seq, position in step.grown:
            own: list[int | str] = [*self.paths[path], *[f"written by {path}"] * self.written[path]]
            assert self.tokens(seq) == own[:-1] and position == len(own) - 1
            self.add([seq], own[-1])
        for run in step.runs:
            assert run.start < run.stop
            assert len(set(run.seqs)) == len(run.seqs)
            for position in range(run.start, run.stop):
                prefix = self.paths[run.path][: position + 1]
                for seq in run.seqs:
                    assert self.tokens(seq) == list(prefix[:-1]), "positions are contiguous, over the right tokens"
                self.add(run.seqs, prefix[-1])
                self.computed[prefix] += 1
        size = len(step.grown) + sum(run.stop - run.start for run in step.runs)
        assert size <= self.limits.n_batch
        assert set(self.seqs) <= set(range(self.limits.n_seqs))
        assert self.cells <= self.limits.n_cells
        if was_writing and step.runs:
            assert self.cells <= self.limits.n_busy, "nothing joins writing texts beyond n_busy"
        for seq in step.drops:
            del self.seqs[seq]
        for path in [path for path, _, _ in step.grown] + step.started:
            self.written[path] += 1
            if self.written[path] == self.writes[path]:
                self.seqs.pop(scheduler.finish(path))
                self.ended.append(path)
        self.started += step.started
        self.most_writing = max(self.most_writing, len(self.started) - len(self.ended))

    def add(self, seqs: Sequence[int], token: int | str) -> None:
        cell = object()
        self.token_of[cell] = token
        for seq in seqs:
            self.seqs.setdefault(seq, []).append(cell)


def play(paths: Sequence[Path], reserve: list[int], writes: list[int], limits: Limits) -> tuple[Context, int]:
    """Runs the scheduler to its end; the paths in trie order. Returns what came of it and the number of steps."""
    trie, _ = sort_paths([np.array(path) for path in paths])
    context, steps = Context(paths, writes, limits), 0
    scheduler = Scheduler(trie.lengths, trie.shared, reserve, limits)
    while not scheduler.done:
        step = scheduler.step()
        steps += 1
        assert step.runs or step.grown or step.started, "every step gets on"
        context.take(step, scheduler)
    return context, steps


@st.composite
def games(draw: st.DrawFn) -> tuple[list[Path], list[int], list[int], Limits]:
    stretches = st.sampled_from([(1,) * 5, (1, 1, 2), (2,), (3, 1)])
    joined = st.lists(stretches, min_size=1, max_size=5).map(lambda parts: tuple(t for part in parts for t in part))
    paths = sorted(draw(st.sets(joined, max_size=14)))
    reserve = [draw(st.sampled_from([0, 0, 1, 2, 5])) for _ in paths]
    writes = [draw(st.integers(1, most)) if most else 0 for most in reserve]
    least = max((len(path) + most for path, most in zip(paths, reserve, strict=True)), default=1)
    n_cells = least + draw(st.sampled_from([0, 1, 3, 10, 40]))
    limits = Limits(draw(st.integers(1, 12)), n_cells, draw(st.integers(2, 8)), draw(st.integers(0, 60)))
    return paths, reserve, writes, limits


@settings(max_examples=400, deadline=None)
@given(games())
def test_everything_is_computed_once_within_the_limits(game: tuple[list[Path], list[int], list[int], Limits]) -> None:
    paths, reserve, writes, _ = game
    context, steps = play(*game)
    assert context.computed == Counter({path[: n + 1] for path in paths for n in range(len(path))})
    assert sorted(context.started) == sorted(context.ended) == [i for i, most in enumerate(reserve) if most]
    assert [context.written[i] for i in range(len(paths))] == writes
    assert context.seqs == {}, "nothing is left behind"
    assert steps <= context.computed.total() + sum(writes) + len(paths)


def test_questions_over_one_report_are_one_batch() -> None:
    report = tuple(range(100, 140))
    paths = [(*report, question) for question in range(19)]
    context, steps = play(paths, [0] * 19, [0] * 19, Limits(64, 1000, 32))
    assert (steps, context.computed.total()) == (1, 59)


def test_a_prompt_longer_than_a_batch_is_computed_in_parts() -> None:
    _, steps = play([tuple(range(100))], [0], [0], Limits(16, 100, 2))
    assert steps == 7


def test_texts_are_written_side_by_side() -> None:
    paths = [(number, 0) for number in range(6)]
    context, steps = play(paths, [10] * 6, [10] * 6, Limits(32, 1000, 16))
    assert context.most_writing == 6
    assert steps == 10


def test_a_text_that_ends_early_makes_room_for_the_next() -> None:
    paths = [(number, 0) for number in range(4)]
    context, _ = play(paths, [10] * 4, [2, 10, 2, 2], Limits(8, 26, 3))
    assert context.most_writing == 2
    assert context.ended[-1] == 1


def test_what_two_texts_share_is_kept_for_the_second_when_the_first_ends() -> None:
    paths = [(2,) * 10, (*(2,) * 10, 3), (4,) * 10]
    context, _ = play(paths, [2, 8, 0], [1, 8, 0], Limits(32, 21, 8))
    assert context.ended == [0, 1]


def test_texts_keep_what_a_busy_context_allows_and_the_next_path_waits() -> None:
    paths = [(number, 0) for number in range(4)]
    context, _ = play(paths, [4] * 4, [4] * 4, Limits(2, 100, 8, n_busy=6))
    assert context.most_writing == 1


def test_a_prompt_that_fills_the_context_alone_still_runs() -> None:
    paths = [(1,) * 20, (2,) * 12]
    context, _ = play(paths, [0, 8], [0, 8], Limits(4, 20, 2, n_busy=1))
    assert context.ended == [1]


def test_no_path_is_no_work() -> None:
    assert Scheduler([], [], [], Limits(8, 8, 2)).done


@pytest.mark.parametrize(("length", "reserve"), [(11, 0), (8, 3), (0, 11)])
def test_a_path_that_does_not_fit_by_itself_is_refused(length: int, reserve: int) -> None:
    with pytest.raises(ValueError, match=r"path 1: .* exceed 10 cells"):
        Scheduler([10, length], [0, 0], [0, reserve], Limits(4, 10, 4))


@pytest.mark.parametrize("limits", [Limits(0, 10, 2), Limits(1, 10, 1)])
def test_limits_that_allow_no_progress_are_refused(limits: Limits) -> None:
    with pytest.raises(ValueError, match="at least two sequences"):
        Scheduler([1], [0], [0], limits)
