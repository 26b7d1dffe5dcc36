"""From two packs and a prepared split to the published tables: the whole way, with models that need no weights."""

import csv
import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner

from radlite_batch.engine.open import ModelFile
from radlite_batch.errors import UsageError
from radlite_batch.pack import load_pack
from radlite_batch.results.summary import RunSummary
from radlite_batch.run import run as run_job
from radlite_batch.tasks.rads_systems import SYSTEMS
from radlite_batch.tasks.registry import TASKS
from training import figures, report, reproduce, tables
from training.cli import main
from training.datasets.mix import GROUPS, Mix
from training.datasets.picture import can_draw
from training.evaluate import evaluate, score_lines
from training.prepare import prepare, read_prepared

needs_matplotlib = pytest.mark.skipif(not can_draw(), reason="matplotlib is not installed; the bench extra brings it")
RADS = ("BI-RADS 4A", "TI-RADS 3", "PI-RADS 5", "LI-RADS TR Viable")
INSTRUCT = """
name = "{name}"
about = "no model, asked in words"
licence = "Apache-2.0"
style = "instruct"
[models.fake]
base = "fake"
sha256 = ""
context = 65536
[routes]
{routes}
"""


def record(key: str, **more: Any) -> dict[str, Any]:
    findings = f"Study {key}. A small nodule is seen."
    return {"id": key, "findings": findings, "impression": f"Nodule {key}.", **more}


def records(part: str) -> list[dict[str, Any]]:
    chest = {"findings": f"{{Effusion|present,new}} in {{chest|anatomy}} {part}.", "marked": ["entities", "changes"]}
    found = [record(f"{part}-{i}", rads=label) for i, label in enumerate(RADS * 2)]
    found += [record(f"{part}-none", rads="none"), record(f"{part}-chest", flags={"edema": "positive"}, **chest)]
    stages = ("N0", "N1", "N1")
    return found + [record(f"{part}-n{i}", n=n, m="M0", qa=[["Small?", "Yes."]]) for i, n in enumerate(stages)]


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared mix with held-out samples of every task; inference has some in a test split."""
    pytest.importorskip("datasets", reason="datasets is not installed; the training extra brings it")
    folder = tmp_path_factory.mktemp("data")
    for part in ("train", "heldout"):
        write_lines(folder / part / "all.jsonl", records(part))
    pairs = [{"id": f"pair-{i}", "premise": f"Lobe {i}.", "hypothesis": "A mass.", "label": "neutral"} for i in (1, 2)]
    write_lines(folder / "heldout" / "pairs.jsonl", pairs)
    lines = [{"sentence1": f"Rib {i}.", "sentence2": "A mass.", "gold_label": "entailment"} for i in range(3)]
    write_lines(folder / "radnli_test_v1.jsonl", lines)
    write_lines(folder / "radnli_dev_v1.jsonl", [])
    prepare(Mix({"corpus": folder, "radnli": folder}), folder / "mix")
    return folder / "mix"


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A pack that asks in words, and answers two tasks only."""
    path = tmp_path_factory.mktemp("packs") / "words.toml"
    path.write_text(INSTRUCT.format(name="words", routes='rads_assignment = "fake"\nn_staging = "fake"'))
    return str(path)


@pytest.fixture(scope="module")
def out(data: Path, words: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out") / "both"
    arguments = ["reproduce", "fake", "fake", "--zero-shot", words, "--data", str(data), "--output", str(folder)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-1] == str(folder / "index.html")
    return folder


def rows(out: Path, table: str) -> list[dict[str, str]]:
    with open(out / "tables" / f"{table}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def document(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "reproduce.json").read_text())
    return found


def test_every_task_stands_beside_its_published_score(out: Path) -> None:
    results = rows(out, "results")
    assert {row["task"] for row in results} == set(TASKS)
    rads = next(row for row in results if row["task"] == "rads_assignment" and row["metric"] == "accuracy")
    assert (rads["Qwen2.5-3B tuned"], rads["Qwen3-4B zero-shot"], rads["published in"]) == ("0.77", "0.242", "README")
    assert rads["n"] == "8" and float(rads["majority"]) == 2 / 8
    both = [row["published in"] for row in results if (row["task"], row["metric"]) == ("radiology_qa", "rouge_l")]
    assert both == ["README", "figure"]


def test_a_score_is_what_evaluate_gives_of_the_run(out: Path) -> None:
    scores = evaluate(out / "runs" / "fake" / "n_staging", out / "archives" / "n_staging" / "labels.parquet")
    accuracy = next(score for score in scores if score.metric == "accuracy" and not score.of)
    row = next(row for row in rows(out, "results") if (row["task"], row["metric"]) == ("n_staging", "accuracy"))
    stated = tuple(float(row[f"A fake, tuned{end}"]) for end in ("", " low", " high"))
    assert stated == (accuracy.value, accuracy.low, accuracy.high) and row["n"] == str(accuracy.n) == "3"


def test_a_task_that_a_pack_does_not_serve_has_no_score(out: Path) -> None:
    served = {row["task"] for row in rows(out, "results") if row["A words, zero-shot"]}
    assert served == {"rads_assignment", "n_staging"}
    assert {path.name for path in (out / "runs" / "words").iterdir()} == {"rads_assignment", "n_staging", "few_shot"}


def test_reports_to_which_no_system_applies_are_no_rads_samples(out: Path) -> None:
    labels = pl.read_parquet(out / "archives" / "rads_assignment" / "labels.parquet")["rads_label"].to_list()
    assert Counter(labels) == {label: 2 for label in RADS}


def test_treatment_responses_are_a_group_and_part_of_their_system(out: Path) -> None:
    of = {row["system"]: row for row in rows(out, "systems")}
    assert of["LR-TR"]["n"] == of["LI-RADS"]["n"] == "2" and of["LR-TR"]["Qwen3-4B (figure)"] == "1.0"
    assert of["LR-TR"]["A fake, tuned"] == of["LI-RADS"]["A fake, tuned"] != ""
    for series in report._systems(tables.read_packs(document(out)))[:4]:
        assert series.values["LR-TR"] == series.values["LI-RADS"]
    assert "Ours count under LI-RADS too." in (out / "index.html").read_text()
    labels = out / "archives" / "rads_assignment" / "labels.parquet"
    lines = score_lines(evaluate(out / "runs" / "fake" / "rads_assignment", labels), details=True)
    assert any(line.split()[1:4] == ["accuracy", "LR-TR", "2"] for line in lines)


def test_the_sources_of_the_samples_are_counted(out: Path) -> None:
    counted = {(row["task"], row["source"], row["split"]): row["n"] for row in rows(out, "samples")}
    assert counted["radiology_nli", "radnli", "test"] == "3" and counted["radiology_nli", "corpus", "dev"] == "2"
    page = (out / "index.html").read_text()
    assert "rads assignment 8 of 8" in page and "radiology nli 2 of 5" in page
    alone = {row["source"]: row["n"] for row in rows(out, "by_source") if row["task"] == "radiology_nli"}
    assert alone == {"radnli": "3", "corpus": "2"}


def test_three_labelled_reports_stand_before_a_report(out: Path, data: Path) -> None:
    plain, shots = (
        pl.read_parquet(out / "archives" / name / "corpus" / "reports.parquet").sort("report_id")
        for name in ("rads_assignment", "few_shot")
    )
    trained = {
        s.text: s.targets["rads_assignment"] for s in read_prepared(data, "train") if "rads_assignment" in s.targets
    }
    systems = []
    for bare, text in zip(plain["text"], shots["text"], strict=True):
        *examples, last = text.split("\n\nReport:\n")
        assert last == bare and len(examples) == 3
        for example in examples:
            report, label = example.split("\n\nRADS category: ")
            assert f"{trained[report]['system']} {trained[report]['category']}" == label
            systems.append(trained[report]["system"])
    assert set(Counter(systems).values()) == {8}


def test_few_shot_is_for_packs_with_words(out: Path) -> None:
    found = rows(out, "few_shot")
    assert {row["pack"] for row in found} == {"A words, zero-shot", "B words, zero-shot"}
    whole = next(row for row in found if row["system"] == "all")
    difference = float(whole["three-shot"]) - float(whole["zero-shot"])
    assert float(whole["difference"]) == pytest.approx(difference)
    assert whole["published, Qwen3-4B"] == "-0.05" and whole["n"] == "8"
    page = (out / "index.html").read_text()
    assert "A fake, tuned: not applicable, a native prompt has no words." in page
    assert "A words, zero-shot: not applicable" not in page


def test_tuned_packs_are_paired_with_what_they_were_tuned_from(out: Path) -> None:
    pairs = {(row["samples"], row["pack"], row["less"]) for row in rows(out, "paired")}
    assert ("rads_assignment", "A fake, tuned", "A words, zero-shot") in pairs
    assert ("few_shot", "B words, zero-shot", "B words, zero-shot, no examples") in pairs
    assert not any(less == "B fake, tuned" for _, _, less in pairs)  # a pack is not compared with itself


def test_severity_shares_add_up(out: Path) -> None:
    for grouped in ("by line", "by rank"):
        shares = [float(row["A fake, tuned"]) for row in rows(out, "severity") if row["grouped"] == grouped]
        assert sum(shares) == pytest.approx(1)
    assert sum(float(row["Qwen3-4B"]) for row in rows(out, "severity") if row["Qwen3-4B"]) == pytest.approx(1)


def test_the_training_mix_is_counted(out: Path) -> None:
    mixed = {row["name"]: row for row in rows(out, "mix")}
    assert mixed["rads_assignment"]["training samples"] == "9" and mixed["rads_assignment"]["weight"] == "3.0"
    assert mixed["classification"]["training samples"] == str(9 + 3 + 3)  # RADS, N and M
    assert mixed["extraction"]["published samples"] == "69962"
    assert mixed["BI-RADS"]["training samples"] == "2" and mixed["BI-RADS"]["published samples"] == "3124"


def test_the_tokens_of_the_speed_are_all_that_go_through_the_model(out: Path) -> None:
    page = (out / "index.html").read_text()
    assert "those of the prompts, each once however many questions share it, and the written ones" in page


def test_the_page_needs_nothing_beside_it_and_holds_no_report(out: Path) -> None:
    page = (out / "index.html").read_text()
    assert not re.search(r"<script|<link|<img|@import|url\((?!#)|src=", page)
    for path in (out / "index.html", out / "reproduce.json", *(out / "tables").iterdir()):
        assert "nodule is seen" not in path.read_text()


@needs_matplotlib
def test_seven_figures_stand_in_the_page(out: Path) -> None:
    page = (out / "index.html").read_text()
    assert page.count("<svg") == len([*(out / "figures").glob("figure-[1-7].svg")]) == 7
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', page))
    assert used and used <= set(ids)
    assert "BI-RADS</text>" in page and "classification</text>" in page


def test_running_again_leaves_finished_runs_and_writes_the_same_page(out: Path, data: Path, words: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*.json")}
    page = (out / "index.html").read_bytes()
    assert reproduce.reproduce(("fake", "fake"), data, out, [words]) == 0
    assert {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*.json")} == before
    assert (out / "index.html").read_bytes() == page


def test_other_samples_are_refused_in_the_same_output(out: Path, data: Path, words: str) -> None:
    with pytest.raises(UsageError, match="archives: holds other samples"):
        reproduce.reproduce(("fake", "fake"), data, out, [words], limit=1)


def test_a_stopped_run_ends_it_and_the_next_call_goes_on(
    data: Path, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, done = run_job, []

    def stopped_at_the_second(job: Any) -> RunSummary:
        done.append(job.output.path)
        return run(job) if len(done) == 1 else RunSummary("stopped", 130, 1, 1, 0)

    monkeypatch.setattr(reproduce, "run", stopped_at_the_second)
    assert reproduce.reproduce((words, words), data, tmp_path / "out", limit=2) == 130
    assert len(done) == 2 and not (tmp_path / "out" / "index.html").exists()
    monkeypatch.setattr(reproduce, "run", run)
    assert reproduce.reproduce((words, words), data, tmp_path / "out", limit=2) == 0
    assert next(row["n"] for row in rows(tmp_path / "out", "results") if row["A words"]) == "2"


def test_packs_are_told_apart(data: Path, words: str, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text(INSTRUCT.format(name="words", routes='default = "fake"'))
    with pytest.raises(UsageError, match=r"other\.toml: another pack of the comparison is named 'words' too"):
        reproduce.reproduce((words, str(other)), data, tmp_path / "out")
    with pytest.raises(UsageError, match="3 zero-shot packs are given"):
        reproduce.reproduce(("fake", "fake"), data, tmp_path / "out", [words] * 3)
    with pytest.raises(UsageError, match="nothing prepared is here"):
        reproduce.reproduce(("fake", "fake"), tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_that_models_share_counts_once(tmp_path: Path) -> None:
    for name, more in (("base", 1000), ("one", 10), ("two", 20)):
        (tmp_path / f"{name}.gguf").write_bytes(b"GGUF" + bytes(more))
    base, one, two = (tmp_path / f"{name}.gguf" for name in ("base", "one", "two"))
    (tmp_path / "link.gguf").symlink_to(base)
    pairs = ((base, one), (tmp_path / "link.gguf", two))
    files = [ModelFile(adapter.stem, path, "", 64, (), adapter) for path, adapter in pairs]
    assert reproduce._bytes([*files, ModelFile("fake", None, "", 64, ())]) == 1004 + 14 + 24
    sha256 = hashlib.sha256(base.read_bytes()).hexdigest()
    model = f'base = "base.gguf"\nsha256 = "{sha256}"\ncontext = 64\nconvert = false\n'
    (tmp_path / "pack.toml").write_text(
        'name = "twice"\nabout = ""\nlicence = ""\nstyle = "instruct"\n'
        f'[models.one]\n{model}[models.two]\n{model}[routes]\nn_staging = "one"\nm_staging = "two"\n'
    )
    pack = reproduce._pack(reproduce.Entrant("A", "", "", load_pack(str(tmp_path / "pack.toml"))))
    table = tables.deployment([tables.Measured(pack | {"scores": [], "speed": []})])
    assert table.rows[0][table.head.index("GB on disk")] == 1004 / 1e9


def test_a_low_speed_keeps_a_decimal() -> None:
    accuracy = {"archive": "rads_assignment", "source": "", "metric": "accuracy", "of": "", "value": 0.5, "n": 7}
    speed = {"archive": "rads_assignment", "rows": 7, "seconds": 2.0, "computed": 2468}
    pack = tables.Measured({"label": "ours", "bytes": 10**9, "scores": [accuracy], "speed": [speed]})
    labels = {point.label.partition("\n")[2] for point in report._points([pack])}
    assert labels == {"1,234 tokens/s", "7.7 tokens/s", "4.4 tokens/s", ""}


def test_the_ensemble_takes_the_better_of_the_two() -> None:
    def pack(label: str, value: float) -> tables.Measured:
        score = {"archive": "n_staging", "source": "", "metric": "accuracy", "of": "", "value": value, "low": 0.0,
                 "high": 1.0, "n": 7, "majority": 0.5}  # fmt: skip
        return tables.Measured({"label": label, "scores": [score]})

    (row,) = tables.ensemble([pack("zero", 1.0), pack("one", 0.4), pack("two", 0.6)]).rows
    assert row[:3] == ("n_staging", "accuracy", "two") and row[3]["value"] == 0.6 and row[4:6] == (7, 0.5)


def test_published_numbers_add_up_and_name_what_is_known() -> None:
    published = tables.PUBLISHED
    assert sum(row["samples"] for row in published["mix"]) == published["training_samples"] == 161_586
    assert sum(row["samples"] for row in published["mix_systems"]) == 9_355
    of_tasks = {row["task"]: row["samples"] for row in published["mix"]}
    sums = {group: sum(of_tasks[task] for task in names) for group, names in GROUPS.items()}
    assert {row["group"]: row["samples"] for row in published["mix_groups"]} == sums
    assert sum(row.get("n", 0) for row in published["systems"]) == 746
    assert {row["task"] for row in published["results"]} == {row["task"] for row in published["mix"]} == set(TASKS)
    assert {row["metric"] for row in published["results"]} <= {m for task in TASKS.values() for m in task.metrics} | {
        "rouge_l"
    }
    named = {row["system"] for key in ("systems", "mix_systems", "few_shot") for row in published[key]}
    assert named == {system.name for system in SYSTEMS} | {"LR-TR", "all"}
    lists = [row for value in published.values() if isinstance(value, list) for row in value if isinstance(row, dict)]
    assert {row["origin"] for row in lists} == {"README", "figure"}


@needs_matplotlib
def test_a_picture_without_series_is_a_picture(tmp_path: Path) -> None:
    figures.bars(tmp_path / "empty.svg", ["a", "b"], [figures.Panel("none", [])], "share")
    assert "<svg" in figures.inline(tmp_path / "empty.svg")
