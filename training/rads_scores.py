"""What a wrong RADS category means: how far off it is on the system's scale, and on which side of the line to act."""

from collections.abc import Sequence
from functools import cache
from itertools import zip_longest

import numpy as np

from radlite_batch.tasks.rads_systems import NO_SYSTEM, Category, parse_label, system_named
from training.scoring import Tally, mean

# One of each row is true of a report, gravest last: by rank, and by the line between acting and waiting.
BY_RANK = ("exact", "same_tier", "incomparable", "over_call", "under_call")
BY_LINE = ("exact", "same_side", "needless", "dangerous")
CLASSES = tuple(dict.fromkeys((*BY_RANK, *BY_LINE)))


def by_rank(gold: str, found: str | None) -> str:
    """exact; same_tier: another category of the same rank (LR-M for LR-5), or the tier without its subcategory (4 for
    4B); over_call or under_call: by the rank; incomparable: a category off the scale, another system, or no answer.
    NI-RADS has two sites, a missing one is incomparable, and the graver class of the two counts."""
    if gold == found:
        return "exact"
    if found is None or system_of(gold) != system_of(found):
        return "incomparable"
    pairs = zip_longest(_sites(gold), _sites(found))
    return max((_step(g, f) for g, f in pairs), key=BY_RANK.index)


def by_line(gold: str, found: str | None) -> str:
    """exact; dangerous: the reference is actionable (on any site) and the answer is not, or there is none; needless:
    the other way round; same_side: another label that leads to the same."""
    if gold == found:
        return "exact"
    act, acts = (any(site.actionable for site in _sites(label)) if label else False for label in (gold, found))
    return "same_side" if act == acts else "dangerous" if act else "needless"


def severity(gold: Sequence[str], found: Sequence[str | None], name: str) -> Tally:
    """The share of one of CLASSES over the reports to which a system applies."""
    classify = by_rank if name in BY_RANK else by_line
    applies = np.array([system_of(label) != NO_SYSTEM for label in gold], dtype=bool)
    return mean([float(classify(g, f) == name) for g, f in zip(gold, found, strict=True)]).only(applies)


@cache
def system_of(label: str) -> str:
    return parse_label(label)[0]


@cache
def _sites(label: str) -> tuple[Category, ...]:
    """The label's categories: one, for NI-RADS that of the primary site and of the neck, none for `none`."""
    system, *names = parse_label(label)
    if system == NO_SYSTEM:
        return ()
    categories = {category.name: category for category in system_named(system).categories}
    return tuple(categories[name] for name in names if name is not None)


def _step(gold: Category | None, found: Category | None) -> str:
    if gold == found:
        return "exact"
    if gold is None or found is None or gold.rank is None or found.rank is None:
        return "incomparable"
    undivided = gold.name.startswith(found.name) or found.name.startswith(gold.name)  # 4 of 4B: no direction is stated
    if undivided or gold.rank == found.rank:
        return "same_tier"
    return "over_call" if found.rank > gold.rank else "under_call"
