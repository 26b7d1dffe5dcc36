"""The pictures of a reproduction. Each function writes one file; the suffix of `path` says in which format.

Needs matplotlib."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

_COLOURS, _GREYS = ("#9cc4d1", "#f0cfa4", "#1f6f8b", "#d98b3a"), ("#6b7a8a", "#b9c2cc")  # two pale and two full
_STYLE: dict[Any, Any] = {  # words stay words, and the same data give the same bytes
    "svg.fonttype": "none",
    "svg.hashsalt": "radlite",
}


@dataclass(frozen=True, slots=True)
class Series:
    """values: by category, where there is one. intervals: low and high, where they are known. grey: stands for what
    the others are compared with."""

    label: str
    values: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    grey: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """Series that are drawn together."""

    title: str
    series: Sequence[Series]


@dataclass(frozen=True, slots=True)
class Point:
    label: str
    x: float
    y: float
    measured: bool


def bars(path: Path, categories: Sequence[str], panels: Sequence[Panel], ylabel: str) -> None:
    """Grouped bars, one panel below the other, over the same categories."""
    with _figure(path, (11, 3 * len(panels))) as figure:
        grid = figure.subplots(len(panels), squeeze=False, sharey=True)
        for axes, panel in zip(grid.flat, panels, strict=True):
            width = 0.84 / max(len(panel.series), 1)
            colours = _colours(panel)
            for i, series in enumerate(panel.series):
                names = [name for name in categories if name in series.values]
                places = [categories.index(name) - 0.42 + (i + 0.5) * width for name in names]
                heights = [series.values[name] for name in names]
                axes.bar(
                    places, heights, width * 0.92, label=series.label, color=colours[i],
                    yerr=_reach(series, names), error_kw={"lw": 1, "capsize": 2},
                )  # fmt: skip
            axes.axhline(0, color="black", lw=0.8)
            axes.set_xticks(range(len(categories)), [name.replace("_", "\n") for name in categories], fontsize=8)
            axes.set_xlim(-0.6, len(categories) - 0.4)
            axes.set_ylabel(ylabel)
            _finish(axes, panel)


def radar(path: Path, categories: Sequence[str], panels: Sequence[Panel]) -> None:
    """A closed line for each series over spokes from 0 to 1; what has no value counts as 0."""
    angles = np.linspace(0, 2 * np.pi, len(categories), endpoint=False)
    with _figure(path, (5.5 * len(panels), 5.5)) as figure:
        grid = figure.subplots(1, len(panels), squeeze=False, subplot_kw={"projection": "polar"})
        for axes, panel in zip(grid.flat, panels, strict=True):
            for series, colour in zip(panel.series, _colours(panel), strict=True):
                values = [series.values.get(name, 0.0) for name in categories]
                closed = [*zip(angles, values, strict=True), (angles[0], values[0])]
                axes.plot(*zip(*closed, strict=True), label=series.label, color=colour)
            axes.set_xticks(angles, [name.replace("_", "\n") for name in categories], fontsize=8)
            axes.set_ylim(0, 1)
            axes.set_title(panel.title, fontsize=10)
            axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.1))


def heat(path: Path, rows: Sequence[str], columns: Sequence[Series]) -> None:
    """A cell for each row and series, coloured from 0 to 1, empty where there is no value."""
    cells = np.array([[series.values.get(name, np.nan) for series in columns] for name in rows])
    with _figure(path, (2 + 1.3 * len(columns), 1.5 + 0.38 * len(rows))) as figure:
        axes = figure.add_subplot()
        axes.imshow(cells, cmap="YlGnBu", vmin=0, vmax=1, aspect="auto")
        for y, x in np.argwhere(~np.isnan(cells)):
            shade = "white" if cells[y, x] > 0.55 else "black"
            axes.text(x, y, f"{cells[y, x]:.2f}", ha="center", va="center", fontsize=8, color=shade)
        axes.set_xticks(range(len(columns)), [series.label.replace(", ", "\n") for series in columns], fontsize=8)
        axes.set_yticks(range(len(rows)), rows, fontsize=8)
        axes.spines[:].set_visible(False)


def scatter(path: Path, points: Sequence[Point], xlabel: str, ylabel: str) -> None:
    """Labelled points, filled where they were measured here; x is above 0, on a logarithmic axis."""
    with _figure(path, (9, 5)) as figure:
        axes = figure.add_subplot()
        for i, point in enumerate(sorted(points, key=lambda point: point.x)):
            colour = _COLOURS[2] if point.measured else _GREYS[0]
            axes.scatter(point.x, point.y, s=60, color=colour if point.measured else "none", edgecolors=colour)
            above = i % 2 == 0  # neighbours' labels would lie on one another
            axes.annotate(
                point.label, (point.x, point.y), (0, 9 if above else -9), textcoords="offset points", fontsize=8,
                ha="center", va="bottom" if above else "top",
            )  # fmt: skip
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        axes.set_ylim(0, 1)
        axes.margins(x=0.15)
        axes.spines[["top", "right"]].set_visible(False)


def inline(path: Path) -> str:
    """An SVG file as an element of a page, its ids made its own by the name of the file."""
    svg = path.read_text(encoding="utf-8")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{path.stem}-", svg)


@contextmanager
def style() -> Iterator[None]:
    """How every picture of a page is written."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        yield


@contextmanager
def _figure(path: Path, size: tuple[float, float]) -> Iterator[Any]:
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=size, layout="constrained")
        yield figure
        figure.savefig(path)


def _colours(panel: Panel) -> list[str]:
    """Of each series; one or two beside the grey ones are in the full colours."""
    grey = [i for i, series in enumerate(panel.series) if series.grey]
    full = _COLOURS[2:] if len(panel.series) - len(grey) <= 2 else _COLOURS
    return [_GREYS[grey.index(i) % 2] if series.grey else full[i % len(full)] for i, series in enumerate(panel.series)]


def _reach(series: Series, names: Sequence[str]) -> list[list[float]] | None:
    """How far the intervals reach below and above the values."""
    if not series.intervals:
        return None
    around = [(series.values[name], *series.intervals.get(name, (series.values[name],) * 2)) for name in names]
    return [[max(0.0, value - low) for value, low, _ in around], [max(0.0, high - value) for value, _, high in around]]


def _finish(axes: Any, panel: Panel) -> None:
    axes.set_title(panel.title, loc="left", fontsize=10)
    if panel.series:
        axes.legend(frameon=False, fontsize=8, ncols=6, loc="lower right", bbox_to_anchor=(1, 1))
    axes.spines[["top", "right"]].set_visible(False)
