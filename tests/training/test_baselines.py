"""Rules that answer without a model: what they say of plain sentences, and that hypotheses are judged unseen."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from radlite_batch.errors import UsageError
from radlite_batch.records import Report
from radlite_batch.tasks.registry import TASKS
from training.baselines import answers, read_archive


def answer(task: str, text: str, **fields: str) -> dict[str, Any]:
    columns = answers(TASKS[task], [Report(0, "1", text, fields)], [None])
    assert columns is not None
    return {name: values[0] for name, values in columns.items()}


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("Small left pleural effusion.", {"pleural_effusion": "positive", "no_finding": "absent"}),
        ("No effusion, consolidation or pneumothorax.", {
            "pleural_effusion": "negative", "consolidation": "negative", "pneumothorax": "negative",
            "edema": "absent", "no_finding": "positive",
        }),
        ("No effusion but a large pneumothorax.", {"pleural_effusion": "negative", "pneumothorax": "positive"}),
        ("Pneumonia cannot be excluded.", {"pneumonia": "uncertain", "no_finding": "absent"}),
        ("Opacity at the base, possibly atelectasis.", {"lung_opacity": "positive", "atelectasis": "uncertain"}),
        ("The effusion has resolved.", {"pleural_effusion": "negative"}),
        ("No edema. Mild pulmonary edema on the right.", {"edema": "positive"}),
        ("The heart size is normal. Pericardial effusion.", {"cardiomegaly": "negative", "pleural_effusion": "absent"}),
        ("A 1.5 cm nodule. Right chest tube.", {"lung_lesion": "positive", "support_devices": "positive"}),
        ("Left central line in place.", {"support_devices": "positive", "no_finding": "positive"}),
    ],
)  # fmt: skip
def test_findings_by_keyword_negation_and_doubt(text: str, flags: dict[str, str]) -> None:
    found = answer("abnormality_detection", text)
    assert {label: found[label] for label in flags} == flags


def test_entities_are_the_findings_with_their_status_and_places() -> None:
    text = "No effusion. Opacity in the left lung."
    spans = answer("radiology_ner", text)["entities"]
    assert [(span["text"], span["label"]) for span in spans] == [
        ("effusion", "observation_absent"), ("Opacity", "observation_present"), ("lung", "anatomy"),
    ]  # fmt: skip
    assert all(text[span["start"] : span["end"]] == span["text"] for span in spans)


def test_changes_are_findings_beside_a_word_of_change() -> None:
    text = "New nodule. The effusion has decreased and the consolidation is unchanged. Atelectasis."
    spans = answer("temporal_comparison", text)["changes"]
    assert [(span["finding"], span["change"]) for span in spans] == [
        ("nodule", "new"), ("effusion", "improved"), ("consolidation", "unchanged"),
    ]  # fmt: skip
    assert all(text[span["start"] : span["end"]] == span["finding"] for span in spans)


@pytest.mark.parametrize(
    ("text", "n", "m"),
    [
        ("Staged as pT2N1aM0.", "N1", "M0"),
        ("cT3 cN2 cM1b, unlike the earlier N0.", "N2", "M1"),
        ("pT2 pNX pMX. After dissection: pN1 pM0. N0: none involved.", "N1", "M0"),
        ("Nodes are enlarged. M. latissimus dorsi.", "NX", "MX"),
        ("NX MX", "NX", "MX"),
    ],
)
def test_stages_are_the_printed_ones(text: str, n: str, m: str) -> None:
    assert (answer("n_staging", text)["stage"], answer("m_staging", text)["stage"]) == (n, m)


@pytest.mark.parametrize(
    ("text", "system", "label"),
    [
        ("Mass in the breast. BI-RADS category 4A.", "BI-RADS", "BI-RADS 4A"),
        ("Impression: LR-5. Liver.", "LI-RADS", "LI-RADS 5"),
        ("Nodule in the right thyroid lobe, isthmus normal.", "TI-RADS", None),
        ("The lungs are clear.", "none", "none"),
    ],
)
def test_rads_is_the_printed_label_or_the_organs_system(text: str, system: str, label: str | None) -> None:
    found = answer("rads_assignment", text)
    assert (found["system"], found["label"]) == (system, label)


def test_the_impression_is_the_first_sentence_of_the_findings() -> None:
    findings = "Nodule of 1.5 cm. No effusion."
    assert answer("impression_generation", "All.", findings=findings)["impression"] == "Nodule of 1.5 cm."


def test_a_report_without_the_input_has_no_answer_and_questions_have_no_rule() -> None:
    assert answer("n_staging", " ")["stage"] is None
    assert answers(TASKS["radiology_qa"], [Report(0, "1", "Text.", {"question": "Why?"})], ["Because."]) is None


def pairs(hypotheses: list[str]) -> list[Report]:
    return [Report(0, str(i), "", {"premise": "It rains.", "hypothesis": h}) for i, h in enumerate(hypotheses)]


def test_the_hypothesis_alone_is_enough_where_its_words_tell() -> None:
    # Every hypothesis with "no" is contradicted, whatever it is about.
    nouns = [f"thing{i}" for i in range(40)]
    hypotheses = [f"there is {'no' if i % 2 else 'a'} {noun}" for i, noun in enumerate(nouns)]
    gold = [("contradiction",) if i % 2 else ("entailment",) for i in range(40)]
    found = answers(TASKS["radiology_nli"], pairs(hypotheses), gold)
    assert found == {"label": [labels[0] for labels in gold]}


def test_a_hypothesis_is_not_judged_by_its_own_labels() -> None:
    # Each hypothesis has one label of its own, and nothing in its words to tell it from.
    hypotheses = [f"word{i // 4}" for i in range(120)]
    gold = [(("entailment", "contradiction")[i // 4 % 2],) for i in range(120)]
    found = answers(TASKS["radiology_nli"], pairs(hypotheses), gold)
    assert found is not None
    right = sum(label == labels[0] for label, labels in zip(found["label"], gold, strict=True)) / 120
    assert right < 0.75  # having seen them it would be 1


def test_an_archive_without_its_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "reports.parquet"
    pl.DataFrame({"report_id": ["1"], "impression": ["Clear."]}).write_parquet(path)
    with pytest.raises(UsageError, match="column 'findings' is missing"):
        read_archive(path)
    pl.DataFrame({"report_id": ["1", "1"], "text": ["Clear.", None]}).write_parquet(path)
    with pytest.raises(UsageError, match="report_id '1' stands in more than one row"):
        read_archive(path)
    with pytest.raises(UsageError, match="not readable"):
        read_archive(tmp_path / "nowhere.parquet")
