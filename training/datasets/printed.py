"""Excerpts of pathology reports that print their N code: the code is found among the noise, whatever stands around it.

Half of them are cut around a code that agrees with the registry; in some of these it is another code, and so is the
label. The others are stretches without a code, into which one is put.
"""

import random
import re
from collections.abc import Iterator

EXCERPTS = 3  # of each report, and kind
_CODE = re.compile(r"(?<![A-Za-z])(?P<p>(?:[yr]?p\s?)?N\s?)(?P<n>[0-3Xx])(?=[^0-9A-Z/]|p?M|$)")
_WORDS = (40, 260)
_SWAPPED = 0.4
_STAGES = ("0", "1", "2", "3", "X")
_FORMS = (
    "pT{t} pN{n}{s} pMX", "pT{t}, pN{n}{s}, pMx.", "pT{t}N{n}", "pT{t}N{n}MX", "Stage: T{t} N{n}{s} MX.",
    "AJCC STAGE: pT{t}, pN{n}{s}", "Pathologic stage (pTNM): pT{t}pN{n}", "TNM: T{t} N{n} MX", "pN{n}{s}",
    "REGIONAL LYMPH NODES (pN): pN{n}{s}", "N STAGE, PATHOLOGIC: pN{n}{s}.", "y pT{t} ypN{n}", "p T {t} p N {n} p M X",
    "pT {t}, pN {n}", "(G2, pT{t}, pN{n}{s})", "Pathological staging: pT{t}c N{n}", "Lymph nodes: pN{n}.",
)  # fmt: skip


def excerpts(text: str, stage: str, key: str) -> Iterator[tuple[str, str]]:
    """(text, N stage) of each excerpt. stage: the registry's. key: decides the draws."""
    draw = random.Random(key)
    words = re.findall(r"\S+\s*", text)
    codes = {match["n"].upper() for match in _CODE.finditer(text)}
    if codes == {stage[1:]}:
        at = [i for i in range(len(words)) if _CODE.search(words[i])]
        for place in draw.sample(at, min(EXCERPTS, len(at))):
            yield _swapped(_around(words, place, draw), stage, draw)
    if not codes:
        for _ in range(min(EXCERPTS, len(words) // 40)):
            n = draw.choice(_STAGES)
            around = _around(words, draw.randrange(len(words)), draw)
            gap = draw.randint(0, around.count(" "))
            pieces = around.split(" ")
            yield " ".join([*pieces[:gap], _code(n, draw), *pieces[gap:]]), f"N{n}"


def _around(words: list[str], place: int, draw: random.Random) -> str:
    length = draw.randint(*_WORDS)
    begin = max(0, place - draw.randint(0, length))
    return "".join(words[begin : max(begin + length, place + 1)])


def _swapped(text: str, stage: str, draw: random.Random) -> tuple[str, str]:
    if draw.random() >= _SWAPPED:
        return text, stage
    other = draw.choice([n for n in _STAGES if n != stage[1:]])
    return _CODE.sub(lambda match: match["p"] + other, text), f"N{other}"


def _code(n: str, draw: random.Random) -> str:
    letter = draw.choice(["", "", "a", "b"]) if n in "123" else ""
    return draw.choice(_FORMS).format(t=draw.choice(["1", "2", "3", "4"]), n=n, s=letter)
