"""Packed rows: every wanted place sees its own prompt, whole and in order, and nothing else."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radlite_batch.engine.base import Limits, Run
from radlite_batch.engine.constraint import softmax
from radlite_batch.engine.engine import Engine
from radlite_batch.engine.fake import FakeModel
from radlite_batch.errors import PackError, UsageError
from radlite_batch.records import Decide, Decided, Prompt, Report, Segment, Tag, Tagged
from radlite_batch.tasks.abnormality_detection import LABELS
from radlite_batch.tasks.registry import TASKS, cue_names
from radlite_batch.tasks.render import Markup, PromptStyle
from training.encode import Asked, Encoder, Example, Row, ask, pack

STYLE = PromptStyle("native", Markup(start="<s>"))
TEXT = "Röntgen: heart 5,5 cm — no 肺炎. Small effusion."
START, END = TEXT.index("Small"), TEXT.index(".", TEXT.index("Small"))
TARGETS = {
    "abnormality_detection": {label: "absent" for label in LABELS},
    "n_staging": {"stage": "N1"},
    "radiology_ner": {"entities": [(START, END, "observation_present")]},
    "temporal_comparison": {"changes": []},
    "radiology_qa": {"answer": "A small effusion."},
}
SHORT = Limits(n_batch=512, n_cells=8192, n_seqs=64)


class Bytes(FakeModel):
    """The fake with one token per byte, so that each answer code is one token."""

    def tokenize(self, text: str, special: bool) -> list[int]:
        return [(1 << 24) | byte << 16 for byte in text.encode()]

    def piece(self, token: int) -> bytes:
        return bytes([token >> 16 & 0xFF])


def examples(text: str, names: Sequence[str]) -> list[Example]:
    fields = {"prior_text": "Clear lungs.", "question": "What is small?", "findings": text}
    found = []
    for name in names:
        blocks = TASKS[name].blocks(Report(0, "1", text, fields))
        assert blocks is not None
        # The spans stand in TEXT only.
        targets = {"entities": []} if name == "radiology_ner" and text != TEXT else TARGETS[name]
        found.append(Example(TASKS[name], blocks, targets))
    return found


def asked_of(text: str, names: Sequence[str] = tuple(TARGETS)) -> list[Asked]:
    return [asked for example in examples(text, names) for asked in ask(example, STYLE)]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(Bytes(SHORT), cue_names())


def path(encoder: Encoder, asked: Asked) -> list[int]:
    return [int(token) for segment in asked.prompt.segments for token in encoder.tokenize(segment)]


def seen(row: Row, place: int) -> list[int]:
    """The tokens that a place sees, itself included; their positions must be 0, 1, 2, ..."""
    places = np.flatnonzero(row.mask()[place])
    assert row.positions[places].tolist() == list(range(len(places)))
    return row.tokens[places].tolist()


def test_a_report_stands_in_a_row_once(encoder: Encoder) -> None:
    asked = asked_of(TEXT, ["abnormality_detection"])
    row = encoder.row(asked)
    assert len(row) == len("<s>") + len(TEXT.encode()) + len(LABELS)
    assert {len(seen(row, want.place)) for want in row.wants} == {len(row) - len(LABELS) + 1}


texts = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "Zs"]), min_size=1).filter(str.strip)
tasks = st.lists(st.sampled_from(list(TARGETS)), min_size=1, unique=True)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(texts | st.just(TEXT), tasks), min_size=1, max_size=4), st.integers(1, 400))
def test_every_place_sees_its_own_prompt(encoder: Encoder, reports: list[tuple[str, list[str]]], length: int) -> None:
    groups = [asked_of(text, names) for text, names in reports]
    rows = [encoder.row(group) for group in groups]
    packed = pack(rows, length)
    assert sum(map(len, packed)) == sum(map(len, rows))
    assert all(len(row) <= length for row in packed if len(row) not in map(len, rows))
    places = iter([(row, want) for row in packed for want in row.wants])
    for asked in (asked for group in groups for asked in group):
        whole = path(encoder, asked)
        if isinstance(asked.prompt.read, Decide):
            row, want = next(places)
            assert seen(row, want.place) == whole
        elif isinstance(asked.prompt.read, Tag):
            for _ in asked.prompt.read.words:
                row, want = next(places)
                prefix = seen(row, want.place)
                assert prefix == whole[: len(prefix)]
        else:
            answer = [*Bytes().tokenize(asked.right[0], False), Bytes().end]
            for i, token in enumerate(answer):
                row, want = next(places)
                assert seen(row, want.place) == whole + answer[:i]
                assert (want.candidates, want.right) == (None, (token,))
    assert next(places, None) is None


@pytest.mark.parametrize("name", ["abnormality_detection", "n_staging", "radiology_ner", "temporal_comparison"])
def test_what_is_trained_is_what_the_engine_reads(encoder: Encoder, name: str) -> None:
    model = Bytes(SHORT)
    asked = asked_of(TEXT, [name])
    row = encoder.row(asked)
    trained = []
    for want in row.wants:
        tokens = np.array(seen(row, want.place), dtype=np.int32)
        logits = model.decode([Run(tokens, 0, (0,), (len(tokens) - 1,))])[0][0]
        trained.append(softmax(logits.of(np.array(want.candidates))[None])[0].tolist())
        model.drop(0)
    read: list[list[float]] = []
    for completion in Engine(Bytes(SHORT), cue_names()).answer([question.prompt for question in asked]):
        assert isinstance(completion, Decided | Tagged)
        p = completion.probabilities
        read += [list(p)] if isinstance(completion, Decided) else [list(word) for word in p]
    assert [len(p) for p in trained] == [len(p) for p in read]
    assert np.concatenate(trained) == pytest.approx(np.concatenate(read), abs=1e-6)


def test_a_partial_label_allows_each_of_its_labels(encoder: Encoder) -> None:
    blocks = examples(TEXT, ["abnormality_detection"])[0].blocks
    targets = {"edema": {"absent", "negative"}, "fracture": "positive"}
    row = encoder.row(ask(Example(TASKS["abnormality_detection"], blocks, targets), STYLE))
    codes = [bytes(Bytes().piece(c)[0] for c in want.candidates or ()) for want in row.wants]
    assert codes == [b"PNUA", b"PNUA"]
    assert [want.right for want in row.wants] == [(1, 3), (0,)]


def test_spans_become_the_tags_of_their_words(encoder: Encoder) -> None:
    asked = asked_of(TEXT, ["radiology_ner"])
    read = asked[0].prompt.read
    assert isinstance(read, Tag)
    row = encoder.row(asked)
    tags = {TEXT[a:b]: read.tags[want.right[0]] for (a, b), want in zip(read.words, row.wants, strict=True)}
    assert [tags[word] for word in ("Small", "effusion", "5,5", "肺炎")] == ["P", "p", ".", "."]
    places = zip(read.words, row.wants, strict=True)
    last = {TEXT[a:b]: Bytes().piece(seen(row, want.place)[-1]) for (a, b), want in places}
    assert (last["heart"], last["肺炎"]) == (b"t", "炎".encode()[-1:])


def test_a_text_that_the_engine_would_cut_has_no_end(encoder: Encoder) -> None:
    example = examples(TEXT, ["radiology_qa"])[0]
    asked = ask(Example(example.task, example.blocks, {"answer": "effusion " * 40}), STYLE)
    row = encoder.row(asked)
    assert len(row.wants) == 48
    assert Bytes().end not in [want.right[0] for want in row.wants]


def test_wrong_targets_are_refused() -> None:
    example = examples(TEXT, ["n_staging"])[0]
    for targets in ({"stage": "N9"}, {"stage": set()}, {"grade": "N1"}):
        with pytest.raises(UsageError, match="n_staging"):
            ask(Example(example.task, example.blocks, targets), STYLE)


def test_codes_of_several_tokens_are_refused() -> None:
    encoder = Encoder(FakeModel(SHORT), ("size",))
    prompt = Prompt((Segment("report", "4 mm"), Segment("cue", "size")), Decide(("3 mm", "4 mm")))
    with pytest.raises(PackError, match="one token"):
        encoder.row([Asked(prompt, ("4 mm",))])


def test_cues_are_named_after_question_or_task(encoder: Encoder) -> None:
    named = encoder.cue_words()
    written = {
        name: b"".join(map(Bytes().piece, named[encoder.cues[name]])).decode()
        for name in ("abnormality_detection.pleural_effusion", "n_staging.stage", "rads_assignment.neck")
    }
    assert list(written.values()) == [" pleural effusion", " n staging", " neck"]
    assert len(set(map(tuple, named.values()))) == len(cue_names())
