"""Splits, repeats and caps: no group and no text in two splits, the same choice in any order."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from radlite_batch.errors import UsageError
from training.datasets.base import Sample, bare_digest
from training.datasets.mix import CAPS, WEIGHTS, Fate, Mix, decide, entry

MIX = Mix({"openi": Path("x")})
ASKED = {"radiology_qa": {"answer": "yes"}}


def sample(name: str, text: str = "", group: str = "", split: str | None = None, source: str = "openi") -> Sample:
    return Sample(source, name, group or name, text or f"Text {name}.", {"question": "?"}, ASKED, split)


def fates(*samples: Sample, mix: Mix = MIX) -> list[Fate]:
    return decide([entry(s) for s in samples], mix)


def test_the_figures_of_the_published_mix() -> None:
    assert sum(CAPS.values()) == 161_586 and CAPS.keys() == WEIGHTS.keys()


def test_a_held_out_text_leaves_training_whatever_its_layout() -> None:
    found = fates(
        sample("1", "No  Effusion.", split="train"),
        sample("2", "no effusion.", split="dev"),
        sample("3", split="train"),
    )
    assert [(f.split, f.reason) for f in found] == [(None, "text held out"), ("dev", ""), ("train", "")]


def test_a_text_that_a_source_splits_into_tokens_is_the_same_text() -> None:
    assert bare_digest("No acute disease.  X-ray") == bare_digest("no acute disease . x - ray")


def test_a_test_text_wins_over_a_dev_text() -> None:
    found = fates(sample("1", "Clear.", split="dev"), sample("2", "Clear.", split="test"))
    assert [f.split for f in found] == [None, "test"]


def test_repeats_within_a_split_stay() -> None:
    assert [f.split for f in fates(sample("1", "Clear.", split="train"), sample("2", "Clear.", split="train"))] == [
        "train", "train",
    ]  # fmt: skip


def test_findings_are_held_out_where_an_impression_is_written_from_them() -> None:
    fields, impression = {"findings": "Clear."}, {"impression_generation": {"impression": "Normal."}}
    train, dev = (
        replace(sample(split, f"FINDINGS: Clear.\nSeen by {split}", split=split), fields=fields, targets=impression)
        for split in ("train", "dev")
    )
    assert [f.split for f in fates(train, dev)] == [None, "dev"]


def test_pairs_are_told_apart_by_both_sentences() -> None:
    def pair(name: str, hypothesis: str, split: str) -> Sample:
        fields = {"premise": "Clear.", "hypothesis": hypothesis}
        return Sample("radnli", name, name, "", fields, {"radiology_nli": {"label": "neutral"}}, split)

    found = fates(pair("1", "Mass.", "train"), pair("2", "Mass.", "dev"), pair("3", "Cyst.", "train"))
    assert [f.split for f in found] == [None, "dev", "train"]


def test_a_group_follows_its_strictest_source() -> None:
    found = fates(
        sample("1", group="patient", split="train"),
        sample("2", group="patient", split="test", source="radgraph"),
        sample("3", group="patient", source="radnli"),
    )
    assert [(f.split, f.reason) for f in found] == [(None, "group held out"), ("test", ""), ("test", "")]


def test_groups_without_a_split_are_drawn_whole() -> None:
    samples = [sample(f"{i}", group=f"patient {i // 3}") for i in range(3000)]
    found = fates(*samples, mix=Mix({"openi": Path("x")}, dev_share=0.2))
    parts: dict[str, set[str | None]] = {}
    for s, fate in zip(samples, found, strict=True):
        parts.setdefault(s.group, set()).add(fate.split)
    assert all(len(part) == 1 for part in parts.values())
    assert 0.16 < sum(f.split == "dev" for f in found) / 3000 < 0.24
    assert fates(*samples, mix=Mix({"openi": Path("x")}, dev_share=0.2, seed=1)) == found  # runs can be compared


def test_caps_hold_for_training_and_for_the_task_that_is_over() -> None:
    both = ASKED | {"n_staging": {"stage": "N0"}}
    samples = [replace(sample(f"{i}", split="train"), targets=both) for i in range(40)]
    samples += [sample(f"only {i}", split="train") for i in range(40)] + [
        sample(f"d{i}", split="dev") for i in range(40)
    ]
    found = fates(*samples, mix=Mix({"openi": Path("x")}, caps={"radiology_qa": 25}))
    tasks = Counter((f.split, task) for f in found for task in f.tasks)
    assert tasks == {("train", "radiology_qa"): 25, ("train", "n_staging"): 40, ("dev", "radiology_qa"): 40}
    assert {f.reason for f in found if f.split is None} == {"over the caps"}
    assert {f.split for f in found[:40]} == {"train"}


def test_over_a_cap_a_favoured_source_keeps_more_and_one_without_weight_nothing() -> None:
    samples = [sample(f"{s} {i}", split="train", source=s) for s in ("openi", "radgraph", "radnli") for i in range(300)]
    weighted = {"openi": 0.9, "radgraph": 0.3, "radnli": 0.0}
    found = fates(*samples, mix=Mix({"openi": Path("x")}, caps={"radiology_qa": 200}, source_weights=weighted))
    kept = Counter(s.source for s, fate in zip(samples, found, strict=True) if fate.split)
    assert kept.total() == 200 and kept["radnli"] == 0
    assert 2 < kept["openi"] / kept["radgraph"] < 4


def test_the_choice_does_not_depend_on_the_order() -> None:
    samples = [sample(f"{i}", f"Text {i % 150}", f"group {i % 70}", [None, "train", "dev"][i % 3]) for i in range(200)]
    mix = Mix({"openi": Path("x")}, caps={"radiology_qa": 30}, source_weights={"openi": 0.5})
    expected = dict(zip((s.id for s in samples), fates(*samples, mix=mix), strict=True))
    assert {f.split for f in expected.values()} == {"train", "dev", None}
    random.Random(0).shuffle(samples)
    assert dict(zip((s.id for s in samples), fates(*samples, mix=mix), strict=True)) == expected


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"sources": {}}, "names no source"),
        ({"sources": {"openie": Path()}}, "unknown source 'openie' in the mix; did you mean 'openi'"),
        ({"caps": {"radiology_q": 1}}, "unknown task 'radiology_q' in the mix; did you mean 'radiology_qa'"),
        ({"weights": {"nli": 1.0}}, "unknown task 'nli'"),
        ({"source_weights": {"opni": 1.0}}, "unknown source 'opni'"),
        ({"caps": {"radiology_qa": -1}}, "negative"),
        ({"dev_share": 1.0}, "dev_share is 1.0"),
    ],
)
def test_a_mix_that_makes_no_sense_is_refused(keys: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Mix(**{"sources": {"openi": Path()}, **keys})  # type: ignore[arg-type]
