"""Anatomy and observations with their status (entity classes of RadGraph, Jain et al. 2021)."""

from radlite_batch.tasks.base import Column, Question, Spans
from radlite_batch.tasks.spans import SpanTask

LABELS = ("anatomy", "observation_present", "observation_absent", "observation_uncertain")
HEADERS = ("Anatomy", "Observation (Present)", "Observation (Absent)", "Observation (Uncertain)")


class RadiologyNer(SpanTask):
    name = "radiology_ner"
    about = "anatomy and observations, with offsets"
    needs = "text"
    column = headline = "entities"
    text_key = "text"
    label_key = "label"
    questions = (
        Question(
            "entities",
            Spans(LABELS, "APNU", HEADERS, max_tokens=48),
            "List the terms of the report, copied from it and separated by semicolons, one line for each class: "
            + ", ".join(f"{h}:" for h in HEADERS),
        ),
    )
    columns = (Column("entities", "spans:text:label", "report[start:end] == text, offsets in code points", LABELS),)
    metrics = ("exact_f1", "relaxed_f1")
