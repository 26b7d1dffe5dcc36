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
from training.evaluate import compare, confusion, evaluate
from training.measures import measures, stated_in_full, sureness
from training.reference import REFERENCE_COLUMNS
from training.scoring import Score, value

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
    table = table.with_columns(alternatives=pl.lit(None), confidence=pl.lit(None, pl.Float32))
    table[:2].write_parquet(out / "n_staging" / "part-00000.parquet")
    table[2:].write_parquet(out / "n_staging" / "part-00001.parquet")


def write(folder: Path, labels: pl.DataFrame | dict[str, list[object]]) -> Path:
    pl.DataFrame(labels).write_parquet(folder / "labelled.parquet")
    return folder / "labelled.parquet"


def by_name(scores: list[Score]) -> dict[tuple[str, str], Score]:
    """The scores of whole tasks."""
    return {(score.task, score.metric): score for score in scores if not score.of}


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


def test_every_task_is_scored_by_the_metrics_it_declares(out: Path, labels: pl.DataFrame, tmp_path: Path) -> None:
    scores = evaluate(out, write(tmp_path, labels))
    assert [*dict.fromkeys(score.task for score in scores)] == list(TASKS)
    for name, task in TASKS.items():
        assert {*task.metrics} <= {score.metric for score in scores if score.task == name}, name


def test_constant_answers_stand_beside_all_answers(out: Path, labels: pl.DataFrame, tmp_path: Path) -> None:
    labels = labels.with_columns(
        rads_label=pl.Series(["BI-RADS 2", "BI-RADS 2", "BI-RADS 3", "none", "none", "none"]),
        answer=pl.Series(["No.", "no", "Yes.", "no", "no", "Yes."]),
    )
    scores = evaluate(out, write(tmp_path, labels))
    found = by_name(scores)
    assert found["rads_assignment", "accuracy"].majority == pytest.approx(3 / 6)
    assert found["rads_assignment", "system_accuracy"].majority == pytest.approx(3 / 6)
    assert found["radiology_qa", "exact_match"].majority == pytest.approx(4 / 6)
    (breast,) = [score for score in scores if (score.metric, score.of) == ("accuracy", "BI-RADS")]
    assert (breast.n, breast.majority) == (3, pytest.approx(2 / 3))
    of_confidence = {"accuracy_at", "ece", "ece_if_calibrated"}
    assert all((score.majority is None) == (score.metric in of_confidence) for score in scores)
    # Of spans the constant answer is none; as text, it still has its headings.
    assert found["radiology_ner", "exact_f1"].majority == 0 and found["radiology_ner", "rouge_l"].majority > 0


def test_the_confidences_of_closed_answers_are_scored(out: Path, labels: pl.DataFrame, tmp_path: Path) -> None:
    # The last row is empty; every other answer is right.
    labels = labels.with_columns(edema=pl.lit("negative|absent"))
    scores = evaluate(out, write(tmp_path, labels))
    sure = {(s.task, s.of): s for s in scores if s.metric == "accuracy_at"}
    assert {task for task, _ in sure} == {
        "rads_assignment", "n_staging", "m_staging", "abnormality_detection", "radiology_nli",
    }  # fmt: skip
    assert sure["n_staging", "100 %"].value == pytest.approx(5 / 6)
    assert (sure["n_staging", "80 %"].n, sure["n_staging", "80 %"].value) == (5, 1)
    stage = pl.read_parquet(out / "n_staging" / "*.parquet").sort("report_id")
    gaps = sum(1 - c for c in stage["confidence"].to_list() if c is not None)  # each answer in a bin of its own
    assert by_name(scores)["n_staging", "ece"].value == pytest.approx(gaps / 6, abs=1e-6)


def test_the_calibration_of_rads_is_that_of_system_and_category() -> None:
    gold = [("NI-RADS 2a // 1",)] * 40
    answers = {"label": ["NI-RADS 2a // 2"] * 40, "confidence": [0.99] * 40}
    (tally,) = [
        tally(answers) for (metric, _), tally in sureness(TASKS["rads_assignment"], gold).items() if metric == "ece"
    ]
    assert value(tally) == pytest.approx(0.01)


def test_a_row_without_spans_for_want_of_an_answer_is_wrong() -> None:
    answers = {"changes": [None, [], None]}
    found = measures(TASKS["temporal_comparison"], [[], [], []])
    scored = {metric: value(measure.tally(answers)) for (metric, of), measure in found.items() if not of}
    assert scored["jaccard"] == pytest.approx(1 / 3)
    assert scored["exact_f1"] == scored["relaxed_f1"] == 0


def test_a_rads_label_that_is_never_found_counts_as_much_as_a_frequent_one() -> None:
    gold = [("BI-RADS 2",)] * 3 + [("BI-RADS 5",)]
    answers = {"label": ["BI-RADS 2"] * 4, "system": ["BI-RADS"] * 4}
    found = measures(TASKS["rads_assignment"], gold)
    assert value(found["macro_f1", ""].tally(answers)) == pytest.approx((6 / 7 + 0) / 2)


def test_a_label_that_is_only_one_of_several_has_no_f1() -> None:
    found = measures(TASKS["n_staging"], [("N0", "NX"), ("N1",)])
    assert [of for metric, of in found if metric == "f1"] == ["N1"]


def test_a_severity_may_be_over_no_report() -> None:
    found = measures(TASKS["rads_assignment"], [("none", "BI-RADS 2")])
    tallies = {key: measure.tally({"label": ["none"], "system": ["none"]}) for key, measure in found.items()}
    assert value(tallies["accuracy", ""]) == 1
    assert {tally.n for (metric, _), tally in tallies.items() if metric == "severity"} == {0}


def test_no_finding_is_no_finding_of_the_f1(tmp_path: Path) -> None:
    gold = [tuple(("positive",) if label in ("edema", "no_finding") else ("absent",) for label in LABELS)] * 2
    answers = {label: ["positive" if label == "no_finding" else "absent"] * 2 for label in LABELS}
    found = measures(TASKS["abnormality_detection"], gold)
    scored = {key: value(measure.tally(answers)) for key, measure in found.items()}
    assert scored["micro_f1", ""] == scored["macro_f1", ""] == 0
    assert scored["f1", "no_finding"] == 1 and scored["per_label_accuracy", ""] == pytest.approx(13 / 14)


def test_a_flag_with_several_labels_allowed_says_nothing_of_calibration() -> None:
    rows = [tuple(("negative", "absent") if label == "edema" else ("absent",) for label in LABELS)] * 3
    whole = stated_in_full(TASKS["abnormality_detection"], rows)
    assert [question.column for question in whole] == [label for label in LABELS if label != "edema"]
    unlabelled = [tuple(None if label == "edema" else ("absent",) for label in LABELS)] * 3
    assert len(stated_in_full(TASKS["abnormality_detection"], unlabelled)) == 13


def test_written_answers_have_no_confidence_to_score(stages: Path, tmp_path: Path) -> None:
    scores = evaluate(stages, write(tmp_path, {"report_id": ["1", "2"], "n_stage": ["N0", "N0"]}))
    assert {score.metric for score in scores} == {"accuracy", "macro_f1", "f1"}


def test_a_label_may_be_several(stages: Path, tmp_path: Path) -> None:
    reference = write(tmp_path, {"report_id": list("1234"), "n_stage": ["N0|NX", "N1|N2", "N1", "NX|N0"]})
    accuracy, *_ = evaluate(stages, reference)
    assert (accuracy.value, accuracy.majority) == (2 / 4, 2 / 4)


def test_flags_that_are_not_coded_are_no_positives(out: Path, labels: pl.DataFrame, tmp_path: Path) -> None:
    answers = pl.read_parquet(out / "abnormality_detection" / "*.parquet").filter(status="ok").sort("report_id")
    positive = answers["edema"].to_list().count("positive")
    labels = labels.filter(pl.col("report_id") != "05").with_columns(edema=pl.lit("negative|uncertain|absent"))
    scores = {(s.metric, s.of): s for s in evaluate(out, write(tmp_path, labels))}
    assert ("f1", "edema") not in scores
    assert scores["accuracy", "edema"].value == pytest.approx(1 - positive / 5)


def test_intervals_are_over_patients_where_they_are_named(stages: Path, tmp_path: Path) -> None:
    columns: dict[str, list[object]] = {"report_id": list("1234"), "n_stage": ["N0", "N0", "N0", "N0"]}
    alone, *_ = evaluate(stages, write(tmp_path, columns))
    together, *_ = evaluate(stages, write(tmp_path, columns | {"patient_id": ["a"] * 4}))
    assert alone.value == together.value == 2 / 4 and alone.low < alone.high
    assert together.low == together.high == 2 / 4  # one patient: every resample is the sample
    for nobody in (None, " "):
        assert evaluate(stages, write(tmp_path, columns | {"patient_id": [nobody] * 4}))[0] == alone


def test_texts_of_training_are_left_out_and_the_others_count_once(stages: Path, tmp_path: Path) -> None:
    columns: dict[str, list[object]] = {
        "report_id": list("1234"), "n_stage": ["N0", "N1", "N1", "N1"], "text_sha": ["x", "x", "y", "z"],
    }  # fmt: skip
    accuracy, *_ = evaluate(stages, write(tmp_path, columns), known={"y"})
    assert (accuracy.n, accuracy.value) == (2, 1 / 2)  # report 1 right, report 4 without an answer
    assert evaluate(stages, write(tmp_path, columns), known={"x", "y", "z"}) == []
    gaps = columns | {"text_sha": ["x", "x", None, "z"]}
    with pytest.raises(UsageError, match="column 'text_sha' has gaps"):
        evaluate(stages, write(tmp_path, gaps), known={"y"})
    del columns["text_sha"]
    with pytest.raises(UsageError, match="column 'text_sha' is missing"):
        evaluate(stages, write(tmp_path, columns), known={"y"})


def test_rules_are_measured_on_the_archive(stages: Path, tmp_path: Path) -> None:
    reference = write(tmp_path, {"report_id": list("123"), "n_stage": ["N0", "N2", "N1"]})
    archive = tmp_path / "reports.parquet"
    pl.DataFrame({"report_id": list("123"), "text": ["pN0.", "pT1 pN2 M0.", "No nodes."]}).write_parquet(archive)
    accuracy, *_ = evaluate(stages, reference, archive)
    assert (accuracy.value, accuracy.baseline) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    pl.DataFrame({"report_id": list("12"), "text": ["pN0.", "pN2."]}).write_parquet(archive)
    with pytest.raises(UsageError, match=r"reports\.parquet: report_id '3', which is labelled, is not there"):
        evaluate(stages, reference, archive)


def test_answers_are_counted_by_the_references_label(stages: Path, tmp_path: Path) -> None:
    reference = write(tmp_path, {"report_id": list("1234"), "n_stage": ["N0", "N1|N0", "N0", "N3"]})
    assert confusion(stages, reference) == {"n_staging.stage": {"N0": {"N0": 2, "N1": 1}, "N3": {"no answer": 1}}}


def test_rads_is_tabled_by_label_and_by_system(out: Path, labels: pl.DataFrame, tmp_path: Path) -> None:
    tables = confusion(out, write(tmp_path, labels))
    for column in ("label", "system"):
        table = tables[f"rads_assignment.{column}"]
        assert sum(n for row in table.values() for n in row.values()) == 6
        assert all(gold in row or "no answer" in row for gold, row in table.items())


def test_two_outputs_are_compared_over_the_reports_that_both_hold(stages: Path, tmp_path: Path) -> None:
    write_stages(tmp_path / "other", [("2", "ok", "N1"), ("3", "ok", "N1"), ("4", "ok", "N1"), ("9", "ok", "N1")])
    reference = write(tmp_path, {"report_id": list("12349"), "n_stage": ["N0", "N0", "N0", "N1", "N1"]})
    accuracy, macro, *_ = compare(stages, tmp_path / "other", reference)
    assert (accuracy.metric, accuracy.n, accuracy.value, accuracy.other) == (
        "accuracy", 3, pytest.approx(1 / 3), pytest.approx(1 / 3),
    )  # fmt: skip
    assert (accuracy.difference, accuracy.p) == (0, 1) and accuracy.low < 0 < accuracy.high
    # N0: 1 hit of 1 found and 2 due, against none; N1: none of 1 found, against 1 hit of 3 found and 1 due.
    assert macro.difference == pytest.approx((2 / 3 + 0) / 2 - (0 + 2 / 4) / 2) and macro.p is None


def test_an_output_does_not_differ_from_itself(out: Path, labels: pl.DataFrame, tmp_path: Path) -> None:
    found = compare(out, out, write(tmp_path, labels))
    assert {difference.task for difference in found} == set(TASKS)
    assert {(d.difference, d.low, d.high) for d in found} == {(0, 0, 0)}
    assert {d.p for d in found if d.metric == "system_accuracy"} == {1}
    assert any(d.metric == "ece" for d in found)


def test_outputs_that_share_no_label_are_not_compared(stages: Path, tmp_path: Path) -> None:
    write_stages(tmp_path / "other", [("7", "ok", "N1"), ("8", "ok", "N1"), ("9", "ok", "N1")])
    reference = write(tmp_path, {"report_id": ["1", "9"], "n_stage": ["N0", "N1"]})
    with pytest.raises(UsageError, match="other: shares no labelled report with"):
        compare(stages, tmp_path / "other", reference)


def test_stages_are_joined_by_id_over_the_parts_and_an_unparsed_row_is_wrong(stages: Path, tmp_path: Path) -> None:
    # Report 5 is not labelled, report 9 was not run.
    reference = write(tmp_path, {"report_id": list("943215"), "n_stage": ["N3", "N2", "N1", "N1", "N0", None]})
    accuracy, macro, *by_label = evaluate(stages, reference)
    assert (accuracy.n, accuracy.value, accuracy.majority) == (4, 2 / 4, 2 / 4)
    # N0: 1 hit of 2 found and 1 due; N1: 1 of 1 and 2; N2: 0 of 0 and 1. The constant N1: 2 of 4 and 2.
    assert macro.value == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert macro.majority == pytest.approx((0 + 4 / 6 + 0) / 3)
    assert [(s.metric, s.of, s.n) for s in by_label] == [("f1", "N0", 4), ("f1", "N1", 4), ("f1", "N2", 4)]
    assert [s.value for s in by_label] == pytest.approx([2 / 3, 2 / 3, 0])


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
    assert head.split() == ["task", "metric", "n", "score", "95", "%", "interval", "majority", "by", "rule"]
    assert accuracy.split()[:4] == ["n_staging", "accuracy", "4", "0.750"] and accuracy.split()[-2:] == ["0.500", "-"]
    document = json.loads(CliRunner().invoke(main, ["evaluate", str(stages), str(reference), "--json"]).output)
    score = document["scores"][0]
    assert score["value"] == 0.75 and score["low"] <= 0.75 <= score["high"]
    assert document["confusion"]["n_staging.stage"]["N1"] == {"N1": 1, "no answer": 1}


def test_the_command_prints_details_when_asked(out: Path, labels: pl.DataFrame, tmp_path: Path) -> None:
    reference = write(tmp_path, labels)
    plain, detailed = (
        CliRunner().invoke(main, ["evaluate", str(out), str(reference), *more]).output for more in ([], ["--details"])
    )
    assert {*plain.splitlines()} < {*detailed.splitlines()}
    assert " f1 " not in plain and any(line.split()[1:3] == ["accuracy", "edema"] for line in detailed.splitlines())


def test_the_command_prints_differences(stages: Path, tmp_path: Path) -> None:
    reference = write(tmp_path, {"report_id": ["1", "2", "3", "4"], "n_stage": ["N0", "N0", "N1", "N1"]})
    write_stages(tmp_path / "other", [("1", "ok", "N0"), ("2", "ok", "N1"), ("3", "ok", "N0"), ("4", "ok", "N0")])
    arguments = ["evaluate", str(stages), str(reference), "--against", str(tmp_path / "other")]
    head, accuracy, _ = CliRunner().invoke(main, arguments).output.splitlines()
    assert head.split()[:6] == ["task", "metric", "n", "score", "against", "diff."] and head.split()[-1] == "p"
    assert accuracy.split()[:6] == ["n_staging", "accuracy", "4", "0.750", "0.250", "+0.500"]
    document = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).output)
    assert document["differences"][0]["p"] == 0.5
    refused = CliRunner().invoke(main, [*arguments, "--archive", str(tmp_path / "reports.parquet")])
    assert (refused.exit_code, refused.output.count("\n")) == (
        2,
        1,
    ) and "--against gives differences alone" in refused.output


def test_the_command_scores_texts_that_are_not_in_training(stages: Path, tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="datasets is not installed; the training extra brings it")
    from training.datasets.mix import Mix
    from training.prepare import prepare, read_prepared
    from training.reference import text_sha

    tokens = [{"background": [], "findings": [word], "impression": ["Seen", "."]} for word in ("Cyst", "Mass")]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in tokens))
    prepare(Mix({"zhang2018": tmp_path}), tmp_path / "mix")
    seen = text_sha(read_prepared(tmp_path / "mix", "train")[0])
    reference = write(tmp_path, {"report_id": list("123"), "n_stage": ["N0", "N0", "N1"], "text_sha": ["a", seen, "c"]})
    arguments = ["evaluate", str(stages), str(reference), "--distinct-from", str(tmp_path / "mix"), "--json"]
    document = json.loads(CliRunner().invoke(main, arguments).output)
    assert [document[part][0]["n"] for part in ("scores", "distinct")] == [3, 2]


def test_the_command_reports_a_mistake_in_one_line_with_code_2(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["evaluate", str(tmp_path), "labelled.parquet"])
    assert result.exit_code == 2
    assert result.output == f"radlite-train: {tmp_path}: no output of a run is here\n"
