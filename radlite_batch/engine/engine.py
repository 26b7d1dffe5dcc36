"""Answers prompts on a Model: tokens in, completions out, every token computed once.

    prompts -> token paths -> trie -> scheduler -> batches -> logits -> completions

A prompt asks for logits at some of its positions (a decision, the words of an echo) or for text after its end. All
wishes of all prompts are attached to the tokens of the trie; the scheduler only ever sees lengths.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from radlite_batch.engine.base import Logits, Model, Run
from radlite_batch.engine.constraint import AnswerTrie, answer_trie, softmax
from radlite_batch.engine.scheduler import Scheduler, Step
from radlite_batch.engine.trie import Paths, sort_paths
from radlite_batch.errors import EngineError
from radlite_batch.records import Completion, Decide, Decided, Generate, Prompt, Segment, Tag, Tagged, TooLong, Written


@dataclass(slots=True)
class Counts:
    """Tokens since the engine was opened. asked: those of the prompts, one after another and nothing shared.

    computed: prompt tokens, forced beginnings of answers and written tokens that went through the model."""

    prompts: int = 0
    asked: int = 0
    computed: int = 0
    written: int = 0


@dataclass(slots=True)
class _Wish:
    """The logits of `tokens` after position `position` of a path; the answer lands in row."""

    path: np.ndarray
    position: int
    tokens: np.ndarray
    row: np.ndarray | None = None


@dataclass(slots=True)
class _Text:
    """Text being written after a path. `first` is set when the path's last token is computed."""

    path: np.ndarray
    read: Generate
    first: int | None = None
    tokens: list[int] = field(default_factory=list)
    cut: bool = False
    ended: bool = False


class Engine:
    """One model with one adapter. cues: token of each cue name. Not thread-safe; keeps nothing between calls."""

    def __init__(self, model: Model, cue_names: Sequence[str] = ()):
        self.model = model
        self.counts = Counts()
        self._cues = dict(zip(cue_names, model.reserved(len(cue_names)), strict=True))
        self._tries: dict[tuple[str, ...], AnswerTrie] = {}

    def answer(self, prompts: Sequence[Prompt]) -> list[Completion]:
        """One completion per prompt, in order. A prompt over the model's limit gives TooLong, and costs nothing.

        Raises EngineError when the model fails, KeyError for a cue that the engine was not opened with."""
        tokens: dict[Segment, np.ndarray] = {}
        wishes: list[_Wish] = []
        texts: list[_Text] = []
        plans: list[TooLong | _Text | tuple[Prompt, list[_Wish]]] = []
        for prompt in prompts:
            for segment in prompt.segments:
                if segment not in tokens:
                    tokens[segment] = self._tokenize(segment)
            path = np.concatenate([tokens[segment] for segment in prompt.segments])
            over = self._too_long(path, prompt.read)
            self.counts.asked += 0 if over else len(path)
            if over:
                plans.append(over)
            elif isinstance(prompt.read, Generate):
                texts.append(_Text(path, prompt.read))
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

    def _tokenize(self, segment: Segment) -> np.ndarray:
        if segment.kind == "cue":
            return np.array([self._cues[segment.text]], dtype=np.int32)
        return np.asarray(self.model.tokenize(segment.text, segment.kind == "markup"), dtype=np.int32)

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
        tags = np.concatenate([self._tokenize(Segment("words", tag)) for tag in prompt.read.tags])
        ends = self._word_ends(prompt.segments[-1].text, echo, prompt.read.words)
        return [_Wish(path, len(path) - len(echo) + end, tags) for end in ends]

    @staticmethod
    def _fork_wish(path: np.ndarray, prefix: tuple[int, ...], tokens: np.ndarray) -> _Wish:
        path = np.concatenate([path, np.array(prefix, dtype=np.int32)]) if prefix else path
        return _Wish(path, len(path) - 1, tokens)

    def _word_ends(self, text: str, tokens: np.ndarray, words: Sequence[tuple[int, int]]) -> list[int]:
        """The index of the token that holds each word's last character."""
        sizes = [len(self.model.piece(int(token))) for token in tokens]
        bounds = np.cumsum(sizes)
        # Offsets count code points, pieces count bytes.
        n_bytes = np.cumsum([0, *(len(c.encode("utf-8", "surrogatepass")) for c in text)])
        if len(words) and bounds[-1] != n_bytes[-1]:
            raise EngineError("this model's tokens do not join to the text they were made of; it cannot tag")
        return [int(i) for i in np.searchsorted(bounds, [n_bytes[end] for _, end in words], side="left")]

    def _trie(self, answers: tuple[str, ...]) -> AnswerTrie:
        if answers not in self._tries:
            rows = [self.model.tokenize(answer, False) for answer in answers]
            self._tries[answers] = answer_trie(rows, self.model.end)
        return self._tries[answers]

    def _complete(self, plan: "TooLong | _Text | tuple[Prompt, list[_Wish]]") -> Completion:
        if isinstance(plan, TooLong):
            return plan
        if isinstance(plan, _Text):
            return self._written(plan)
        prompt, wishes = plan
        rows = [wish.row for wish in wishes if wish.row is not None]
        if isinstance(prompt.read, Decide):
            return Decided(self._trie(prompt.read.answers).probabilities(rows))
        return Tagged(tuple(map(tuple, softmax(np.array(rows)).tolist())) if rows else ())

    def _written(self, text: _Text) -> Written:
        raw = b"".join(self.model.piece(token) for token in text.tokens).decode("utf-8", "replace")
        ends = [raw.find(stop) for stop in text.read.stop if stop in raw]
        return Written(text.read.opening + raw[: min(ends, default=len(raw))], text.cut)

    def _run(self, wishes: list[_Wish], texts: list[_Text]) -> None:
        """Computes everything asked for, and leaves it in the wishes and texts."""
        if not wishes and not texts:
            return
        paths, numbers = sort_paths([w.path for w in wishes] + [t.path for t in texts])
        by_text: dict[int, list[_Text]] = {}
        for text, path in zip(texts, numbers[len(wishes) :], strict=True):
            by_text.setdefault(path, []).append(text)
        # What a token's logits are wanted for: by the path that computes it, then by position.
        wanted: dict[int, dict[int, list[_Wish | _Text]]] = {}
        for wish, path in zip(wishes, numbers, strict=False):
            wanted.setdefault(paths.owner(path, wish.position), {}).setdefault(wish.position, []).append(wish)
        for path, group in by_text.items():
            last = len(paths.tokens[path]) - 1
            wanted.setdefault(paths.owner(path, last), {}).setdefault(last, []).extend(group)
        reserve = [max((t.read.max_tokens for t in by_text.get(i, ())), default=0) for i in range(len(paths.tokens))]
        scheduler = Scheduler(paths.lengths, paths.shared, reserve, self.model.limits)
        try:
            while not scheduler.done:
                self._batch(scheduler, scheduler.step(), paths, wanted, by_text)
        except BaseException:
            for seq in range(self.model.limits.n_seqs):
                self.model.drop(seq)
            raise

    def _batch(
        self,
        scheduler: Scheduler,
        step: Step,
        paths: Paths,
        wanted: dict[int, dict[int, list["_Wish | _Text"]]],
        by_text: dict[int, list[_Text]],
    ) -> None:
        for source, target, n_tokens in step.copies:
            self.model.share(source, target, n_tokens)
        runs = [
            Run(np.array([max((t.tokens for t in by_text[path]), key=len)[-1]], dtype=np.int32), position, (seq,), (0,))
            for path, seq, position in step.grown
        ]
        for run in step.runs:
            positions = wanted.get(run.path, {})
            wants = tuple(p - run.start for p in sorted(positions) if run.start <= p < run.stop)
            runs.append(Run(paths.tokens[run.path][run.start : run.stop], run.start, run.seqs, wants))
        if runs:
            logits = self.model.decode(runs)
            self.counts.computed += sum(len(run.tokens) for run in runs)
            n_grown = len(step.grown)
            for run, asked, rows in zip(step.runs, runs[n_grown:], logits[n_grown:], strict=True):
                for want, row in zip(asked.wants, rows, strict=True):
                    _fulfil(wanted[run.path][run.start + want], row)
            for (path, _, _), rows in zip(step.grown, logits, strict=False):
                self._write(scheduler, path, by_text[path], rows[0].best())
        for seq in step.drops:
            self.model.drop(seq)
        for path in step.started:
            first = by_text[path][0].first
            assert first is not None
            self._write(scheduler, path, by_text[path], first)

    def _write(self, scheduler: Scheduler, path: int, texts: list[_Text], token: int) -> None:
        """Adds a token to a path's texts, or ends them. Equal prompts are written once, each as far as it asks."""
        last = self.model.ends(token)
        self.counts.written += not last
        for text in texts:
            if text.ended:
                continue
            if not last:
                text.tokens.append(token)
            stopped = last or self._stopped(text)
            text.cut = not stopped and len(text.tokens) >= text.read.max_tokens
            text.ended = stopped or text.cut
        if all(text.ended for text in texts):
            self.model.drop(scheduler.finish(path))

    def _stopped(self, text: _Text) -> bool:
        stops = [stop.encode() for stop in text.read.stop]
        # A token has at least a byte, so a stop that ends with the last token begins in these.
        tail = b"".join(self.model.piece(token) for token in text.tokens[-max(map(len, stops), default=1) :])
        return any(stop in tail for stop in stops)


def _fulfil(wishes: "list[_Wish | _Text]", logits: Logits) -> None:
    for wish in wishes:
        if isinstance(wish, _Text):
            wish.first = logits.best()
        else:
            wish.row = np.array(logits.of(wish.tokens), dtype=np.float32)
