"""What a reproduction measured, in the published tables and with the published numbers beside them."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from radlite_batch.tasks.rads_systems import SYSTEMS
from radlite_batch.tasks.registry import TASKS
from training.datasets.mix import GROUPS
from training.datasets.registry import SOURCES
from training.measures import TREATED
from training.page import Cell, Table
from training.rads_scores import BY_LINE, BY_RANK

Document = Mapping[str, Any]
Score = Mapping[str, Any]

RADS, FEW_SHOT = "rads_assignment", "few_shot"
SYSTEM_NAMES = tuple(system.name for system in SYSTEMS)
RADS_GROUPS = (*SYSTEM_NAMES, TREATED)
PUBLISHED = tomllib.loads((Path(__file__).parent / "published.toml").read_text(encoding="utf-8"))
MODELS: tuple[str, ...] = tuple(PUBLISHED["models"])
FOUR = tuple(f"{model} {group}" for group in ("zero-shot", "tuned") for model in MODELS)
WRITTEN = ("corpus", "composed")  # sources whose texts this project wrote
PUBLISHED_CLASS = {"exact": "exact", "same_side": "safe", "needless": "over-call", "dangerous": "under-call"}
_FACTS = ("n", "majority", "by rule")


class Measured:
    """One pack's scores, to be looked up by archive, metric, what the metric is about, and source."""

    def __init__(self, pack: Document):
        self.label, self.document = str(pack["label"]), pack
        self._scores = {(s["archive"], s["metric"], s["of"], s["source"]): s for s in pack["scores"]}

    def score(self, archive: str, metric: str, of: str = "", source: str = "") -> Score | None:
        return self._scores.get((archive, metric, of, source))

    def sources(self) -> list[tuple[str, str]]:
        """Archives with each source, or source-subset, that they hold."""
        return list(dict.fromkeys((archive, source) for archive, _, _, source in self._scores if source))

    def metrics(self, archive: str) -> list[str]:
        return [metric for name, metric, of, source in self._scores if (name, of, source) == (archive, "", "")]


Packs = Sequence[Measured]


def read_packs(document: Document) -> list[Measured]:
    return [Measured(pack) for pack in document["packs"]]


def shown(packs: Packs, task: str) -> str:
    """The metric that stands for a task: the published one where it was measured, else the first that was."""
    measured = [metric for pack in packs for metric in pack.metrics(task)]
    published = [row["metric"] for row in PUBLISHED["results"] if row["task"] == task]
    return next((metric for metric in (*published, *measured) if metric in measured), "")


def samples(document: Document) -> Table:
    rows = [
        (row["task"], row["source"], row["split"], row["n"], "yes" if row["source"] in WRITTEN else "no", terms)
        for row in document["samples"]
        for terms in [SOURCES[row["source"]].terms if row["source"] in SOURCES else ""]
    ]
    head = ("task", "source", "split", "n", "text written by this project", "terms")
    return Table("samples", "Held-out samples", head, rows)


def packs_table(packs: Packs) -> Table:
    rows = [
        (pack.label, pack.document["style"], pack.document["about"], pack.document["licence"], model, file["sha256"])
        for pack in packs
        for model, file in pack.document["models"].items()
    ]
    return Table("packs", "Packs", ("pack", "prompts", "about", "licence", "model", "sha256"), rows)


def mix(document: Document) -> Table:
    """Training samples by task and group of tasks, then those of RADS by system."""
    trained, weights = document["mix"]["tasks"], document["mix"]["weights"]
    counts = {task: trained.get(task, {}).get("train", {}).get("samples", 0) for task in TASKS}
    published = {row["task"]: row for row in PUBLISHED["mix"]}
    rows: list[Sequence[Cell]] = [
        ("task", task, count, weights.get(task, 1.0), published[task]["samples"], published[task]["weight"])
        for task, count in counts.items()
    ]
    rows += [
        ("group", row["group"], sum(counts[task] for task in GROUPS[row["group"]]), None, row["samples"], None)
        for row in PUBLISHED["mix_groups"]
    ]
    systems = trained.get(RADS, {}).get("train", {}).get("labels", {}).get("system", {})
    drawn = {row["system"]: row["samples"] for row in PUBLISHED["mix_systems"]}
    rows += [("RADS system", name, systems.get(name, 0), None, drawn.get(name), None) for name in
             dict.fromkeys((*SYSTEM_NAMES, *systems))]  # fmt: skip
    head = ("of", "name", "training samples", "weight", "published samples", "published weight")
    return Table("mix", "Training samples and sampling weights", head, rows)


def results(packs: Packs) -> Table:
    rows: list[Sequence[Cell]] = []
    for task in TASKS:
        published = [row for row in PUBLISHED["results"] if row["task"] == task]
        measured = [metric for pack in packs for metric in pack.metrics(task)]
        for metric in dict.fromkeys((*(row["metric"] for row in published), *measured)):
            beside = [row for row in published if row["metric"] == metric] or [{}]
            for i, row in enumerate(beside):  # where two sources disagree, the second has a row of its own
                four = (*row.get("zero_shot", (None, None)), *row.get("tuned", (None, None)))
                known = _scores(packs, task, metric) if i == 0 else (None,) * (len(packs) + len(_FACTS))
                rows.append((task, metric, *known, *four, row.get("origin", "")))
    head = ("task", "metric", *_labels(packs), *_FACTS, *FOUR, "published in")
    return Table("results", "Every task", head, rows)


def _labels(packs: Packs) -> tuple[str, ...]:
    return tuple(pack.label for pack in packs)


def _scores(packs: Packs, archive: str, metric: str, of: str = "", source: str = "") -> tuple[Cell, ...]:
    """Each pack's score, then what holds for all of them: n and the scores of answers that need no model."""
    scores = [pack.score(archive, metric, of, source) for pack in packs]
    fact: Score = next((score for score in scores if score), {})
    return (*scores, fact.get("n"), fact.get("majority"), fact.get("baseline"))


def by_source(packs: Packs) -> Table:
    pairs = dict.fromkeys(pair for pack in packs for pair in pack.sources() if pair[0] in TASKS)
    rows = [
        (task, source, metric, *_scores(packs, task, metric, source=source))
        for task, source in pairs
        for metric in [shown(packs, task)]
    ]
    return Table("by_source", "Each source by itself", ("task", "source", "metric", *_labels(packs), *_FACTS), rows)


def ensemble(packs: Packs) -> Table:
    """Routed by an oracle: each task to the pack that scored better on these very samples."""
    two = packs[-2:]
    rows: list[Sequence[Cell]] = []
    for task in TASKS:
        metric = shown(two, task)
        scored = [(pack, score) for pack in two if (score := pack.score(task, metric))]
        published = next(row for row in PUBLISHED["results"] if row["task"] == task)
        best, chosen = max(published["tuned"]), MODELS[published["tuned"].index(max(published["tuned"]))]
        if scored:
            pack, score = max(scored, key=lambda pair: pair[1]["value"])
            known = (metric, pack.label, score, score["n"], score["majority"])
            rows.append((task, *known, published["metric"], chosen, best))
    head = ("task", "metric", "better", "score", "n", "majority", "published metric", "better", "published")
    return Table("ensemble", "Task-routed ensemble", head, rows)


def paired(packs: Packs, document: Document) -> Table:
    """By each task's metric alone; the other differences are in every_difference."""
    metrics = {task: shown(packs, task) for task in TASKS} | {FEW_SHOT: "accuracy"}
    rows = [
        (row["archive"], row["metric"], row["one"], row["than"],
         {"value": row["difference"], "low": row["low"], "high": row["high"]}, row["n"], row["p"])
        for row in document["paired"]
        if not row["of"] and row["metric"] == metrics[row["archive"]]
    ]  # fmt: skip
    head = ("samples", "metric", "pack", "less", "difference", "n", "p")
    return Table("paired", "Paired differences on the same samples", head, rows)


def every_difference(document: Document) -> Table:
    rows = [tuple(row.values()) for row in document["paired"]]
    return Table("differences", "Every paired difference", next(map(tuple, document["paired"]), ()), rows)


def systems(packs: Packs) -> Table:
    """Accuracy of each RADS system, and of treatment responses, beside both published sources."""
    readme, figure = (
        {row["system"]: row for row in PUBLISHED["systems"] if row["origin"] == origin}
        for origin in ("README", "figure")
    )
    rows = [
        (
            name, *_scores(packs, RADS, "accuracy", name), *readme.get(name, {}).get("tuned", (None, None)),
            readme.get(name, {}).get("n"), *figure.get(name, {}).get("tuned", (None, None)),
        )
        for name in RADS_GROUPS
    ]  # fmt: skip
    origins = (*(f"{model} (README)" for model in MODELS), "n (README)", *(f"{model} (figure)" for model in MODELS))
    return Table("systems", "Accuracy of each RADS system", ("system", *_labels(packs), *_FACTS, *origins), rows)


def few_shot(packs: Packs, document: Document) -> Table:
    published = {row["system"]: row["difference"] for row in PUBLISHED["few_shot"]}
    changes = {(row["one"], row["of"]): row for row in shot_changes(document)}
    rows = [
        (
            pack.label, name or "all", pack.score(RADS, "accuracy", name), pack.score(FEW_SHOT, "accuracy", name),
            {"value": change["difference"], "low": change["low"], "high": change["high"]}, change["n"],
            published.get(name or "all"),
        )
        for pack in packs
        for name in ("", *SYSTEM_NAMES)
        if (change := changes.get((pack.label, name)))
    ]  # fmt: skip
    head = ("pack", "system", "zero-shot", "three-shot", "difference", "n", f"published, {MODELS[1]}")
    return Table("few_shot", "Three labelled reports before the report", head, rows)


def shot_changes(document: Document) -> list[Score]:
    """Three-shot less zero-shot accuracy, of all, of each system and of treatment responses."""
    return [row for row in document["paired"] if (row["archive"], row["metric"]) == (FEW_SHOT, "accuracy")]


def severity(packs: Packs) -> Table:
    """Shares by the line between acting and waiting, beside the published ones, then by rank."""
    published = {row["class"]: row["tuned"] for row in PUBLISHED["severity"]}
    rows = [
        ("by line", name, *_scores(packs, RADS, "severity", name), PUBLISHED_CLASS[name],
         *published[PUBLISHED_CLASS[name]])
        for name in BY_LINE
    ]  # fmt: skip
    rows += [("by rank", name, *_scores(packs, RADS, "severity", name), "", None, None) for name in BY_RANK]
    head = ("grouped", "class", *_labels(packs), *_FACTS, "published as", *MODELS)
    return Table("severity", "RADS answers by what they would lead to", head, rows)


def deployment(packs: Packs) -> Table:
    """Size and speed of what ran; the speed is that of the RADS run, inference alone, of one worker."""
    rows: list[Sequence[Cell]] = []
    for pack in packs:
        gigabytes = pack.document["bytes"] / 1e9
        speed: Score = next((speed for speed in pack.document["speed"] if speed["archive"] == RADS), {})
        seconds = speed.get("seconds") or None
        accuracy = pack.score(RADS, "accuracy")
        rows.append((
            pack.label, "measured here", gigabytes or None, seconds and speed["computed"] / seconds,
            seconds and seconds / speed["rows"], accuracy, accuracy and accuracy["n"],
        ))  # fmt: skip
    for row in PUBLISHED["deployment"]:
        rows.append((
            f"{row['model']} {row['format']}", f"published ({row['origin']})", row["gb"], row.get("tokens_per_second"),
            row.get("query_seconds"), row["accuracy"], None,
        ))  # fmt: skip
    head = ("model", "origin", "GB on disk", "tokens/s", "seconds per RADS answer", "RADS accuracy", "n")
    return Table("deployment", "Size, speed and accuracy", head, rows)


def every_score(document: Document) -> Table:
    """All that was measured, one row a score."""
    rows = [(pack["label"], *score.values()) for pack in document["packs"] for score in pack["scores"]]
    names = next((tuple(score) for pack in document["packs"] for score in pack["scores"]), ())
    return Table("scores", "Every score", ("pack", *names), rows)
