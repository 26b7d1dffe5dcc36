"""Pieces of a self-contained page: elements, its style, tables, tiles. No scripts, nothing from a network."""

import html
from collections.abc import Iterable, Sequence
from typing import Any

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"  # whatever stands in the page, nothing is fetched

_LONG = 40  # characters; a cell of more is kept wide enough to be read on a phone, where the table scrolls

_CSS = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b2733; --soft: #566573; --line: #dbe1e7; --card: #f6f8fa;
  --now: #1f6f8b; --before: #9aa7b5; --warn: #a33c00; --warnback: #fdf0e3; --good: #1d6b3a;
  --ok: #1f6f8b; --empty: #b7c1cb; --too_long: #e0a52f; --unparsed: #b06ab3; --failed: #c8452d;
  --positive: #1f6f8b; --negative: #8cc0d0; --uncertain: #e0a52f; --absent: #d5dbe1 }
@media screen and (prefers-color-scheme: dark) { :root { --paper: #12181f; --ink: #e3e9ee; --soft: #9fb0bf;
  --line: #2c3742; --card: #1a222b; --now: #58b2cf; --before: #6d7c8b; --warn: #ffb27a; --warnback: #33241a;
  --good: #7fd19b; --ok: #4aa3c0; --empty: #53616f; --too_long: #d9a63f; --unparsed: #c58bc8; --failed: #e8735c;
  --positive: #4aa3c0; --negative: #2b6275; --uncertain: #d9a63f; --absent: #3a4652 } }
* { box-sizing: border-box }
body { font: 16px/1.45 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; color: var(--ink);
  background: var(--paper); max-width: 68rem; margin: 0 auto; padding: 1rem 1rem 3rem }
h1 { font-size: 1.5rem; line-height: 1.2; margin: .5rem 0 .25rem; overflow-wrap: anywhere }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--line) }
h3 { font-size: 1rem; margin: 0 0 .5rem } h4 { font-size: .9rem; margin: .9rem 0 .3rem }
p { margin: .4rem 0 } .soft, figcaption, caption { color: var(--soft); font-size: .875rem }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .6rem; margin: 1rem 0 }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: .4rem; padding: .55rem .7rem }
.tile b { display: block; font-size: 1.35rem; line-height: 1.25; font-variant-numeric: tabular-nums }
.tile span { color: var(--soft); font-size: .82rem } .bad b { color: var(--warn) } .good b { color: var(--good) }
.warnings { background: var(--warnback); border-left: .3rem solid var(--warn); padding: .5rem .9rem; margin: .6rem 0 }
.warnings ul { margin: .3rem 0; padding-left: 1.1rem } mark { color: var(--warn); background: none; font-weight: 600 }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: 1rem }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .4rem; padding: .8rem; min-width: 0 }
.wide { grid-column: 1 / -1 } figure { margin: 0 }
.bars { display: grid; grid-template-columns: fit-content(45%) minmax(3rem, 1fr) max-content;
  gap: .3rem .6rem; align-items: center; font-size: .875rem }
.bars > .name { overflow-wrap: break-word; max-width: 15rem }
.bars > .value { text-align: right; font-variant-numeric: tabular-nums; line-height: 1.15 }
.bars > .value small { display: block; color: var(--soft) }
.bars + figure, .bars + .scroll { margin-top: .9rem }
svg { display: block; width: 100% } svg.bar { height: 1.1rem } svg.plot { height: 7.5rem } svg.tall { height: 9rem }
.ends { display: flex; justify-content: space-between; color: var(--soft); font-size: .8rem }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .85rem; color: var(--soft); margin: .3rem 0 .7rem }
.key svg { width: .8rem; height: .8rem; display: inline-block; vertical-align: -.05rem; margin-right: .35rem }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-size: .85rem; margin: .5rem 0 }
th, td { text-align: left; padding: .25rem .7rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
td { overflow-wrap: break-word } td.number, th.number { text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums }
caption { text-align: left; max-width: calc(100vw - 4rem); min-width: min(30rem, 100vw - 4rem) }
@media (max-width: 34rem) { td.long { min-width: 13rem } body { padding: .6rem .7rem 2rem }
  .bars { grid-template-columns: 1fr max-content }
  .bars > .name { grid-column: 1 / -1; max-width: none; margin-bottom: -.2rem } }
@media print { body { font-size: 10.5pt; max-width: none; padding: 0 } .tile, .card, .warnings { break-inside: avoid;
  background: none } h2, h3 { break-after: avoid } .scroll { overflow: visible }
  .cards { grid-template-columns: 1fr 1fr } }
@page { margin: 14mm }
"""


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def tag(name: str, *inside: str, **attributes: Any) -> Html:
    """An element; plain strings in it are escaped. Of attributes, class_ is written class, aria_label aria-label, and
    None is left out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{written}>{join(inside)}</{name}>")


def join(parts: Iterable[str]) -> Html:
    return Html("".join(part if isinstance(part, Html) else html.escape(part) for part in parts))


def page(title: str, *body: str) -> bytes:
    """The whole file."""
    head = Html(
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    )
    style = tag("style", Html(_CSS))
    document = tag("html", tag("head", head, tag("title", title), style), tag("body", tag("main", *body)), lang="en")
    return f"<!doctype html>\n{document}\n".encode()


def section(title: str, *inside: str) -> Html:
    return tag("section", tag("h2", title), *inside)


def card(title: str, *inside: str, wide: bool = False) -> Html:
    return tag("div", tag("h3", title), *inside, class_="card wide" if wide else "card")


def tile(value: str, about: str, mood: str = "") -> Html:
    """A figure to see from afar. mood: bad, good or nothing."""
    return tag("div", tag("b", value), tag("span", about), class_=f"tile {mood}".rstrip())


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> Html:
    """Numbers stand to the right, with thousands apart; a column's head follows its first cell."""
    rows = list(rows)
    right = [bool(rows) and isinstance(rows[0][i], int | float) for i in range(len(head))]
    heads = (tag("th", name, scope="col", class_="number" if r else None) for name, r in zip(head, right, strict=True))
    body = (tag("tr", *(_cell(value) for value in row)) for row in rows)
    above = tag("caption", caption) if caption else Html()
    # A keyboard can scroll what it can focus.
    whole = tag("table", above, tag("thead", tag("tr", *heads)), tag("tbody", *body))
    return tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption or ", ".join(head))


def _cell(value: Any) -> Html:
    if isinstance(value, int | float):
        return tag("td", f"{value:,}" if isinstance(value, int) else f"{value:,.3f}", class_="number")
    return tag("td", "-" if value is None else breakable(value), class_="long" if len(value or "") > _LONG else None)


def share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def breakable(name: str) -> Html:
    """Text that may go to the next line within a name or a path."""
    return Html(html.escape(name).replace("_", "_<wbr>").replace("/", "/<wbr>"))
