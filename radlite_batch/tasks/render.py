"""The one place that writes prompt text; training and the engine both call it.

native    report, one cue token, answer: nothing in words, so a report is shared by all its questions and a
          question costs one token. Needs an adapter whose cues were trained.
instruct  chat in words, report first, one question at the end; for a model that was never tuned.
own       the pack's templates, one written answer per task, in the order the template gives.

A prompt is a row of segments that are tokenised one by one, so that the same report gives the same tokens under
every question, in training and at run time.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from radlite_batch.errors import PackError
from radlite_batch.records import Decide, Generate, Prompt, Report, Segment, Tag
from radlite_batch.tasks.base import Block, Choice, FreeText, Question, Spans, Task
from radlite_batch.tasks.spans import words

SYSTEM = "You read radiology reports and answer exactly what is asked, from the report alone."
WHOLE_TASK = "*"  # stands for the question where one prompt answers the whole task


@dataclass(frozen=True, slots=True)
class Markup:
    """A model's chat marks; special tokens are read in these and nowhere else. `start` opens a native prompt."""

    start: str = ""
    system: str = "<|im_start|>system\n"
    user: str = "<|im_start|>user\n"
    assistant: str = "<|im_start|>assistant\n"
    end: str = "<|im_end|>\n"


@dataclass(frozen=True, slots=True)
class Template:
    """A pack's own prompt for a task. `text` holds {report}, {findings}, ... where the inputs stand."""

    text: str
    system: str = SYSTEM
    max_tokens: int = 256
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PromptStyle:
    """name: native, instruct or own. max_tokens: of a task's written answer, where the pack sets it."""

    name: str
    markup: Markup = field(default_factory=Markup)
    templates: Mapping[str, Template] = field(default_factory=dict)
    max_tokens: Mapping[str, int] = field(default_factory=dict)


def render(task: Task, blocks: tuple[Block, ...], style: PromptStyle) -> dict[str, Prompt]:
    """The task's prompts over its inputs, by question name (WHOLE_TASK under `own`)."""
    if style.name == "own":
        return {WHOLE_TASK: _own(style.templates[task.name], blocks, style.markup, task.name)}
    write = _native if style.name == "native" else _instruct
    most = style.max_tokens.get(task.name)
    return {q.name: _limited(write(task, q, blocks, style.markup), most) for q in task.questions}


def _limited(prompt: Prompt, max_tokens: int | None) -> Prompt:
    if max_tokens is None or not isinstance(prompt.read, Generate):
        return prompt
    return replace(prompt, read=replace(prompt.read, max_tokens=max_tokens))


def _native(task: Task, question: Question, blocks: tuple[Block, ...], markup: Markup) -> Prompt:
    first, *rest = blocks
    segments = [Segment("markup", markup.start), Segment("report", first.heading + first.text)]
    for block in rest:
        segments += [Segment("words", f"\n{block.name.upper()}: "), Segment("report", block.text)]
    segments.append(Segment("cue", f"{task.name}.{question.name}"))
    output = question.output
    if isinstance(output, Spans):
        # The report again: every position of this echo has seen the whole report, so one pass can tag it.
        segments.append(Segment("report", first.text))
        return Prompt(tuple(segments), Tag(output.tags, words(first.text)))
    read = Decide(tuple(output.codes)) if isinstance(output, Choice) else Generate(output.max_tokens)
    return Prompt(tuple(segments), read)


def _instruct(task: Task, question: Question, blocks: tuple[Block, ...], markup: Markup) -> Prompt:
    segments = _chat_open(SYSTEM, markup)
    for block in blocks:
        segments += [Segment("words", f"{block.name.capitalize()}:\n"), Segment("report", block.text)]
        segments.append(Segment("words", "\n\n"))
    segments += [Segment("words", question.ask), Segment("markup", markup.end + markup.assistant)]
    output = question.output
    if isinstance(output, Choice):
        return Prompt(tuple(segments), Decide(output.spoken))
    if isinstance(output, FreeText):
        return Prompt(tuple(segments), Generate(output.max_tokens))
    opening = f"{output.headers[0]}:"  # begun for the model, so that the list starts in its format
    segments.append(Segment("words", opening))
    return Prompt(tuple(segments), Generate(output.max_tokens, stop=("\n\n",), opening=opening))


def _own(template: Template, blocks: tuple[Block, ...], markup: Markup, task: str) -> Prompt:
    segments = _chat_open(template.system, markup)
    texts = {block.name: block.text for block in blocks}
    for i, part in enumerate(re.split(r"\{(\w+)\}", template.text)):
        if i % 2 == 0:
            segments.append(Segment("words", part))
        elif part in _INPUTS:
            segments.append(Segment("report", texts.get(part, "")))
        else:
            raise PackError(f"prompt of {task}: unknown input {{{part}}}; known: {', '.join(_INPUTS)}")
    segments.append(Segment("markup", markup.end + markup.assistant))
    return Prompt(tuple(segments), Generate(template.max_tokens, template.stop))


_INPUTS = ("report", "findings", "prior", "premise", "hypothesis", "question")


def _chat_open(system: str, markup: Markup) -> list[Segment]:
    opening = [Segment("markup", markup.system), Segment("words", system)] if system else []
    return [*opening, Segment("markup", (markup.end if system else "") + markup.user)]


def writes(task: Task, style: PromptStyle) -> bool:
    """Whether an answer of the task is written, token by token, and not only decided."""
    return any(isinstance(prompt.read, Generate) for prompt in _invented(task, style).values())


def fingerprint(tasks: Iterable[Task], style: PromptStyle) -> dict[str, str]:
    """sha256 of every task's prompts over a fixed invented report: changes when any prompt or answer code does."""
    # The questions too: what a native answer's code means is not in the prompt.
    shown = {task.name: repr((sorted(_invented(task, style).items()), task.questions)) for task in tasks}
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in shown.items()}


def _invented(task: Task, style: PromptStyle) -> dict[str, Prompt]:
    """The task's prompts over a fixed invented report that has every input."""
    fields = dict.fromkeys(("findings", "prior_text", "premise", "hypothesis", "question"), "No effusion.")
    blocks = task.blocks(Report(0, "", "FINDINGS: No effusion.", fields))
    assert blocks is not None
    return render(task, blocks, style)
