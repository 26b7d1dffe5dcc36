"""The 14 observations of CheXbert (Smit et al. 2020), each positive, negative, uncertain or absent.

`absent` is CheXbert's blank: the report does not mention it. "No Finding" is only ever positive or absent.
"""

from collections.abc import Mapping
from typing import Any

from radlite_batch.errors import Unparsed
from radlite_batch.records import Completion, Decided, Prediction
from radlite_batch.tasks.base import Block, Choice, Column, Question, Task, ranking, strip_think

NO_FINDING = "no_finding"  # no other but support devices is positive
LABELS = (
    "enlarged_cardiomediastinum",
    "cardiomegaly",
    "lung_opacity",
    "lung_lesion",
    "edema",
    "consolidation",
    "pneumonia",
    "atelectasis",
    "pneumothorax",
    "pleural_effusion",
    "pleural_other",
    "fracture",
    "support_devices",
    NO_FINDING,
)
STATES = ("positive", "negative", "uncertain", "absent")
_ABSENT = {"absent", "not mentioned", "blank", "none", "n/a"}


def _question(label: str) -> Question:
    # The finding stands last, so that the prompts of all labels share every token before it.
    states = Choice(("positive", "absent"), "PA") if label == NO_FINDING else Choice(STATES, "PNUA")
    name = "no abnormal finding at all" if label == NO_FINDING else label.replace("_", " ")
    return Question(label, states, f"{_ASK}: {name}")


_ASK = (
    "Does the report state the finding named below? Answer positive, negative (denied), uncertain, or absent (not "
    "mentioned). Finding"
)


class AbnormalityDetection(Task):
    name = "abnormality_detection"
    about = "14 CheXbert observations"
    needs = "text"
    headline = "positives"
    questions = tuple(_question(label) for label in LABELS)
    columns = (
        *(Column(label, "string", f"{label.replace('_', ' ')}: state in the report", STATES) for label in LABELS),
        *(Column(f"{label}_confidence", "float32", f"probability of the state of {label}") for label in LABELS),
    )
    metrics = ("micro_f1", "macro_f1", "per_label_accuracy")

    @property
    def headline_column(self) -> Column:
        return Column(self.headline, "strings", "the labels that are positive", LABELS)

    def headline_of(self, values: Mapping[str, Any]) -> list[str] | None:
        if values[LABELS[0]] is None:
            return None
        return [label for label in LABELS if values[label] == "positive"]

    def predict(self, answers: Mapping[str, Completion], blocks: tuple[Block, ...]) -> Prediction:
        values: dict[str, Any] = {}
        for question in self.questions:
            decided = answers[question.name]
            assert isinstance(decided, Decided) and isinstance(question.output, Choice)
            state, probability = ranking(question.output.labels, decided.probabilities)[0]
            values[question.name] = state
            values[f"{question.name}_confidence"] = probability
        return Prediction(values, min(values[f"{label}_confidence"] for label in LABELS))

    def parse(self, raw: str, blocks: tuple[Block, ...]) -> Prediction:
        states: dict[str, str] = {}
        for line in strip_think(raw).splitlines():
            head, colon, rest = line.strip().lstrip("-* ").partition(":")
            label, state = head.strip().casefold().replace(" ", "_"), rest.strip().rstrip(".").casefold()
            if colon and label in LABELS:
                if state not in STATES and state not in _ABSENT:
                    raise Unparsed(f"abnormality_detection: {label} has no legal state")
                states[label] = "absent" if state in _ABSENT else state
        if not states:
            raise Unparsed("abnormality_detection: no label is named")
        if states.get(NO_FINDING, "absent") != "positive":
            states[NO_FINDING] = "absent"
        return Prediction({label: states.get(label, "absent") for label in LABELS})

    def answer(self, values: Mapping[str, Any]) -> str:
        names = sorted(LABELS)
        return "\n".join(f"- {name.replace('_', ' ').title()}: {values[name]}" for name in names)

    def targets(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {label: values[label] for label in LABELS}
