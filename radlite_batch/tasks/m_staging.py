"""Distant metastasis stage (M of the UICC/AJCC TNM classification, 8th edition; sub-stages collapse)."""

import re

from radlite_batch.tasks.base import ALTERNATIVES, Choice, ChoiceTask, Column, Question
from radlite_batch.tasks.stages import read_stage

LABELS = ("M0", "M1", "MX")


class MStaging(ChoiceTask):
    name = "m_staging"
    about = "distant metastasis stage"
    needs = "text"
    column = headline = "stage"
    questions = (
        Question(
            "stage",
            Choice(LABELS, "01X"),
            "Which distant metastasis stage (M) does the report support? Answer M0, M1, or MX where no malignancy "
            "is described or distant sites are not assessed.",
        ),
    )
    columns = (
        Column("stage", "string", "M0, M1, or MX: no malignancy described, or distant sites not assessed", LABELS),
        ALTERNATIVES,
    )
    metrics = ("accuracy", "macro_f1")

    _STAGE = re.compile(r"(?<![A-Za-z])y?[cp]?M\s?([01X])[a-d]?(?![A-Za-z0-9])(?!\s*stag)", re.IGNORECASE)

    def read_label(self, raw: str) -> str:
        return read_stage(self.name, "M", self._STAGE, raw)
