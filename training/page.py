"""Tables as CSV files, and tables with their figures as one page that needs nothing beside it."""

import csv
import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training import figures

Cell = Any  # text, a number, None, or a score: a mapping with value, low and high

_CSS = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1c2733; max-width: 76rem; margin: 2rem auto; padding: 0 1rem }
h1, h2 { line-height: 1.2 } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccd4dc }
table { border-collapse: collapse; font-size: 13px; margin: 1rem 0; display: block; overflow-x: auto }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #e3e8ed; text-align: left; vertical-align: top }
th { border-bottom: 2px solid #8896a4 } td.number { text-align: right; white-space: nowrap }
td small { color: #5b6b7a; display: block } caption { text-align: left; font-weight: 600; padding: .3rem 0 }
figure { margin: 1rem 0 } figure svg { max-width: 100%; height: auto } figcaption, p.note { color: #47566a }
"""


@dataclass(frozen=True, slots=True)
class Table:
    """name: of its CSV file."""

    name: str
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """figure: an SVG file, None where nothing is drawn."""

    title: str
    text: Sequence[str]
    tables: Sequence[Table] = ()
    figure: Path | None = None


def write_csv(table: Table, folder: Path) -> None:
    """A score becomes three columns: X, X low, X high."""
    scored = [any(isinstance(row[i], Mapping) for row in table.rows) for i in range(len(table.head))]
    with open(folder / f"{table.name}.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        for row in (table.head, *table.rows):
            writer.writerow([value for cell, wide in zip(row, scored, strict=True) for value in _values(cell, wide)])


def _values(cell: Cell, wide: bool) -> tuple[Any, ...]:
    if not wide:
        return (cell,)
    if isinstance(cell, Mapping):
        return (cell["value"], cell["low"], cell["high"])
    return (cell, f"{cell} low", f"{cell} high") if isinstance(cell, str) else (cell, None, None)


def write_page(path: Path, title: str, sections: Sequence[Section]) -> None:
    body = "\n".join(line for section in sections for line in _section(section))
    path.write_text(
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
        f"<style>{_CSS}</style>\n</head>\n<body>\n<h1>{html.escape(title)}</h1>\n{body}\n</body>\n</html>\n",
        encoding="utf-8",
    )


def _section(section: Section) -> Iterator[str]:
    yield f"<h2>{html.escape(section.title)}</h2>"
    for text in section.text:
        yield f"<p>{html.escape(text)}</p>"
    if section.figure is not None:
        yield f"<figure>{figures.inline(section.figure)}</figure>"
    for table in section.tables:
        yield from _table(table)


def _table(table: Table) -> Iterator[str]:
    yield f"<table><caption>{html.escape(table.title)}</caption>"
    yield "<tr>" + "".join(f"<th>{html.escape(name)}</th>" for name in table.head) + "</tr>"
    for row in table.rows:
        yield "<tr>" + "".join(_cell(cell) for cell in row) + "</tr>"
    yield "</table>"
    if table.note:
        yield f'<p class="note">{html.escape(table.note)}</p>'


def _cell(cell: Cell) -> str:
    if cell is None:
        return '<td class="number">-</td>'
    if isinstance(cell, Mapping):
        interval = f"<small>[{cell['low']:.3f}, {cell['high']:.3f}]</small>"
        return f'<td class="number">{cell["value"]:.3f} {interval}</td>'
    if isinstance(cell, float):
        return f'<td class="number">{cell:.3f}</td>'
    if isinstance(cell, int):
        return f'<td class="number">{cell:,}</td>'
    return f"<td>{html.escape(str(cell))}</td>"
