"""Which tokens go into the next batch. Integers only: no token, no tensor, no model.

Paths (see trie) are admitted in trie order. An admitted path has a sequence of its own, for one batch; a token is
computed by the first path that passes through it and belongs to every sequence that needs it. Between two batches the
next path holds the part of its prefix that is already computed, and hands it on: so every token is computed once,
whatever the order of instruction and report, and however long a prompt is.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from radlite_batch.engine.base import Limits


@dataclass(frozen=True, slots=True)
class PathRun:
    """Tokens [start, stop) of `path`, which belong to all of `seqs`."""

    path: int
    start: int
    stop: int
    seqs: tuple[int, ...]


@dataclass(slots=True)
class Step:
    """One batch: first the copies (source, target, n_tokens), then the runs, then the ends.

    ends: (path, sequence) of paths that are complete with this batch; their sequences are to be dropped after it.
    """

    copies: list[tuple[int, int, int]] = field(default_factory=list)
    runs: list[PathRun] = field(default_factory=list)
    ends: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A path's part in a batch: tokens [have, stop) are computed; `have` are there or come with this batch."""

    path: int
    seq: int
    have: int
    stop: int


class Scheduler:
    """lengths, shared: of each path, see Paths. Raises ValueError for a path that does not fit the limits by itself."""

    def __init__(self, lengths: Sequence[int], shared: Sequence[int], limits: Limits):
        if limits.n_seqs < 2 or limits.n_batch < 1:
            raise ValueError("at least two sequences and one token a batch")
        for i, length in enumerate(lengths):
            if length > limits.n_cells:
                raise ValueError(f"path {i}: {length} tokens exceed {limits.n_cells} cells")
        self._lengths, self._shared, self._limits = lengths, shared, limits
        self._free = list(range(limits.n_seqs - 1, -1, -1))
        self._next = 0
        self._held: int | None = None  # sequence of path _next, if part of it is computed
        self._held_depth = 0

    @property
    def done(self) -> bool:
        return self._next == len(self._lengths)

    def step(self) -> Step:
        """The next batch. Only to be asked while not done."""
        step = Step()
        held, depth = self._held, self._held_depth
        entries, admitted = self._admit()
        if held is not None:
            least = depth
            for before, entry in itertools.pairwise(entries):
                least = min(least, self._shared[before.path + 1])
                if not least:
                    break
                step.copies.append((held, entry.seq, least))
        for x, entry in enumerate(entries):
            if entry.stop > entry.have:
                step.runs += self._split(entry, entries[x + 1 :])
        for entry in entries[:admitted]:
            step.ends.append((entry.path, entry.seq))
            self._free.append(entry.seq)
        return step

    def _admit(self) -> tuple[list[_Entry], int]:
        """Admits whole paths while tokens, cells and sequences last, then starts on the next one as far as they go.

        Returns the entries, and how many of them are admitted: all, or all but the last."""
        budget = self._limits.n_batch
        if 2 * self._held_depth <= budget:
            # Attention runs over whole blocks of cells: with what is held, the batch stays within one.
            budget -= self._held_depth
        room = self._limits.n_cells - self._held_depth
        entries: list[_Entry] = []
        have = self._held_depth
        while self._next < len(self._lengths):
            path, length = self._next, self._lengths[self._next]
            spare = len(self._free) - (self._held is None)  # sequences left if the path takes one
            if spare < 0:
                break
            need = length - have
            if entries and self._waits(path, have, budget):
                budget = 0
            follower = self._shared[path + 1] if path + 1 < len(self._lengths) else 0
            # A follower must be able to hold what it shares with the path, or that would be computed again.
            if need > min(budget, room) or spare < bool(follower):
                stop = have + max(0, min(need, budget, room))
                if stop:
                    entries.append(_Entry(path, self._hold(stop), have, stop))
                return entries, len(entries) - bool(stop)
            seq = self._held if self._held is not None else self._free.pop()
            self._held, self._held_depth = None, 0
            entries.append(_Entry(path, seq, have, length))
            budget, room = budget - need, room - need
            self._next = path + 1
            have = follower
        return entries, len(entries)

    def _waits(self, path: int, have: int, budget: int) -> bool:
        """Whether the path, with all that shares more with it, is better left to the next batch.

        A report with its questions that is cut between two batches is held and copied, and its cells cost the
        attention of the second batch; so it waits where the batch is at least half full."""
        if 2 * budget > self._limits.n_batch:
            return False
        size, depth = self._lengths[path] - have, self._shared[path]
        for later in range(path + 1, len(self._lengths)):
            if self._shared[later] <= depth or size > self._limits.n_batch:
                break
            size += self._lengths[later] - self._shared[later]
        return budget < size <= self._limits.n_batch - depth

    def _hold(self, depth: int) -> int:
        """The next path keeps `depth` computed tokens until the next batch; returns its sequence."""
        if self._held is None:
            self._held = self._free.pop()
        self._held_depth = depth
        return self._held

    def _split(self, entry: _Entry, later: Sequence[_Entry]) -> list[PathRun]:
        """The entry's tokens, cut where fewer of the later entries share them."""
        carriers: list[tuple[int, int]] = []  # (tokens shared with the entry, sequence), shared not increasing
        least = entry.stop
        for other in later:
            least = min(least, self._shared[other.path])
            if least <= entry.have:
                break
            carriers.append((least, other.seq))
        runs, start = [], entry.have
        for cut in sorted({depth for depth, _ in carriers} | {entry.stop}):
            seqs = (entry.seq, *(seq for depth, seq in carriers if depth >= cut))
            runs.append(PathRun(entry.path, start, cut, seqs))
            start = cut
        return runs
