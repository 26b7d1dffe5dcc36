"""FHIR R4 bundles: legal by the models of fhir.resources, preliminary, and said to be an algorithm's.

Those models are of R4B (4.3.0), which has the five resources written here as R4 (4.0.1) has them.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fhir.resources.R4B import get_fhir_model_class
from planted import CANARY, plant, run_fake, span

from radlite_batch.export.fhir import write_fhir
from radlite_batch.export.mapping import shipped
from radlite_batch.export.source import Source
from radlite_batch.results.manifest import read_manifest

# mCODE Implementation Guide STU 4 (4.0.0): profiles, TNM Staging Method Value Set, Staging Type Value Sets (SNOMED).
PROFILES = {
    letter: f"http://hl7.org/fhir/us/mcode/StructureDefinition/mcode-tnm-{part}-category"
    for letter, part in (("N", "regional-nodes"), ("M", "distant-metastases"))
}
METHODS = {"6": "444256004", "7": "443830009", "8": "897275008"}
STAGING_TYPES = {"N": {"277206009", "399534004", "371494008"}, "M": {"277208005", "399387003", "371497001"}}
# SNOMED CT, descendants of AJCC clinical N (1222588006) and M (1222587001) category allowable values.
CATEGORIES = {
    "N0": "1229967007", "N1": "1229973008", "N2": "1229978004", "N3": "1229984001", "M0": "1229901006",
    "M1": "1229903009",
}  # fmt: skip
SNOMED = "http://snomed.info/sct"
ROWS = 6

Resource = dict[str, Any]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = run_fake(tmp_path_factory.mktemp("run"), ["a", "", "<c>\x07", "d", "e", "f"])
    nothing = {"status": "empty", "confidence": None, "stage": None, "alternatives": None}
    plant(
        out,
        {
            "n_staging": {row: {"stage": f"N{'0123X'[row]}", "confidence": 0.75} for row in range(5)} | {5: nothing},
            "m_staging": {0: {"stage": "M0"}, 1: {"stage": "M1"}, 2: {"stage": "MX"}},
            "radiology_ner": {0: {"entities": [span(0, CANARY, "observation_present"), span(9, "small", "anatomy")]}},
            "temporal_comparison": {0: {"changes": [span(15, "effusion", "worsened", "finding:change")]}},
        },
    )
    return out


def bundles(out: Path, folder: Path, **options: Any) -> list[Resource]:
    write_fhir(Source(out), folder, **({"mapping": None, "patients": False, "with_text": False} | options))
    with open(folder / "bundles.ndjson", encoding="utf-8", newline="") as file:
        return [json.loads(line) for line in file]


def resources(bundle: Resource, kind: str) -> list[Resource]:
    return [entry["resource"] for entry in bundle["entry"] if entry["resource"]["resourceType"] == kind]


def observations(bundle: Resource, code: str) -> list[Resource]:
    return [o for o in resources(bundle, "Observation") if code in json.dumps(o["code"])]


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        yield from (value for key, value in part.items() if key == "reference")
        part = list(part.values())
    for each in part if isinstance(part, list) else ():
        yield from references(each)


def with_edition(folder: Path, edition: str) -> Path:
    """The shipped table with an edition in every row that has a profile."""
    path = folder / "my.csv"
    text = shipped("fhir").read_text(encoding="utf-8")
    path.write_text(text.replace(",,http://hl7.org/fhir/us/mcode", f",{edition},http://hl7.org/fhir/us/mcode"))
    return path


@pytest.mark.parametrize("edition", ["", "8"])
@pytest.mark.parametrize("asked", [False, True])
def test_every_resource_is_legal(out: Path, tmp_path: Path, asked: bool, edition: str) -> None:
    mapping = with_edition(tmp_path, edition) if edition else None
    found = bundles(out, tmp_path, mapping=mapping, patients=asked, with_text=asked)
    assert len(found) == ROWS
    for bundle in found:
        for resource in (bundle, *(entry["resource"] for entry in bundle["entry"])):
            model = get_fhir_model_class(resource["resourceType"]).model_validate(resource)
            assert set(json.loads(model.model_dump_json())) == set(resource)


def test_the_models_refuse_what_is_not_fhir(out: Path, tmp_path: Path) -> None:
    observation = resources(bundles(out, tmp_path)[0], "Observation")[0]
    model = get_fhir_model_class("Observation")
    for wrong in ({"status": None}, {"colour": "red"}, {"component": [{}]}):
        with pytest.raises(ValueError, match="Observation"):
            model.model_validate(observation | wrong)


def test_every_resource_is_preliminary_and_an_algorithms(out: Path, tmp_path: Path) -> None:
    manifest = read_manifest(out)
    assert manifest is not None
    for bundle in bundles(out, tmp_path):
        assert bundle["type"] == "collection"
        made = resources(bundle, "DiagnosticReport") + resources(bundle, "Observation")
        assert {resource["status"] for resource in made} == {"preliminary"}
        (device,), (provenance,) = resources(bundle, "Device"), resources(bundle, "Provenance")
        assert device["deviceName"] == [{"name": "radlite-batch, pack fake", "type": "model-name"}]
        versions = {version["type"]["text"]: version["value"] for version in device["version"]}
        assert versions["sha256 of model fake"] == manifest.identity["models"]["fake"]["sha256"]
        (agent,) = provenance["agent"]
        assert agent["type"]["coding"][0]["code"] == "assembler"
        assert agent["who"]["reference"] == f"urn:uuid:{device['id']}"
        targets = [target["reference"] for target in provenance["target"]]
        assert targets == [f"urn:uuid:{resource['id']}" for resource in made]


def test_ids_are_unique_stable_and_all_that_is_referred_to(out: Path, tmp_path: Path) -> None:
    found = bundles(out, tmp_path)
    assert found == bundles(out, tmp_path)
    ids = [bundle["id"] for bundle in found]
    for bundle in found:
        urls = [entry["fullUrl"] for entry in bundle["entry"]]
        assert set(references(bundle)) <= set(urls) and len(set(urls)) == len(urls)
        ids += [entry["resource"]["id"] for entry in bundle["entry"] if entry["resource"]["resourceType"] != "Device"]
    assert len(set(ids)) == len(ids)
    reports = [resources(bundle, "DiagnosticReport")[0] for bundle in found]
    assert [i["value"] for i in reports[0]["identifier"]] == ["a", "0"]
    assert [i["value"] for i in reports[1]["identifier"]] == ["1"]  # it has no report_id


def test_without_an_edition_a_stage_is_words(out: Path, tmp_path: Path) -> None:
    for row, bundle in enumerate(bundles(out, tmp_path)[:5]):
        (stage,) = observations(bundle, "cN category")
        assert stage["valueCodeableConcept"] == {"text": f"N{'0123X'[row]}"}
        assert not {"meta", "method"} & set(stage)


@pytest.mark.parametrize("edition", list(METHODS))
def test_with_an_edition_a_stage_is_mcodes(out: Path, tmp_path: Path, edition: str) -> None:
    found = bundles(out, tmp_path, mapping=with_edition(tmp_path, edition))
    expected = {"N": ["N0", "N1", "N2", "N3", "NX"], "M": ["M0", "M1", "MX"]}
    for letter, labels in expected.items():
        for label, bundle in zip(labels, found, strict=False):
            (stage,) = observations(bundle, f"c{letter} category")
            assert stage["meta"] == {"profile": [PROFILES[letter]]}
            assert stage["code"]["coding"][0]["code"] in STAGING_TYPES[letter]
            assert stage["code"]["coding"][0]["system"] == SNOMED
            assert stage["method"]["coding"][0]["code"] == METHODS[edition]
            if label.endswith("X"):
                assert stage["dataAbsentReason"]["coding"][0]["code"] == "unknown"
                assert "valueCodeableConcept" not in stage
            else:
                coding = stage["valueCodeableConcept"]["coding"][0]
                assert (coding["system"], coding["code"]) == (SNOMED, CATEGORIES[label])


def test_confidence_and_offsets_stand_beside_the_answer(out: Path, tmp_path: Path) -> None:
    first = bundles(out, tmp_path)[0]
    (stage,) = observations(first, "cN category")
    assert stage["component"][0]["valueQuantity"]["value"] == 0.75
    (entity,) = [o for o in observations(first, "observation") if "category" in o]
    parts = {part["code"]["text"]: part for part in entity["component"]}
    assert (parts["start"]["valueInteger"], parts["end"]["valueInteger"]) == (0, len(CANARY))
    (change,) = observations(first, "change since")
    assert change["valueCodeableConcept"] == {"text": "worsened"}


def test_text_is_written_only_on_request(out: Path, tmp_path: Path) -> None:
    bundles(out, tmp_path)
    assert CANARY not in (tmp_path / "bundles.ndjson").read_text()
    first = bundles(out, tmp_path, with_text=True)[0]
    (entity,) = observations(first, '"observation"')
    assert entity["component"][-1] == {"code": {"text": "text"}, "valueString": CANARY}


def test_patients_and_dates_come_from_the_archive_on_request(out: Path, tmp_path: Path) -> None:
    bundles(out, tmp_path)
    assert '"subject"' not in (tmp_path / "bundles.ndjson").read_text()
    for row, bundle in enumerate(bundles(out, tmp_path, patients=True)):
        for resource in resources(bundle, "Observation") + resources(bundle, "DiagnosticReport"):
            assert resource["subject"] == {"type": "Patient", "identifier": {"value": f"P{row // 2}"}}
            assert resource["effectiveDateTime"] == f"2025-01-{row + 1:02d}"


def test_reports_without_an_answer_have_no_bundle(out: Path, tmp_path: Path) -> None:
    mine = tmp_path / "my.csv"
    header = next(line for line in shipped("fhir").read_text().splitlines() if line.startswith("task,"))
    mine.write_text(f"{header}\nn_staging,stage,*,,,node stage,,,,,\n")
    told = write_fhir(Source(out), tmp_path, mine, False, False)
    assert told == [f"{tmp_path}/bundles.ndjson  5 bundles; 1 reports have no answer to export"]
    assert (tmp_path / "bundles.ndjson").stat().st_mode & 0o777 == 0o600
