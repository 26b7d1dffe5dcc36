"""From a run's output and a labelled Parquet to scores: joined by id, all statuses counted, mistakes named."""

import csv
import json
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

from radlite_batch.archive import ArchiveSpec
from radlite_batch.errors import UsageError
from radlite_batch.job import Job, Output, Workers
from radlite_batch.run import run
from radlite_batch.tasks.abnormality_detection import LABELS
from radlite_batch.tasks.registry import TASKS
from training.cli import main
from training.evaluate import REFERENCE_COLUMNS, evaluate
from training.scoring import Score

TEXTS = ("Heart size is normal.", "Small left effusion.", "Clear lungs.", "New basal opacity.", "Old fracture.", "")
SAME = {"rads_label": "label", "n_stage": "stage", "m_stage": "stage", "nli_label": "label"}  # else named alike


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over six rows; the last is empty. Its answers have no meaning, but they are what a run writes."""
    folder = tmp_path_factory.mktemp("run")
    with open(folder / "archive.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["report_id", "text", "findings", "question", "premise", "hypothesis"])
        for i, text in enumerate(TEXTS):
            pair = ("No effusion.", f"Effusion {i}.") if text else ("", "")
            writer.writerow([f"{i:02d}", text, text, "Is the heart large?", *pair])
    archive = ArchiveSpec((str(folder / "archive.csv"),))
    run(Job(archive, tuple(TASKS), Output(folder / "out", shard_rows=4), pack="fake", workers=Workers(processes=1)))
    return folder / "out"


@pytest.fixture
def labels(out: Path) -> pl.DataFrame:
    """A reference that agrees with every answer, and has labels for the empty row too, but for its spans."""
    reference = pl.read_parquet(out / "wide" / "*.parquet").select("report_id")
    for task, columns in REFERENCE_COLUMNS.items():
        found = [pl.col(SAME.get(column, column)).alias(column) for column in columns]
        reference = reference.join(
            pl.read_parquet(out / task / "*.parquet").select("report_id", *found), on="report_id"
        )
    filler = dict.fromkeys(LABELS, "positive") | {"impression": "Normal.", "answer": "No.", "nli_label": "neutral"}
    filler |= {"rads_label": "BI-RADS 2", "n_stage": "N0", "m_stage": "M0"}
    return reference.with_columns(pl.col(name).fill_null(pl.lit(label)) for name, label in filler.items())


@pytest.fixture
def stages(tmp_path: Path) -> Path:
    """An output of N staging by hand, in two parts."""
    rows = [("1", "ok", "N0"), ("2", "ok", "N0"), ("3", "ok", "N1"), ("4", "unparsed", None), ("5", "ok", "N2")]
    write_stages(tmp_path / "stages", rows)
    return tmp_path / "stages"


def write_stages(out: Path, rows: list[tuple[str, str, str | None]]) -> None:
    (out / "n_staging").mkdir(parents=True)
    table = pl.DataFrame(rows, ("report_id", "status", "stage"), orient="row")
    table = table.with_columns(alternatives=pl.lit(None))
    table[:2].write_parquet(out / "n_staging" / "part-00000.parquet")
    table[2:].write_parquet(out / "n_staging" / "part-00001.parquet")


def write(folder: Path, labels: pl.DataFrame | dict[str, list[object]]) -> Path:
    pl.DataFrame(labels).write_parquet(folder / "labelled.parquet")
    return folder / "labelled.parquet"


def by_name(scores: list[Score]) -> dict[tuple[str, str], Score]:
    return {(score.task, score.metric): score for score in scores}


def test_a_run_against_its_own_answers_loses_only_the_row_without_one(
    out: Path, labels: pl.DataFrame, tmp_path: Path
) -> None:
    scores = by_name(evaluate(out, write(tmp_path, labels)))
    for task, metric in (
        ("rads_assignment", "accuracy"), ("rads_assignment", "system_accuracy"), ("n_staging", "accuracy"),
        ("m_staging", "accuracy"), ("abnormality_detection", "per_label_accuracy"), ("radiology_nli", "accuracy"),
        ("impression_generation", "rouge_l"), ("radiology_qa", "rouge_l"),
    ):  # fmt: skip
        assert (scores[task, metric].n, scores[task, metric].value) == (6, pytest.approx(5 / 6)), (task, metric)
    for task in ("radiology_ner", "temporal_comparison"):
        assert (scores[task, "exact_f1"].n, scores[task, "relaxed_f1"].n) == (5, 5)
        assert scores[task, "exact_f1"].value == scores[task, "relaxed_f1"].value == 1
    assert scores["abnormality_detection", "micro_f1"].value < 1


def test_scores_do_not_depend_on_the_order_of_the_reference(out: Path, labels: pl.DataFrame, tmp_path: Path) -> None:
    scores = evaluate(out, write(tmp_path, labels))
    assert evaluate(out, write(tmp_path, labels.reverse())) == scores


def test_every_task_is_scored_by_metrics_it_declares(out: Path, labels: pl.DataFrame, tmp_path: Path) -> None:
    scores = evaluate(out, write(tmp_path, labels))
    assert [*dict.fromkeys(score.task for score in scores)] == list(TASKS)
    assert all(score.metric in TASKS[score.task].metrics for score in scores)


def test_constant_answers_stand_beside_closed_tasks_only(out: Path, labels: pl.DataFrame, tmp_path: Path) -> None:
    labels = labels.with_columns(rads_label=pl.Series(["BI-RADS 2", "BI-RADS 2", "BI-RADS 3", "none", "none", "none"]))
    scores = by_name(evaluate(out, write(tmp_path, labels)))
    assert scores["rads_assignment", "accuracy"].majority == pytest.approx(3 / 6)
    assert scores["rads_assignment", "system_accuracy"].majority == pytest.approx(3 / 6)
    open_tasks = {task for (task, _), score in scores.items() if score.majority is None}
    assert open_tasks == {"radiology_ner", "temporal_comparison", "impression_generation", "radiology_qa"}


def test_stages_are_joined_by_id_over_the_parts_and_an_unparsed_row_is_wrong(stages: Path, tmp_path: Path) -> None:
    # Report 5 is not labelled, report 9 was not run.
    reference = write(tmp_path, {"report_id": list("943215"), "n_stage": ["N3", "N2", "N1", "N1", "N0", None]})
    accuracy, macro = evaluate(stages, reference)
    assert (accuracy.n, accuracy.value, accuracy.majority) == (4, 2 / 4, 2 / 4)
    # N0: 1 hit of 2 found and 1 due; N1: 1 of 1 and 2; N2: 0 of 0 and 1. The constant N1: 2 of 4 and 2.
    assert macro.value == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert macro.majority == pytest.approx((0 + 4 / 6 + 0) / 3)


def test_an_answer_in_a_row_that_is_not_ok_does_not_count(tmp_path: Path) -> None:
    write_stages(tmp_path / "out", [("1", "failed", "N0"), ("2", "ok", "N0"), ("3", "ok", "N0")])
    reference = write(tmp_path, {"report_id": ["1", "2", "3"], "n_stage": ["N0", "N0", "N0"]})
    assert evaluate(tmp_path / "out", reference)[0].value == pytest.approx(2 / 3)


def test_rads_labels_of_the_reference_may_be_spelt_otherwise(out: Path, labels: pl.DataFrame, tmp_path: Path) -> None:
    spelt = labels.with_columns(pl.col("rads_label").str.to_lowercase().str.replace("-rads ", "rads: "))
    assert spelt["rads_label"].to_list() != labels["rads_label"].to_list()
    assert by_name(evaluate(out, write(tmp_path, spelt)))["rads_assignment", "accuracy"].value == pytest.approx(5 / 6)


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ({"n_stage": ["N0"]}, "column 'report_id' is missing"),
        ({"report_id": ["1", "2", "1"], "n_stage": ["N0", None, "N0"]}, "report_id '1' stands in more than one row"),
        ({"report_id": ["1", None], "n_stage": ["N0", "N0"]}, "a row has no report_id"),
        ({"report_id": ["1"], "n_stage": ["Small left effusion"]}, "n_stage of report '1' is not N0 |"),
        ({"report_id": ["77"], "n_stage": ["N0"]}, "labels no report of"),
        ({"report_id": ["1"], "m_stage": ["M0"]}, "labels no report of"),
        ({"report_id": ["1"], "n_stage": [None]}, "labels no report of"),
    ],
)
def test_a_reference_that_cannot_be_used_is_refused_in_one_line(
    stages: Path, tmp_path: Path, reference: dict[str, list[object]], said: str
) -> None:
    with pytest.raises(UsageError) as error:
        evaluate(stages, write(tmp_path, reference))
    message = str(error.value)
    assert said in message and "labelled.parquet" in message
    assert "\n" not in message and "effusion" not in message


def test_a_reference_with_some_flags_only_is_refused(out: Path, labels: pl.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="column 'edema' is missing, abnormality_detection needs it"):
        evaluate(out, write(tmp_path, labels.drop("edema")))


def test_spans_that_are_no_spans_are_refused(out: Path, labels: pl.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="entities of report '00' is not a list of spans"):
        evaluate(out, write(tmp_path, labels.with_columns(entities=pl.lit("effusion"))))


def test_two_rows_of_the_output_cannot_share_a_label(tmp_path: Path) -> None:
    write_stages(tmp_path / "out", [("1", "ok", "N0"), ("2", "ok", "N0"), ("2", "ok", "N1")])
    with pytest.raises(UsageError, match="n_staging: report_id '2' stands in more than one row"):
        evaluate(tmp_path / "out", write(tmp_path, {"report_id": ["1", "2"], "n_stage": ["N0", "N0"]}))


def test_missing_files_are_named(stages: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere: no output of a run is here"):
        evaluate(tmp_path / "nowhere", tmp_path / "labelled.parquet")
    with pytest.raises(UsageError, match=r"labelled\.parquet: no such file"):
        evaluate(stages, tmp_path / "labelled.parquet")
    (tmp_path / "labelled.parquet").write_text("report_id,n_stage")
    with pytest.raises(UsageError, match="not readable as a Parquet file"):
        evaluate(stages, tmp_path / "labelled.parquet")


def test_the_command_prints_a_table_or_json(stages: Path, tmp_path: Path) -> None:
    reference = write(tmp_path, {"report_id": ["1", "2", "3", "4"], "n_stage": ["N0", "N0", "N1", "N1"]})
    table = CliRunner().invoke(main, ["evaluate", str(stages), str(reference)])
    assert table.exit_code == 0
    head, accuracy, _ = table.output.splitlines()
    assert head.split() == ["task", "metric", "n", "score", "95", "%", "interval", "majority"]
    assert accuracy.split()[:4] == ["n_staging", "accuracy", "4", "0.750"] and accuracy.split()[-1] == "0.500"
    document = json.loads(CliRunner().invoke(main, ["evaluate", str(stages), str(reference), "--json"]).output)
    assert document[0]["value"] == 0.75 and document[0]["low"] <= 0.75 <= document[0]["high"]


def test_the_command_reports_a_mistake_in_one_line_with_code_2(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["evaluate", str(tmp_path), "labelled.parquet"])
    assert result.exit_code == 2
    assert result.output == f"radlite-train: {tmp_path}: no output of a run is here\n"
