"""Prompts in a model's tokens, segment by segment: the one way for the engine, for training and for the benchmark."""

from collections.abc import Sequence

import numpy as np

from radlite_batch.engine.base import Model
from radlite_batch.errors import EngineError
from radlite_batch.records import Prompt, Segment


class Tokeniser:
    """cues: the token of each cue name; the model's reserved tokens are given out in the order of the names."""

    def __init__(self, model: Model, cue_names: Sequence[str] = ()):
        self._model = model
        self.cues = dict(zip(cue_names, model.reserved(len(cue_names)), strict=True))

    def segment(self, segment: Segment) -> np.ndarray:
        """(n,) int32. Raises KeyError for a cue that was not named."""
        if segment.kind == "cue":
            return np.array([self.cues[segment.text]], dtype=np.int32)
        return np.asarray(self._model.tokenize(segment.text, segment.kind == "markup"), dtype=np.int32)

    def prompt(self, prompt: Prompt) -> tuple[int, ...]:
        """All of a prompt's tokens."""
        return tuple(token for segment in prompt.segments for token in self.segment(segment).tolist())

    def word_ends(self, text: str, tokens: np.ndarray, words: Sequence[tuple[int, int]]) -> list[int]:
        """The index of the token that holds each word's last character; tokens are those of the text.

        Raises EngineError where the tokens do not join to the text."""
        bounds = np.cumsum([len(self._model.piece(int(token))) for token in tokens])
        # Offsets count code points, pieces count bytes.
        n_bytes = np.cumsum([0, *(len(c.encode("utf-8", "surrogatepass")) for c in text)])
        if len(words) and bounds[-1] != n_bytes[-1]:
            raise EngineError("this model's tokens do not join to the text they were made of; it cannot tag")
        return [int(i) for i in np.searchsorted(bounds, [n_bytes[end] for _, end in words], side="left")]
