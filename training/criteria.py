"""Labels that published criteria fix from stated facts, so that a written label can be checked and a composed one made.

Each function takes the facts of a corpus record and returns the bare category or stage.
"""

from collections.abc import Callable, Mapping
from typing import Any

Facts = Mapping[str, Any]

_COMPOSITION = {"cystic": 0, "spongiform": 0, "mixed": 1, "solid": 2}
_ECHOGENICITY = {"anechoic": 0, "hyperechoic": 1, "isoechoic": 1, "hypoechoic": 2, "very_hypoechoic": 3}
_SHAPE = {"wider": 0, "taller": 3}
_MARGIN = {"smooth": 0, "ill_defined": 0, "lobulated": 2, "extrathyroidal": 3}
_FOCI = {"none": 0, "comet_tail": 0, "macro": 1, "rim": 2, "punctate": 3}


def ti_rads(facts: Facts) -> str:
    """Points of the highest-scoring nodule (ACR TI-RADS, Tessler et al. 2017). A spongiform nodule scores 0."""
    if facts["composition"] == "spongiform":
        return "1"
    foci = [facts["foci"]] if isinstance(facts["foci"], str) else facts["foci"]
    points = (
        _COMPOSITION[facts["composition"]]
        + _ECHOGENICITY[facts["echogenicity"]]
        + _SHAPE[facts["shape"]]
        + _MARGIN[facts["margin"]]
        + sum(_FOCI[focus] for focus in foci)
    )
    return next(category for most, category in ((0, "1"), (2, "2"), (3, "3"), (6, "4"), (99, "5")) if points <= most)


def cad_rads(facts: Facts) -> str:
    """Per-patient category by the worst stenosis in percent (CAD-RADS 2.0, Cury et al. 2022)."""
    worst = max(facts["max_stenosis"], facts["left_main"])
    if worst >= 100:
        return "5"
    if facts["left_main"] >= 50 or facts["vessels70"] >= 3:
        return "4B"
    if worst >= 70:
        return "4A"
    if worst >= 50:
        return "3"
    if facts["nondiagnostic"]:  # beside an obstructive stenosis it is only a modifier
        return "N"
    return "2" if worst >= 25 else "1" if worst > 0 or facts["plaque"] else "0"


def lung_rads(facts: Facts) -> str:
    """Category of the most suspicious nodule (Lung-RADS v2022); sizes are mean diameters in mm."""
    if facts.get("incomplete"):
        return "0"
    kind, status = facts["kind"], facts["status"]
    if kind in ("none", "benign"):  # benign: calcified as a granuloma is, or with fat
        return "1"
    category = {"solid": _solid, "part_solid": _part_solid, "ground_glass": _ground_glass}[kind](facts, status)
    return "4X" if facts.get("suspicious") and category not in ("1", "2") else category


def _solid(facts: Facts, status: str) -> str:
    steps = {
        "baseline": ((6, "2"), (8, "3"), (15, "4A")),
        "new": ((4, "2"), (6, "3"), (8, "4A")),
        "growing": ((8, "4A"),),
    }
    return "2" if status == "stable" else _step(facts["size_mm"], steps[status])


def _part_solid(facts: Facts, status: str) -> str:
    if status == "stable":
        return "2"
    if facts["size_mm"] < 6:
        return "3" if status == "new" else "2"
    if status in ("new", "growing"):
        return _step(facts["solid_mm"], ((4, "4A"),))
    return _step(facts["solid_mm"], ((6, "3"), (8, "4A")))


def _ground_glass(facts: Facts, status: str) -> str:
    # One of 30 mm or more that is stable or grows slowly is a 2; doubling within a year is a suspicious feature.
    large = facts["size_mm"] >= 30 and (status in ("baseline", "new") or facts.get("suspicious"))
    return "3" if large else "2"


def _step(size: float, steps: tuple[tuple[float, str], ...]) -> str:
    return next((category for below, category in steps if size < below), "4B")


def pi_rads(facts: Facts) -> str:
    """Category of the index lesion from its scores (PI-RADS v2.1, 2019)."""
    dwi, t2 = facts["dwi"], facts["t2"]
    if facts["zone"] == "PZ":
        return "4" if dwi == 3 and facts["dce"] == "positive" else str(dwi)
    if t2 == 2 and dwi >= 4:
        return "3"
    return "4" if t2 == 3 and dwi == 5 else str(t2)


_LUNG_STATIONS = {
    "ipsilateral_hilar": 1, "intrapulmonary": 1, "ipsilateral_mediastinal": 2, "subcarinal": 2,
    "contralateral_mediastinal": 3, "contralateral_hilar": 3, "supraclavicular": 3,
}  # fmt: skip
_NODE_COUNTS = {"colon": (1, 4), "stomach": (1, 3, 7)}  # fewest involved nodes of N1, N2, ...


def nodal_stage(facts: Facts) -> str:
    """N by the stations of a lung cancer or the node count of a colon or stomach cancer (AJCC, 8th edition)."""
    if facts["site"] == "lung":
        return f"N{max((_LUNG_STATIONS[station] for station in facts['stations']), default=0)}"
    return f"N{sum(facts['nodes'] >= fewest for fewest in _NODE_COUNTS[facts['site']])}"


_LUNG_T = ("same_lobe", "ipsilateral_lung")  # nodules that raise the T of a lung cancer, not its M


def metastatic_stage(facts: Facts) -> str:
    """M by the places of the metastases, regional nodes not among them; MX where there is none and nothing distant was
    looked at (AJCC, 8th edition; that edition has no MX, reports have)."""
    if any(place not in _LUNG_T or facts.get("site") != "lung" for place in facts["metastases"]):
        return "M1"
    return "M0" if facts["distant_assessed"] else "MX"


CATEGORY: dict[str, Callable[[Facts], str]] = {
    "TI-RADS": ti_rads,
    "CAD-RADS": cad_rads,
    "Lung-RADS": lung_rads,
    "PI-RADS": pi_rads,
}
