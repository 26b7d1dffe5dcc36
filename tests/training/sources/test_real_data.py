"""The readers over the real files, where they lie beside the project."""

from collections import Counter
from pathlib import Path

import pytest

from training.datasets.base import Sample
from training.datasets.registry import SOURCES

DATA = Path(__file__).resolve().parents[3] / "../shared/data"
READ = {  # samples and tasks by source
    "openi": (2773, {"rads_assignment", "n_staging", "m_staging", "abnormality_detection", "impression_generation"}),
    "radrestruct": (7647, {"radiology_qa"}),
    "tcga": (1032, {"n_staging", "m_staging"}),
    "negex": (2357, {"radiology_ner"}),
    "medqa": (1031, {"radiology_qa"}),
    "ct_rate_dev": (547, {"abnormality_detection"}),
}

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the data are not beside the project")


def samples(source: str) -> list[Sample]:
    return list(SOURCES[source].read(DATA))


@pytest.mark.parametrize("source", READ)
def test_every_record_gives_inputs_and_targets(source: str) -> None:
    number, tasks = READ[source]
    read = samples(source)
    assert len(read) == number == len({s.id for s in read})
    assert {task for s in read for task in s.targets} == tasks
    assert all(s.blocks(task) for s in read for task in s.targets)
    assert {s.source for s in read} == {source}


def test_open_i_counts_what_its_codes_count() -> None:
    flags = [s.targets["abnormality_detection"] for s in samples("openi") if "abnormality_detection" in s.targets]
    coded = Counter(label for report in flags for label, state in report.items() if state == "positive")
    assert coded["cardiomegaly"] == 240 and coded["lung_opacity"] == 342 and coded["no_finding"] == 980
    assert {s.split for s in samples("openi") if s.id.endswith(("0", "5"))} == {"dev"}


def test_the_same_report_is_held_out_by_both_sources_of_open_i() -> None:
    splits = {s.group: s.split for s in samples("openi")}
    assert all(splits[s.group] == s.split for s in samples("radrestruct"))


def test_marked_concepts_stand_where_the_spans_say() -> None:
    for sample in samples("negex"):
        ((start, end, label),) = sample.targets["radiology_ner"]["entities"]
        assert 0 <= start < end <= len(sample.text) and label.startswith("observation_")


def test_the_ct_rate_development_set_is_never_trained_on() -> None:
    assert {s.split for s in samples("ct_rate_dev")} == {"dev"}
