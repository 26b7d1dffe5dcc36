"""The RADS table, and labels read from and written to text."""

import csv
from pathlib import Path

import pytest

from radlite_batch.tasks.rads_systems import (
    NI_RADS_NECK,
    NO_SYSTEM,
    SYSTEMS,
    format_label,
    parse_label,
    system_named,
)

LABELS_CSV = Path(__file__).resolve().parents[2] / "../shared/data/radset_labels.csv"
# The part of an RXL-RADSet report number that tells the system: R021_T_US, 001_GB_US, R003_LRTR_CT.
SYSTEM_OF_ID = {
    "B": "BI-RADS", "T": "TI-RADS", "L": "LI-RADS", "LRTR": "LI-RADS", "P": "PI-RADS", "VI": "VI-RADS",
    "O": "O-RADS", "Cor": "CAD-RADS", "Lung": "Lung-RADS", "NI": "NI-RADS", "GB": "GB-RADS",
}  # fmt: skip
EVERY_CATEGORY = [(system, category) for system in SYSTEMS for category in system.categories]

READABLE = [
    ("BI-RADS 4A", ("BI-RADS", "4A", None)),
    ("BIRADS category 4a", ("BI-RADS", "4A", None)),
    ("BI-RADS 4", ("BI-RADS", "4", None)),
    ("bi rads IVa", ("BI-RADS", "4A", None)),
    ("ACR BI\u2011RADS\u00ae: 2.", ("BI-RADS", "2", None)),
    ("**BI-RADS 3** (probably benign)", ("BI-RADS", "3", None)),
    ("BI-RADS 4 - suspicious abnormality", ("BI-RADS", "4", None)),
    ("TR4", ("TI-RADS", "4", None)),
    ("TI-RADS TR-4", ("TI-RADS", "4", None)),
    ("LR-5", ("LI-RADS", "5", None)),
    ("LI-RADS LR-M", ("LI-RADS", "M", None)),
    ("LR-TIV", ("LI-RADS", "TIV", None)),
    ("LR-5V", ("LI-RADS", "TIV", None)),
    ("LI-RADS US-3", ("LI-RADS", "3", None)),
    ("LI-RADS TR Viable", ("LI-RADS", "TR Viable", None)),
    ("LR-TR viable", ("LI-RADS", "TR Viable", None)),
    ("LI-RADS LR-TR: non-viable", ("LI-RADS", "TR Nonviable", None)),
    ("LI-RADS Nonevaluable", ("LI-RADS", "TR Nonevaluable", None)),
    ("PI-RADS: 5", ("PI-RADS", "5", None)),
    ("PI-RADS v2.1 score 4", ("PI-RADS", "4", None)),
    ("O-RADS MRI 3", ("O-RADS", "3", None)),
    ("CAD-RADS 3/P2/HRP", ("CAD-RADS", "3", None)),
    ("CAD-RADS 2.0: 4A/P3/I+/S", ("CAD-RADS", "4A", None)),
    ("CAD-RADS 2/N", ("CAD-RADS", "2", None)),
    ("CAD-RADS N", ("CAD-RADS", "N", None)),
    ("Lung-RADS 4B S", ("Lung-RADS", "4B", None)),
    ("Lung-RADS v2022 2S", ("Lung-RADS", "2", None)),
    ("NI-RADS 2a // 1", ("NI-RADS", "2a", "1")),
    ("NI-RADS primary 2a, neck 1", ("NI-RADS", "2a", "1")),
    ("NI-RADS P2b N-x", ("NI-RADS", "2b", "X")),
    ("NI-RADS 3", ("NI-RADS", "3", None)),
    ("none", (NO_SYSTEM, None, None)),
    (" None.", (NO_SYSTEM, None, None)),
]

UNREADABLE = [
    "",
    "Marigold Smith, no score",
    "BI-RADS",
    "BI-RADS 7",
    "BI-RADS 40",
    "BI-RADS 3 or 4",
    "BI-RADS 4A-4B",
    "TI-RADS 2; BI-RADS 0",
    "EU-TIRADS 4",  # another system than ACR TI-RADS
    "LR-TR",
    "PI-RADS 2.1",  # an edition, not a category
    "Lung-RADS v2022",
    "CAD-RADS P2/HRP",
    "CAD-RADS 4",
    "NI-RADS neck 1",
    "NI-RADS 1 // 2b",
    "GB-RADS 6",
]


@pytest.mark.parametrize(("system", "category"), EVERY_CATEGORY)
def test_label_of_every_category_round_trips(system, category):
    label = format_label(system.name, category.name)
    assert parse_label(label) == (system.name, category.name, None)


@pytest.mark.parametrize(("system", "category"), EVERY_CATEGORY)
def test_every_spelling_of_every_category_is_read(system, category):
    for name in system.spellings:
        for spelling in (category.name, *category.spellings):
            assert parse_label(f"{name} {spelling}") == (system.name, category.name, None)


def test_every_pair_of_ni_rads_categories_round_trips():
    for primary in system_named("NI-RADS").categories:
        for neck in NI_RADS_NECK:
            label = format_label("NI-RADS", primary.name, neck)
            assert parse_label(label) == ("NI-RADS", primary.name, neck)


@pytest.mark.parametrize(("text", "expected"), READABLE)
def test_label_as_written_in_reports_is_read(text, expected):
    assert parse_label(text) == expected


@pytest.mark.parametrize("text", UNREADABLE)
def test_unreadable_text_raises_without_repeating_it(text):
    with pytest.raises(ValueError) as caught:
        parse_label(text)
    assert not text or text not in str(caught.value)
    assert "Marigold" not in str(caught.value)


def test_none_round_trips():
    assert parse_label(format_label(NO_SYSTEM, None)) == (NO_SYSTEM, None, None)


@pytest.mark.parametrize(
    ("system", "category", "neck"),
    [("BI-RADS", "7", None), ("BI-RADS", None, None), ("BI-RADS", "4", "1"), ("NI-RADS", "1", "2b")],
)
def test_label_outside_the_table_is_not_written(system, category, neck):
    with pytest.raises(ValueError):
        format_label(system, category, neck)


@pytest.mark.parametrize("text", ["bi-rads", "BIRADS", "Bi Rads", "acr birads"])
def test_system_is_found_by_any_spelling(text):
    assert system_named(text).name == "BI-RADS"


def test_unknown_system_raises_without_repeating_the_text():
    with pytest.raises(KeyError) as caught:
        system_named("Marigold")
    assert "Marigold" not in str(caught.value)


def test_systems_stand_in_order():
    assert " ".join(system.name for system in SYSTEMS) == (
        "BI-RADS TI-RADS LI-RADS PI-RADS VI-RADS O-RADS CAD-RADS Lung-RADS NI-RADS GB-RADS"
    )


def test_codes_are_unique_single_ascii_characters():
    codes = [system.code for system in SYSTEMS]
    assert len(set(codes)) == len(codes)
    assert all(len(code) == 1 and code.isascii() and code != "-" for code in codes)


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_categories_stand_in_order_of_rank_with_off_scale_last(system):
    ranks = [float("inf") if c.rank is None else c.rank for c in system.categories]
    assert ranks == sorted(ranks)
    assert not any(c.actionable for c in system.categories if c.rank is None)


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_no_spelling_belongs_to_two_categories(system):
    spellings = [text.casefold() for c in system.categories for text in (c.name, *c.spellings)]
    assert len(set(spellings)) == len(spellings)


def test_only_2a_and_2b_are_missing_from_the_neck():
    assert NI_RADS_NECK == ("1", "2", "3", "4", "0", "X")


def test_every_label_of_rxl_radset_is_read():
    if not LABELS_CSV.exists():
        pytest.skip("radset_labels.csv (RXL-RADSet labels) is not beside the repository")
    with LABELS_CSV.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    for row in rows:
        code = next(part for part in row["Report_Number"].split("_") if part in SYSTEM_OF_ID)
        system, score = SYSTEM_OF_ID[code], row["RADS_score"]
        name, category, neck = parse_label(f"{system} {score}")
        assert name == system
        written = format_label(name, category, neck).removeprefix(f"{system} ")
        assert written == (f"TR {score}" if code == "LRTR" else score)
