"""What changed since the prior study (change classes of RadGraph2, Khanna et al. 2023, without its device split)."""

import re

from radlite_batch.errors import Unparsed
from radlite_batch.records import Prediction, Report
from radlite_batch.tasks.base import Block, Column, Question, Spans, strip_think
from radlite_batch.tasks.spans import SpanTask, align

LABELS = ("new", "worsened", "improved", "resolved", "unchanged")
_BULLET = re.compile(r"^\s*-\s*\[([^\]]+)\]\s*(.*?)\s*(?:\(related to:\s*(.*?)\s*\))?\s*$", re.MULTILINE)
# Published class names, by the part that tells them apart; devices fold into the change they mean.
_CLASSES = {
    "disappear": "resolved", "remov": "resolved", "resol": "resolved", "wors": "worsened", "improv": "improved",
    "no change": "unchanged", "placement": "unchanged", "new": "new", "appear": "new",
}  # fmt: skip


class TemporalComparison(SpanTask):
    name = "temporal_comparison"
    about = "findings that changed, with offsets"
    needs = "text (prior_text where there is one)"
    column = headline = "changes"
    text_key = "finding"
    label_key = "change"
    questions = (
        Question(
            "changes",
            Spans(LABELS, "NWIRU", tuple(label.capitalize() for label in LABELS), max_tokens=32),
            "List the findings that changed since the prior study, copied from the report and separated by "
            "semicolons, one line for each class: " + ", ".join(f"{label.capitalize()}:" for label in LABELS),
        ),
    )
    columns = (
        Column("changes", "spans:finding:change", "report[start:end] == finding, offsets in code points", LABELS),
    )
    metrics = ("exact_f1", "relaxed_f1", "jaccard")

    def blocks(self, report: Report) -> tuple[Block, ...] | None:
        blocks = super().blocks(report)
        prior = report.fields.get("prior_text", "")
        return (*blocks, Block("prior", prior)) if blocks and prior.strip() else blocks

    def parse(self, raw: str, blocks: tuple[Block, ...]) -> Prediction:
        bullets = _BULLET.findall(strip_think(raw))
        if not bullets:
            return super().parse(raw, blocks)
        terms: list[tuple[str, str]] = []
        unknown = 0
        for name, trigger, finding in bullets:
            label = next((label for part, label in _CLASSES.items() if part in name.casefold()), None)
            if label is None:
                unknown += 1
                continue
            # A change of nothing in particular ("general") stands at the word that says it.
            term = finding if finding and align(blocks[0].text, [(finding, label)])[0] else trigger
            terms.append((term, label))
        if not terms:
            raise Unparsed("temporal_comparison: no known class of change")
        spans, dropped = align(blocks[0].text, terms)
        return self._prediction(blocks, spans, dropped + unknown, None)
