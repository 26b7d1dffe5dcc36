"""A short answer to a question about the report."""

from radlite_batch.records import Report
from radlite_batch.tasks.base import Block, Column, FreeText, Question, TextTask


class RadiologyQa(TextTask):
    name = "radiology_qa"
    about = "an answer to the row's question"
    needs = "text, question"
    headline = "answer"
    questions = (Question("answer", FreeText(max_tokens=48), "Answer the question from the report, in a few words."),)
    columns = (Column("answer", "string", "generated answer; check it before any use"),)
    metrics = ("rouge_l", "exact_match")

    def blocks(self, report: Report) -> tuple[Block, ...] | None:
        question = report.fields.get("question", "")
        blocks = super().blocks(report)
        return (*blocks, Block("question", question)) if blocks and question.strip() else None
