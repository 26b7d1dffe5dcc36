"""Reports recombined from the phrase banks of the written corpus: the same findings in ever other words and order.

A bank's frames hold whole templates; `{name}` draws from a slot or a fact, `{5-9}` a number. One draw of a name holds
for the whole report, so that a side stays a side.

Terms: written by this project; Apache-2.0.
"""

import random
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from radlite_batch.errors import ArchiveError
from training.criteria import CATEGORY
from training.datasets import chest
from training.datasets.base import Sample, joined
from training.datasets.corpus import SECTIONS, samples
from training.datasets.typos import with_typos

PER_LABEL = 80  # reports of each label of a bank
NONE = 800  # reports to which no RADS applies
PRINTED = 0.1  # share of RADS reports that print their category, as archives do
TYPOS = 0.05  # share of reports with slips of the hand
_TRIES = 40  # draws for each report wanted, where a bank's labels are not equally likely
_NAME = re.compile(r"\{([^{}|]+)\}")
_NUMBER = re.compile(r"(\d+)(?:\.(\d+))?-(\d+)(?:\.(\d+))?")


def read(folder: Path) -> Iterator[Sample]:
    """Recombined reports of the banks in folder/phrases, all "train". Raises ArchiveError naming a bank's fault."""
    banks = sorted((folder / "phrases").glob("*.toml"))
    if not banks:
        raise ArchiveError(f"{folder}: no phrases/*.toml is here")
    for path in banks:
        try:
            bank = tomllib.loads(path.read_text(encoding="utf-8"))
            findings = bank.get("finding")
            records = (
                [*chest.reports(findings, bank.get("plain", ())), *chest.pairs(findings)] if findings else _framed(bank)
            )
            for number, record in enumerate(records):
                yield from samples({"id": f"{path.stem}-{number}", **record}, "composed", "train")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArchiveError(f"{path}: {error}") from None


def _framed(bank: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """As many reports for each label of the bank, whatever its number of frames; NI-RADS counts by primary site."""
    draw = random.Random(bank["system"])
    slips = random.Random(f"typos {bank['system']}")  # of their own, so that all else stays as it is without them
    most = NONE if bank["system"] == "none" else PER_LABEL
    left: dict[str, int] = {}
    labels = {str(_label(frame)) for frame in bank["frames"]}
    for _ in range(_TRIES * most * max(len(labels), 5)):
        frame = draw.choice(bank["frames"])
        record = _record(bank["system"], frame, _Words(bank, draw))
        label = str([record.get("rads", "").partition(" // ")[0], *_label(record)[1:]])
        if left.setdefault(label, most) > 0:
            left[label] -= 1
            yield _laid_out(record, draw, slips)


def _label(record: Mapping[str, Any]) -> list[Any]:
    return [record.get(name) for name in ("category", "n", "m")]


def _laid_out(record: dict[str, Any], draw: random.Random, slips: random.Random) -> dict[str, Any]:
    """The report as one text: under the archive's headings, under others, or without any; in some, words are misspelt.

    The impressions of a frame fit its label, not every finding drawn, so none is a target."""
    if record.get("rads", "none") != "none" and draw.random() < PRINTED:
        record["impression"] = f"{record.get('impression', '')} {_printed(record['rads'], draw)}".strip()
    sections = {name: record.pop(name) for name in SECTIONS if name in record}
    if slips.random() < TYPOS:
        sections = {name: with_typos(text, slips) for name, text in sections.items()}
    kind = draw.random()
    if kind < 0.6:
        return record | {"text": joined(**sections)}
    if kind < 0.8:
        return record | {"text": "\n".join(f"{name.capitalize()}:\n{text}" for name, text in sections.items())}
    return record | {"text": draw.choice(" \n").join(sections.values())}


def _printed(label: str, draw: random.Random) -> str:
    system, _, category = label.partition(" ")
    primary, _, neck = category.partition(" // ")
    if neck:
        return draw.choice(
            [f"{system}: primary {primary}, neck {neck}.", f"{system} primary {primary} // neck {neck}."]
        )
    return draw.choice([f"{label}.", f"{system} category {category}.", f"ACR {label}", f"({system}: {category})"])


def _record(system: str, frame: Mapping[str, Any], words: "_Words") -> dict[str, Any]:
    facts = words.choose_facts(frame.get("fix", {}))
    sections = {name: words.expand(words.draw.choice(frame[name])) for name in SECTIONS if frame.get(name)}
    record: dict[str, Any] = {name: text for name, text in sections.items() if text}
    if system == "staging":
        return record | {name: frame[name] for name in ("n", "m")}
    if system == "none":
        return record | {"rads": "none"}
    category = frame.get("category") or CATEGORY[system](facts)
    neck = f" // {frame['neck']}" if "neck" in frame else ""
    return record | {"rads": f"{system} {category}{neck}"}


class _Words:
    """One report's draws from a bank."""

    def __init__(self, bank: Mapping[str, Any], draw: random.Random):
        self.draw = draw
        self._slots: dict[str, list[str]] = dict(bank.get("slots", {}))
        self._facts: Mapping[str, Mapping[str, list[str]]] = bank.get("facts", {})
        self._drawn: dict[str, float] = {}

    def choose_facts(self, fix: Mapping[str, list[str]]) -> dict[str, str]:
        facts = {name: self.draw.choice(fix.get(name) or list(values)) for name, values in self._facts.items()}
        self._slots |= {name: self._facts[name][value] for name, value in facts.items()}
        return facts

    def expand(self, template: str) -> str:
        while (match := _NAME.search(template)) is not None:
            template = template[: match.start()] + self._word(match[1]) + template[match.end() :]
        return re.sub(r"[ ]{2,}", " ", template).strip()

    def _word(self, name: str) -> str:
        if number := _NUMBER.fullmatch(name):
            return _number(number, self.draw)
        words = self._slots[name]
        # "Side" follows "side".
        at = self._drawn.setdefault(name.casefold(), self.draw.random())
        return words[int(at * len(words))]


def _number(bounds: re.Match[str], draw: random.Random) -> str:
    whole, part, to_whole, to_part = bounds.groups()
    digits = len(part or to_part or "")
    low, high = float(f"{whole}.{part or 0}"), float(f"{to_whole}.{to_part or 0}")
    return f"{draw.randint(round(low * 10**digits), round(high * 10**digits)) / 10**digits:.{digits}f}"
