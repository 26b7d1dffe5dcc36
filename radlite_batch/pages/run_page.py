"""The morning page: what a run did and whether it looks like the runs before it."""

import datetime
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from radlite_batch.drift import Drift, drift_keys, length_range
from radlite_batch.pages.charts import Bar, Stack, bars, curve, histogram, key, stacked
from radlite_batch.pages.html import Html, card, join, page, section, share, table, tag, tile
from radlite_batch.pages.timeline import timeline
from radlite_batch.records import STATUSES
from radlite_batch.report import BINS, RunFigures, Sample, TaskFigures, answer_columns, identity_changes, pooled
from radlite_batch.storage import title, url_of
from radlite_batch.tasks.registry import TASKS

_CODES = {
    0: "every row has its answer", 1: "fatal error", 2: "bad usage", 3: "stopped early, or rows failed or unparsed",
    75: "another run held the output", 130: "interrupted (SIGINT)", 143: "ended by SIGTERM",
}  # fmt: skip
_SHOWN = 15  # labels of an open list, reasons of failures; the rest is summed up
_FILES = 20
_WARN = " \u26a0"


def run_page(run: RunFigures, earlier: Sequence[RunFigures], found: Sequence[Drift], *more: Html) -> bytes:
    """earlier: runs to compare with, pooled. found: the drift between them. more: sections that come last but one."""
    before = pooled(each.sample for each in earlier)
    marked = drift_keys(found)
    name = title(run.out)
    return page(
        f"{name}: {run.status['state']}",
        tag("h1", f"{name}: {run.status['state']}"),
        tag("p", _when(run), class_="soft"),
        _tiles(run, found if earlier else None),
        _drift(earlier, found),
        _statuses(run.sample, before, marked),
        section("Labels", _before_key(before), tag("div", *_labels(run.sample, before, marked), class_="cards")),
        _confidence(run.sample, before, marked),
        _lengths(run.sample, before, marked),
        _time(run),
        _failures(run),
        *more,
        _what_ran(run, earlier),
    )


def _when(run: RunFigures) -> str:
    tasks = f"{len(run.sample.tasks)} task{'s' * (len(run.sample.tasks) != 1)}"
    what = f"Pack {run.manifest.identity['pack']}, {tasks}, {len(run.manifest.files)} file(s)"
    if not run.executions:
        return what
    return f"{what}; {_clock(run.executions[0].begin)} to {_clock(run.executions[-1].end)}"


def _clock(at: float) -> str:
    return datetime.datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M %Z")


def _tiles(run: RunFigures, found: Sequence[Drift] | None) -> Html:
    code, totals = run.status["exit_code"], run.totals
    rows = run.manifest.rows - totals.rows_filtered
    speed = timeline(run.work, run.executions, len(run.manifest.routes))
    per_hour = totals.rows_done / speed.seconds * 3600 if run.work else 0.0
    answers = sum(task.rows for task in totals.tasks.values())
    tiles = [
        tile(f"{totals.rows_done:,}", f"rows, of {rows:,}", "good" if totals.rows_done == rows else "bad"),
        tile(
            "-" if code is None else str(code),
            "exit code: " + ("none yet" if code is None else _CODES.get(code, "ended by a signal")),
            "" if code is None else "bad" if code else "good",
        ),
        tile(
            f"{totals.unanswered:,}", f"answers failed or unparsed, of {answers:,}",
            "bad" if totals.unanswered else "good",
        ),
        tile(f"{per_hour:,.0f}", f"reports per hour, over {_duration(speed.seconds)}"),
        tile(_mebibytes(run.summary.get("memory", {}).get("pss", 0)), "peak memory of all processes"),
    ]  # fmt: skip
    if found is not None:
        tiles.append(tile(str(len(found)), "drift warnings", "bad" if found else "good"))
    return tag("div", *tiles, class_="tiles")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _mebibytes(size: int) -> str:
    return f"{size >> 20:,} MiB" if size else "-"


def _drift(earlier: Sequence[RunFigures], found: Sequence[Drift]) -> Html:
    if not earlier:
        return Html()
    names = ", ".join(title(run.out) for run in earlier)
    rows = sum(run.totals.rows_done for run in earlier)
    against = f"against {rows:,} rows of {names}"
    if not found:
        return section("Drift", tag("p", f"Nothing moved beyond the thresholds and chance, {against}."))
    items = tag("ul", *(tag("li", drift.sentence) for drift in found))
    told = tag("p", f"The run differs from the earlier ones ({against}):")
    return section("Drift", tag("div", told, items, class_="warnings", role="alert"))


def _statuses(sample: Sample, before: Sample, marked: set[tuple[str, str, str]]) -> Html:
    seen = [status for status in STATUSES if any(task.status[status] for task in sample.tasks.values())]
    lines = [
        Stack(name, task.status, _earlier(before, name).status, ("status", name, "") in marked)
        for name, task in sample.tasks.items()
    ]
    rows = [(name, *(task.status[status] for status in seen)) for name, task in sample.tasks.items()]
    words = {status: status.replace("_", " ") for status in seen}
    return section("Rows by status", key(words), stacked(lines, seen), table(["task", *seen], rows))


def _earlier(before: Sample, task: str) -> TaskFigures:
    return before.tasks.get(task, TaskFigures())


def _before_key(before: Sample) -> Html:
    return key({"now": "this run", "before": "earlier"}) if before.tasks else Html()


def _labels(sample: Sample, before: Sample, marked: set[tuple[str, str, str]]) -> Iterator[Html]:
    for name, figures in sample.tasks.items():
        earlier = _earlier(before, name)
        columns = answer_columns(TASKS[name])
        if len(columns) > 1:
            yield _flags(name, figures, earlier, marked)
            continue
        for column in columns:
            now, old = figures.labels[column.name], earlier.labels.get(column.name, Counter[str]())
            if not now.total():
                continue
            flag = _WARN if ("labels", name, column.name) in marked else ""
            what = "spans" if column.type.startswith("spans:") else "answers"
            about = f"{now.total():,} {what}" + (f", before {old.total():,}" if old else "")
            lines = _bars(now, old, column.vocabulary)
            rest = now.total() - sum(line.now for line in lines)
            about += f"; {share(rest, now.total())} have rarer ones than these" if rest else ""
            shown = bars(lines, now.total(), old.total())
            yield card(f"{name}: {column.name}{flag}", tag("p", about, class_="soft"), shown)


def _bars(now: Counter[str], before: Counter[str], vocabulary: Sequence[str]) -> list[Bar]:
    """In the order of the vocabulary, else the commonest, and these first."""
    order = vocabulary or [label for label, _ in (now + before).most_common(_SHOWN)]
    return [Bar(label, now[label], before[label]) for label in order]


def _flags(name: str, figures: TaskFigures, earlier: TaskFigures, marked: set[tuple[str, str, str]]) -> Html:
    states = next(column.vocabulary for column in TASKS[name].columns if column.vocabulary)
    lines = [
        Stack(column, counts, earlier.labels.get(column, {}), ("labels", name, column) in marked)
        for column, counts in figures.labels.items()
    ]
    return card(name, key({state: state for state in states}), stacked(lines, states), wide=True)


def _confidence(sample: Sample, before: Sample, marked: set[tuple[str, str, str]]) -> Html:
    cards = []
    for name, task in sample.tasks.items():
        if task.mean_confidence is None:
            continue
        old = _earlier(before, name)
        low = sum(n for i, n in task.confidence.items() if i < BINS // 2)
        words = f"mean {task.mean_confidence:.2f}"
        words += f", before {old.mean_confidence:.2f}" if old.mean_confidence is not None else ""
        words += f"; {share(low, task.confidence.total())} below 0.5"
        picture = histogram(_shares(task.confidence), _shares(old.confidence), ("0", "1"), words)
        cards.append(card(name + (_WARN if ("confidence", name, "") in marked else ""), picture))
    if not cards:
        return Html()
    line = ", the line the earlier runs" if before.tasks else ""
    about = f"How sure the answers are: probability of the answer, shares of {BINS} equal bins{line}."
    return section("Confidence", tag("p", about, class_="soft"), tag("div", *cards, class_="cards"))


def _shares(bins: Counter[int]) -> list[float]:
    total = bins.total()
    return [bins[i] / total for i in range(BINS)] if total else []


def _lengths(sample: Sample, before: Sample, marked: set[tuple[str, str, str]]) -> Html:
    if not sample.lengths:
        return Html()
    sizes = sorted({*sample.lengths, *before.lengths})
    lines = [Bar(length_range(n), sample.lengths[n], before.lengths[n]) for n in sizes]
    flag = _WARN if ("length", "", "") in marked else ""
    shown = bars(lines, sample.lengths.total(), before.lengths.total())
    return section(f"Length of the texts{flag}", _before_key(before), shown)


def _time(run: RunFigures) -> Html:
    if not run.work:
        return Html()
    course = timeline(run.work, run.executions, len(run.manifest.routes))
    ends = ("begin", _duration(course.seconds))
    restarts = "; a line where the run was begun again" if course.restarts else ""
    peak, most = max(course.rates), max(course.memory)
    rates = curve(
        course.rates, f"{peak:,.0f} reports/hour", ends, f"reports per hour, at most {peak:,.0f}{restarts}",
        course.restarts,
    )  # fmt: skip
    words = f"memory of the workers (PSS), at most {_mebibytes(most)}{restarts}"
    memory = curve(course.memory, _mebibytes(most), ends, words, course.restarts)
    cards = tag("div", card("Throughput", rates), card("Memory", memory), class_="cards")
    tokens = run.totals.tokens
    saved = max(tokens.get("asked", 0) - tokens.get("computed", 0), 0)
    about = f"{tokens.get('computed', 0):,} tokens computed, {saved:,} saved by sharing, "
    about += f"{tokens.get('written', 0):,} written."
    head = ("began", "last sign", "ended", "exit code")
    rows = [(_clock(e.begin), _clock(e.end), e.state or "without a word", e.exit_code) for e in run.executions]
    return section("Over time", cards, tag("p", about, class_="soft"), table(head, rows, "Executions of the run"))


def _failures(run: RunFigures) -> Html:
    counted = {
        "rows outside the filter": run.totals.rows_filtered, "rows without an id": run.totals.missing_ids,
        "rows whose id another row has": run.summary.get("duplicate_ids", 0),
    }  # fmt: skip
    for name, task in run.totals.tasks.items():
        counted[f"{name}: spans that do not stand in the text"] = task.dropped_spans
        counted[f"{name}: answers cut at their limit"] = task.cut_answers
        counted[f"{name}: reports that lost their end"] = task.shortened_reports
    parts = []
    if run.failures:
        shown = [(f.rows, f.status, f.reason, _names(f.tasks, len(run.sample.tasks))) for f in run.failures[:_SHOWN]]
        rest = run.failures[_SHOWN:]
        if rest:
            shown.append((sum(f.rows for f in rest), "", f"{len(rest)} further reasons", ""))
        parts.append(table(("rows", "status", "reason", "tasks"), shown, "Failed and unparsed rows, by reason"))
    else:
        parts.append(tag("p", "No row failed, none is unparsed."))
    odd = [(n, what) for what, n in counted.items() if n]
    if odd:
        parts.append(table(("count", "what"), odd, "Counted besides"))
    return section("Failures", *parts)


def _names(tasks: Sequence[str], of: int) -> str:
    return "all" if len(tasks) == of > 1 else ", ".join(tasks)


def _what_ran(run: RunFigures, earlier: Sequence[RunFigures]) -> Html:
    identity = run.manifest.identity
    facts = [("output", url_of(run.out) or str(run.out.resolve())), ("pack", str(identity["pack"]))]
    for model, tasks in run.manifest.routes.items():
        known = identity["models"][model]
        adapter = f", adapter {known['adapter'][:12]}" if known["adapter"] else ""
        facts.append((f"model {model}", f"sha256 {known['sha256'][:12]}{adapter}: {', '.join(tasks)}"))
    facts += [(name, value) for name, value in _host(run.summary)]
    facts += [("plan", " ".join(line.split())) for line in run.summary.get("plan", ())]
    files = [(file.path, file.rows, file.sha256[:12]) for file in run.manifest.files[:_FILES]]
    caption = "Archive" + (f": the first {_FILES} of {len(run.manifest.files)} files" if len(files) == _FILES else "")
    parts = [table(("what", "value"), facts), table(("file", "rows", "sha256"), files, caption)]
    for other in earlier:
        changes = identity_changes(other.manifest, run.manifest)
        if changes:
            name = f"What is not as it was in {title(other.out)}"
            parts.append(table(("key", "before", "now"), [(k, _short(b), _short(n)) for k, b, n in changes], name))
    return section("What ran", join(parts))


def _host(summary: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    host = summary.get("host", {})
    if isinstance(host, Mapping):
        yield from ((str(name), str(value)) for name, value in host.items())


def _short(value: str) -> str:
    return value if len(value) <= 40 else f"{value[:12]}..."
