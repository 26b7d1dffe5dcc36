"""The course of a training run as a picture."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SMOOTHED = 20  # steps of the loss's running mean


def draw_curve(log: Path, history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Loss by step, and the development score of each task; nothing where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return
    losses = [json.loads(line)["loss"] for line in log.read_text(encoding="utf-8").splitlines()]
    smooth = [sum(losses[max(0, i - SMOOTHED) : i]) / min(i, SMOOTHED) for i in range(1, len(losses) + 1)]
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(range(1, len(smooth) + 1), smooth)
    left.set(xlabel="step", ylabel=f"loss, mean of {SMOOTHED} steps", ylim=(0, None))
    for task in history[-1].keys() - {"step"} if history else ():
        points = [(point["step"], point[task]) for point in history if task in point]
        right.plot(*zip(*points, strict=True), marker="o", label=task, linewidth=3 if task == "mean" else 1)
    right.set(xlabel="step", ylabel="development: share right")
    if history:
        right.legend(fontsize="small")
    figure.savefig(path)
