"""Natural language inference between two sentences of reports (classes of RadNLI, Miura et al. 2021)."""

import re

from radlite_batch.errors import Unparsed
from radlite_batch.records import Report
from radlite_batch.tasks.base import ALTERNATIVES, Block, Choice, ChoiceTask, Column, Question

LABELS = ("entailment", "contradiction", "neutral")


class RadiologyNli(ChoiceTask):
    name = "radiology_nli"
    about = "does the premise entail or contradict the hypothesis"
    needs = "premise, hypothesis"
    uses_text = False
    column = headline = "label"
    questions = (
        Question(
            "label",
            Choice(LABELS, "ECN"),
            "Does the premise entail the hypothesis, contradict it, or neither? Answer entailment, contradiction "
            "or neutral.",
        ),
    )
    columns = (Column("label", "string", "relation of the hypothesis to the premise", LABELS), ALTERNATIVES)
    metrics = ("accuracy", "macro_f1")

    def blocks(self, report: Report) -> tuple[Block, ...] | None:
        premise, hypothesis = report.fields.get("premise", ""), report.fields.get("hypothesis", "")
        if not premise.strip() or not hypothesis.strip():
            return None
        return (Block("premise", premise), Block("hypothesis", hypothesis))

    def read_label(self, raw: str) -> str:
        named = set(re.findall(r"entail|contradict|neutral", raw.casefold()))
        if len(named) != 1 or re.search(r"\bnon?t?\b", raw.casefold()):  # "not entailment" says too little
            raise Unparsed("radiology_nli: the answer names no single relation")
        start = named.pop()
        return next(label for label in LABELS if label.startswith(start))
