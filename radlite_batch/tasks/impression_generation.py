"""The impression, written from the findings alone."""

import re

from radlite_batch.records import Report
from radlite_batch.tasks.base import Block, Column, FreeText, Question, TextTask

# A section begins at the start of a line or after a sentence. Only headings in capitals and known ones end an
# impression: "Left lung:" inside it does not.
_START = r"(?:^[ \t]*|(?<=[.;!?])[ \t]+)"
_HEADING = (
    r"(?:[A-Z][A-Z /]{2,40}"
    r"|(?i:findings?|technique|comparison|indication|(?:clinical )?(?:history|information)|exam(?:ination)?|procedure))"
    r"[ \t]*:"
)
_IMPRESSION = re.compile(
    rf"{_START}(?i:(?:final )?(?:impression|conclusions?|opinion)(?: and recommendations?)?)[ \t]*(?::|$)"
    rf".*?(?={_START}{_HEADING}|\Z)",
    re.MULTILINE | re.DOTALL,
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
        if "findings" in report.fields:
            block = Block("findings", report.fields["findings"].strip(), "FINDINGS: ")
        else:
            block = Block("findings", without_impression(report.text).strip())
        return (block,) if block.text else None
