"""Which RADS applies to the study, and its category (ten systems, see rads_systems).

System, category and neck category are asked side by side: the category is read over all categories of all
systems and renormalised over those of the decided system, which gives P(category | system) without a second
pass. A report to which no system applies is `none`.
"""

from collections.abc import Mapping
from typing import Any

from radlite_batch.errors import Unparsed
from radlite_batch.records import Completion, Decided, Prediction
from radlite_batch.tasks.base import (
    ALTERNATIVES,
    Block,
    Choice,
    Column,
    Question,
    Task,
    alternatives,
    ranking,
    strip_think,
)
from radlite_batch.tasks.rads_systems import NI_RADS_NECK, NO_SYSTEM, SYSTEMS, format_label, parse_label

_BY_NAME = {system.name: system for system in SYSTEMS}
_CATEGORIES = tuple(dict.fromkeys(category.name for system in SYSTEMS for category in system.categories))
_CODES = {
    "4A": "A", "4B": "B", "4C": "C", "4X": "F", "M": "M", "TIV": "T", "NC": "K", "N": "N", "X": "X", "2a": "a",
    "2b": "b", "TR Viable": "V", "TR Nonviable": "W", "TR Equivocal": "E",
    "TR Nonprogressing": "P", "TR Nonevaluable": "Q",
}  # fmt: skip


def _codes(categories: tuple[str, ...]) -> str:
    return "".join(_CODES.get(name, name) for name in categories)


class RadsAssignment(Task):
    name = "rads_assignment"
    about = "RADS system and category"
    needs = "text"
    headline = "label"
    questions = (
        Question(
            "system",
            Choice((*(s.name for s in SYSTEMS), NO_SYSTEM), "".join(s.code for s in SYSTEMS) + "-"),
            f"Which reporting system applies to this study: {', '.join(s.name for s in SYSTEMS)}, or none?",
        ),
        Question(
            "category",
            Choice(_CATEGORIES, _codes(_CATEGORIES)),
            "Which category of its RADS reporting system does the report support? Answer the category only.",
        ),
        Question(
            "neck",
            Choice(NI_RADS_NECK, _codes(NI_RADS_NECK)),
            "Which NI-RADS category do the neck nodes have? Answer the category only.",
        ),
    )
    columns = (
        Column("system", "string", "reporting system, or none", (*_BY_NAME, NO_SYSTEM)),
        Column("category", "string", "bare category; null for none; NI-RADS: of the primary site", _CATEGORIES),
        Column("category_neck", "string", "NI-RADS category of the neck, else null", NI_RADS_NECK),
        Column("label", "string", "system and category as one label"),
        ALTERNATIVES,
    )
    metrics = ("accuracy", "macro_f1", "system_accuracy", "severity")

    def predict(self, answers: Mapping[str, Completion], blocks: tuple[Block, ...]) -> Prediction:
        system, category, neck = (answers[q.name] for q in self.questions)
        assert isinstance(system, Decided) and isinstance(category, Decided) and isinstance(neck, Decided)
        systems = ranking((*_BY_NAME, NO_SYSTEM), system.probabilities)
        necks = ranking(NI_RADS_NECK, neck.probabilities)
        joint: list[tuple[tuple[str, str | None, str | None], float]] = []
        for name, p_system in systems:
            for value, p_category in self._categories(name, category.probabilities):
                site = necks[0][0] if name == "NI-RADS" else None
                joint.append(((name, value, site), p_system * p_category))
        # The most probable system decides first, then its category; the rest are ranked jointly.
        chosen, others = joint[0], sorted(joint[1:], key=lambda pair: -pair[1])
        ranked = [(format_label(*label), p) for label, p in (chosen, *others)]
        return Prediction({**_columns(*chosen[0]), "alternatives": alternatives(ranked)}, chosen[1])

    @staticmethod
    def _categories(system: str, probabilities: tuple[float, ...]) -> list[tuple[str | None, float]]:
        """(category, P(category | system)), most probable first."""
        if system == NO_SYSTEM:
            return [(None, 1.0)]
        legal = {category.name for category in _BY_NAME[system].categories}
        ranked = [(c, p) for c, p in ranking(_CATEGORIES, probabilities) if c in legal]
        total = sum(p for _, p in ranked)
        return [(c, p / total if total > 0 else 1 / len(ranked)) for c, p in ranked]

    def parse(self, raw: str, blocks: tuple[Block, ...]) -> Prediction:
        try:
            label = parse_label(strip_think(raw))
        except ValueError:
            raise Unparsed("rads_assignment: the answer names no category of a known system") from None
        return Prediction({**_columns(*label), "alternatives": []})

    def answer(self, values: Mapping[str, Any]) -> str:
        return format_label(values["system"], values["category"], values["category_neck"])

    def targets(self, values: Mapping[str, Any]) -> dict[str, Any]:
        named = {"system": values["system"], "category": values["category"], "neck": values["category_neck"]}
        return {question: label for question, label in named.items() if label is not None}


def _columns(system: str, category: str | None, neck: str | None) -> dict[str, Any]:
    label = format_label(system, category, neck)
    return {"system": system, "category": category, "category_neck": neck, "label": label}
