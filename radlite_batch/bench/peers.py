"""What the peers are asked: this package's own rendered prompts as token ids, and how a peer's work is measured.

instruct   the instruction first, one written answer per task: what a notebook or a chat client sends.
lean       the pack's prompts. A closed answer is a request of one token; spans and texts are written out.

Prompts are made before any clock starts, and come in the order that suits a peer's prompt cache best.
"""

import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from radlite_batch.engine.tokens import Tokeniser
from radlite_batch.records import Decide, Generate, Prompt, Report
from radlite_batch.tasks.base import Block, Task
from radlite_batch.tasks.render import WHOLE_TASK, Markup, PromptStyle, Template, render

INSTRUCTIONS = Path(__file__).parent / "instructions.toml"


@dataclass(frozen=True, slots=True)
class Request:
    """Prompts (token ids) that are answered with at most n_predict tokens each, up to a stop string."""

    prompts: tuple[tuple[int, ...], ...]
    n_predict: int
    stop: tuple[str, ...] = ()

    @property
    def cells(self) -> int:
        """Tokens a context must keep for the longest of its prompts with its answer."""
        return max(map(len, self.prompts)) + self.n_predict


Turn = list[Request]  # requests that follow one another in one slot


@dataclass(frozen=True, slots=True)
class Work:
    """What a peer is asked over this many reports."""

    reports: int
    turns: tuple[Turn, ...]

    @property
    def cells(self) -> int:
        return max(request.cells for turn in self.turns for request in turn)


@dataclass(frozen=True, slots=True)
class Measure:
    """One system's work in one round.

    seconds: of the work alone; startup: before it, processes and loading. prompt_tokens: computed, not reused.
    drafted, accepted: tokens that were guessed, and those of them that were right."""

    reports: int
    seconds: float
    startup: float
    prompt_tokens: int
    written_tokens: int
    drafted: int = 0
    accepted: int = 0

    @property
    def rate(self) -> float:
        """Reports per hour."""
        return self.reports / self.seconds * 3600


def instructions() -> dict[str, Template]:
    """The instruction-first prompt of each task."""
    document = tomllib.loads(INSTRUCTIONS.read_text(encoding="utf-8"))
    return {
        name: Template(table["text"], max_tokens=table["max_tokens"], stop=tuple(table["stop"]))
        for name, table in document.items()
    }


def instruct_work(
    reports: Sequence[Report], tasks: Sequence[Task], markup: Markup, tokeniser: Tokeniser, batch: int = 1
) -> Work:
    """One prompt per task and report, task by task, so that a cache holds the instruction; `batch` to a request."""
    style = PromptStyle("own", markup, instructions())
    turns: list[Turn] = []
    for task in tasks:
        prompts = [tokeniser.prompt(render(task, blocks, style)[WHOLE_TASK]) for blocks in _inputs(task, reports)]
        template = style.templates[task.name]
        turns += [
            [Request(tuple(prompts[i : i + batch]), template.max_tokens, template.stop)]
            for i in range(0, len(prompts), batch)
        ]
    return Work(len(reports), tuple(turns))


def lean_work(reports: Sequence[Report], tasks: Sequence[Task], style: PromptStyle, tokeniser: Tokeniser) -> Work:
    """The pack's prompts, a turn per report: those that begin with the same input stand together, and those of
    equal answer length share a request."""
    lengths = {name: template.max_tokens for name, template in instructions().items()}
    turns = []
    for report in reports:
        requests: dict[tuple[str, int, tuple[str, ...]], list[tuple[int, ...]]] = {}
        for task in tasks:
            blocks = task.blocks(report)
            for prompt in render(task, blocks, style).values() if blocks else ():
                asked, n_predict, stop = _lean(prompt, lengths[task.name])
                requests.setdefault((blocks[0].text if blocks else "", n_predict, stop), []).append(
                    tokeniser.prompt(asked)
                )
        order = {first: i for i, first in enumerate(dict.fromkeys(first for first, _, _ in requests))}
        keys = sorted(requests, key=lambda key: (order[key[0]], key[1]))
        turns.append([Request(tuple(requests[key]), key[1], key[2]) for key in keys])
    return Work(len(reports), tuple(turns))


def _lean(prompt: Prompt, n_answer: int) -> tuple[Prompt, int, tuple[str, ...]]:
    """A prompt as a server can answer it: (prompt, tokens to write, stop strings)."""
    if isinstance(prompt.read, Decide):
        return prompt, 1, ()
    if isinstance(prompt.read, Generate):
        return prompt, prompt.read.max_tokens, prompt.read.stop
    # A server gives no logits at the words of an echo, so the spans are written.
    return Prompt(prompt.segments[:-1], Generate(n_answer)), n_answer, ()


def _inputs(task: Task, reports: Iterable[Report]) -> list[tuple[Block, ...]]:
    return [blocks for report in reports if (blocks := task.blocks(report))]
