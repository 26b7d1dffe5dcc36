"""Raw answers as published models write them: which are read, to what, and which are refused."""

import re
from pathlib import Path
from typing import Any

import pytest

from radlite_batch.errors import Unparsed
from radlite_batch.tasks.abnormality_detection import LABELS
from radlite_batch.tasks.base import Block
from radlite_batch.tasks.registry import TASKS

RAW_OUTPUTS = Path(__file__).resolve().parents[2] / "../shared/data/radlite_raw_outputs.txt"
REPORT = "New opacity in the left lower lobe. Small right effusion has increased. Heart size remains normal."
BLOCKS = (Block("report", REPORT),)
THINK = "<think>\n\n</think>\n\n"

FLAGS = """- Atelectasis: negative
  - Cardiomegaly: uncertain
  - Consolidation: negative
  - Edema: negative
  - Enlarged Cardiomediastinum: negative
  - Fracture: negative
  - Lung Lesion: negative
  - Lung Opacity: positive
  - No Finding: negative
  - Pleural Effusion: positive
  - Pleural Other: negative
  - Pneumonia: uncertain
  - Pneumothorax: negative
  - Support Devices: negative"""

READ: list[tuple[str, str, dict[str, Any]]] = [
    ("rads_assignment", "BI-RADS 4", {"system": "BI-RADS", "category": "4", "label": "BI-RADS 4"}),
    ("rads_assignment", "PI-RADS 5\n", {"system": "PI-RADS", "category": "5", "category_neck": None}),
    ("rads_assignment", "NI-RADS 2a // 1", {"category": "2a", "category_neck": "1", "label": "NI-RADS 2a // 1"}),
    ("rads_assignment", "none", {"system": "none", "category": None, "label": "none"}),
    ("n_staging", "N2", {"stage": "N2"}),
    ("n_staging", "Positive\nN staging: N1", {"stage": "N1"}),
    ("n_staging", "Negative\nN staging: N0", {"stage": "N0"}),
    ("n_staging", "Nx", {"stage": "NX"}),
    ("n_staging", "ypN2b", {"stage": "N2"}),
    ("n_staging", "cT2 cN1mi cM0", {"stage": "N1"}),
    ("n_staging", "T2N1M0", {"stage": "N1"}),
    ("n_staging", "T1aN2bM0", {"stage": "N2"}),
    ("n_staging", "N3, that is N3", {"stage": "N3"}),
    ("m_staging", "M1", {"stage": "M1"}),
    ("m_staging", "M staging: M0.", {"stage": "M0"}),
    ("m_staging", "T2N1M1b", {"stage": "M1"}),
    ("m_staging", "mx", {"stage": "MX"}),
    ("radiology_nli", "neutral", {"label": "neutral"}),
    ("radiology_nli", "Contradiction.", {"label": "contradiction"}),
    ("radiology_nli", "The premise entails the hypothesis", {"label": "entailment"}),
    ("impression_generation", " Left lower lobe opacity.\n", {"impression": "Left lower lobe opacity."}),
    ("radiology_qa", "In the left lower lobe.", {"answer": "In the left lower lobe."}),
]

REFUSED = [
    ("rads_assignment", "Marigold"),
    ("rads_assignment", "BI-RADS 4A or 4B, Marigold"),
    ("n_staging", "Positive"),  # nodes are involved, but no stage is named
    ("n_staging", "Negative"),
    ("n_staging", "Positive, Marigold"),
    ("n_staging", "N1 or N2, Marigold"),
    ("n_staging", "M1"),
    ("n_staging", "N4"),
    ("m_staging", "No Marigold metastasis"),
    ("m_staging", "N1"),
    ("radiology_nli", "neither Marigold"),
    ("radiology_nli", "entailment or contradiction, Marigold"),
    ("abnormality_detection", "Marigold: positive"),
    ("abnormality_detection", "- Edema: Marigold"),
    ("abnormality_detection", "- Edema:"),
    ("radiology_ner", "Marigold; nodule"),
    ("temporal_comparison", "- [Marigold] new (related to: opacity)"),
    ("temporal_comparison", "Marigold is new"),
    *((task, raw) for task in TASKS for raw in ("", "  \n", THINK, "<think>\nMarigold: N1 M1 neutral")),
]


@pytest.mark.parametrize("think", ["", THINK], ids=["plain", "think"])
@pytest.mark.parametrize(("task", "raw", "expected"), READ)
def test_answer_is_read(task: str, raw: str, expected: dict[str, Any], think: str) -> None:
    values = TASKS[task].parse(think + raw, BLOCKS).values
    assert {key: values[key] for key in expected} == expected


@pytest.mark.parametrize(("task", "raw"), REFUSED)
def test_answer_that_says_nothing_is_unparsed_and_not_quoted(task: str, raw: str) -> None:
    with pytest.raises(Unparsed, match=f"^{task}: ") as caught:
        TASKS[task].parse(raw, BLOCKS)
    assert "marigold" not in str(caught.value).casefold()
    assert caught.value.__cause__ is None and (caught.value.__context__ is None or caught.value.__suppress_context__)


def test_reasoning_in_a_think_block_is_not_the_answer() -> None:
    raw = "<think>\nN1 at first, M1, - Edema: positive\n</think>\n"
    assert TASKS["n_staging"].parse(raw + "N2", ()).values["stage"] == "N2"
    assert TASKS["m_staging"].parse(raw + "M0", ()).values["stage"] == "M0"
    assert TASKS["abnormality_detection"].parse(raw + "- Edema: negative", ()).values["edema"] == "negative"


def test_fourteen_flags_are_read_and_no_finding_is_never_negative() -> None:
    values = TASKS["abnormality_detection"].parse(THINK + FLAGS, BLOCKS).values
    assert values.keys() == set(LABELS)
    assert (values["lung_opacity"], values["cardiomegaly"], values["edema"]) == ("positive", "uncertain", "negative")
    assert [label for label in LABELS if values[label] == "positive"] == ["lung_opacity", "pleural_effusion"]
    assert values["no_finding"] == "absent"


def test_flags_that_are_not_named_are_absent() -> None:
    values = TASKS["abnormality_detection"].parse("- No Finding: positive\n- Fracture: not mentioned", BLOCKS).values
    assert values == {**dict.fromkeys(LABELS, "absent"), "no_finding": "positive"}


def test_entities_are_found_in_the_report_and_the_rest_is_counted() -> None:
    raw = (
        f"{THINK}Anatomy: left; lower; lobe; right; Heart; spleen\nObservation (Present): opacity; effusion; enlarged\n"
        "Observation (Absent): none"
    )
    prediction = TASKS["radiology_ner"].parse(raw, BLOCKS)
    assert [(e["text"], e["label"].partition("_")[2]) for e in prediction.values["entities"]] == [
        *(("opacity", "present"), ("left", ""), ("lower", ""), ("lobe", "")),
        *(("right", ""), ("effusion", "present"), ("Heart", "")),
    ]
    assert all(REPORT[e["start"] : e["end"]] == e["text"] for e in prediction.values["entities"])
    assert prediction.dropped == 2  # spleen, enlarged


def test_changes_stand_at_the_finding_or_else_at_the_trigger_word() -> None:
    raw = (
        f"{THINK}- [New Finding] New (related to: opacity)\n- [Worsened] increased (related to: effusion)\n"
        "- [No Change] remains (related to: general)\n- [Improved] smaller (related to: nodule)\n- [Odd] x"
    )
    prediction = TASKS["temporal_comparison"].parse(raw, BLOCKS)
    assert [(c["finding"], c["change"]) for c in prediction.values["changes"]] == [
        ("opacity", "new"),
        ("effusion", "worsened"),
        ("remains", "unchanged"),
    ]
    assert all(REPORT[c["start"] : c["end"]] == c["finding"] for c in prediction.values["changes"])
    assert prediction.dropped == 2  # smaller, and the class that is not known


@pytest.mark.parametrize(
    ("published", "change"),
    [
        *(("New Finding", "new"), ("Condition Appearance", "new"), ("Device Appearance", "new")),
        *(("Worsened", "worsened"), ("Improved", "improved"), ("Resolved", "resolved"), ("No Change", "unchanged")),
        *(("Condition Resolution", "resolved"), ("Device Disappearance", "resolved"), ("Device Removed", "resolved")),
        ("Device Placement", "unchanged"),
    ],
)
def test_published_classes_of_change_fold_into_five(published: str, change: str) -> None:
    prediction = TASKS["temporal_comparison"].parse(f"- [{published}] seen (related to: opacity)", BLOCKS)
    assert [(c["finding"], c["change"]) for c in prediction.values["changes"]] == [("opacity", change)]


def test_stored_answers_of_the_published_models_are_read() -> None:
    if not RAW_OUTPUTS.exists():
        pytest.skip("radlite_raw_outputs.txt (answers of the published models) is not beside the repository")
    parts = re.findall(r"Task: +(\w+)\n.*?Output: (.*?)(?=\n\n=====|\Z)", RAW_OUTPUTS.read_text("utf-8"), re.DOTALL)
    raw = dict(parts)
    assert raw.keys() == TASKS.keys()
    with pytest.raises(Unparsed):
        TASKS["n_staging"].parse(raw.pop("n_staging"), ())
    # The reports are not stored: the answer stands for its report, so every term that it names is found.
    read = {task: TASKS[task].parse(text, (Block("report", text),)) for task, text in raw.items()}
    assert read["rads_assignment"].values["label"] == "BI-RADS 4"
    assert read["m_staging"].values["stage"] == "M1"
    assert read["radiology_nli"].values["label"] == "neutral"
    flags = read["abnormality_detection"].values
    assert [label for label in LABELS if flags[label] == "uncertain"] == ["pneumonia", "pneumothorax"]
    assert [label for label in LABELS if flags[label] == "positive"] == [
        *("cardiomegaly", "lung_opacity", "edema", "pleural_other", "fracture", "support_devices"),
    ]
    assert len(read["radiology_ner"].values["entities"]) == 12 + 10 and read["radiology_ner"].dropped == 0
    changes = [(c["finding"], c["change"]) for c in read["temporal_comparison"].values["changes"]]
    assert changes == [("opacity", "new"), ("effusion", "worsened"), ("clear", "unchanged"), ("general", "unchanged")]
    assert read["impression_generation"].values["impression"].startswith("Examination within")
    assert "think" not in str([prediction.values for prediction in read.values()])
