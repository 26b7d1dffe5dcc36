"""Review: the right answers are chosen, and their texts go nowhere else."""

import base64
import hashlib
import itertools
import re
import shutil
from pathlib import Path

import polars as pl
import pytest
from reviewing import ROWS, data_of, places, radlite, rewrite, stage, table, text_of, write_decisions

from radlite_batch.archive import ArchiveSpec
from radlite_batch.job import Job, Output, Workers
from radlite_batch.review.answers import legal_labels, reviewed_columns
from radlite_batch.review.cases import Wanted, mentions, select
from radlite_batch.run import run
from radlite_batch.tasks.base import FreeText
from radlite_batch.tasks.rads_systems import format_label, parse_label
from radlite_batch.tasks.registry import TASKS


def test_answers_below_a_confidence_are_those_of_the_tables(made: Path) -> None:
    found = select(made, Wanted(("n_staging", "abnormality_detection"), below=0.5))
    stages = table(made, "n_staging").filter(pl.col("confidence") < 0.5)
    expected = {("n_staging", row, "stage") for row in stages["source_row"]}
    flags = table(made, "abnormality_detection")
    for column in reviewed_columns(TASKS["abnormality_detection"]):
        low = flags.filter(pl.col(f"{column.name}_confidence") < 0.5)
        expected |= {("abnormality_detection", row, column.name) for row in low["source_row"]}
    assert set(places(found)) == expected and len(expected) == len(found.cases) == found.found > 20
    stage = next(case.answer for case in found.cases)
    assert stage.confidence == stages["confidence"].min()
    row = table(made, "n_staging").filter(pl.col("source_row") == stage.source_row).to_dicts()[0]
    assert stage.answer == row["stage"] == stage.alternatives[0][0]
    assert stage.alternatives == tuple((a["label"], a["probability"]) for a in row["alternatives"])
    assert {case.answer.report_id for case in found.cases} <= {f"=1+{i}" for i in range(ROWS)}


def test_the_least_sure_are_kept_and_rows_stay_together(made: Path) -> None:
    whole = select(made, Wanted(("abnormality_detection",), below=0.6))
    few = select(made, Wanted(("abnormality_detection",), below=0.6, limit=30))
    sure = sorted(case.answer.confidence or 0 for case in whole.cases)
    assert sorted(case.answer.confidence or 0 for case in few.cases) == sure[:30]
    assert few.found == whole.found == len(whole.cases) > 30
    rows = [case.answer.source_row for case in whole.cases]
    assert sum(a != b for a, b in itertools.pairwise(rows)) == len(set(rows)) - 1
    assert sure[0] in [case.answer.confidence for case in whole.cases if case.answer.source_row == rows[0]]


def test_answers_of_unknown_confidence_are_counted_not_guessed(made: Path) -> None:
    texts = select(made, Wanted(("impression_generation", "n_staging"), below=0.99))
    assert texts.unknown == ROWS - 1
    assert {case.answer.task for case in texts.cases} == {"n_staging"}
    assert len(select(made, Wanted(("impression_generation",))).cases) == ROWS - 1


def test_answers_are_chosen_by_label(made: Path) -> None:
    found = select(made, Wanted(("n_staging",), ("N1", "NX")))
    expected = table(made, "n_staging").filter(pl.col("stage").is_in(["N1", "NX"]))
    assert sorted(row for _, row, _ in places(found)) == sorted(expected["source_row"]) != []
    spans = select(made, Wanted(labels=("observation_absent",), limit=10_000))
    entities = table(made, "radiology_ner").explode("entities").unnest("entities").drop_nulls("text")
    expected = entities.filter(pl.col("label") == "observation_absent")
    assert sorted((c.answer.source_row, c.answer.start) for c in spans.cases) == sorted(
        expected.select("source_row", "start").rows()
    )
    for case in spans.cases:
        assert case.answer.start is not None and case.marks == ((case.answer.start, case.answer.end),)


def test_answers_that_another_run_does_not_give(made: Path, out: Path) -> None:
    old = {row["source_row"]: row["stage"] for row in table(made, "n_staging").to_dicts()}
    for row in (3, 20):
        rewrite(out, "n_staging", row, stage="N3" if old[row] != "N3" else "N0")
    rewrite(out, "n_staging", 5, status="unparsed", stage=None, confidence=None)
    spans = [{"text": "zanz", "label": "anatomy", "start": start, "end": start + 4} for start in (0, 5)]
    rewrite(out, "radiology_ner", 11, entities=spans)
    found = select(made, Wanted(("n_staging",), against=out))
    said = {case.answer.source_row: case.answer.other for case in found.cases}
    assert said == {3: "N3" if old[3] != "N3" else "N0", 20: "N3" if old[20] != "N3" else "N0", 5: "(unparsed)"}
    theirs = select(out, Wanted(("radiology_ner",), against=made))
    assert {case.answer.source_row for case in theirs.cases} == {11}
    assert {case.answer.start for case in theirs.cases} <= {0, 5}
    assert select(made, Wanted(against=made)).cases == []


def test_another_run_of_other_files_is_matched_by_id(made: Path, tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("report_id,text\nnew,x\n=1+4,something else\n", encoding="utf-8")
    spec = ArchiveSpec((str(tmp_path / "other.csv"),))
    run(Job(spec, ("n_staging",), Output(tmp_path / "other"), "fake", Workers(1, 1)))
    rewrite(tmp_path / "other", "n_staging", 1, status="unparsed", stage=None)
    found = select(made, Wanted(against=tmp_path / "other"))
    [answer] = [case.answer for case in found.cases]
    assert (answer.task, answer.source_row, answer.other) == ("n_staging", 4, "(unparsed)")
    assert radlite("review", made, "--task", "m_staging", "--against", tmp_path / "other").output.endswith(
        "it has answered none of the tasks\n"
    )


def test_the_files_hold_the_chosen_texts_only_and_only_their_owner_reads_them(made: Path, tmp_path: Path) -> None:
    done = radlite("review", made, "--task", "n_staging", "--limit", 3, "--to", tmp_path / "told")
    assert done.exit_code == 0, done.output
    rows = {case.answer.source_row for case in select(made, Wanted(("n_staging",), limit=3)).cases}
    for name in ("review.html", "review.csv"):
        path = tmp_path / "told" / name
        assert path.stat().st_mode & 0o777 == 0o600
        assert {int(i) for i in re.findall(r"zanzibar(\d+)", path.read_text(encoding="utf-8"))} == rows
    assert (tmp_path / "told").stat().st_mode & 0o777 == 0o700
    assert "zanzibar" not in done.output
    assert sorted(path.name for path in (tmp_path / "told").iterdir()) == ["review.csv", "review.html"]


def test_texts_of_a_remote_output_stay_here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = pytest.importorskip("fsspec", reason="fsspec is not installed").filesystem("memory")
    monkeypatch.setenv("RADLITE_CACHE", str(tmp_path / "cache"))
    storage.put(str(made), "/bucket/out", recursive=True)
    refused = radlite("review", "memory://bucket/out")
    assert (refused.exit_code, refused.output) == (
        2, "radlite: memory://bucket/out: report text stays on this machine; name a folder of it with --to\n"
    )  # fmt: skip
    done = radlite("review", "memory://bucket/out", "--task", "n_staging", "--to", tmp_path / "told")
    assert done.exit_code == 0, done.output
    decided = write_decisions(tmp_path / "decisions.csv", [stage(1, "accept")])
    assert radlite("review", "apply", "memory://bucket/out", decided).exit_code == 0
    stored = storage.find("/bucket/out")
    assert "/bucket/out/_run/review/decisions.parquet" in stored
    assert not any(b"zanzibar" in storage.cat(name) for name in stored if "review" in name or name.endswith("json"))


def test_both_spellings_of_the_command(made: Path, tmp_path: Path) -> None:
    for words in (["review", made], ["review", "make", made], ["review", "--limit", 2, made]):
        done = radlite(*words, "--to", tmp_path / "told")
        assert done.exit_code == 0 and "page      " in done.output
        shutil.rmtree(tmp_path / "told")
    assert "apply" in radlite("review", "--help").output
    assert "--below" in radlite("review", "make", "--help").output
    assert radlite("review").exit_code == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--task", "n_stagin"], "the run has no task 'n_stagin'; did you mean 'n_staging'?"),
        (["--task", "n_staging", "--label", "N7"], "no answer can be 'N7'; known: N0, N1, N2, N3, NX"),
        (["--label", "BI-RADS 9"], "no answer can be 'BI-RADS 9'; see `radlite tasks`"),
        (["--against", "nowhere"], "nowhere: no run was planned there"),
    ],
)
def test_what_cannot_be_asked_for_is_one_line(made: Path, flags: list[str], message: str) -> None:
    done = radlite("review", made, *flags)
    assert (done.exit_code, done.output) == (2, f"radlite: {message}\n")


def test_nothing_to_review_writes_nothing(made: Path, tmp_path: Path) -> None:
    done = radlite("review", made, "--below", 0, "--to", tmp_path / "told")
    assert (done.exit_code, done.output.splitlines()[-1]) == (0, "nothing to review: no answer is like that")
    assert not (tmp_path / "told").exists()


def test_an_archive_that_changed_is_refused(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "moved"
    folder.mkdir()
    shutil.copy(made.parent / "archive.csv", folder / "archive.csv")
    spec = ArchiveSpec((str(folder / "archive.csv"),))
    run(Job(spec, ("n_staging",), Output(folder / "out"), "fake", Workers(1, 1)))
    with open(folder / "archive.csv", "a", encoding="utf-8") as file:
        file.write("x,zanzibar,,,\n")
    for what in ("its bytes changed since", "gone since"):
        done = radlite("review", folder / "out")
        assert done.exit_code == 2 and what in done.output and done.output.count("\n") == 1
        assert not (folder / "out" / "_run" / "review").exists()
        (folder / "archive.csv").unlink(missing_ok=True)


def test_marks_in_the_csv_stand_at_the_span(made: Path, tmp_path: Path) -> None:
    """Offsets count code points, and an emoji stands before most of the spans."""
    assert radlite("review", made, "--task", "radiology_ner", "--to", tmp_path, "--limit", 10_000).exit_code == 0
    lines = pl.read_csv(tmp_path / "review.csv", infer_schema=False).to_dicts()
    entities = table(made, "radiology_ner").explode("entities").unnest("entities").drop_nulls("text")
    text = {(row["source_row"], row["start"]): row["text"] for row in entities.to_dicts()}
    marked = [line for line in lines if line["start"] is not None]
    assert len(marked) == len(text) > ROWS
    for line in marked:
        [span] = re.findall("\u00bb(.*?)\u00ab", line["text"], re.DOTALL)
        assert span == text[int(line["source_row"]), int(line["start"])]
    assert {line["report_id"][:2] for line in lines} == {"'="}


def test_a_text_cannot_leave_its_place_in_the_page(made: Path, tmp_path: Path) -> None:
    assert radlite("review", made, "--task", "n_staging", "--to", tmp_path).exit_code == 0
    page = (tmp_path / "review.html").read_text(encoding="utf-8")
    assert page.count("<script") == page.count("</script>") == 2 and "<img" not in page and "<!--" not in page
    assert text_of(6) in data_of(page)["texts"]
    [script] = re.findall(r"<script>(.*)</script>", page, re.DOTALL)
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    checksum = hashlib.sha256(script.encode()).digest()
    assert f"script-src 'sha256-{base64.b64encode(checksum).decode()}';" in policy
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert not re.search(r"https?:|url\(|@import|innerHTML|insertAdjacent", page)


@pytest.mark.parametrize(
    ("task", "column", "text", "found"),
    [
        ("n_staging", "stage", "pT2N1bM0; enlarged lymph nodes, Node. nodule", ["N1b", "lymph nodes", "Node"]),
        ("n_staging", "stage", "cN0, lymphadenopathy; NX", ["cN0", "lymphadenopathy", "NX"]),
        ("m_staging", "stage", "pT2N1M0, no metastases, metastatic", ["M0", "metastases", "metastatic"]),
        ("rads_assignment", "label", "BI-RADS category 4A. LungRADS: 2", ["BI-RADS category 4A", "LungRADS: 2"]),
        ("abnormality_detection", "pleural_effusion", "Pleural\neffusions. effusion", ["Pleural\neffusions"]),
        ("radiology_nli", "label", "entailment", []),
    ],
)
def test_mentions_are_what_is_asked_for(task: str, column: str, text: str, found: list[str]) -> None:
    assert [text[a:b] for a, b in mentions(task, column, text)] == found


def test_every_legal_answer_is_one_that_the_task_knows() -> None:
    for task in TASKS.values():
        for column in reviewed_columns(task):
            legal = legal_labels(task, column.name)
            words = any(isinstance(question.output, FreeText) for question in task.questions)
            assert bool(legal) != words and len(set(legal)) == len(legal)
            if column.vocabulary:
                assert set(legal) <= set(column.vocabulary)
    for label in legal_labels(TASKS["rads_assignment"], "label"):
        assert format_label(*parse_label(label)) == label
