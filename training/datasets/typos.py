"""Slips of the hand in a report's words, where they can change neither a label nor a span."""

import random
import re

LONG = 7  # letters of a word that is still read rightly with one of them amiss
SLIPS = 0.08  # share of the long words that have one
# Marks and whatever holds a digit or a capital are matched whole, and stay.
_PIECE = re.compile(r"\{[^{}]*\}|\w+")
_PLAIN = re.compile(rf"[a-z]{{{LONG},}}")


def with_typos(text: str, draw: random.Random) -> str:
    """The text with one letter of some long words dropped, doubled or swapped with the next; first and last letters,
    numbers and marked words stay."""

    def slip(piece: re.Match[str]) -> str:
        word = piece[0]
        if not _PLAIN.fullmatch(word) or draw.random() >= SLIPS:
            return word
        at = draw.randrange(1, len(word) - 2)
        letter, following = word[at], word[at + 1]
        return word[:at] + draw.choice([following, letter * 2 + following, following + letter]) + word[at + 2 :]

    return _PIECE.sub(slip, text)
