"""The criteria that fix a label, against examples read off the published tables."""

from typing import Any

import pytest

from training.criteria import cad_rads, lung_rads, metastatic_stage, nodal_stage, pi_rads, ti_rads

NODULE = {"composition": "solid", "echogenicity": "isoechoic", "shape": "wider", "margin": "smooth", "foci": []}


@pytest.mark.parametrize(
    ("change", "category"),
    [
        ({"composition": "cystic", "echogenicity": "anechoic"}, "1"),
        ({"composition": "spongiform", "foci": ["comet_tail"]}, "1"),
        ({"composition": "mixed"}, "2"),
        ({}, "3"),
        ({"echogenicity": "hypoechoic"}, "4"),
        ({"foci": ["punctate"]}, "4"),
        ({"echogenicity": "hypoechoic", "foci": ["macro", "rim"]}, "5"),
        ({"echogenicity": "very_hypoechoic", "shape": "taller"}, "5"),
    ],
)
def test_ti_rads_adds_points(change: dict[str, Any], category: str) -> None:
    assert ti_rads(NODULE | change) == category


HEART = {"max_stenosis": 0, "plaque": False, "left_main": 0, "vessels70": 0, "nondiagnostic": False}


@pytest.mark.parametrize(
    ("change", "category"),
    [
        ({}, "0"),
        ({"plaque": True}, "1"),
        ({"max_stenosis": 24}, "1"),
        ({"max_stenosis": 25}, "2"),
        ({"max_stenosis": 50}, "3"),
        ({"max_stenosis": 50, "nondiagnostic": True}, "3"),
        ({"max_stenosis": 30, "nondiagnostic": True}, "N"),
        ({"max_stenosis": 70, "vessels70": 2}, "4A"),
        ({"max_stenosis": 70, "vessels70": 3}, "4B"),
        ({"left_main": 50}, "4B"),
        ({"max_stenosis": 100}, "5"),
    ],
)
def test_cad_rads_by_the_worst_stenosis(change: dict[str, Any], category: str) -> None:
    assert cad_rads(HEART | change) == category


@pytest.mark.parametrize(
    ("facts", "category"),
    [
        ({"kind": "none", "status": "baseline"}, "1"),
        ({"kind": "benign", "status": "baseline", "size_mm": 9}, "1"),
        ({"kind": "solid", "status": "baseline", "size_mm": 5.9}, "2"),
        ({"kind": "solid", "status": "baseline", "size_mm": 6}, "3"),
        ({"kind": "solid", "status": "baseline", "size_mm": 8}, "4A"),
        ({"kind": "solid", "status": "baseline", "size_mm": 15}, "4B"),
        ({"kind": "solid", "status": "stable", "size_mm": 9}, "2"),
        ({"kind": "solid", "status": "new", "size_mm": 4}, "3"),
        ({"kind": "solid", "status": "new", "size_mm": 6}, "4A"),
        ({"kind": "solid", "status": "growing", "size_mm": 8}, "4B"),
        ({"kind": "part_solid", "status": "baseline", "size_mm": 12, "solid_mm": 5}, "3"),
        ({"kind": "part_solid", "status": "baseline", "size_mm": 12, "solid_mm": 6}, "4A"),
        ({"kind": "part_solid", "status": "new", "size_mm": 12, "solid_mm": 3}, "4A"),
        ({"kind": "part_solid", "status": "new", "size_mm": 5, "solid_mm": 2}, "3"),
        ({"kind": "ground_glass", "status": "baseline", "size_mm": 29}, "2"),
        ({"kind": "ground_glass", "status": "new", "size_mm": 30}, "3"),
        ({"kind": "ground_glass", "status": "stable", "size_mm": 31}, "2"),
        ({"kind": "solid", "status": "baseline", "size_mm": 9, "suspicious": True}, "4X"),
        ({"kind": "solid", "status": "baseline", "size_mm": 3, "suspicious": True}, "2"),
        ({"kind": "solid", "status": "baseline", "size_mm": 9, "incomplete": True}, "0"),
    ],
)
def test_lung_rads_by_kind_size_and_course(facts: dict[str, Any], category: str) -> None:
    assert lung_rads(facts) == category


@pytest.mark.parametrize(
    ("zone", "dwi", "t2", "dce", "category"),
    [
        ("PZ", 3, 3, "negative", "3"), ("PZ", 3, 2, "positive", "4"), ("PZ", 2, 4, "positive", "2"),
        ("TZ", 4, 2, "negative", "3"), ("TZ", 5, 3, "negative", "4"), ("TZ", 4, 3, "positive", "3"),
        ("TZ", 1, 5, "negative", "5"),
    ],
)  # fmt: skip
def test_pi_rads_by_the_zone_s_dominant_sequence(zone: str, dwi: int, t2: int, dce: str, category: str) -> None:
    assert pi_rads({"zone": zone, "dwi": dwi, "t2": t2, "dce": dce}) == category


@pytest.mark.parametrize(
    ("facts", "stage"),
    [
        ({"site": "lung", "stations": []}, "N0"),
        ({"site": "lung", "stations": ["ipsilateral_hilar", "subcarinal"]}, "N2"),
        ({"site": "lung", "stations": ["supraclavicular", "intrapulmonary"]}, "N3"),
        ({"site": "colon", "nodes": 3}, "N1"),
        ({"site": "colon", "nodes": 4}, "N2"),
        ({"site": "stomach", "nodes": 0}, "N0"),
        ({"site": "stomach", "nodes": 3}, "N2"),
        ({"site": "stomach", "nodes": 7}, "N3"),
    ],
)
def test_n_by_stations_or_count(facts: dict[str, Any], stage: str) -> None:
    assert nodal_stage(facts) == stage


@pytest.mark.parametrize(
    ("metastases", "assessed", "site", "stage"),
    [
        ([], True, "lung", "M0"),
        ([], False, "lung", "MX"),
        (["ipsilateral_lung"], True, "lung", "M0"),
        (["ipsilateral_lung"], True, "colon", "M1"),
        (["contralateral_lung"], False, "lung", "M1"),
        (["same_lobe", "pleura"], True, "lung", "M1"),
        (["distant_nodes"], True, None, "M1"),
    ],
)
def test_m_by_the_places_of_metastases(metastases: list[str], assessed: bool, site: str | None, stage: str) -> None:
    facts = {"metastases": metastases, "distant_assessed": assessed} | ({"site": site} if site else {})
    assert metastatic_stage(facts) == stage
