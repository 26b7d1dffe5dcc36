"""HL7 FHIR R4: a bundle for each report, one a line, of resources that say an algorithm made them and none has checked.

A bundle (type collection) holds a DiagnosticReport, an Observation for each answer that the mapping names, the Device
(the pack) and a Provenance whose agent it is. Everything is preliminary. A row of the mapping with a profile is a TNM
category of mCODE: the profile, its coded value and its method are written where the row's edition is given, and a
stage that has no code there is an absent value.
"""

import json
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from radlite_batch.export.files import growing
from radlite_batch.export.mapping import Row, Table, Target
from radlite_batch.export.source import Answer, Answered, Source

_SNOMED, _TERMINOLOGY = "http://snomed.info/sct", "http://terminology.hl7.org/CodeSystem"
_STAGING = (
    "American Joint Commission on Cancer, Cancer Staging Manual, {}th edition neoplasm staging system (tumor staging)"
)
EDITIONS = {"6": "444256004", "7": "443830009", "8": "897275008"}  # SNOMED CT, mCODE's TNM staging methods
TARGET = Target(
    "fhir",
    ("code_system", "code", "code_display", "value_system", "value_code", "value_display", "edition", "profile"),
    "code_display",
    lambda row: f"no edition {row['edition']!r}" if row["edition"] not in ("", *EDITIONS) else "",
)
_UCUM = "http://unitsofmeasure.org"

Resource = dict[str, Any]


def write_fhir(source: Source, folder: Path, mapping: Path | None, patients: bool, with_text: bool) -> list[str]:
    """bundles.ndjson; reports without an answer that the mapping names have none. Returns what to tell."""
    table = Table(TARGET, mapping)
    path, written, without = folder / "bundles.ndjson", 0, 0
    run = json.dumps(source.manifest.identity, sort_keys=True)
    with growing(path) as file:
        for report in source.reports(patients):
            found = [(answer, row) for answer in report.answers if (row := table.row(answer))]
            if found:
                bundle = _Bundle(source, run, report, with_text).document(found)
                file.write(json.dumps(bundle, ensure_ascii=False, separators=(",", ":")) + "\n")
                written += 1
            else:
                without += 1
    return [f"{path}  {written:,} bundles; {without:,} reports have no answer to export"]


class _Bundle:
    """The resources of one report. Their ids depend on the run, the report and the answer's place alone."""

    def __init__(self, source: Source, run: str, report: Answered, with_text: bool):
        self._source, self._report, self._with_text = source, report, with_text
        self._run = uuid.uuid5(uuid.NAMESPACE_OID, run)
        self._space = uuid.uuid5(self._run, f"{report.file}/{report.source_row}")
        self._time = report.time.isoformat()

    def document(self, found: Sequence[tuple[Answer, Row]]) -> Resource:
        device = self._device()
        observations = [self._observation(answer, row) for answer, row in found]
        report = self._diagnostic_report(observations)
        provenance = self._provenance([report, *observations], device)
        entries = [{"fullUrl": _url(r), "resource": r} for r in (report, *observations, device, provenance)]
        return {**self._resource("Bundle"), "type": "collection", "timestamp": self._time, "entry": entries}

    def _resource(self, kind: str, place: str = "") -> Resource:
        return {"resourceType": kind, "id": str(uuid.uuid5(self._space, f"{kind}/{place}"))}

    def _about(self) -> Resource:
        """Whose and of when, where the archive says so."""
        about: Resource = {}
        if self._report.patient_id:
            about["subject"] = {"type": "Patient", "identifier": {"value": self._report.patient_id}}
        if self._report.study_date:
            about["effectiveDateTime"] = self._report.study_date
        return about

    def _identifiers(self) -> list[Resource]:
        row = {"type": {"text": "source_row"}, "value": str(self._report.source_row)}
        named = self._report.report_id
        return [{"type": {"text": "report_id"}, "value": named}, row] if named else [row]

    def _diagnostic_report(self, observations: Sequence[Resource]) -> Resource:
        return {
            **self._resource("DiagnosticReport"),
            "identifier": self._identifiers(),
            "status": "preliminary",
            "category": [_concept(f"{_TERMINOLOGY}/v2-0074", "RAD", "Radiology")],
            "code": _concept("http://loinc.org", "18748-4", "Diagnostic imaging study"),
            **self._about(),
            "result": [{"reference": _url(observation)} for observation in observations],
        }

    def _observation(self, answer: Answer, row: Row) -> Resource:
        staged = bool(row["profile"] and row["edition"])
        observation = self._resource("Observation", f"{answer.task}/{answer.column}/{answer.start}")
        if staged:
            observation["meta"] = {"profile": [row["profile"]]}
        observation |= {
            "status": "preliminary",
            "category": [_concept(f"{_TERMINOLOGY}/observation-category", "imaging", "Imaging")],
            "code": _concept(row["code_system"], row["code"], row["code_display"]),
            **self._about(),
            **_value(answer, row, staged),
        }
        if staged:
            method = _STAGING.format(row["edition"])
            observation["method"] = _concept(_SNOMED, EDITIONS[row["edition"]], method)
        return observation | {"component": component} if (component := self._components(answer)) else observation

    def _components(self, answer: Answer) -> list[Resource]:
        """How sure, and where in the report's text."""
        found: list[tuple[str, Resource]] = []
        if answer.confidence is not None:
            sure = {"value": round(answer.confidence, 4), "unit": "1", "system": _UCUM, "code": "1"}
            found.append(("confidence", {"valueQuantity": sure}))
        if answer.start is not None:
            found += [("start", {"valueInteger": answer.start}), ("end", {"valueInteger": answer.end})]
        if answer.text and self._with_text:
            found.append(("text", {"valueString": answer.text}))
        return [{"code": {"text": name}, **value} for name, value in found]

    def _device(self) -> Resource:
        identity = self._source.manifest.identity
        versions = [("radlite-batch", identity["version"])]
        for name, model in identity["models"].items():
            versions.append((f"sha256 of model {name}", model["sha256"]))
            versions += [(f"sha256 of adapter {name}", model["adapter"])] if model["adapter"] else []
        return {
            "resourceType": "Device",
            "id": str(uuid.uuid5(self._run, "device")),
            "deviceName": [{"name": f"radlite-batch, pack {identity['pack']}", "type": "model-name"}],
            "type": {"text": "language model that reads radiology reports"},
            "version": [{"type": {"text": name}, "value": value} for name, value in versions],
        }

    def _provenance(self, targets: Sequence[Resource], device: Resource) -> Resource:
        return {
            **self._resource("Provenance"),
            "target": [{"reference": _url(target)} for target in targets],
            "occurredDateTime": self._time,
            "recorded": self._time,
            "agent": [
                {
                    "type": _concept(f"{_TERMINOLOGY}/provenance-participant-type", "assembler", "Assembler"),
                    "who": {"reference": _url(device), "display": "an algorithm; no person has checked its answers"},
                }
            ],
            "entity": [{"role": "source", "what": {"identifier": self._identifiers()[0]}}],
        }


def _value(answer: Answer, row: Row, staged: bool) -> Resource:
    if staged and not row["value_code"]:
        unknown = _concept(f"{_TERMINOLOGY}/data-absent-reason", "unknown", "Unknown")
        return {"dataAbsentReason": unknown | {"text": answer.label}}
    value: Resource = {"text": answer.label}
    if row["value_code"] and (staged or not row["profile"]):
        value = _concept(row["value_system"], row["value_code"], row["value_display"]) | value
    return {"valueCodeableConcept": value}


def _concept(system: str, code: str, display: str) -> Resource:
    """Words alone where there is no code."""
    return {"coding": [{"system": system, "code": code, "display": display}]} if code else {"text": display}


def _url(resource: Resource) -> str:
    return f"urn:uuid:{resource['id']}"
