"""Chest reports and sentence pairs recombined from a bank of sentences that state, deny, leave open or follow findings.

A finding of the bank: label, and sentences by kind, with marks as in the written corpus; impression lines without.
Plain sentences concern no label, and carry no marks.
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from radlite_batch.tasks.abnormality_detection import NO_FINDING

REPORTS, PAIRS = 1500, 1800
PLAIN = 12  # most plain sentences of a report
_STATES = {"present": "positive", "absent": "negative", "uncertain": "uncertain"}
_CHANGES = {
    "new": "positive", "worsened": "positive", "improved": "positive", "unchanged": "positive", "resolved": "negative",
}  # fmt: skip
_NAMES = {
    "edema": ("pulmonary edema", "pulmonary oedema"), "pneumonia": ("pneumonia",), "atelectasis": ("atelectasis",),
    "lung_opacity": ("a lung opacity", "a pulmonary opacity"), "lung_lesion": ("a lung nodule or mass",),
    "enlarged_cardiomediastinum": ("widening of the mediastinum",),
    "cardiomegaly": ("cardiomegaly", "cardiac enlargement"),
    "pleural_other": ("pleural thickening or scarring",), "support_devices": ("a tube, line or other device",),
    "pleural_effusion": ("a pleural effusion", "pleural fluid"), "pneumothorax": ("a pneumothorax",),
    "consolidation": ("consolidation",), "fracture": ("a fracture",),
}  # fmt: skip
_CLAIMS = ("There is {}.", "The study shows {}.", "The patient has {}.", "{} is present.", "{} is seen.")
_DENIALS = ("There is no {}.", "No {} is seen.", "The study shows no {}.", "No evidence of {}.", "{} is not present.")
_CHANGE_CLAIMS = {
    "new": ("{} is new since the prior study.", "{} was not there before."),
    "worsened": ("{} has worsened.", "There is progression of {}."),
    "improved": ("{} has improved.", "{} is less than before."),
    "unchanged": ("{} has not changed.", "{} is stable."),
}
Findings = Sequence[Mapping[str, Any]]


def reports(findings: Findings, plain: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Reports with a state for some of the findings; every other one follows up, and marks changes, not entities.

    Where there are plain sentences, what they name is not marked, so entities are not either."""
    draw = random.Random("chest")
    for number in range(REPORTS):
        changes = number % 2 == 0
        yield _report(findings, plain, [*_STATES, *_CHANGES] if changes else list(_STATES), changes, draw)


def _report(
    findings: Findings, plain: Sequence[str], kinds: Sequence[str], changes: bool, draw: random.Random
) -> dict[str, Any]:
    flags: dict[str, str] = {}
    sentences: list[str] = []
    lines: list[str] = []
    for finding in draw.sample(findings, draw.randint(2, 6)):
        kind = draw.choice(kinds)
        flags[finding["label"]] = state = (_STATES | _CHANGES)[kind]
        sentences.append(draw.choice(finding[kind]))
        if state == "positive":
            lines.append(draw.choice(finding["impression"]))
    if not {"positive", "uncertain"} & {state for label, state in flags.items() if label != "support_devices"}:
        flags[NO_FINDING] = "positive"
    sentences += draw.sample(plain, draw.randint(0, min(len(plain), PLAIN)))
    draw.shuffle(sentences)
    record: dict[str, Any] = {"flags": flags, "rads": "none"}
    if not changes and plain:
        return record | {"text": " ".join(_unmarked(sentence, ()) for sentence in sentences)}
    record["marked"] = ["changes" if changes else "entities"]
    if changes:  # their sentences mark no entities, so none is marked
        sentences = [_unmarked(sentence, _CHANGES) for sentence in sentences]
        return record | {"findings": " ".join(sentences), "impression": " ".join(lines)}
    return record | {"text": " ".join(sentences)}  # impression lines carry no marks


def pairs(findings: Findings) -> Iterator[dict[str, Any]]:
    """Premises of one or two sentences, and hypotheses over a finding: each claimed and denied as often, whatever
    follows, so that the hypothesis alone tells nothing."""
    draw = random.Random("pairs")
    for _ in range(PAIRS // 3):
        about, other, third = draw.sample(findings, 3)
        denied = draw.random() < 0.5
        change = draw.choice(list(_CHANGE_CLAIMS)) if draw.random() < 0.3 else ""
        hypothesis = _hypothesis(about["label"], denied, change, draw)
        entailed, contradicted, open_kinds = _kinds(denied, change)
        for label, kinds in (("entailment", entailed), ("contradiction", contradicted), ("neutral", open_kinds)):
            kind = draw.choice(kinds)
            # What says nothing of the finding leaves the hypothesis open.
            said = draw.choice(about[kind]) if kind else draw.choice(third[draw.choice(list(_STATES))])
            sentences = [said, draw.choice(other[draw.choice(list(_STATES))])][: draw.randint(1, 2)]
            draw.shuffle(sentences)
            yield {"premise": _unmarked(" ".join(sentences), ()), "hypothesis": hypothesis, "label": label}


def _hypothesis(label: str, denied: bool, change: str, draw: random.Random) -> str:
    name = draw.choice(_NAMES[label])
    bare = re.sub(r"^an? ", "", name)
    if change:
        text = draw.choice(_CHANGE_CLAIMS[change]).format(f"the {bare}")
    else:
        text = draw.choice(_DENIALS if denied else _CLAIMS).format(bare if denied else name)
    return text[0].upper() + text[1:]


def _kinds(denied: bool, change: str) -> tuple[list[str], list[str], list[str]]:
    """Kinds of sentence after which the hypothesis holds, does not hold, and stays open ("": of another finding)."""
    if change:
        wrong = {"new": ["unchanged", "improved"], "unchanged": ["worsened", "improved", "new"],
                 "worsened": ["improved", "unchanged"], "improved": ["worsened", "unchanged"]}[change]  # fmt: skip
        return [change], wrong, ["present", "uncertain", ""]
    there, gone = ["present", "present", "worsened", "unchanged", "new"], ["absent", "absent", "resolved"]
    return (gone, there, ["uncertain", "uncertain", ""]) if denied else (there, gone, ["uncertain", "uncertain", ""])


def _unmarked(sentence: str, keep: Mapping[str, str] | tuple[()]) -> str:
    def rewrite(mark: re.Match[str]) -> str:
        codes = [code for code in mark[2].split(",") if code in keep]
        return f"{{{mark[1]}|{','.join(codes)}}}" if codes else mark[1]

    return re.sub(r"\{([^{}|]*)\|([^{}|]*)\}", rewrite, sentence)
