"""Guesses of what a text says next: what followed its last two tokens before, in its prompt or in itself.

Prompt lookup, after Saxena (2023, "Prompt Lookup Decoding"): an answer over a report repeats the report's words.
"""

from collections.abc import Iterable


class Lookup:
    """The tokens of a prompt and its growing text, and where each pair of neighbours stood last."""

    def __init__(self, tokens: Iterable[int]):
        self._tokens: list[int] = []
        self._after: dict[tuple[int, int], int] = {}
        self.extend(tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """Adds tokens to the end."""
        for token in tokens:
            # A pair is entered when its follower comes: the last pair must find an earlier place than its own.
            if len(self._tokens) >= 2:
                self._after[self._tokens[-2], self._tokens[-1]] = len(self._tokens)
            self._tokens.append(token)

    def guess(self, most: int) -> list[int]:
        """At most so many tokens that may come next; none where the last pair is new."""
        start = self._after.get(tuple(self._tokens[-2:]))  # type: ignore[arg-type]
        return [] if start is None else self._tokens[start : start + most]
