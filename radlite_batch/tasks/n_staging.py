"""Regional lymph node stage (N of the UICC/AJCC TNM classification, 8th edition; sub-stages collapse)."""

import re

from radlite_batch.tasks.base import ALTERNATIVES, Choice, ChoiceTask, Column, Question
from radlite_batch.tasks.stages import read_stage

LABELS = ("N0", "N1", "N2", "N3", "NX")


class NStaging(ChoiceTask):
    name = "n_staging"
    about = "regional lymph node stage"
    needs = "text"
    column = headline = "stage"
    questions = (
        Question(
            "stage",
            Choice(LABELS, "0123X"),
            "Which regional lymph node stage (N) does the report support? Answer N0, N1, N2, N3, or NX where no "
            "malignancy is described or the nodes are not assessed.",
        ),
    )
    columns = (
        Column("stage", "string", "N0 to N3, or NX: no malignancy described, or nodes not assessed", LABELS),
        ALTERNATIVES,
    )
    metrics = ("accuracy", "macro_f1")

    _STAGE = re.compile(r"(?<![A-Za-z])y?[cp]?N\s?([0-3X])(?:mi|[a-d])?(?![A-Za-z0-9])(?!\s*stag)", re.IGNORECASE)

    def read_label(self, raw: str) -> str:
        return read_stage(self.name, "N", self._STAGE, raw)
