"""Samples become rows, and rare labels are drawn more often."""

from collections import Counter

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed; the training extra brings it")

from test_lora import Bytes

from radlite_batch.tasks.registry import cue_names
from radlite_batch.tasks.render import PromptStyle
from training.batches import MOST_BALANCE, draws, encoded, weights
from training.datasets.base import Sample
from training.encode import TAG_WEIGHT, Encoder

STYLE = PromptStyle("native")


class Cues(Bytes):
    def reserved(self, n: int) -> list[int]:
        return [1000 + i for i in range(n)]


def encoder() -> Encoder:
    return Encoder(Cues(), cue_names())


def staged(number: int, stage: str, source: str = "a") -> Sample:
    return Sample(source, str(number), str(number), f"Report {number}.", {}, {"n_staging": {"stage": stage}})


def test_a_sample_is_one_row_of_all_its_tasks() -> None:
    targets = {"n_staging": {"stage": "N1"}, "radiology_ner": {"entities": [[0, 4, "anatomy"]]}}
    (one,) = encoded([Sample("a", "1", "1", "Node in hilum.", {}, targets)], encoder(), STYLE, 100)
    assert one.tasks == ("n_staging", "radiology_ner") and one.row.counts == (1, 4)
    assert [want.weight for want in one.row.wants] == [1.0, *[TAG_WEIGHT] * 4]


def test_where_only_spans_are_labelled_other_words_are_not_learnt() -> None:
    targets = {"radiology_ner": {"entities": [[5, 13, "anatomy"]]}}
    sample = Sample("a", "1", "1", "Node in hilum of left lung.", {"labelled_only": "spans"}, targets)
    (one,) = encoded([sample], encoder(), STYLE, 100)
    assert len(one.row.wants) == 2  # "in" and "hilum"


def test_a_sample_that_is_too_long_or_lacks_its_inputs_is_left_out() -> None:
    pair = Sample("a", "2", "2", "", {"premise": "x"}, {"radiology_nli": {"label": "neutral"}})
    assert encoded([staged(1, "N0"), pair], encoder(), STYLE, 5) == []


def test_rare_labels_are_drawn_more_often_and_sources_by_their_weight() -> None:
    samples = [staged(i, "N0") for i in range(90)] + [staged(90 + i, "N3") for i in range(10)]
    odds = weights(samples, {"a": 1.0}, {})
    assert odds.sum() == pytest.approx(1) and odds[95] / odds[0] == pytest.approx(3.0)
    assert weights([*samples[:90], staged(99, "N3")], {}, {}).max() / odds.min() <= MOST_BALANCE * 2
    mixed = weights([staged(1, "N0", "a"), staged(2, "N0", "b")], {"a": 1.0, "b": 3.0}, {"n_staging": 2.0})
    assert mixed[1] / mixed[0] == pytest.approx(3.0)


def test_a_list_of_allowed_labels_is_a_label_that_others_are_rare_beside() -> None:
    def flagged(number: int, edema: str | list[str]) -> Sample:
        return Sample("a", str(number), str(number), "x", {}, {"abnormality_detection": {"edema": edema}})

    negative = ["negative", "uncertain", "absent"]
    odds = weights([*(flagged(i, negative) for i in range(9)), flagged(9, "positive")], {}, {})
    assert odds[9] / odds[0] == pytest.approx(3.0)


def test_a_task_that_does_not_apply_to_a_report_lends_it_no_weight() -> None:
    def report(source: str, stage: str, system: str = "none") -> Sample:
        targets = {"n_staging": {"stage": stage}, "rads_assignment": {"system": system}}
        return Sample(source, "1", "1", "x", {}, targets)

    tasks = {"n_staging": 6.0, "rads_assignment": 3.0}
    samples = [report("a", "N1"), report("b", "NX", "BI-RADS"), report("c", "NX")]
    odds = weights(samples, {}, tasks)
    assert (odds / odds[2]).tolist() == pytest.approx([6.0, 3.0, 1.0])
    assert weights(samples, {}, dict.fromkeys(tasks, 0.0)).sum() == 0


def test_a_run_draws_each_sample_as_often_as_its_odds_say() -> None:
    odds = np.array([0.7, 0.1, 0.1, 0.06, 0.04])
    drawn = draws(odds, 400, (1,))
    assert Counter(drawn.tolist()) == pytest.approx(dict(enumerate(odds * 400)), abs=1)
    assert len(set(draws(np.full(100, 0.01), 100, (1,)).tolist())) == 100  # none passed over for another
    assert drawn.tolist() == draws(odds, 400, (1,)).tolist()
    assert drawn.tolist() != draws(odds, 400, (1, 7)).tolist()
    assert len(set(drawn[:50].tolist())) > 1  # in an order by chance, not one sample after another
