"""What a wrong category means, by rank and by the line between acting and waiting."""

import pytest

from radlite_batch.tasks.rads_systems import SYSTEMS
from training.rads_scores import BY_LINE, BY_RANK, by_line, by_rank, severity
from training.scoring import value


@pytest.mark.parametrize(
    ("gold", "found", "rank", "line"),
    [
        ("BI-RADS 2", "BI-RADS 2", "exact", "exact"),
        # By the ranks of rads_systems.py: BI 4A < 4B < 4C, CAD 4A < 4B, Lung 4A < 4B < 4X, NI 2a < 2b.
        ("BI-RADS 4A", "BI-RADS 4C", "over_call", "same_side"),
        ("CAD-RADS 4B", "CAD-RADS 4A", "under_call", "same_side"),
        ("Lung-RADS 4B", "Lung-RADS 4X", "over_call", "same_side"),
        ("NI-RADS 2b // 1", "NI-RADS 2a // 1", "under_call", "same_side"),
        # A tier without its subcategory states no direction; of LI-RADS several categories share a rank.
        ("BI-RADS 4", "BI-RADS 4B", "same_tier", "same_side"),
        ("Lung-RADS 4A", "Lung-RADS 4", "same_tier", "same_side"),
        ("NI-RADS 2", "NI-RADS 2a", "same_tier", "same_side"),
        ("LI-RADS M", "LI-RADS 5", "same_tier", "same_side"),
        ("BI-RADS 2", "BI-RADS 3", "over_call", "same_side"),
        ("BI-RADS 5", "BI-RADS 4B", "under_call", "same_side"),
        ("BI-RADS 4A", "BI-RADS 3", "under_call", "dangerous"),
        ("PI-RADS 3", "PI-RADS 4", "over_call", "needless"),
        ("BI-RADS 0", "BI-RADS 1", "incomparable", "same_side"),
        ("BI-RADS 5", "BI-RADS 0", "incomparable", "dangerous"),
        ("TI-RADS 4", "BI-RADS 4", "incomparable", "same_side"),
        ("TI-RADS 4", "none", "incomparable", "dangerous"),
        ("TI-RADS 5", None, "incomparable", "dangerous"),
        ("TI-RADS 2", None, "incomparable", "same_side"),
        ("NI-RADS 1 // 3", "NI-RADS 1 // 2", "under_call", "dangerous"),
        ("NI-RADS 1 // 3", "NI-RADS 2a // 2", "under_call", "dangerous"),  # over on one site, under on the other
        ("NI-RADS 3 // 1", "NI-RADS 1 // 3", "under_call", "same_side"),
        ("NI-RADS 1 // 1", "NI-RADS 1", "incomparable", "same_side"),  # the neck has no answer
        ("NI-RADS 1 // 3", "NI-RADS 1", "incomparable", "dangerous"),
        ("NI-RADS 3 // 1", "NI-RADS 2", "under_call", "dangerous"),
    ],
)
def test_an_answer_is_of_one_class_by_rank_and_of_one_by_the_line(
    gold: str, found: str | None, rank: str, line: str
) -> None:
    assert (by_rank(gold, found), by_line(gold, found)) == (rank, line)


def test_over_and_under_call_are_each_others_mirror() -> None:
    mirror = {"over_call": "under_call", "under_call": "over_call"}
    for system in SYSTEMS:
        labels = [f"{system.name} {category.name}" for category in system.categories]
        for gold in labels:
            for found in labels:
                rank = by_rank(gold, found)
                assert by_rank(found, gold) == mirror.get(rank, rank)


def test_severity_is_over_the_reports_with_a_system_and_its_shares_are_whole() -> None:
    gold = ["BI-RADS 4A", "BI-RADS 2", "none", "PI-RADS 3", "none"]
    found = ["BI-RADS 3", "BI-RADS 2", "BI-RADS 5", None, "none"]
    assert [(t.n, value(t)) for t in [severity(gold, found, "dangerous")]] == [(3, pytest.approx(1 / 3))]
    for classes in (BY_RANK, BY_LINE):
        assert sum(value(severity(gold, found, name)) for name in classes) == pytest.approx(1)
