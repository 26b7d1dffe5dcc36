"""What was prepared as one picture: samples of each task, group of tasks and RADS system, and sampling weights."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from training.datasets.mix import GROUPS

_TRAIN, _HELD_OUT = "#1f6f8b", "#9aa7b5"


def can_draw() -> bool:
    return find_spec("matplotlib") is not None


def draw(document: Mapping[str, Any], path: Path) -> None:
    """Writes the picture of a prepare.json; the suffix of `path` says in which format. Needs matplotlib."""
    from matplotlib.figure import Figure

    tasks = document["tasks"]
    train = {name: counts.get("train", {}).get("samples", 0) for name, counts in tasks.items()}
    held_out = {name: sum(part["samples"] for part in counts.values()) - train[name] for name, counts in tasks.items()}
    systems = tasks.get("rads_assignment", {}).get("train", {}).get("labels", {}).get("system", {})
    groups = {group: sum(train.get(name, 0) for name in names) for group, names in GROUPS.items()}
    figure = Figure(figsize=(12, 8), layout="constrained")
    axes = figure.subplots(2, 2).flat
    _bars(axes[0], "Samples of each task", train, held_out)
    _bars(axes[1], "RADS systems, training", systems)
    _bars(axes[2], "Groups of tasks, training", groups)
    _bars(axes[3], "Sampling weights", {name: document["weights"].get(name, 1.0) for name in tasks})
    figure.savefig(path, dpi=160)


def _bars(axes: Any, title: str, counts: Mapping[str, float], more: Mapping[str, float] | None = None) -> None:
    names = sorted(counts, key=lambda name: -counts[name])[::-1]
    labels = [name.replace("_", " ") for name in names]
    values = [counts[name] for name in names]
    axes.barh(labels, values, color=_TRAIN, label="training")
    ends = values
    if more:
        held_out = [more[name] for name in names]
        axes.barh(labels, held_out, left=values, color=_HELD_OUT, label="held out")
        ends = [a + b for a, b in zip(values, held_out, strict=True)]
        axes.legend(frameon=False, loc="lower right")
    for row, (value, end) in enumerate(zip(values, ends, strict=True)):
        axes.text(end, row, f" {value:,g}" if value < 1000 else f" {value:,.0f}", va="center", fontsize=8)
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlim(0, max(ends, default=1) * 1.15 or 1)
    axes.spines[["top", "right"]].set_visible(False)
