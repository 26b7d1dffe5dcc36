"""The ten RADS systems: names, categories, order of suspicion, and labels in and out.

Meanings are condensed in our own words and are no substitute for the cited editions.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

NO_SYSTEM = "none"  # the label of a report that belongs to no RADS system


@dataclass(frozen=True, slots=True)
class Category:
    """One category of a RADS system; categories whose rank has the same whole number share a tier."""

    name: str  # bare and canonical: "4A", "TR Viable", "2a", "N"
    meaning: str
    rank: float | None  # order of suspicion inside the system; None = off the scale
    actionable: bool  # in the suspicious set: missing it is the dangerous error
    spellings: tuple[str, ...] = ()  # other ways to write the part after the system's name


@dataclass(frozen=True, slots=True)
class RadsSystem:
    """One RADS system; categories stand in order of rank, those off the scale last."""

    name: str
    edition: str
    code: str  # one ASCII character, unique among the systems and never "-"
    spellings: tuple[str, ...]
    categories: tuple[Category, ...]


# One row a category.
# fmt: off
SYSTEMS: tuple[RadsSystem, ...] = (
    RadsSystem(
        name="BI-RADS", code="B", spellings=("BI-RADS", "BIRADS", "BI RADS", "ACR BI-RADS"),
        edition="ACR BI-RADS Atlas, 5th ed. 2013; the v2025 manual keeps the numbers", categories=(
            Category("1", "negative", 1, False, ("I",)),
            Category("2", "benign", 2, False, ("II",)),
            Category("3", "probably benign, at most 2 %", 3, False, ("III",)),
            # Plain 4 says nothing about the subcategory, so it ranks with the lowest of its tier.
            Category("4", "suspicious, over 2 and under 95 %", 4.0, True, ("IV",)),
            Category("4A", "low suspicion, over 2 to 10 %", 4.0, True, ("IVa",)),
            Category("4B", "moderate suspicion, over 10 to 50 %", 4.1, True, ("IVb",)),
            Category("4C", "high suspicion, over 50 and under 95 %", 4.2, True, ("IVc",)),
            Category("5", "highly suggestive of malignancy, 95 % or more", 5, True, ("V",)),
            # A known cancer is on the suspicious side: reading it as benign is a dangerous miss.
            Category("6", "malignancy proven by biopsy", 6, True, ("VI",)),
            Category("0", "incomplete: more imaging or priors needed", None, False),
        )),
    RadsSystem(
        name="TI-RADS", code="T", spellings=("TI-RADS", "TIRADS", "TI RADS", "ACR TI-RADS", "TR"),
        edition="ACR TI-RADS white paper, Tessler et al. 2017", categories=(
            Category("1", "benign, 0 points", 1, False, ("TR1",)),
            Category("2", "not suspicious, 2 points", 2, False, ("TR2",)),
            Category("3", "mildly suspicious, 3 points", 3, False, ("TR3",)),
            Category("4", "moderately suspicious, 4 to 6 points", 4, True, ("TR4",)),
            Category("5", "highly suspicious, 7 points or more", 5, True, ("TR5",)),
            Category("NC", "not categorizable", None, False),  # not in the edition; RXL-RADSet uses it
        )),
    # Ultrasound surveillance (US-1 negative, US-2 subthreshold, US-3 positive) has no categories of its own
    # here: US-1 to US-3 are spellings of 1 to 3. A positive US-3 is thereby not marked actionable.
    # Treatment response has its own scale, laid on the tiers of the diagnostic one so that the two compare.
    RadsSystem(
        name="LI-RADS", code="L",
        spellings=("LI-RADS", "LIRADS", "LI RADS", "ACR LI-RADS", "US LI-RADS", "CEUS LI-RADS", "LR"),
        edition="ACR LI-RADS CT/MRI v2018, treatment response v2018/v2024, ultrasound v2024", categories=(
            Category("1", "definitely benign", 1, False, ("LR-1", "US-1")),
            Category("TR Nonviable", "treated, no sign of viable tumor", 1, False, ("Nonviable",)),
            Category("2", "probably benign", 2, False, ("LR-2", "US-2")),
            Category("3", "intermediate probability of malignancy", 3, False, ("LR-3", "US-3")),
            Category("TR Equivocal", "not irradiated, viability unclear", 3, False, ("Equivocal",)),
            Category("TR Nonprogressing", "irradiated, enhancing but stable", 3, False, ("Nonprogressing",)),
            Category("4", "probably hepatocellular carcinoma (HCC)", 4, True, ("LR-4",)),
            Category("5", "definitely HCC", 5, True, ("LR-5",)),
            Category("M", "malignant, not specific for HCC", 5, True, ("LR-M",)),
            Category("TIV", "tumor in vein", 5, True, ("LR-TIV", "5V", "LR-5V")),  # 5V: older editions
            Category("TR Viable", "treated, viable tumor", 5, True, ("Viable",)),
            Category("TR Nonevaluable", "treated, images inadequate", None, False, ("Nonevaluable",)),
            Category("NC", "not categorizable: images missing or degraded", None, False, ("LR-NC",)),
        )),
    RadsSystem(
        name="PI-RADS", code="P", spellings=("PI-RADS", "PIRADS", "PI RADS"),
        edition="PI-RADS v2.1, 2019 (ACR, ESUR, AdMeTech)", categories=(
            Category("1", "clinically significant cancer highly unlikely", 1, False),
            Category("2", "clinically significant cancer unlikely", 2, False),
            Category("3", "clinically significant cancer equivocal", 3, False),
            Category("4", "clinically significant cancer likely", 4, True),
            Category("5", "clinically significant cancer highly likely", 5, True),
            Category("X", "a component of the study is inadequate or absent", None, False),
        )),
    RadsSystem(
        name="VI-RADS", code="V", spellings=("VI-RADS", "VIRADS", "VI RADS"),
        edition="VI-RADS, Panebianco et al. 2018", categories=(
            Category("1", "muscle invasion highly unlikely", 1, False),
            Category("2", "muscle invasion unlikely", 2, False),
            Category("3", "muscle invasion equivocal", 3, False),
            Category("4", "muscle invasion likely", 4, True),
            Category("5", "invasion of muscle and beyond very likely", 5, True),
            Category("NC", "not categorizable", None, False),  # not in the edition; RXL-RADSet uses it
        )),
    RadsSystem(
        name="O-RADS", code="O", spellings=("O-RADS", "ORADS", "O RADS", "ACR O-RADS"),
        edition="ACR O-RADS US v2022 and O-RADS MRI 2022; shares of malignancy: US, MRI", categories=(
            Category("1", "normal ovaries", 1, False),
            Category("2", "almost certainly benign: under 1 %, under 0.5 %", 2, False),
            Category("3", "low risk: 1 to under 10 %, about 5 %", 3, False),
            Category("4", "intermediate risk: 10 to under 50 %, about 50 %", 4, True),
            Category("5", "high risk: 50 % or more, about 90 %", 5, True),
            Category("0", "incomplete evaluation", None, False),
        )),
    RadsSystem(
        name="CAD-RADS", code="C", spellings=("CAD-RADS", "CADRADS", "CAD RADS"),
        edition="CAD-RADS 2.0, Cury et al. 2022 (SCCT, ACC, ACR, NASCI)", categories=(
            Category("0", "no plaque, no stenosis", 0, False),
            Category("1", "minimal stenosis, 1-24 %, or plaque without stenosis", 1, False),
            Category("2", "mild stenosis, 25-49 %", 2, False),
            Category("3", "moderate stenosis, 50-69 %", 3, False),
            Category("4A", "severe stenosis, 70-99 %, in one or two vessels", 4.0, True),
            Category("4B", "obstructive left main or three-vessel disease", 4.1, True),
            Category("5", "total occlusion", 5, True),
            Category("N", "non-diagnostic: obstruction not excluded", None, False, ("Nondiagnostic",)),
        )),
    RadsSystem(
        name="Lung-RADS", code="U", spellings=("Lung-RADS", "LungRADS", "Lung RADS", "ACR Lung-RADS"),
        edition="ACR Lung-RADS v2022", categories=(
            Category("1", "negative", 1, False),
            Category("2", "benign, under 1 %", 2, False),
            Category("3", "probably benign, 1-2 %", 3, False),
            Category("4", "suspicious, subcategory not given", 4.0, True),  # as RXL-RADSet writes it
            Category("4A", "suspicious, 5-15 %", 4.0, True),
            Category("4B", "very suspicious, over 15 %", 4.1, True),
            Category("4X", "3 or 4 with more features that raise suspicion", 4.2, True),
            Category("0", "incomplete, or infection suspected", None, False),
        )),
    RadsSystem(
        name="NI-RADS", code="N", spellings=("NI-RADS", "NIRADS", "NI RADS", "ACR NI-RADS"),
        edition="ACR NI-RADS white paper 2018; primary site and neck are scored apart", categories=(
            Category("1", "no evidence of recurrence", 1, False),
            Category("2", "low suspicion", 2.0, False),
            Category("2a", "low suspicion, mucosal finding", 2.0, False),
            Category("2b", "low suspicion, deep finding", 2.1, False),
            Category("3", "high suspicion", 3, True),
            Category("4", "definite recurrence", 4, True),
            Category("0", "incomplete: priors awaited", None, False),
            Category("X", "site not assessable", None, False),
        )),
    RadsSystem(
        name="GB-RADS", code="G", spellings=("GB-RADS", "GBRADS", "GB RADS"),
        edition="GB-RADS consensus, Gupta et al., Abdominal Radiology 2022 (online 2021)", categories=(
            Category("1", "lowest of five risk levels of wall thickening", 1, False),
            Category("2", "low risk of malignancy", 2, False),
            Category("3", "malignancy possible but less likely than not", 3, False),
            Category("4", "malignancy likely", 4, True),
            Category("5", "malignancy highly likely", 5, True),
            Category("0", "non-diagnostic ultrasound", None, False),
        )),
)
# fmt: on


def _key(text: str) -> str:
    return "".join(character for character in text.casefold() if character.isalnum())


_SYSTEM_BY_KEY = {_key(spelling): system for system in SYSTEMS for spelling in system.spellings}


def system_named(text: str) -> RadsSystem:
    """Find a system by its name or a spelling, whatever the case, hyphens and spaces.

    Raises:
        KeyError: no system is written so.
    """
    system = _SYSTEM_BY_KEY.get(_key(text))
    if system is None:
        raise KeyError("unknown RADS system")
    return system


# 2a and 2b split findings of the primary site only.
NI_RADS_NECK = tuple(c.name for c in system_named("NI-RADS").categories if c.name not in ("2a", "2b"))


def _any_of(spellings: Iterable[str]) -> str:
    keys = sorted({_key(spelling) for spelling in spellings}, key=len, reverse=True)
    return "|".join(r"[\s:-]{0,2}".join(key) for key in keys)


# What may stand between the system and its category: separators, an edition ("v2022", "2.0"), plain words.
_BETWEEN = (
    r"(?:[\s:=,(\[#*-]|v(?:er(?:sion)?)?\.?\s*\d[\d.]*(?![\d.])|\d\.\d(?!\d)|20\d\d"
    r"|(?:category|cat|score|assessment|final|overall|ct|mri?|us)(?![a-z]))*"
)
_BEFORE_CATEGORY = {"NI-RADS": r"(?:p(?:rimary)?(?: site)?[\s:-]*)?"}
_AFTER_CATEGORY = {
    "CAD-RADS": r"(?:[\s/,]+(?:p\d|hrp|i(?:\+/-|[+±-])|[esgvn]))*",
    "Lung-RADS": r"(?:[\s/,-]*s)?",
    "NI-RADS": r"(?:[\s,;]*(?://?|neck(?: nodes?)?|nodes?|n)[\s:-]*"
    rf"(?P<neck>{_any_of(NI_RADS_NECK)}))?",
}


def _categories_by_key(system: RadsSystem) -> dict[str, str]:
    return {_key(text): c.name for c in system.categories for text in (c.name, *c.spellings)}


def _label_pattern(system: RadsSystem) -> re.Pattern[str]:
    category = _any_of(_categories_by_key(system))
    return re.compile(
        # The name may come twice: "LI-RADS LR-5".
        rf"(?:(?:{_any_of(system.spellings)}){_BETWEEN})+{_BEFORE_CATEGORY.get(system.name, '')}"
        rf"(?P<category>{category}){_AFTER_CATEGORY.get(system.name, '')}(?![a-z0-9])"
        # A description may follow; a second category or system makes the label ambiguous.
        rf"(?!/|.*(?:(?<![a-z0-9])(?:{category})(?![a-z0-9])|rads))",
        re.DOTALL,
    )


_LABEL_PATTERNS = tuple((system, _categories_by_key(system), _label_pattern(system)) for system in SYSTEMS)


def parse_label(text: str) -> tuple[str, str | None, str | None]:
    """Read a whole label into (system name or "none", category, NI-RADS category of the neck).

    Case, hyphens, spaces and edition numbers do not matter; CAD-RADS and Lung-RADS modifiers are dropped.

    Raises:
        ValueError: not a label, or more than one; the message never repeats the text, which may be clinical.
    """
    plain = re.sub("[\u2010-\u2015]", "-", text).replace("\u00ae", "").casefold().strip(" \t\n.*\"'`()[]-")
    if plain == NO_SYSTEM:
        return NO_SYSTEM, None, None
    for system, names, pattern in _LABEL_PATTERNS:
        match = pattern.match(plain)
        if match:
            neck = match.groupdict().get("neck")
            return system.name, names[_key(match["category"])], names[_key(neck)] if neck else None
    raise ValueError("not readable as one RADS label")


def format_label(system: str, category: str | None, category_neck: str | None = None) -> str:
    """Write a label as parse_label reads it: "BI-RADS 4A", "NI-RADS 2a // 1", "none".

    Raises:
        KeyError: unknown system.
        ValueError: a category that the system, or its neck scale, does not have.
    """
    if system == NO_SYSTEM and category is None and category_neck is None:
        return NO_SYSTEM
    rads = system_named(system)
    if category not in {c.name for c in rads.categories}:
        raise ValueError("no such category in this RADS system")
    if category_neck is None:
        return f"{rads.name} {category}"
    if rads.name != "NI-RADS" or category_neck not in NI_RADS_NECK:
        raise ValueError("no such neck category in this RADS system")
    return f"{rads.name} {category} // {category_neck}"
