"""What the peers are asked is what this package renders."""

from collections.abc import Sequence

import numpy as np

from radlite_batch.bench.peers import instruct_work, instructions, lean_work
from radlite_batch.engine.base import Logits, Run
from radlite_batch.engine.engine import Engine
from radlite_batch.engine.fake import FakeModel
from radlite_batch.engine.tokens import Tokeniser
from radlite_batch.records import Report
from radlite_batch.tasks.registry import TASKS, cue_names, tasks_named
from radlite_batch.tasks.render import Markup, PromptStyle, render

NATIVE = PromptStyle("native", Markup(start="<|im_start|>"))
CLOSED = ("rads_assignment", "n_staging", "m_staging", "abnormality_detection")


class Recorder(FakeModel):
    """Remembers every path of tokens that was computed."""

    def __init__(self) -> None:
        super().__init__()
        self.paths: set[tuple[int, ...]] = set()

    def decode(self, runs: Sequence[Run]) -> list[list[Logits]]:
        logits = super().decode(runs)
        for run in runs:
            for seq in run.seqs:
                self.paths.add(tuple(token for token, _ in self._sequences[seq]))
        return logits


def report(number: int) -> Report:
    text = f"Nodule of {number} mm. Stable."
    fields = {"prior_text": f"Nodule of {number + 9} mm.", "premise": "A mass.", "hypothesis": f"{number} masses."}
    return Report(number, str(number), text, fields | {"question": "Is there a nodule?", "findings": "A nodule."})


def tokeniser() -> Tokeniser:
    return Tokeniser(FakeModel(), cue_names())


def test_lean_prompts_are_the_tokens_the_engine_computes() -> None:
    model = Recorder()
    engine = Engine(model, cue_names())
    tasks = tasks_named(CLOSED)
    rendered = [prompt for task in tasks for prompt in render(task, task.blocks(report(7)) or (), NATIVE).values()]
    engine.answer(rendered)
    (turn,) = lean_work([report(7)], tasks, NATIVE, tokeniser()).turns
    asked = {prompt for request in turn for prompt in request.prompts}
    assert len(asked) == len(rendered) == 19
    assert asked <= model.paths


def test_the_closed_questions_of_a_report_are_one_request_of_one_token() -> None:
    work = lean_work([report(1), report(2)], tasks_named(CLOSED), NATIVE, tokeniser())
    assert [[(len(request.prompts), request.n_predict) for request in turn] for turn in work.turns] == [[(19, 1)]] * 2
    assert work.reports == 2


def test_prompts_that_begin_alike_follow_one_another() -> None:
    (turn,) = lean_work([report(3)], tuple(TASKS.values()), NATIVE, tokeniser()).turns
    text = tokeniser().prompt(render(TASKS["n_staging"], TASKS["n_staging"].blocks(report(3)) or (), NATIVE)["stage"])[
        :-1
    ]
    on_text = [prompt[: len(text)] == text for request in turn for prompt in request.prompts]
    assert on_text == sorted(on_text, reverse=True)
    assert on_text.count(True) == 19 + 3  # and entities, changes, answer; not the impression and the inference
    lengths = {name: template.max_tokens for name, template in instructions().items()}
    assert {request.n_predict for request in turn} >= {1, lengths["radiology_ner"], lengths["temporal_comparison"]}


def test_a_span_task_is_asked_without_its_echo() -> None:
    task = TASKS["radiology_ner"]
    (turn,) = lean_work([report(3)], (task,), NATIVE, tokeniser()).turns
    whole = tokeniser().prompt(render(task, task.blocks(report(3)) or (), NATIVE)["entities"])
    echo = FakeModel().tokenize(report(3).text, False)
    assert turn[0].prompts == (whole[: -len(echo)],)


def test_instructions_come_first_and_task_by_task() -> None:
    tasks = tasks_named(("n_staging", "abnormality_detection"))
    work = instruct_work([report(1), report(2)], tasks, Markup(), tokeniser())
    assert [turn[0].n_predict for turn in work.turns] == [3, 3, 84, 84]
    first, second = (np.array(turn[0].prompts[0]) for turn in work.turns[:2])
    n = min(len(first), len(second))
    shared = int((first[:n] != second[:n]).argmax())
    assert shared > 0.8 * n  # all but the report and what closes the turn


def test_an_instruction_stands_for_every_task_and_its_example_can_be_parsed() -> None:
    assert set(instructions()) == set(TASKS)
    answers = {
        "rads_assignment": "BI-RADS 4A", "n_staging": "NX", "m_staging": "M0", "abnormality_detection": "Edema: absent",
        "radiology_ner": "Anatomy: lung", "temporal_comparison": "New: nodule", "radiology_nli": "neutral",
    }  # fmt: skip
    for name, answer in answers.items():
        task = TASKS[name]
        assert task.parse(answer, task.blocks(report(1)) or ()).values
