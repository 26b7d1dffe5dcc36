"""CSV that a spreadsheet opens as text: a cell that it would take for a formula begins with an apostrophe.

Such a cell begins with = + - @, their full-width forms, a tab or a line end, after blanks and control signs or none. A
plain number ("-5", "+1.2e3") is none.
"""

import re

import polars as pl

_RISKY = r"^[\s\x00-\x1F]*[=+\-@\t\r\n\uFF1D\uFF0B\uFF0D\uFF20]"
_NUMBER = r"^[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?$"


def safe_cell(text: str) -> str:
    """One cell."""
    return f"'{text}" if re.search(_RISKY, text) and not re.fullmatch(_NUMBER, text) else text


def safe_cells(column: str) -> pl.Expr:
    """A string column, under its own name; nulls stay."""
    cell = pl.col(column)
    risky = cell.str.contains(_RISKY) & ~cell.str.contains(_NUMBER)
    return pl.when(risky).then(pl.concat_str(pl.lit("'"), cell)).otherwise(cell).alias(column)


def safe_table(table: pl.DataFrame) -> pl.DataFrame:
    """Every string column of it, and its header."""
    strings = [name for name, kind in table.schema.items() if kind == pl.String]
    return table.with_columns(map(safe_cells, strings)).rename(safe_cell)
