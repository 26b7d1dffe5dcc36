"""What changed between two runs over the same reports: a page of its own, and a section of the morning page."""

import polars as pl

from radlite_batch.diff import STEPS, Diff, TaskDiff, flow_name
from radlite_batch.pages.charts import Bar, bars, histogram
from radlite_batch.pages.html import Html, card, page, section, share, table, tag, tile
from radlite_batch.storage import title

_FLOWS, _EXAMPLES, _WIDTH = 12, 10, 90  # of a list; characters of an answer


def diff_page(diff: Diff) -> bytes:
    heading = f"{title(diff.before)} \u2192 {title(diff.after)}"
    tiles = tag(
        "div",
        tile(f"{diff.tasks[0].rows:,}", f"rows of both, matched by {diff.key}"),
        tile(f"{sum(each.changes.height for each in diff.tasks):,}", "answers changed"),
        tile(f"{diff.unmatched[0]:,} and {diff.unmatched[1]:,}", "rows of the two without a partner"),
        class_="tiles",
    )
    same = tag("p", "Nothing but the archive may differ.")
    what = table(("key", "before", "after"), diff.identity) if diff.identity else same
    return page(heading, tag("h1", heading), tiles, diff_section(diff), section("What is not the same", what))


def diff_section(diff: Diff) -> Html:
    rows = max(each.rows for each in diff.tasks)
    changed = bars([Bar(each.task, each.changes.height) for each in diff.tasks], rows)
    about = (
        f"Rows whose answer is another than in {title(diff.before)}, of {rows:,} that both runs have. "
        "Answers in words and the text of spans are left out."
    )
    cards = (_task(each) for each in diff.tasks if each.changes.height)
    return section("Changed answers", tag("p", about, class_="soft"), changed, *cards)


def _task(each: TaskDiff) -> Html:
    parts: list[Html] = []
    if each.flows:
        total = sum(flow.count for flow in each.flows)
        shown = each.flows[:_FLOWS]
        rest = total - sum(flow.count for flow in shown)
        parts.append(tag("h4", f"From label to label: {total:,} changes"))
        parts.append(bars([Bar(flow_name(flow), flow.count) for flow in shown], total))
        if rest:
            parts.append(tag("p", f"{share(rest, total)} are rarer ones.", class_="soft"))
    if each.mean_step is not None:
        total = each.steps.total()
        words = f"change of confidence, mean {each.mean_step:+.3f}, over {total:,} rows answered by both"
        parts.append(histogram([each.steps[i] / total for i in range(STEPS)], [], ("-1", "+1"), words))
    surest = each.changes.sort("confidence_after", descending=True, nulls_last=True).head(_EXAMPLES)
    parts.append(_examples(surest, each.changes.height))
    return tag("div", card(each.task, *parts, wide=True), style="margin-top: 1rem")


def _examples(rows: pl.DataFrame, of: int) -> Html:
    head = ("row", "report", "before", "after", "confidence", "was")
    body = [
        (row["source_row"], row["report_id"] or "-", _short(row["before"]), _short(row["after"]),
         row["confidence_after"], row["confidence_before"])
        for row in rows.iter_rows(named=True)
    ]  # fmt: skip
    return table(head, body, f"{rows.height} of {of:,} changed rows, those the later run is surest of")


def _short(answer: str) -> str:
    return answer if len(answer) <= _WIDTH else f"{answer[:_WIDTH].rpartition(' ')[0]} ..."
