"""The impression, written from the findings alone."""

import re

from radlite_batch.records import Report
from radlite_batch.tasks.base import Block, Column, FreeText, Question, TextTask

_IMPRESSION = re.compile(
    r"^[ \t]*(?:impression|conclusions?|opinion)[ \t]*(?::|$).*?(?=^[ \t]*[A-Z][A-Za-z /]{2,40}:|\Z)",
    re.IGNORECASE | re.MULTILINE | re.DOTALL,
)


def without_impression(text: str) -> str:
    """The report without its impression section: the answer must not stand in the question."""
    return _IMPRESSION.sub("", text)


class ImpressionGeneration(TextTask):
    name = "impression_generation"
    about = "the impression that follows from the findings"
    needs = "findings (or a text with more than its impression)"
    headline = "impression"
    questions = (
        Question("impression", FreeText(max_tokens=96), "Write the impression of this report in one or two sentences."),
    )
    columns = (Column("impression", "string", "generated impression; check it before any use"),)
    metrics = ("rouge_l", "bleu")

    def blocks(self, report: Report) -> tuple[Block, ...] | None:
        findings = report.fields["findings"] if "findings" in report.fields else without_impression(report.text)
        return (Block("findings", findings.strip()),) if findings.strip() else None
