"""The engine over the fake model: an answer depends on its own prompt and on nothing else."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radlite_batch.engine.base import Limits, Logits, Run
from radlite_batch.engine.engine import Engine
from radlite_batch.engine.fake import FakeModel
from radlite_batch.errors import EngineError
from radlite_batch.records import Decide, Decided, Generate, Prompt, Segment, Tag, Tagged, TooLong, Written
from radlite_batch.tasks.spans import words

CUES = ("size", "stage", "spans", "note")
REPORTS = (
    "Clear lungs.",
    "Clear lungs. No effusion, heart size upper normal.",
    "Röntgen: Erguß 3 µm — naïve, 肺炎 suspected.",
    "Nodule 4 mm in the left lower lobe, unchanged since the last study.",
)
CATEGORIES = Decide(("BI-RADS 3", "BI-RADS 4", "BI-RADS 4A", "BI-RADS 4B", "none at all"))
READS = (("size", Decide(("P", "N"))), ("stage", CATEGORIES), ("note", Generate(9)), ("spans", Generate(30, ("e",))))


def prompt(report: str, cue: str, read: Decide | Tag | Generate, echo: str = "") -> Prompt:
    segments = [Segment("markup", "<start>"), Segment("report", report), Segment("cue", cue)]
    return Prompt((*segments, Segment("report", echo)) if echo else tuple(segments), read)


def tagging(report: str) -> Prompt:
    return prompt(report, "spans", Tag((".", "A", "a"), words(report)), echo=report)


def writing(report: str, max_tokens: int = 200, stop: tuple[str, ...] = (), opening: str = "") -> Prompt:
    return prompt(report, "note", Generate(max_tokens, stop, opening))


POOL = [prompt(report, cue, read) for report in REPORTS for cue, read in READS]
POOL += [tagging(report) for report in REPORTS]
NEED = 100  # tokens; more than any of these prompts takes with its answer


def engine(limits: Limits | None = None) -> Engine:
    return Engine(FakeModel(limits), CUES)


def written(asked: Prompt) -> tuple[Written, int]:
    """The text of a prompt by itself, and how many tokens were written."""
    alone = engine()
    (text,) = alone.answer([asked])
    assert isinstance(text, Written)
    return text, alone.counts.written


ALONE = [engine().answer([each])[0] for each in POOL]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, len(POOL) - 1), max_size=20),
    st.builds(Limits, st.integers(1, 64), st.integers(NEED, 400), st.integers(2, 20), st.integers(1, 40)),
)
def test_answers_do_not_depend_on_company_order_or_limits(chosen: list[int], limits: Limits) -> None:
    answers = engine(limits).answer([POOL[i] for i in chosen])
    assert answers == [ALONE[i] for i in chosen]


def test_answers_differ_between_reports_and_between_questions() -> None:
    decided = [answer for answer in ALONE if isinstance(answer, Decided)]
    assert len(set(decided)) == len(decided) == 2 * len(REPORTS)
    texts = [answer for answer in ALONE if isinstance(answer, Written)]
    assert len(set(texts)) == len(texts) == 2 * len(REPORTS)


def test_every_answer_is_a_distribution_over_what_was_asked() -> None:
    decided, tagged = engine().answer([prompt(REPORTS[1], "stage", CATEGORIES), tagging(REPORTS[1])])
    assert isinstance(decided, Decided) and isinstance(tagged, Tagged)
    assert len(decided.probabilities) == 5
    assert sum(decided.probabilities) == pytest.approx(1)
    assert all(sum(row) == pytest.approx(1) and len(row) == 3 for row in tagged.probabilities)


@pytest.mark.parametrize("report", REPORTS)
def test_tagging_reads_each_word_at_the_token_that_ends_it(report: str) -> None:
    (whole,) = engine().answer([tagging(report)])
    assert isinstance(whole, Tagged)
    assert len(whole.probabilities) == len(words(report))
    # The fake's tokens are three bytes, so the echo is cut after the third byte at or behind the word's end.
    raw, compared = report.encode(), 0
    for (_, end), row in zip(words(report), whole.probabilities, strict=True):
        n_bytes = -(-len(report[:end].encode()) // 3) * 3
        cut = raw[:n_bytes].decode(errors="ignore")
        if cut.encode() == raw[:n_bytes]:  # not within a character
            (short,) = engine().answer([prompt(report, "spans", Tag((".", "A", "a"), ((0, len(cut)),)), echo=cut)])
            assert short == Tagged((row,))
            compared += 1
    assert compared > len(whole.probabilities) // 2


def test_a_report_without_words_has_no_rows() -> None:
    assert engine().answer([prompt("...", "spans", Tag((".", "A"), ()), echo="...")]) == [Tagged(())]


def test_identical_prompts_are_computed_once() -> None:
    one, many = engine(), engine()
    (alone,) = one.answer([tagging(REPORTS[3])])
    assert many.answer([tagging(REPORTS[3])] * 50) == [alone] * 50
    assert many.counts.computed == one.counts.computed
    assert (many.counts.prompts, many.counts.asked) == (50, 50 * one.counts.asked)


def test_questions_over_one_report_compute_it_once() -> None:
    asking = [prompt(REPORTS[3], cue, Decide(("P", "N"))) for cue in CUES]
    shared = engine()
    shared.answer(asking)
    assert shared.counts.asked - shared.counts.computed == 3 * (shared.counts.asked // 4 - 1)


def test_counts_add_up_over_calls_and_are_what_the_model_computed() -> None:
    counted = engine(Limits(7, NEED, 5))
    counted.answer(POOL[:9])
    half = counted.counts.computed
    counted.answer(POOL[9:])
    assert isinstance(counted.model, FakeModel)
    assert 0 < half < counted.counts.computed == counted.model.n_computed
    assert counted.counts.prompts == len(POOL)
    texts = [each for each in POOL if isinstance(each.read, Generate)]
    assert counted.counts.written == sum(written(each)[1] for each in texts) > 0


def test_too_long_costs_nothing_and_the_others_are_answered() -> None:
    small = engine(Limits(16, NEED, 4))
    long = [prompt("x" * 3 * NEED, cue, read) for cue, read in READS] + [tagging("Long. " * NEED)]
    answers = small.answer([long[0], POOL[0], *long[1:], POOL[1]])
    assert [answers[1], answers[-1]] == ALONE[:2]
    assert all(isinstance(answer, TooLong) and answer.n_tokens > answer.limit == NEED for answer in answers[2:-1])
    without = engine(Limits(16, NEED, 4))
    without.answer(POOL[:2])
    assert (small.counts.asked, small.counts.computed) == (without.counts.asked, without.counts.computed)


def test_a_text_that_could_not_be_finished_is_too_long() -> None:
    (over,) = engine(Limits(16, NEED, 4)).answer([writing("Clear.", max_tokens=NEED)])
    assert isinstance(over, TooLong)


def test_an_answer_with_a_long_forced_beginning_is_answered_or_too_long() -> None:
    long = Decide(("a" * 3 * 50 + "b", "a" * 3 * 50 + "c"))
    (answer,) = engine(Limits(16, NEED, 4)).answer([prompt("x" * 180, "stage", long)])
    assert isinstance(answer, TooLong | Decided)


def test_writing_ends_at_the_end_token_a_stop_string_or_the_token_limit() -> None:
    whole, n_tokens = written(writing(REPORTS[1]))
    assert n_tokens > 8 and not whole.cut
    assert written(writing(REPORTS[1], n_tokens + 1)) == (whole, n_tokens)
    assert written(writing(REPORTS[1], n_tokens)) == (Written(whole.text, cut=True), n_tokens)
    assert written(writing(REPORTS[1], 2)) == (Written(whole.text[:6], cut=True), 2)
    straddling = whole.text[8:10]
    stopped, n_stopped = written(writing(REPORTS[1], 200, ("none such", straddling)))
    assert stopped == Written(whole.text[: whole.text.index(straddling)])
    assert n_stopped < n_tokens


def test_a_stop_string_of_many_tokens_ends_the_text_too() -> None:
    whole, n_tokens = written(writing(REPORTS[1]))
    stopped, n_stopped = written(writing(REPORTS[1], 200, (whole.text[:-4],)))
    assert stopped.text == ""
    assert n_stopped < n_tokens


def test_a_text_that_stops_with_its_last_token_is_not_cut() -> None:
    stop = (written(writing(REPORTS[1]))[0].text[8:10],)
    stopped, n_tokens = written(writing(REPORTS[1], 200, stop))
    assert written(writing(REPORTS[1], n_tokens, stop)) == (stopped, n_tokens)


def test_the_opening_is_part_of_the_text_and_not_searched_for_stops() -> None:
    plain, _ = written(writing(REPORTS[1]))
    opened, _ = written(writing(REPORTS[1], 200, ("Note:",), opening="Note:"))
    assert opened == Written("Note:" + plain.text)


def test_equal_prompts_that_are_read_differently_each_get_their_own_text() -> None:
    whole, _ = written(writing(REPORTS[1]))
    asked = [writing(REPORTS[1], 2), writing(REPORTS[1], 200, (whole.text[8:10],)), writing(REPORTS[1])]
    assert engine().answer(asked) == [written(each)[0] for each in asked]


class Stumbling(FakeModel):
    """Fails once, after the decode call of this number has changed its sequences."""

    def __init__(self, fails_at: int):
        super().__init__(Limits(8, NEED, 6))
        self.calls_left = fails_at

    def decode(self, runs: Sequence[Run]) -> list[list[Logits]]:
        rows = super().decode(runs)
        self.calls_left -= 1
        if self.calls_left == 0:
            raise EngineError("no room")
        return rows


@pytest.mark.parametrize("fails_at", [1, 2, 11, 15])
def test_an_error_of_the_model_leaves_nothing_behind(fails_at: int) -> None:
    stumbling = Engine(Stumbling(fails_at), CUES)
    with pytest.raises(EngineError, match="no room"):
        stumbling.answer(POOL)
    assert stumbling.answer(POOL) == ALONE


def test_an_unknown_cue_is_an_error() -> None:
    with pytest.raises(KeyError):
        engine().answer([prompt(REPORTS[0], "side", Decide(("P", "N")))])


def test_many_calls_in_a_row_leave_no_trace_in_the_answers() -> None:
    lasting, chance = engine(Limits(16, NEED, 4)), random.Random(5)
    for _ in range(20):
        chosen = chance.sample(range(len(POOL)), 5)
        assert lasting.answer([POOL[i] for i in chosen]) == [ALONE[i] for i in chosen]
    assert lasting.counts.prompts == 100
