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

    def __init__(self, paths: Sequence[Path], limits: Limits):
        self.paths, self.limits = paths, limits
        self.seqs: dict[int, list[object]] = {}
        self.token_of: dict[object, int] = {}
        self.computed: Counter[Path] = Counter()
        self.ended: list[int] = []

    @property
    def cells(self) -> int:
        return len({cell for cells in self.seqs.values() for cell in cells})

    def tokens(self, seq: int) -> list[int]:
        return [self.token_of[cell] for cell in self.seqs.get(seq, [])]

    def take(self, step: Step) -> None:
        for source, target, n_tokens in step.copies:
            assert not self.seqs.get(target), "a copy goes into an empty sequence"
            assert len(self.seqs[source]) >= n_tokens > 0, "a copy's source holds all of it"
            self.seqs[target] = self.seqs[source][:n_tokens]
        for run in step.runs:
            assert run.start < run.stop
            assert len(set(run.seqs)) == len(run.seqs)
            for position in range(run.start, run.stop):
                prefix = self.paths[run.path][: position + 1]
                for seq in run.seqs:
                    assert self.tokens(seq) == list(prefix[:-1]), "positions are contiguous, over the right tokens"
                self.add(run.seqs, prefix[-1])
                self.computed[prefix] += 1
        assert sum(run.stop - run.start for run in step.runs) <= self.limits.n_batch
        assert set(self.seqs) <= set(range(self.limits.n_seqs))
        assert self.cells <= self.limits.n_cells
        for path, seq in step.ends:
            assert self.tokens(seq) == list(self.paths[path]), "an ended path is whole"
            del self.seqs[seq]
            self.ended.append(path)

    def add(self, seqs: Sequence[int], token: int) -> None:
        cell = object()
        self.token_of[cell] = token
        for seq in seqs:
            self.seqs.setdefault(seq, []).append(cell)


def play(paths: Sequence[Path], limits: Limits) -> tuple[Context, int]:
    """Runs the scheduler to its end; the paths in trie order. Returns what came of it and the number of steps."""
    trie, _ = sort_paths([np.array(path) for path in paths])
    context, steps = Context(paths, limits), 0
    scheduler = Scheduler(trie.lengths, trie.shared, limits)
    while not scheduler.done:
        step = scheduler.step()
        steps += 1
        assert step.runs or step.ends, "every step gets on"
        context.take(step)
    return context, steps


@st.composite
def games(draw: st.DrawFn) -> tuple[list[Path], Limits]:
    stretches = st.sampled_from([(1,) * 5, (1, 1, 2), (2,), (3, 1)])
    joined = st.lists(stretches, min_size=1, max_size=5).map(lambda parts: tuple(t for part in parts for t in part))
    paths = sorted(draw(st.sets(joined, max_size=14)))
    n_cells = max(map(len, paths), default=1) + draw(st.sampled_from([0, 1, 3, 10, 40]))
    return paths, Limits(draw(st.integers(1, 12)), n_cells, draw(st.integers(2, 8)))


@settings(max_examples=400, deadline=None)
@given(games())
def test_everything_is_computed_once_within_the_limits(game: tuple[list[Path], Limits]) -> None:
    paths = game[0]
    context, steps = play(*game)
    assert context.computed == Counter({path[: n + 1] for path in paths for n in range(len(path))})
    assert context.ended == list(range(len(paths))), "in trie order: nobody is passed over"
    assert context.seqs == {}, "nothing is left behind"
    assert steps <= context.computed.total() + len(paths)


@settings(max_examples=200, deadline=None)
@given(games())
def test_batches_are_at_least_half_full_while_there_is_room(game: tuple[list[Path], Limits]) -> None:
    paths, limits = game
    roomy = Limits(limits.n_batch, 1000, 64)
    context, steps = play(paths, roomy)
    assert (steps - 1) * (roomy.n_batch // 2) <= context.computed.total()


def test_questions_over_one_report_are_one_batch() -> None:
    report = tuple(range(100, 140))
    context, steps = play([(*report, question) for question in range(19)], Limits(64, 1000, 32))
    assert (steps, context.computed.total()) == (1, 59)


def test_a_report_is_left_whole_to_the_next_batch() -> None:
    paths = [(report, *range(10, 40), question) for report in range(4) for question in range(3)]
    context, steps = play(paths, Limits(80, 1000, 32))
    assert (steps, context.computed.total()) == (2, 4 * 34)


def test_a_prompt_longer_than_a_batch_is_computed_in_parts() -> None:
    _, steps = play([tuple(range(100))], Limits(16, 100, 2))
    assert steps == 7


def test_a_prompt_that_fills_the_context_alone_still_runs() -> None:
    context, _ = play([(1,) * 20, (2,) * 12], Limits(4, 20, 2))
    assert context.ended == [0, 1]


def test_no_path_is_no_work() -> None:
    assert Scheduler([], [], Limits(8, 8, 2)).done


def test_a_path_that_does_not_fit_by_itself_is_refused() -> None:
    with pytest.raises(ValueError, match=r"path 1: 11 tokens exceed 10 cells"):
        Scheduler([10, 11], [0, 0], Limits(4, 10, 4))


@pytest.mark.parametrize("limits", [Limits(0, 10, 2), Limits(1, 10, 1)])
def test_limits_that_allow_no_progress_are_refused(limits: Limits) -> None:
    with pytest.raises(ValueError, match="at least two sequences"):
        Scheduler([1], [0], limits)
