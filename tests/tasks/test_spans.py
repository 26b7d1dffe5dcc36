"""Spans: what a word is, the best legal tags over words, and terms found again in the text."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radlite_batch.records import Tagged
from radlite_batch.tasks.base import Block, Spans
from radlite_batch.tasks.registry import TASKS
from radlite_batch.tasks.spans import align, best_tags, spans_of, tags_of, words

OUTPUT = Spans(("anatomy", "present"), "AP", ("Anatomy", "Present"), max_tokens=8)  # tags: . A a P p
OUT, A, A_IN, P, P_IN = range(5)
GERMAN = "Größe 3,5 cm²; 𝛼\u2011Herd im linken Lungenoberlappen (Nr. 2), Patient's Zustand o.\u202fB. \U0001fac1 é"

rows = st.lists(st.lists(st.floats(0, 1), min_size=5, max_size=5), max_size=4)
tag_rows = st.lists(st.lists(st.floats(0, 1), min_size=5, max_size=5), max_size=30)
quick = settings(max_examples=60, deadline=None)


def is_legal(tags: list[int]) -> bool:
    """An inside tag (even, above 0) comes after a tag of its own label."""
    return all(t == 0 or t % 2 or before in (t - 1, t) for before, t in zip([OUT, *tags], tags, strict=False))


def score(probabilities: list[list[float]], tags: list[int]) -> float:
    return sum(math.log(max(p[t], 1e-30)) for p, t in zip(probabilities, tags, strict=True))


def found(text: str, *terms: tuple[str, str]) -> list[tuple[str, str]]:
    return [(text[start:end], label) for start, end, label in align(text, terms)[0]]


def test_words_are_numbers_runs_of_letters_and_single_signs() -> None:
    text = "No 2.5 cm mass_1, T2-weighted; patient's 1,024."
    assert [text[a:b] for a, b in words(text)] == [
        *("No", "2.5", "cm", "mass", "_", "1", ",", "T", "2", "-", "weighted", ";", "patient's", "1,024", "."),
    ]
    assert words("") == words(" \n\t") == ()


def test_offsets_count_code_points() -> None:
    found = [GERMAN[a:b] for a, b in words(GERMAN)]
    assert found[:7] == ["Größe", "3,5", "cm²", ";", "𝛼", "\u2011", "Herd"]
    assert "\U0001fac1" in found and "Patient's" in found
    assert words("\U0001fac1 mass") == ((0, 1), (2, 6))


@quick
@given(st.text())
def test_words_cover_everything_but_blanks_in_order(text: str) -> None:
    spots = words(text)
    assert all(a < b <= c for (a, b), (c, _) in itertools.pairwise(spots))
    assert "".join(text[a:b] for a, b in spots) == "".join(text.split())


@quick
@given(tag_rows)
def test_inside_never_comes_without_its_begin(probabilities: list[list[float]]) -> None:
    tags = best_tags(OUTPUT, probabilities)
    assert len(tags) == len(probabilities) and is_legal(tags)


@quick
@given(rows)
def test_best_tags_are_the_best_of_all_legal_ones(probabilities: list[list[float]]) -> None:
    every = itertools.product(range(5), repeat=len(probabilities))
    best = max(score(probabilities, list(tags)) for tags in every if is_legal(list(tags)))
    assert score(probabilities, best_tags(OUTPUT, probabilities)) == pytest.approx(best)


def test_ties_go_to_the_earlier_tag() -> None:
    assert best_tags(OUTPUT, [[0.2] * 5] * 3) == [OUT, OUT, OUT]
    assert best_tags(OUTPUT, [[0, 0.5, 0, 0.5, 0], [0, 0, 0.5, 0, 0.5]]) == [A, A_IN]


def test_spans_join_their_words_and_keep_neighbours_apart() -> None:
    text = "left lower lobe mass mass seen"
    tags = [A, A_IN, A_IN, P, P, OUT]
    assert spans_of(OUTPUT, words(text), tags) == [
        ((0, 15, "anatomy"), [0, 1, 2]),
        ((16, 20, "present"), [3]),
        ((21, 25, "present"), [4]),
    ]


@quick
@given(st.text(alphabet="aß𝛼1. \n-", max_size=40), st.data())
def test_tags_of_is_the_inverse_of_spans_of(text: str, data: st.DataObject) -> None:
    spots = words(text)
    n = len(spots)
    tags = best_tags(
        OUTPUT, data.draw(st.lists(st.lists(st.floats(0, 1), min_size=5, max_size=5), min_size=n, max_size=n))
    )
    spans = [span for span, _ in spans_of(OUTPUT, spots, tags)]
    assert tags_of(OUTPUT, spots, spans) == tags


def test_span_that_cuts_a_word_takes_the_whole_word() -> None:
    assert tags_of(OUTPUT, words("small effusions"), [(6, 14, "present")]) == [OUT, P]


def test_tagged_spans_of_non_ascii_text_are_exact() -> None:
    task, spots = TASKS["radiology_ner"], words(GERMAN)
    spans = [(GERMAN.index(term), GERMAN.index(term) + len(term), label) for term, label in (
        ("3,5 cm²", "observation_present"), ("𝛼\u2011Herd", "observation_uncertain"), ("Lungenoberlappen", "anatomy"),
        ("\U0001fac1", "anatomy"),
    )]  # fmt: skip
    output = task.questions[0].output
    assert isinstance(output, Spans)
    # Every tag has 0.9 and the others share the rest, so a span of n words has 0.9 ** n.
    sure = tuple(tuple(0.9 if t == tag else 0.1 / 8 for t in range(9)) for tag in tags_of(output, spots, spans))
    prediction = task.predict({"entities": Tagged(sure)}, (Block("report", GERMAN),))
    entities = prediction.values["entities"]
    assert [(e["start"], e["end"], e["label"]) for e in entities] == spans
    assert all(GERMAN[e["start"] : e["end"]] == e["text"] for e in entities)
    assert prediction.confidence == pytest.approx((0.9**2 + 0.9**3 + 0.9 + 0.9) / 4)


def test_answer_without_spans_is_as_sure_as_its_outside_tags() -> None:
    task = TASKS["radiology_ner"]
    outside = ((0.8, *(0.025,) * 8), (0.6, *(0.05,) * 8))
    prediction = task.predict({"entities": Tagged(outside)}, (Block("report", "Nothing else"),))
    assert prediction.values == {"entities": []}
    assert prediction.confidence == pytest.approx(0.7)


def test_span_over_a_line_break_survives_being_written() -> None:
    task, text = TASKS["radiology_ner"], "Large left\neffusion."
    values = {"entities": [{"text": "left\neffusion", "label": "observation_present", "start": 6, "end": 19}]}
    assert task.parse(task.answer(values), (Block("report", text),)).values == values


def test_terms_are_found_whole_in_any_case_and_over_any_blanks() -> None:
    text = "LEFT  pleural\neffusion, effusions; 2.5 cm (new)"
    assert found(text, ("left pleural Effusion", "x"), ("2.5 cm", "y"), ("(new)", "z")) == [
        ("LEFT  pleural\neffusion", "x"),
        ("2.5 cm", "y"),
        ("(new)", "z"),
    ]
    assert align(text, [("effus", "x"), ("eural", "x")]) == ([], 2)


def test_term_is_not_found_inside_a_number() -> None:
    assert align("mass of 2.5 cm", [("5 cm", "x"), ("2", "x")]) == ([], 2)


def test_terms_of_a_label_are_found_in_order_of_occurrence() -> None:
    text = "right lung, left lung, right hilum"
    spans, dropped = align(text, [(term, "a") for term in ("left", "lung", "right", "hilum")])
    assert [text[a:b] for a, b, _ in spans] == ["left", "lung", "right", "hilum"]
    assert (spans[2][0], dropped) == (23, 0)  # the right that comes after the left


def test_repeated_terms_take_one_occurrence_each() -> None:
    spans, dropped = align("mass and mass", [("mass", "a"), ("mass", "b"), ("mass", "a")])
    assert (spans, dropped) == ([(0, 4, "a"), (9, 13, "b")], 1)


def test_overlapping_terms_are_refused() -> None:
    assert align("left lower lobe", [("left lower", "a"), ("lower lobe", "a")]) == ([(0, 10, "a")], 1)


def test_terms_that_do_not_stand_in_the_text_are_counted() -> None:
    assert align("Clear lungs.", [("nodule", "a"), ("", "a"), ("lungs", "a"), ("lung", "b")]) == ([(6, 11, "a")], 3)


def test_term_with_signs_of_patterns_is_plain_text() -> None:
    assert align("a.c abc [x] 3+", [("a.c", "a"), ("[x]", "a"), ("3+", "a")])[0] == [
        *((0, 3, "a"), (8, 11, "a"), (12, 14, "a")),
    ]
