"""A reproduction as CSV files, pictures and one page."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from radlite_batch.tasks.registry import TASKS
from training import figures, tables
from training.datasets import picture
from training.figures import Panel, Point, Series
from training.page import Section, write_csv, write_page
from training.tables import MODELS, PUBLISHED, PUBLISHED_CLASS, RADS, SYSTEM_NAMES, WRITTEN, Document, Packs, Score

_TITLE = "RadLite's tables and figures for two packs, beside the published ones"


def write_report(document: Document, out: Path) -> None:
    """Writes OUT/index.html, OUT/tables/*.csv and, where matplotlib is installed, OUT/figures/*.svg."""
    packs = tables.read_packs(document)
    for folder in (out / "tables", out / "figures"):
        folder.mkdir(exist_ok=True)
    sections = _sections(document, packs, _draw(document, packs, out / "figures") if picture.can_draw() else {})
    whole = (tables.every_score(document), tables.every_difference(document))
    for table in (*whole, *(table for section in sections for table in section.tables)):
        write_csv(table, out / "tables")
    write_page(out / "index.html", _TITLE, sections)


def _sections(document: Document, packs: Packs, drawn: Mapping[int, Path]) -> list[Section]:
    sections = [
        Section("What is compared", _about(document), (tables.packs_table(packs), tables.samples(document))),
        Section("1. Training data", (), (tables.mix(document),), drawn.get(1)),
        Section(
            "2. Zero-shot against tuned", _READING,
            (tables.results(packs), tables.paired(packs, document), tables.by_source(packs)),
            drawn.get(2),
        ),
        Section("3. Nine tasks", (_ENSEMBLE,), (tables.ensemble(packs),), drawn.get(3)),
        Section("4. RADS systems", _SYSTEMS, (tables.systems(packs),), drawn.get(4)),
        Section("5. Few-shot", _few_shot(packs), (tables.few_shot(packs, document),), drawn.get(5)),
        Section("6. Severity", (_SEVERITY,), (tables.severity(packs),), drawn.get(6)),
        Section("7. Deployment", (_speed(document),), (tables.deployment(packs),), drawn.get(7)),
    ]  # fmt: skip
    if drawn:
        return sections
    return [Section("Figures", ("They need matplotlib, which is not installed; here are the tables.",)), *sections]


_READING = (
    "In square brackets: the 95 % interval by bootstrap, over patients where they are known. n: the samples scored; an "
    "answer that is missing or cannot be read is wrong. Majority: the score of always giving the reference's most "
    "frequent answer. By rule: that of answers by keyword rules, and for inference of a classifier that is shown the "
    "hypothesis alone. Where neither makes sense, there is none. ROUGE-L and BLEU of spans are over lists that hold a "
    "line for every class, so that an empty list scores too: read them beside exact F1.",
    "The published numbers are of other samples, whose splits are not stated; beside ours they show the order of size, "
    "not which model is better. p is McNemar's, exact, for accuracies.",
)
_ENSEMBLE = (
    "The ensemble is an oracle: it gives each task to the pack that scored better on these very samples, so its scores "
    "are a bound, not a measurement. In the figure, what has no score counts as 0."
)
_SYSTEMS = (
    "The published README and the published picture disagree; both stand here.",
    "LR-TR: the treatment responses of LI-RADS, a group of their own in the picture. Ours count under LI-RADS too.",
)
_SEVERITY = (
    "By the line between acting and waiting: dangerous, the reference is actionable and the answer is not, or there is "
    "none; needless, the other way round; same side, another label that leads to the same. By rank: over-call and "
    "under-call are steps of the system's scale, subcategories among them; same tier is a category of equal rank, or a "
    "tier without its subcategory; incomparable is another system or a category off the scale. The published rule is "
    "not stated; its classes stand beside those of the line, which they resemble."
)


def _about(document: Document) -> list[str]:
    """Where the samples come from and who wrote them."""
    written: dict[str, list[int]] = {}
    for row in document["samples"]:
        counts = written.setdefault(row["task"], [0, 0])
        counts[0] += row["n"] if row["source"] in WRITTEN else 0
        counts[1] += row["n"]
    lines = [f"{task.replace('_', ' ')} {own:,} of {n:,}" for task, (own, n) in written.items() if own]
    missing = [task.replace("_", " ") for task in TASKS if task not in written]
    about = [
        f"At most {document['limit']:,} held-out samples of each task, of each source as many, the test split before "
        "the development split; reports to which no RADS applies are left out of RADS. No report, and no group of "
        "reports of one patient, is in two splits. The development split may have chosen a tuned pack's checkpoint."
    ]
    if lines:
        about.append(
            f"Written by this project, texts and labels, and nobody's records: {'; '.join(lines)}. A score on them "
            "says how well a pack does what the project asks of it, not how well it reads real reports."
        )
    if missing:
        about.append(f"Without a held-out sample, and so without a score: {', '.join(missing)}.")
    return about


def _few_shot(packs: Packs) -> list[str]:
    native = [pack.label for pack in packs if pack.document["style"] == "native"]
    how = (
        "Three reports of the training split, of three RADS systems, stand before each report with their labels, in "
        "the text of the report, laid out as the prompt lays out a report; the question follows. They are the same "
        "three for every report."
    )
    return [how, *(f"{label}: not applicable, a native prompt has no words." for label in native)]


def _speed(document: Document) -> str:
    host = document["host"]
    return (
        f"Measured in the RADS run on {host['cpu']}, {host['cores']} cores, by one worker: tokens/s are all that go "
        "through the model, those of the prompts, each once however many questions share it, and the written ones. The "
        "published ones are of a desktop processor with 4 threads, one prompt after another. GB on disk: of the files "
        "that ran, each once however many models share it."
    )


def _draw(document: Document, packs: Packs, folder: Path) -> dict[int, Path]:
    """The seven figures, by number."""
    paths = {number: folder / f"figure-{number}.svg" for number in range(1, 8)}
    with figures.style():
        picture.draw(document["mix"], paths[1])
    tasks = _task_panels(packs)
    figures.bars(paths[2], [*TASKS], tasks, "score")
    figures.radar(paths[3], [*TASKS], tasks)
    figures.heat(paths[4], tables.RADS_GROUPS, _systems(packs))
    figures.bars(paths[5], ["all", *SYSTEM_NAMES], [_changes(document)], "difference")
    figures.bars(paths[6], [*PUBLISHED_CLASS], [_shares(packs)], "share")
    figures.scatter(paths[7], _points(packs), "GB on disk", "RADS accuracy")
    return paths


def _task_panels(packs: Packs) -> list[Panel]:
    shown = {task: tables.shown(packs, task) for task in TASKS}
    measured = [_series(p.label, ((task, p.score(task, metric)) for task, metric in shown.items())) for p in packs]
    rows = [row for row in PUBLISHED["results"] if row["origin"] == "README"]
    published = [
        series
        for group, key in (("zero-shot", "zero_shot"), ("tuned", "tuned"))
        for series in _published(group, {row["task"]: row[key] for row in rows if key in row})
    ]
    return [Panel("Measured here", measured), Panel("Published (README)", published)]


def _systems(packs: Packs) -> list[Series]:
    groups = tables.RADS_GROUPS
    measured = [_series(p.label, ((name, p.score(RADS, "accuracy", name)) for name in groups)) for p in packs]
    published = [
        series
        for origin in ("README", "figure")
        for series in _published(
            f"({origin})", {row["system"]: row["tuned"] for row in PUBLISHED["systems"] if row["origin"] == origin}
        )
    ]
    return measured + published


def _changes(document: Document) -> Panel:
    measured: dict[str, list[tuple[str, Score]]] = {}
    for row in tables.shot_changes(document):
        measured.setdefault(row["one"], []).append((row["of"] or "all", {**row, "value": row["difference"]}))
    published = {row["system"]: row["difference"] for row in PUBLISHED["few_shot"]}
    beside = Series(f"{MODELS[1]} (published)", published, grey=True)
    return Panel("Three-shot less zero-shot RADS accuracy", [*(_series(*pair) for pair in measured.items()), beside])


def _shares(packs: Packs) -> Panel:
    measured = [_series(p.label, ((c, p.score(RADS, "severity", c)) for c in PUBLISHED_CLASS)) for p in packs]
    published = {row["class"]: row["tuned"] for row in PUBLISHED["severity"]}
    beside = {ours: published[theirs] for ours, theirs in PUBLISHED_CLASS.items()}
    return Panel("RADS answers", [*measured, *_published("tuned (published)", beside, grey=True)])


def _points(packs: Packs) -> list[Point]:
    """What has a file and a RADS accuracy."""
    points = []
    for label, _, gigabytes, speed, _, accuracy, _ in tables.deployment(packs).rows:
        if accuracy is not None and gigabytes:
            measured = isinstance(accuracy, Mapping)
            height = accuracy["value"] if measured else accuracy
            text = f"{label}\n{speed:,.{1 if speed < 100 else 0}f} tokens/s" if speed else label
            points.append(Point(text, gigabytes, height, measured))
    return points


def _series(label: str, scores: Iterable[tuple[str, Score | None]]) -> Series:
    known = {name: score for name, score in scores if score}
    values = {name: score["value"] for name, score in known.items()}
    return Series(label, values, {name: (score["low"], score["high"]) for name, score in known.items()})


def _published(label: str, rows: Mapping[str, list[float]], grey: bool = False) -> list[Series]:
    """A series for each published model."""
    return [
        Series(f"{model} {label}", {name: pair[i] for name, pair in rows.items()}, grey=grey)
        for i, model in enumerate(MODELS)
    ]
