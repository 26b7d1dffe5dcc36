"""Slips of the hand: one letter of a long word, and nothing that a label or a span rests on."""

import random
import re
from collections import Counter
from pathlib import Path

from training.datasets import composed
from training.datasets.composed import TYPOS
from training.datasets.typos import SLIPS, with_typos

TEXT = "There is a {moderate consolidation|present} in the posterior segment, 12 mm, ACR TI-RADS 4, T1weighted."


def test_one_letter_of_a_long_plain_word_slips() -> None:
    draw = random.Random(1)
    said = Counter(word for _ in range(4000) for word in re.findall(r"\{[^{}]*\}|[^\s,.]+", with_typos(TEXT, draw)))
    kept = ("{moderate consolidation|present}", "There", "12", "mm", "ACR", "TI-RADS", "4", "T1weighted")
    assert all(said[word] == 4000 for word in kept)
    assert 0.5 * SLIPS < 1 - said["segment"] / 4000 < 1.5 * SLIPS
    slipped = {word for word in said if word[:2] in ("se", "sg", "sm") or word.startswith("see")}
    assert {"sgment", "seegment", "sgement"} <= slipped
    assert all(word[0] == "s" and word[-1] == "t" and abs(len(word) - 7) <= 1 for word in slipped)


def test_the_same_draw_gives_the_same_slips() -> None:
    one, other = (with_typos(TEXT * 20, random.Random(3)) for _ in range(2))
    assert one == other != TEXT * 20


def test_a_small_share_of_the_composed_reports_has_them(tmp_path: Path) -> None:
    bank = Path(composed.__file__).parents[1] / "corpus" / "phrases" / "staging.toml"
    (tmp_path / "phrases").mkdir()
    (tmp_path / "phrases" / "staging.toml").write_bytes(bank.read_bytes())
    known = set(re.findall(r"[a-z]{7,}", bank.read_text(encoding="utf-8")))
    slipped = [set(re.findall(r"\b[a-z]{7,}\b", sample.text)) - known for sample in composed.read(tmp_path)]
    assert 0.4 * TYPOS < sum(map(bool, slipped)) / len(slipped) < 1.2 * TYPOS
