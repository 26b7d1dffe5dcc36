"""Reads a TNM stage out of a written answer; shared by N and M staging."""

import re

from radlite_batch.errors import Unparsed


def read_stage(task: str, letter: str, pattern: re.Pattern[str], raw: str) -> str:
    """The one stage `raw` names: "N2b", "N staging: N1", "pT2 pN1 cM0". Raises Unparsed.

    A bare "Positive" says that nodes are involved, but not the stage: unparsed, never guessed."""
    # "T2N1M0" runs together: a blank before each letter that follows a digit separates its parts.
    named: set[str] = {digit.upper() for digit in pattern.findall(re.sub(r"(?<=[0-9A-DXa-d])(?=[NM][0-3X])", " ", raw))}
    if len(named) != 1:
        raise Unparsed(f"{task}: the answer names {'no stage' if not named else 'several stages'}")
    return letter + named.pop()
