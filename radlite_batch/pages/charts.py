"""Small pictures as inline SVG that stretches with the page; words and numbers beside them stay text of the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from radlite_batch.pages.html import Html, breakable, join, share, tag

_WIDTH, _HEIGHT = 100.0, 40.0  # units of a picture, whatever its size on the page
_BELOW = (6.8, 2.6)  # top and height of the earlier run's bar under the other, of height 6


@dataclass(frozen=True, slots=True)
class Bar:
    """A line of a list of bars. now, before: counts."""

    name: str
    now: int
    before: int = 0


@dataclass(frozen=True, slots=True)
class Stack:
    """A line of a list of parted bars. now, before: counts by kind; marked: worth a look."""

    name: str
    now: Mapping[str, int]
    before: Mapping[str, int]
    marked: bool = False


def bars(lines: Sequence[Bar], now_of: int, before_of: int = 0) -> Html:
    """Shares of now_of, with the earlier ones (of before_of) as a thin bar below, where there are earlier ones."""
    longest = max((max(_part(b.now, now_of), _part(b.before, before_of)) for b in lines), default=0.0) or 1.0
    cells: list[Html] = []
    for bar in lines:
        drawn = _rects([("now", _part(bar.now, now_of) / longest)], 0, 6)
        drawn += _rects([("before", _part(bar.before, before_of) / longest)], *_BELOW)
        earlier = f"before {share(bar.before, before_of)}" if before_of else ""
        cells += _row(breakable(bar.name), drawn, f"{share(bar.now, now_of)} ({bar.now:,})", earlier)
    return tag("div", *cells, class_="bars")


def stacked(lines: Sequence[Stack], kinds: Sequence[str]) -> Html:
    """Each line as one bar, parted by kind in this order, with the earlier one below; in figures, the first kind."""
    cells: list[Html] = []
    for line in lines:
        now_of, before_of = sum(line.now.values()), sum(line.before.values())
        drawn = _rects([(kind, _part(line.now.get(kind, 0), now_of)) for kind in kinds], 0, 6)
        drawn += _rects([(kind, _part(line.before.get(kind, 0), before_of)) for kind in kinds], *_BELOW)
        name = tag("mark", breakable(line.name), " \u26a0") if line.marked else breakable(line.name)
        first = kinds[0] if kinds else ""
        earlier = f"before {share(line.before.get(first, 0), before_of)}" if before_of else ""
        cells += _row(name, drawn, f"{share(line.now.get(first, 0), now_of)} {first}", earlier)
    return tag("div", *cells, class_="bars")


def _row(name: Html, drawn: Sequence[Html], value: str, earlier: str) -> list[Html]:
    small = [tag("small", earlier)] if earlier else []
    height = _BELOW[0] + _BELOW[1] if earlier else 6
    return [
        tag("div", name, class_="name"), _svg(drawn, height, "bar"), tag("div", value, *small, class_="value")
    ]  # fmt: skip


def _rects(parts: Sequence[tuple[str, float]], top: float, height: float) -> list[Html]:
    """Side by side; parts: (colour, width 0 to 1)."""
    drawn, at = [], 0.0
    for colour, width in parts:
        if width:
            drawn.append(_rect(at, top, width * _WIDTH, height, colour))
        at += width * _WIDTH
    return drawn


def key(kinds: Mapping[str, str]) -> Html:
    """What the colours mean: words by kind."""
    dots = (tag("span", _svg([_rect(0, 0, _WIDTH, 10, kind)], 10, ""), words) for kind, words in kinds.items())
    return tag("div", *dots, class_="key")


def histogram(now: Sequence[float], before: Sequence[float], ends: tuple[str, str], words: str) -> Html:
    """Shares of each bin as bars, the earlier ones as a line of steps. words: the picture, told."""
    top = max((*now, *before), default=0.0) or 1.0
    step = _WIDTH / len(now)
    drawn = [
        _rect(i * step + step * 0.08, _HEIGHT * (1 - height / top), step * 0.84, _HEIGHT * height / top, "now")
        for i, height in enumerate(now)
    ]
    if before:
        drawn.append(_line([(x, h / top) for i, h in enumerate(before) for x in (i * step, (i + 1) * step)], "ink"))
    return _figure(_svg(drawn, _HEIGHT, "plot", words), f"highest {100 * top:.0f} %", ends, words)


def curve(values: Sequence[float], top_words: str, ends: tuple[str, str], words: str, cuts: Sequence[float]) -> Html:
    """Values over equal stretches of time, from 0 up. cuts: where it was begun again, 0 to 1."""
    top = max(values, default=0.0) or 1.0
    step = _WIDTH / max(len(values), 1)
    steps = [(x, value / top) for i, value in enumerate(values) for x in (i * step, (i + 1) * step)]
    outline = " ".join(_point(*point) for point in [(0.0, 0.0), *steps, (_WIDTH, 0.0)])
    drawn = [tag("polygon", points=outline, style="fill: var(--now)", opacity="0.25"), _line(steps, "now")]
    drawn += [_line([(cut * _WIDTH, 0.0), (cut * _WIDTH, 1.0)], "warn") for cut in cuts]
    return _figure(_svg(drawn, _HEIGHT, "plot tall", words), top_words, ends, words)


def _figure(picture: Html, top: str, ends: tuple[str, str], words: str) -> Html:
    below = tag("div", tag("span", ends[0]), tag("span", ends[1]), class_="ends")
    return tag("figure", tag("div", tag("span", top), class_="ends"), picture, below, tag("figcaption", words))


def _part(count: float, whole: float) -> float:
    return count / whole if whole else 0.0


def _rect(x: float, y: float, width: float, height: float, colour: str) -> Html:
    return tag(
        "rect", x=f"{x:.2f}", y=f"{y:.2f}", width=f"{width:.2f}", height=f"{height:.2f}",
        style=f"fill: var(--{colour})",
    )  # fmt: skip


def _line(points: Sequence[tuple[float, float]], colour: str) -> Html:
    """points: x in units, height 0 to 1."""
    return tag(
        "polyline", points=" ".join(_point(*point) for point in points), fill="none",
        style=f"stroke: var(--{colour}); stroke-width: 1.5px", vector_effect="non-scaling-stroke",
    )  # fmt: skip


def _point(x: float, height: float) -> str:
    return f"{x:.2f},{_HEIGHT * (1 - height):.2f}"


def _svg(drawn: Sequence[Html], height: float, kind: str, words: str = "") -> Html:
    """A picture that is told in words is one to a screen reader; a bar, whose numbers stand beside it, is not."""
    told = {"role": "img", "aria_label": words} if words else {"aria_hidden": "true"}
    return tag(
        "svg",
        join(drawn),
        viewBox=f"0 0 {_WIDTH:g} {height:g}",
        preserveAspectRatio="none",
        class_=kind or None,
        **told,
    )
