"""A pack that brings its own prompts: two models, instruction first, one raw answer a task, parsed as published."""

import csv
from pathlib import Path

import polars as pl
import pytest

from radlite_batch import worker
from radlite_batch.archive import ArchiveSpec
from radlite_batch.engine.engine import Engine
from radlite_batch.engine.fake import FakeModel
from radlite_batch.job import Job, Output, Workers
from radlite_batch.pack import load_pack
from radlite_batch.records import Report
from radlite_batch.run import run
from radlite_batch.tasks.registry import TASKS
from radlite_batch.worker import Setting, answer_reports

INPUTS = {
    "impression_generation": "{findings}",
    "radiology_nli": "{premise} / {hypothesis}",
    "radiology_qa": "{report} {question}",
}
ANSWERS = {
    "n_staging": "Positive",
    "m_staging": "<think>\n\n</think>\n\nM1",
    "rads_assignment": "LI-RADS 5",
    "radiology_ner": "Anatomy: liver\nObservation (Present): mass",
    "temporal_comparison": "- [New Finding] new (related to: mass)",
    "radiology_nli": "neutral",
}


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    prompts = "".join(
        f'[{name}]\ntext = "Task {name}. Answer shortly. Input: {INPUTS.get(name, "{report}")}"\nmax_tokens = 24\n'
        for name in TASKS
    )
    (tmp_path / "prompts.toml").write_text(prompts, encoding="utf-8")
    models = "".join(f'[models.{name}]\nbase = "fake"\nsha256 = ""\ncontext = 4096\n' for name in ("one", "two"))
    routes = "".join(f'{name} = "{"two" if name == "radiology_ner" else "one"}"\n' for name in TASKS)
    path = tmp_path / "pack.toml"
    path.write_text(
        'name = "mine"\nabout = "a test"\nlicence = "none"\nstyle = "own"\nprompts = "prompts.toml"\n'
        f"{models}[routes]\n{routes}",
        encoding="utf-8",
    )
    return path


def test_answers_that_say_nothing_are_unparsed_rows_and_the_run_ends_with_3(pack: Path, tmp_path: Path) -> None:
    with open(tmp_path / "archive.csv", "w", newline="", encoding="utf-8") as file:
        rows = [(str(i), f"Liver mass {i}.", "No mass.", "A mass.", "Is there a mass?") for i in range(6)]
        csv.writer(file).writerows([("report_id", "text", "premise", "hypothesis", "question"), *rows])
    job = Job(
        ArchiveSpec((str(tmp_path / "archive.csv"),)), tuple(TASKS), Output(tmp_path / "out"), str(pack), Workers(1)
    )
    summary = run(job)
    assert (summary.state, summary.exit_code) == ("complete", 3)
    assert summary.tasks["n_staging"].status == {"unparsed": 6}
    assert summary.tasks["impression_generation"].status == {"ok": 6}
    failures = pl.read_parquet(tmp_path / "out" / "failures" / "*.parquet")
    assert set(failures["status"]) == {"unparsed"}
    assert not any("Liver" in reason for reason in failures["reason"])
    models = {name: pl.read_parquet(tmp_path / "out" / name / "*.parquet")["model"][0] for name in TASKS}
    assert models["radiology_ner"] == "two" and models["n_staging"] == "one"


def test_raw_answers_become_columns(pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_pack(str(pack))
    model, _ = loaded.prepare("one")
    setting = Setting(Path(), ArchiveSpec(()), loaded.style, {"one": model}, {}, {}, True, 1, 1, "too_long")
    report = Report(0, "1", "New liver mass.", {"premise": "a", "hypothesis": "b"})
    engine = Engine(FakeModel())

    def answer(prompts: list[worker.Prompt]) -> list[worker.Completion]:
        heads = ["".join(segment.text for segment in prompt.segments) for prompt in prompts]
        return [worker.Written(next(a for name, a in ANSWERS.items() if f"Task {name}." in head)) for head in heads]

    monkeypatch.setattr(engine, "answer", answer)
    outcomes = {name: rows[0] for name, rows in answer_reports(engine, setting, list(ANSWERS), [report], {}).items()}
    assert outcomes["n_staging"].status == "unparsed"
    values = {name: outcome.prediction.values for name, outcome in outcomes.items() if outcome.prediction}
    assert values["m_staging"]["stage"] == "M1"
    assert values["rads_assignment"]["label"] == "LI-RADS 5"
    assert values["radiology_nli"]["label"] == "neutral"
    assert values["temporal_comparison"]["changes"] == [{"finding": "mass", "change": "new", "start": 10, "end": 14}]
    assert [entity["text"] for entity in values["radiology_ner"]["entities"]] == ["liver", "mass"]


def test_the_instruction_is_computed_once_for_all_reports(pack: Path) -> None:
    loaded = load_pack(str(pack))
    engine = Engine(FakeModel())
    model, _ = loaded.prepare("one")
    setting = Setting(Path(), ArchiveSpec(()), loaded.style, {"one": model}, {}, {}, True, 1, 64, "too_long")
    reports = [Report(i, str(i), f"{i} clear.") for i in range(40)]
    answer_reports(engine, setting, ["n_staging"], reports, {})
    assert engine.counts.asked > 40 * 30
    assert engine.counts.computed - engine.counts.written < engine.counts.asked / 4
