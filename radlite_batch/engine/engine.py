"""Answers prompts on a Model: tokens in, completions out, every token computed once.

    prompts -> token paths -> trie -> scheduler -> batches -> logits -> completions

A prompt asks for logits at some of its positions (a decision, the words of an echo) or for text after its end. All
wishes of all prompts are attached to the tokens of the trie; the scheduler only ever sees lengths.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from radlite_batch.engine.base import Logits, Model, Run
from radlite_batch.engine.constraint import AnswerTrie, answer_trie, softmax
from radlite_batch.engine.scheduler import Scheduler, Step
from radlite_batch.engine.tokens import Tokeniser
from radlite_batch.engine.trie import Paths, sort_paths
from radlite_batch.engine.writer import MOST_DRAFTED, Text, Writer
from radlite_batch.records import Completion, Decide, Decided, Generate, Prompt, Segment, Tag, Tagged, TooLong


@dataclass(slots=True)
class Counts:
    """Tokens since the engine was opened. asked: those of the prompts, one after another and nothing shared.

    computed: all that went through the model: prompt tokens, forced beginnings of answers, written tokens and wrong
    guesses. drafted: guessed tokens of texts; accepted: those that were right."""

    prompts: int = 0
    asked: int = 0
    computed: int = 0
    written: int = 0
    drafted: int = 0
    accepted: int = 0


@dataclass(slots=True)
class _Wish:
    """To be read after position `position` of a path: the logits of `tokens`, into row."""

    path: np.ndarray
    position: int
    tokens: np.ndarray
    row: np.ndarray | None = None

    def fulfil(self, logits: Logits) -> None:
        self.row = np.array(logits.of(self.tokens), dtype=np.float32)


class Engine:
    """One model with one adapter. cues: token of each cue name. Not thread-safe; keeps nothing between calls."""

    def __init__(self, model: Model, cue_names: Sequence[str] = ()):
        self.model = model
        self.counts = Counts()
        self._tokens = Tokeniser(model, cue_names)
        self._tries: dict[tuple[str, ...], AnswerTrie] = {}

    def answer(self, prompts: Sequence[Prompt]) -> list[Completion]:
        """One completion per prompt, in order. A prompt over the model's limit gives TooLong, and costs nothing.

        Raises EngineError when the model fails, KeyError for a cue that the engine was not opened with."""
        tokens: dict[Segment, np.ndarray] = {}
        wishes: list[_Wish] = []
        texts: list[Text] = []
        plans: list[TooLong | Text | tuple[Prompt, list[_Wish]]] = []
        for prompt in prompts:
            for segment in prompt.segments:
                if segment not in tokens:
                    tokens[segment] = self._tokens.segment(segment)
            path = np.concatenate([tokens[segment] for segment in prompt.segments])
            over = self._too_long(path, prompt.read)
            self.counts.asked += 0 if over else len(path)
            if over:
                plans.append(over)
            elif isinstance(prompt.read, Generate):
                texts.append(Text(path, prompt.read))
                plans.append(texts[-1])
            else:
                own = self._wishes(prompt, path, tokens)
                wishes += own
                plans.append((prompt, own))
        self._run(wishes, texts)
        self.counts.prompts += len(prompts)
        return [self._complete(plan) for plan in plans]

    def close(self) -> None:
        """Frees the context; the weights stay mapped."""
        self.model.close()

    def _too_long(self, path: np.ndarray, read: Decide | Tag | Generate) -> TooLong | None:
        limit = self.model.limits.n_cells
        more = 0
        if isinstance(read, Generate):
            more = read.max_tokens
        elif isinstance(read, Decide):
            more = max((len(fork.prefix) for fork in self._trie(read.answers).forks), default=0)
        n_tokens = len(path) + more
        return TooLong(n_tokens, limit) if n_tokens > limit else None

    def _wishes(self, prompt: Prompt, path: np.ndarray, tokens: dict[Segment, np.ndarray]) -> list[_Wish]:
        if isinstance(prompt.read, Decide):
            forks = self._trie(prompt.read.answers).forks
            return [self._fork_wish(path, fork.prefix, fork.tokens) for fork in forks]
        assert isinstance(prompt.read, Tag)
        echo = tokens[prompt.segments[-1]]
        tags = np.concatenate([self._tokens.segment(Segment("words", tag)) for tag in prompt.read.tags])
        ends = self._tokens.word_ends(prompt.segments[-1].text, echo, prompt.read.words)
        return [_Wish(path, len(path) - len(echo) + end, tags) for end in ends]

    @staticmethod
    def _fork_wish(path: np.ndarray, prefix: tuple[int, ...], tokens: np.ndarray) -> _Wish:
        path = np.concatenate([path, np.array(prefix, dtype=np.int32)]) if prefix else path
        return _Wish(path, len(path) - 1, tokens)

    def _trie(self, answers: tuple[str, ...]) -> AnswerTrie:
        if answers not in self._tries:
            rows = [self.model.tokenize(answer, False) for answer in answers]
            self._tries[answers] = answer_trie(rows, self.model.end)
        return self._tries[answers]

    def _complete(self, plan: "TooLong | Text | tuple[Prompt, list[_Wish]]") -> Completion:
        if isinstance(plan, TooLong):
            return plan
        if isinstance(plan, Text):
            return plan.written(self.model)
        prompt, wishes = plan
        rows = [wish.row for wish in wishes if wish.row is not None]
        if isinstance(prompt.read, Decide):
            return Decided(self._trie(prompt.read.answers).probabilities(rows))
        return Tagged(tuple(map(tuple, softmax(np.array(rows)).tolist())) if rows else ())

    def _run(self, wishes: list[_Wish], texts: list[Text]) -> None:
        """Computes everything asked for, and leaves it in the wishes and texts."""
        if not wishes and not texts:
            return
        # A prompt's last token is the first that its stream computes: only there all logits after it are at hand.
        longer = [text for text in texts if len(text.path) > 1]
        paths, numbers = sort_paths([w.path for w in wishes] + [t.path[:-1] for t in longer])
        by_path: dict[int, list[Text]] = {}
        for text, path in zip(longer, numbers[len(wishes) :], strict=True):
            by_path.setdefault(path, []).append(text)
        # What a token's logits are wanted for: by the path that computes it, then by position.
        wanted: dict[int, dict[int, list[_Wish]]] = {}
        for wish, path in zip(wishes, numbers, strict=False):
            wanted.setdefault(paths.owner(path, wish.position), {}).setdefault(wish.position, []).append(wish)
        scheduler, writer = Scheduler(paths.lengths, paths.shared, self.model.limits), self._writer(texts)
        if writer:
            writer.begin([text for text in texts if len(text.path) == 1], None)
        try:
            while not scheduler.done or (writer and writer.busy):
                if writer and (writer.full or scheduler.done):
                    writer.step()
                    continue
                step = scheduler.step()
                self._batch(step, paths, wanted)
                for path, seq in step.ends:
                    if writer and path in by_path:
                        writer.begin(by_path[path], self.model.take(seq))
                    self.model.drop(seq)
        except BaseException:
            for seq in range(self.model.limits.n_seqs):
                self.model.drop(seq)
            raise
        if writer:
            self.counts.computed += writer.computed
            self.counts.written += writer.written
            self.counts.drafted += writer.drafted
            self.counts.accepted += writer.accepted

    def _writer(self, texts: list[Text]) -> Writer | None:
        if not texts:
            return None
        longest = max(len(text.path) + text.read.max_tokens for text in texts)
        return Writer(self.model, self.model.streams(longest + MOST_DRAFTED))

    def _batch(self, step: Step, paths: Paths, wanted: dict[int, dict[int, list[_Wish]]]) -> None:
        for source, target, n_tokens in step.copies:
            self.model.share(source, target, n_tokens)
        runs = []
        for run in step.runs:
            positions = sorted(p for p in wanted.get(run.path, ()) if run.start <= p < run.stop)
            wants = tuple(p - run.start for p in positions)
            runs.append(Run(paths.tokens[run.path][run.start : run.stop], run.start, run.seqs, wants))
        if not runs:
            return
        self.counts.computed += sum(len(run.tokens) for run in runs)
        for run, asked, rows in zip(step.runs, runs, self.model.decode(runs), strict=True):
            for want, row in zip(asked.wants, rows, strict=True):
                for wish in wanted[run.path][run.start + want]:
                    wish.fulfil(row)
