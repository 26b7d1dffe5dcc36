"""The comparison as one picture: reports per hour of each system, with the spread over the rounds and the bound."""

from importlib.util import find_spec
from pathlib import Path

from radlite_batch.bench.figures import Result

_BAR, _REFERENCE, _LINE = "#9aa7b5", "#1f6f8b", "#b03a2e"


def can_draw() -> bool:
    return find_spec("matplotlib") is not None


def draw(result: Result, reference: str, path: Path) -> None:
    """Writes the picture; the suffix of `path` says in which format (png, svg, pdf). Needs matplotlib."""
    from matplotlib.figure import Figure

    names = sorted(result.systems, key=lambda name: result.systems[name].rate.median)
    rates = [result.systems[name].rate for name in names]
    bound = result.bound.median
    figure = Figure(figsize=(8, 1.6 + 0.6 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh(
        [name.replace("_", " ") for name in names],
        [rate.median for rate in rates],
        xerr=[[r.median - r.least for r in rates], [r.most - r.median for r in rates]],
        color=[_REFERENCE if name == reference else _BAR for name in names],
        error_kw={"capsize": 4, "lw": 1},
        height=0.6,
    )
    for bar, rate in zip(bars, rates, strict=True):
        middle = bar.get_y() + bar.get_height() / 2
        axes.text(rate.most + bound * 0.015, middle, f"{rate.median:,.0f}", va="center")
    axes.axvline(bound, color=_LINE, ls="--", lw=1)
    axes.text(bound, len(names) - 0.45, f"bound {bound:,.0f} ", color=_LINE, ha="right", va="bottom")
    axes.set_xlim(0, max(bound, *(rate.most for rate in rates)) * 1.12)
    axes.set_ylim(-0.6, len(names) - 0.1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("reports per hour (median, least and most of the rounds)")
    axes.set_title(
        f"{result.reports} reports, {len(result.tasks)} tasks, {result.machine['cores']} cores of "
        f"{result.machine['cpu']}", loc="left", fontsize=10,
    )  # fmt: skip
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=160)
