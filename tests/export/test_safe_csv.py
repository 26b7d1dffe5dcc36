"""No cell of a CSV file is taken for a formula, and numbers stay numbers."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from radlite_batch.results.csv import safe_cell, safe_table

STARTS = "=+-@\t\r\n＝＋－＠"


@pytest.mark.parametrize(
    "cell",
    [
        "=1+1",
        "+cmd|' /C calc'!A0",
        "-1+2",
        "@SUM(A1)",
        "\tx",
        "\r=1",
        "  =1",
        "\u00a0=1",
        "\x00=1",
        "--1",
        "-",
        "\uff1d1",
    ],
)
def test_what_a_spreadsheet_would_calculate_is_a_word(cell: str) -> None:
    assert safe_cell(cell) == f"'{cell}"


@pytest.mark.parametrize("cell", ["", "N0", "-5", "+1.2e3", "-.5", "12", "a=b", "a@b", "0 -1", "'=1"])
def test_numbers_and_words_stay_as_they_are(cell: str) -> None:
    assert safe_cell(cell) == cell


@given(st.text(st.characters(codec="utf-8"), max_size=6) | st.text("=+-@ \t\r\n'.0e", max_size=6))
def test_one_cell_and_a_whole_column_are_guarded_alike(cell: str) -> None:
    table = safe_table(pl.DataFrame({"word": [cell, None], "number": [-1.5, None]}))
    assert table.rows() == [(safe_cell(cell), -1.5), (None, None)]


@given(st.text("=+-@ \t\r\n'.0e\x00", max_size=6))
def test_no_guarded_cell_is_left_at_risk(cell: str) -> None:
    guarded = safe_cell(cell)
    assert safe_cell(guarded) == guarded and guarded.removeprefix("'") == cell.removeprefix("'")
    try:
        float(guarded)
    except ValueError:
        assert not guarded.strip(" \x00").startswith(tuple(STARTS))


def test_a_header_is_guarded_too() -> None:
    assert safe_table(pl.DataFrame({"=a": ["b"]})).columns == ["'=a"]
