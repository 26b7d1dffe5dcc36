"""An excerpt's label is the code that its text prints."""

import re

from training.datasets.printed import excerpts

CODED = "GROSS: tan mass of 3 cm.\n" * 150 + "AJCC: pT2 pN1a pMX. " + "Margins are free. " * 60
BARE = "Sections show carcinoma in fibrous tissue, see slide N12. " * 50
_CODE = re.compile(r"N ?([0-3Xx])(?=[^0-9]|$)")


def codes(text: str) -> set[str]:
    return {match.upper() for match in _CODE.findall(text)}


def test_excerpts_around_a_code_hold_it_or_the_one_put_in_its_place() -> None:
    found = [pair for key in range(40) for pair in excerpts(CODED, "N1", str(key))]
    assert all(codes(text) == {stage[1]} for text, stage in found)
    assert {"N1", "N0", "N3", "NX"} <= {stage for _, stage in found}
    assert max(len(text) for text, _ in found) < len(CODED) / 2


def test_a_code_that_is_not_the_registrys_gives_no_excerpt() -> None:
    assert list(excerpts(CODED, "N2", "a")) == []
    assert list(excerpts(CODED + " Earlier: pN0.", "N1", "a")) == []


def test_a_code_is_put_into_a_stretch_without_one() -> None:
    found = [pair for key in range(40) for pair in excerpts(BARE, "N0", str(key))]
    assert all(codes(text) == {stage[1]} for text, stage in found)
    assert {stage for _, stage in found} == {"N0", "N1", "N2", "N3", "NX"}
    assert list(excerpts(BARE, "N0", "a")) == list(excerpts(BARE, "N0", "a"))
