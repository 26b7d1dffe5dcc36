"""Metrics of written answers: ROUGE-L, BLEU, exact match. A prediction of None is an empty text."""

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

from training.scoring import Floats, Tally, mean

_WORD = re.compile(r"[^\W_]+")
_ORDERS = 4
# The tokens of mteval-v13a: signs stand alone, but for a point or comma inside a number.
_SPLIT = (
    (re.compile(r"([{-~\[-` -&(-+:-@/])"), r" \1 "),
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)


def rouge_l(gold: Sequence[str], predicted: Sequence[str | None]) -> Tally:
    return mean([text_rouge_l(g, p or "") for g, p in zip(gold, predicted, strict=True)])


def text_rouge_l(gold: str, predicted: str) -> float:
    """ROUGE-L of one text: the F-measure, beta 1, of the longest common subsequence of words (Lin 2004).

    Words are runs of letters and digits in lower case; two texts without a word score 0."""
    a, b = _WORD.findall(gold.lower()), _WORD.findall(predicted.lower())
    return 2 * common_subsequence(a, b) / (len(a) + len(b)) if a or b else 0.0


def common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence, one row of the table at a time."""
    above = [0] * (len(b) + 1)
    for word in a:
        row = [0]
        for j, other in enumerate(b):
            row.append(above[j] + 1 if word == other else max(above[j + 1], row[j]))
        above = row
    return above[-1]


def bleu(gold: Sequence[str], predicted: Sequence[str | None]) -> Tally:
    """Corpus BLEU-4 from 0 to 1 (Papineni et al. 2002), as SacreBLEU's nrefs:1|case:lc|eff:no|tok:13a|smooth:exp."""
    rows = [_counts(bleu_tokens(g), bleu_tokens(p or "")) for g, p in zip(gold, predicted, strict=True)]
    return Tally(np.array(rows, dtype=np.float64), _bleu)


def bleu_tokens(text: str) -> list[str]:
    text = " " + text.lower().replace("-\n", "").replace("\n", " ") + " "
    for pattern, spaced in _SPLIT:
        text = pattern.sub(spaced, text)
    return text.split()


def _counts(gold: Sequence[str], predicted: Sequence[str]) -> list[int]:
    """n-grams found and predicted, of each order, then the two lengths."""
    found, named = [], []
    for order in range(1, _ORDERS + 1):
        grams = [
            Counter(tuple(tokens[i : i + order]) for i in range(len(tokens) - order + 1))
            for tokens in (gold, predicted)
        ]
        found.append((grams[0] & grams[1]).total())
        named.append(grams[1].total())
    return [*found, *named, len(gold), len(predicted)]


def _bleu(sums: Floats) -> Floats:
    """(..., 10) to (...). An order without a hit counts as half a hit, the next one as a quarter, and so on."""
    found, named = sums[..., :_ORDERS], sums[..., _ORDERS : 2 * _ORDERS]
    gold, predicted = sums[..., -2], sums[..., -1]
    misses = np.cumsum(found == 0, axis=-1)
    precision = np.where(found > 0, found, 0.5**misses) / np.maximum(named, 1)
    brevity = np.exp(np.minimum(0.0, 1 - gold / np.maximum(predicted, 1)))
    value = brevity * np.exp(np.log(precision).mean(axis=-1))
    # Without a hit, or without a single n-gram of some order, there is nothing to average.
    counts = (found.sum(axis=-1) > 0) & (named.min(axis=-1) > 0)
    result: Floats = np.where(counts, value, 0.0)
    return result


def exact_match(gold: Sequence[str], predicted: Sequence[str | None]) -> Tally:
    """Share of answers with the reference's words (SQuAD's rule, Rajpurkar et al. 2016): without case, punctuation and
    articles."""
    return mean([float(p is not None and plain(g) == plain(p)) for g, p in zip(gold, predicted, strict=True)])


def plain(text: str) -> str:
    bare = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(word for word in bare.split() if word not in ("a", "an", "the"))
