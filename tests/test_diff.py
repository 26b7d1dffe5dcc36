"""Two runs over the same reports: exactly what was changed is found, and no report or written answer is told."""

import csv
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner, Result

from radlite_batch.archive import ArchiveSpec
from radlite_batch.cli import main
from radlite_batch.diff import STEPS, Diff, Flow, TaskDiff, compare, write_csv
from radlite_batch.errors import UsageError
from radlite_batch.job import Job, Output, Workers
from radlite_batch.run import run
from radlite_batch.tasks.registry import TASKS

CANARY = "zanzibar"
ROWS = 40


def answer(
    folder: Path, name: str, ids: list[str], tasks: tuple[str, ...] = tuple(TASKS), shard_rows: int = 16
) -> Path:
    """A run of the fake model over reports that say no more than their ids."""
    with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["report_id", "text", "question", "premise", "hypothesis"])
        writer.writerows([i, f"{CANARY} effusion {i}", "Where?", f"Left {i}.", "Right."] for i in ids)
    spec = ArchiveSpec((str(folder / f"{name}.csv"),))
    run(Job(spec, tasks, Output(folder / name, shard_rows=shard_rows), "fake", Workers(1, 1)))
    return folder / name


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return answer(tmp_path_factory.mktemp("runs"), "release", [f"{i:03d}" for i in range(ROWS)])


@pytest.fixture
def candidate(release: Path, tmp_path: Path) -> Path:
    """A copy of the release, for tests to change answers in."""
    return Path(shutil.copytree(release, tmp_path / "candidate"))


def rewrite(out: Path, task: str, row: int, **values: Any) -> dict[str, Any]:
    """Changes a row of a task's table, and returns it as it was."""
    for path in sorted((out / task).glob("*.parquet")):
        table = pl.read_parquet(path)
        rows = table.to_dicts()
        for i, old in enumerate(rows):
            if old["source_row"] == row:
                rows[i] = {**old, **values}
                pl.DataFrame(rows, schema=table.schema).write_parquet(path)
                return old
    raise AssertionError(f"{task} has no row {row}")


def of_task(diff: Diff, name: str) -> TaskDiff:
    return next(each for each in diff.tasks if each.task == name)


def radlite(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_run_does_not_differ_from_itself(release: Path, candidate: Path) -> None:
    diff = compare(release, candidate)
    assert (diff.key, diff.unmatched, diff.identity) == ("source_row", (0, 0), [])
    assert [each.task for each in diff.tasks] == list(TASKS)
    for each in diff.tasks:
        assert (each.rows, each.changes.height, each.flows) == (ROWS, 0, [])
        assert each.mean_step in (0, None)
        assert each.steps in ({STEPS // 2: ROWS}, {})


def test_changed_labels_and_their_confidence_are_found(release: Path, candidate: Path) -> None:
    before = {}
    for row in (3, 20, 39):
        before[row] = rewrite(candidate, "n_staging", row, stage="NX", confidence=0.5)
    rewrite(candidate, "n_staging", 7, status="unparsed", stage=None, confidence=None)
    staging = of_task(compare(release, candidate), "n_staging")
    moved = {row: old for row, old in before.items() if old["stage"] != "NX"}
    assert staging.changes["source_row"].to_list() == sorted([*moved, 7])
    assert {(flow.before, flow.after) for flow in staging.flows} >= {(old["stage"], "NX") for old in moved.values()}
    assert sum(flow.count for flow in staging.flows) == len(moved) + 1
    assert any(flow.after == "(unparsed)" for flow in staging.flows)
    steps = sum(0.5 - old["confidence"] for old in before.values())
    assert staging.mean_step == pytest.approx(steps / (ROWS - 1), abs=1e-6)
    assert staging.steps.total() == ROWS - 1


def test_flags_are_told_one_by_one(release: Path, candidate: Path) -> None:
    old = rewrite(candidate, "abnormality_detection", 5)
    other = {"positive": "negative", "negative": "uncertain", "uncertain": "absent", "absent": "positive"}
    turned = {flag: other[old[flag]] for flag in ("edema", "fracture")}
    rewrite(candidate, "abnormality_detection", 5, **turned)
    flags = of_task(compare(release, candidate), "abnormality_detection")
    assert flags.flows == [Flow(flag, old[flag], turned[flag], 1) for flag in turned]
    assert flags.changes.rows() == [
        ("005", 5, f"edema {old['edema']}; fracture {old['fracture']}",
         f"edema {turned['edema']}; fracture {turned['fracture']}", old["confidence"], old["confidence"])
    ]  # fmt: skip


def test_spans_are_matched_by_their_place(release: Path, candidate: Path, tmp_path: Path) -> None:
    release = Path(shutil.copytree(release, tmp_path / "before"))

    def span(start: int, label: str) -> dict[str, Any]:
        return {"text": CANARY, "label": label, "start": start, "end": start + 8}

    spans = {
        release: [span(0, "anatomy"), span(9, "observation_present"), span(20, "anatomy")],
        candidate: [span(0, "anatomy"), span(9, "observation_absent"), span(30, "anatomy")],
    }
    for out, found in spans.items():
        rewrite(out, "radiology_ner", 11, entities=found)
        rewrite(out, "radiology_ner", 30, entities=found[1:2] if out == release else [])  # the same place elsewhere
    entities = of_task(compare(release, candidate), "radiology_ner")
    assert entities.flows == [
        Flow("", "anatomy", "no span", 1),
        Flow("", "no span", "anatomy", 1),
        Flow("", "observation_present", "no span", 1),
        Flow("", "observation_present", "observation_absent", 1),
    ]
    assert entities.changes.select("before", "after").rows() == [
        ("9-17 observation_present; 20-28 anatomy", "9-17 observation_absent; 30-38 anatomy"),
        ("9-17 observation_present", ""),
    ]


def test_of_texts_only_their_length_is_told(release: Path, candidate: Path, tmp_path: Path) -> None:
    rewrite(candidate, "impression_generation", 2, impression=f"{CANARY} unseen words")
    rewrite(candidate, "impression_generation", 4, status="unparsed", impression=None)
    done = radlite("diff", release, candidate, "--to", tmp_path / "told")
    assert done.exit_code == 0, done.output
    written = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "told").iterdir()}
    assert set(written) == {"diff.html", "changes.csv", "flows.csv"}
    assert not [name for name, text in written.items() if CANARY in text or "unseen" in text]
    assert CANARY not in done.output and "2 of 40 rows changed" in done.output
    assert "002,2," in written["changes.csv"] and ",3 word(s)," in written["changes.csv"]
    assert "impression_generation,,text,another text,1" in written["flows.csv"].replace('""', "")
    assert "impression_generation,,text,(unparsed),1" in written["flows.csv"].replace('""', "")


def test_the_csv_files_hold_every_change(release: Path, candidate: Path, tmp_path: Path) -> None:
    for row in range(0, ROWS, 3):
        rewrite(candidate, "m_staging", row, stage="M1")
        rewrite(candidate, "rads_assignment", row, system="none", category=None, category_neck=None, label="none")
    diff = compare(release, candidate)
    changes, flows = (pl.read_csv(path, infer_schema=False) for path in write_csv(diff, tmp_path / "told"))
    for task in ("m_staging", "rads_assignment"):
        of = pl.col("task") == task
        assert changes.filter(of).height == of_task(diff, task).changes.height > 0
        assert flows.filter(of)["count"].cast(pl.Int64).sum() == changes.filter(of).height
    assert set(changes["report_id"].str.len_chars()) == {3}  # "003" stays a string


def test_ids_that_look_like_formulas_stay_words_in_a_spreadsheet(tmp_path: Path) -> None:
    out = answer(tmp_path, "a", ["=1+1", "@x", "plain"], ("n_staging",))
    other = Path(shutil.copytree(out, tmp_path / "b"))
    for row in range(3):
        rewrite(other, "n_staging", row, status="unparsed", stage=None, confidence=None)
    changes = pl.read_csv(write_csv(compare(out, other), tmp_path / "told")[0])
    assert changes["report_id"].to_list() == ["'=1+1", "'@x", "plain"]


def test_other_files_are_matched_by_id_where_it_is_unique(tmp_path: Path) -> None:
    one = answer(tmp_path, "one", ["a", "b", "c", "twice", "twice", ""], ("n_staging",))
    two = answer(tmp_path, "two", ["c", "twice", "d", "a"], ("n_staging", "m_staging"), shard_rows=3)
    rewrite(two, "n_staging", 3, status="unparsed", stage=None, confidence=None)
    diff = compare(one, two)
    assert (diff.key, diff.unmatched) == ("report_id", (4, 2))
    assert [each.task for each in diff.tasks] == ["n_staging"]
    assert diff.tasks[0].changes.select("report_id", "source_row").rows() == [("a", 3)]
    assert [key for key, _, _ in diff.identity if key.startswith("prompts")] == ["prompts.m_staging"]


def test_an_archive_that_grew_keeps_its_rows(tmp_path: Path) -> None:
    one = answer(tmp_path, "one", ["a", "a", "b"], ("n_staging",))
    files = (str(tmp_path / "one.csv"), str(tmp_path / "later.csv"))
    shutil.copy(files[0], files[1])
    run(Job(ArchiveSpec(files), ("n_staging",), Output(tmp_path / "two"), "fake", Workers(1, 1)))
    diff = compare(one, tmp_path / "two")
    assert (diff.key, diff.unmatched, diff.tasks[0].changes.height) == ("source_row", (0, 3), 0)


def test_runs_that_have_nothing_in_common_are_refused(tmp_path: Path) -> None:
    one = answer(tmp_path, "one", ["a"], ("n_staging",))
    with pytest.raises(UsageError, match="no task that both have answered"):
        compare(one, answer(tmp_path, "two", ["a"], ("m_staging",)))
    with pytest.raises(UsageError, match="no report is in both"):
        compare(one, answer(tmp_path, "three", ["b"], ("n_staging",)))
    gone = radlite("diff", one, tmp_path / "gone")
    assert (gone.exit_code, gone.output) == (2, f"radlite: {tmp_path / 'gone'}: no run was planned there\n")
