"""What every task promises, whichever task it is: a tenth task has to pass here with one entry in ANSWERS."""

import re
from typing import Any

import pytest

from radlite_batch.errors import JobError
from radlite_batch.records import Completion, Decide, Decided, Generate, Report, Tag, Tagged, Written
from radlite_batch.tasks import abnormality_detection, m_staging, n_staging, radiology_nli
from radlite_batch.tasks.base import Block, Choice, Column, FreeText, Question, Spans, Task
from radlite_batch.tasks.rads_systems import NI_RADS_NECK, SYSTEMS, format_label
from radlite_batch.tasks.registry import TASKS, cue_names, tasks_named
from radlite_batch.tasks.render import PromptStyle, render
from radlite_batch.tasks.spans import tags_of, words

TEXT = "FINDINGS: New 2.5 cm nodule, right upper lobe. Left\neffusion has grown; no edema. Nodule at the left base."
FIELDS = {"premise": "No effusion.", "hypothesis": "An effusion.", "question": "Which side?", "prior_text": "Clear."}
REPORT = Report(0, "R1", TEXT, FIELDS)
COLUMN_TYPES = r"string|strings|float32|alternatives|spans:\w+:\w+"
every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


def blocks_of(task: Task) -> tuple[Block, ...]:
    blocks = task.blocks(REPORT)
    assert blocks is not None
    return blocks


def rads(system: str, category: str | None, neck: str | None = None) -> dict[str, Any]:
    label = format_label(system, category, neck)
    return {"system": system, "category": category, "category_neck": neck, "label": label}


def spans(text_key: str, label_key: str, *terms: tuple[str, str]) -> list[dict[str, Any]]:
    """Spans of TEXT, each looked for after the one before it."""
    found: list[dict[str, Any]] = []
    for term, label in terms:
        start = TEXT.index(term, found[-1]["end"] if found else 0)
        found.append({text_key: term, label_key: label, "start": start, "end": start + len(term)})
    return found


FLAGS = dict.fromkeys(abnormality_detection.LABELS, "absent")
PRESENT, ABSENT = "observation_present", "observation_absent"
ENTITIES = (
    *(("2.5 cm", PRESENT), ("nodule", PRESENT), ("right", "anatomy"), ("Left", "anatomy"), ("effusion", PRESENT)),
    *(("edema", ABSENT), ("Nodule", PRESENT), ("left", "anatomy")),
)
# Every answer of the closed tasks, every state of every flag, and some answers of the open ones.
ANSWERS: dict[str, list[dict[str, Any]]] = {
    "rads_assignment": [
        *(rads(system.name, category.name) for system in SYSTEMS for category in system.categories),
        *(rads("NI-RADS", c.name, neck) for s in SYSTEMS if s.name == "NI-RADS" for c in s.categories
          for neck in NI_RADS_NECK),
        rads("none", None),
    ],
    "n_staging": [{"stage": stage} for stage in n_staging.LABELS],
    "m_staging": [{"stage": stage} for stage in m_staging.LABELS],
    "abnormality_detection": [
        FLAGS,
        *({**FLAGS, question.name: state} for question in TASKS["abnormality_detection"].questions
          for state in question.output.labels),
    ],
    "radiology_ner": [{"entities": []}, {"entities": spans("text", "label", *ENTITIES)}],
    "temporal_comparison": [
        {"changes": []},
        {"changes": spans("finding", "change", ("nodule", "new"), ("effusion", "worsened"))},
    ],
    "impression_generation": [{"impression": "New nodule."}, {"impression": "1. Größerer Erguß.\n2. None: stable."}],
    "radiology_qa": [{"answer": "Left."}],
    "radiology_nli": [{"label": label} for label in radiology_nli.LABELS],
}  # fmt: skip


def one_hot(n: int, at: int) -> tuple[float, ...]:
    return tuple(float(i == at) for i in range(n))


def flat(question: Question, blocks: tuple[Block, ...], peak: int | None) -> Completion:
    """An engine's answer that is uniform, or sure of one label (or tag) everywhere, which may be no legal answer."""

    def spread(n: int) -> tuple[float, ...]:
        return (1 / n,) * n if peak is None else one_hot(n, peak % n)

    if isinstance(question.output, Choice):
        return Decided(spread(len(question.output.labels)))
    if isinstance(question.output, Spans):
        return Tagged((spread(len(question.output.tags)),) * len(words(blocks[0].text)))
    return Written("Left effusion.")


def sure(question: Question, blocks: tuple[Block, ...], target: Any) -> Completion:
    """An engine's answer that is certain of this target; of the first label where there is none."""
    output = question.output
    if isinstance(output, Choice):
        return Decided(one_hot(len(output.labels), output.labels.index(target) if target else 0))
    if isinstance(output, Spans):
        tags = tags_of(output, words(blocks[0].text), target)
        return Tagged(tuple(one_hot(len(output.tags), tag) for tag in tags))
    return Written(target)


def assert_legal(column: Column, value: Any, text: str) -> None:
    if column.type == "float32":
        assert 0 <= value <= 1
    elif column.type == "alternatives":
        ranked = [answer["probability"] for answer in value]
        assert 1 <= len(value) <= 5 and len({answer["label"] for answer in value}) == len(value)
        assert all(0 <= p <= 1 for p in ranked) and sum(ranked) <= 1 + 1e-9
    elif column.type.startswith("spans"):
        _, text_key, label_key = column.type.split(":")
        assert all(span[label_key] in column.vocabulary for span in value)
        assert all(text[span["start"] : span["end"]] == span[text_key] != "" for span in value)
    elif column.vocabulary:
        assert value in column.vocabulary or (value is None and column.name.startswith("category"))
    else:
        assert isinstance(value, str) and value


def test_every_task_has_its_answers_here() -> None:
    assert list(ANSWERS.keys() - TASKS.keys()) == [] == list(TASKS.keys() - ANSWERS.keys())


@every_task
def test_declaration_is_complete(task: Task) -> None:
    assert TASKS[task.name] is task
    assert task.about and task.needs and task.questions and task.metrics
    assert task.headline_column.name == task.headline
    assert all(column.name and column.about and re.fullmatch(COLUMN_TYPES, column.type) for column in task.columns)
    assert len({column.name for column in task.columns}) == len(task.columns)
    assert all(question.name and question.ask for question in task.questions)
    assert len({question.name for question in task.questions}) == len(task.questions)


def test_cue_names_are_distinct_and_cover_every_question() -> None:
    assert len(set(cue_names())) == len(cue_names()) == sum(len(task.questions) for task in TASKS.values())


@every_task
def test_codes_are_distinct_single_ascii_characters(task: Task) -> None:
    for question in task.questions:
        if isinstance(question.output, FreeText):
            assert question.output.max_tokens > 0
            continue
        codes = question.output.tags if isinstance(question.output, Spans) else tuple(question.output.codes)
        assert len(set(codes)) == len(codes)
        assert all(len(code) == 1 and code.isascii() and code.isprintable() and code != " " for code in codes)
        assert len(question.output.codes) == len(set(question.output.labels)) == len(question.output.labels)


@pytest.mark.parametrize("style", ["native", "instruct"])
@every_task
def test_every_question_is_asked_in_both_styles(task: Task, style: str) -> None:
    prompts = render(task, blocks_of(task), PromptStyle(style))
    assert list(prompts) == [question.name for question in task.questions]
    for question in task.questions:
        read = prompts[question.name].read
        if isinstance(question.output, Choice):
            assert isinstance(read, Decide) and len(set(read.answers)) == len(question.output.labels)
        elif isinstance(question.output, Spans) and style == "native":
            assert read == Tag(question.output.tags, words(blocks_of(task)[0].text))
        else:
            assert isinstance(read, Generate) and read.max_tokens == question.output.max_tokens


@every_task
def test_parse_gives_back_what_answer_writes(task: Task) -> None:
    for values in ANSWERS[task.name]:
        parsed = task.parse(task.answer(values), blocks_of(task))
        assert {key: parsed.values[key] for key in values} == values
        assert parsed.dropped == 0


@every_task
def test_targets_name_only_questions_of_the_task_and_legal_labels(task: Task) -> None:
    questions = {question.name: question for question in task.questions}
    for values in ANSWERS[task.name]:
        targets = task.targets(values)
        assert targets and targets.keys() <= questions.keys()
        for name, target in targets.items():
            output = questions[name].output
            if isinstance(output, Choice):
                assert target in output.labels
            elif isinstance(output, Spans):
                assert [label for _, _, label in target if label not in output.labels] == []
            else:
                assert isinstance(target, str) and target


@pytest.mark.parametrize("peak", [None, *range(0, 27, 2)])
@every_task
def test_predict_gives_legal_values_and_a_probability(task: Task, peak: int | None) -> None:
    blocks = blocks_of(task)
    prediction = task.predict({q.name: flat(q, blocks, peak) for q in task.questions}, blocks)
    assert prediction.values.keys() == {column.name for column in task.columns}
    for column in task.columns:
        assert_legal(column, prediction.values[column.name], blocks[0].text)
    if all(isinstance(q.output, FreeText) for q in task.questions):
        assert prediction.confidence is None
    else:
        assert prediction.confidence is not None and 0 <= prediction.confidence <= 1


@every_task
def test_predict_of_a_sure_answer_gives_it_back(task: Task) -> None:
    blocks = blocks_of(task)
    for values in ANSWERS[task.name]:
        targets = task.targets(values)
        prediction = task.predict({q.name: sure(q, blocks, targets.get(q.name)) for q in task.questions}, blocks)
        # An NI-RADS answer always has a neck category, so the prediction may hold more than was asked for.
        assert {name: task.targets(prediction.values)[name] for name in targets} == targets
        assert prediction.confidence in (1, None)


@every_task
@pytest.mark.parametrize("fields", [{}, {"findings": " ", "premise": "", "hypothesis": "\n", "question": ""}])
def test_empty_inputs_give_no_blocks(task: Task, fields: dict[str, str]) -> None:
    assert task.blocks(Report(0, "R1", " \n\t", fields)) is None


@pytest.mark.parametrize(
    ("name", "missing"),
    [("radiology_nli", "premise"), ("radiology_nli", "hypothesis"), ("radiology_qa", "question")],
)
def test_missing_input_of_its_own_gives_no_blocks(name: str, missing: str) -> None:
    assert TASKS[name].blocks(Report(0, "R1", TEXT, {**FIELDS, missing: " "})) is None


@pytest.mark.parametrize(
    "text",
    [
        "FINDINGS: Small nodule.\nIMPRESSION: Marigold.",
        "Impression\n1. Marigold.\n2. Marigold.\nFINDINGS: Small nodule.",
        "FINDINGS: Small nodule.\nIMPRESSION:\nleft lung: Marigold.\nRight lung: Marigold.",  # no section begins here
        "FINDINGS: Small nodule. IMPRESSION: Marigold.",  # all on one line
    ],
)
def test_impression_is_not_shown_to_the_task_that_writes_it(text: str) -> None:
    blocks = TASKS["impression_generation"].blocks(Report(0, "R1", text))
    assert blocks is not None
    assert "Small nodule." in blocks[0].text and "Marigold" not in blocks[0].text
    assert TASKS["impression_generation"].blocks(Report(0, "R1", "IMPRESSION: Marigold.")) is None


def test_tasks_are_found_by_name_in_registry_order() -> None:
    assert [task.name for task in tasks_named(["m_staging", "n_staging"])] == ["n_staging", "m_staging"]
    with pytest.raises(JobError, match="unknown task 'n_stagin'; did you mean 'n_staging'"):
        tasks_named(["m_staging", "n_stagin"])
    with pytest.raises(JobError, match="no task is named"):
        tasks_named([])
