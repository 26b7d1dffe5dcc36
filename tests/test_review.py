"""Review: the right answers are chosen, their texts go nowhere else, and decisions are merged beside the output."""

import base64
import csv
import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner, Result

from radlite_batch.archive import ArchiveSpec
from radlite_batch.cli import main
from radlite_batch.job import Job, Output, Workers
from radlite_batch.review.answers import legal_labels, reviewed_columns
from radlite_batch.review.cases import Selection, Wanted, mentions, select
from radlite_batch.run import run
from radlite_batch.tasks.base import FreeText
from radlite_batch.tasks.rads_systems import format_label, parse_label
from radlite_batch.tasks.registry import TASKS

ROWS = 40
HOSTILE = "</script><script>alert(1)</script><!-- & <img src=x onerror=alert(2)>"


def text_of(i: int) -> str:
    """Row 6 tries to leave its place in a page; an emoji makes code points differ from UTF-16 units."""
    return f"zanzibar{i} \U0001f600 pleural effusion, lymph nodes enlarged. {HOSTILE if i == 6 else ''}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of every task in several shards; its archive beside it. Row 9 has no text."""
    folder = tmp_path_factory.mktemp("review")
    with open(folder / "archive.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["report_id", "text", "question", "premise", "hypothesis"])
        for i in range(ROWS):
            writer.writerow([f"=1+{i}", "" if i == 9 else text_of(i), "Where?", f"Left {i}.", "Right."])
    spec = ArchiveSpec((str(folder / "archive.csv"),))
    output = Output(folder / "out", private=False, shard_rows=16)
    run(Job(spec, tuple(TASKS), output, "fake", Workers(1, 1)))
    return folder / "out"


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    """A copy of the run, for tests to write in."""
    return Path(shutil.copytree(made, tmp_path / "out"))


def radlite(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def table(out: Path, task: str) -> pl.DataFrame:
    return pl.read_parquet(out / task / "*.parquet")


def rewrite(out: Path, task: str, row: int, **values: Any) -> None:
    for path in sorted((out / task).glob("*.parquet")):
        old = pl.read_parquet(path)
        rows = [{**each, **values} if each["source_row"] == row else each for each in old.to_dicts()]
        pl.DataFrame(rows, schema=old.schema).write_parquet(path)


def write_decisions(path: Path, lines: Sequence[Mapping[str, Any]], delimiter: str = ",") -> Path:
    names = list(dict.fromkeys(name for line in lines for name in line))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, delimiter=delimiter)
        writer.writeheader()
        writer.writerows(lines)
    return path


def stage(row: int, decision: str, correction: str = "", **more: Any) -> dict[str, Any]:
    return {"task": "n_staging", "source_row": row, "column": "stage", "decision": decision,
            "correction": correction, **more}  # fmt: skip


def reviewed(out: Path, task: str) -> pl.DataFrame:
    return pl.read_parquet(out / "_run" / "review" / "reviewed" / task / "*.parquet")


def decisions(out: Path) -> list[dict[str, Any]]:
    return pl.read_parquet(out / "_run" / "review" / "decisions.parquet").to_dicts()


def data_of(page: str) -> dict[str, Any]:
    [data] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    found: dict[str, Any] = json.loads(data)
    return found


def places(selection: Selection) -> list[tuple[str, int, str]]:
    return [(case.answer.task, case.answer.source_row, case.answer.column) for case in selection.cases]


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


def everything(out: Path) -> dict[str, str]:
    """Checksums of all that the model's run wrote."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and "review" not in path.parts
    }


def test_decisions_are_laid_beside_the_output(out: Path, tmp_path: Path) -> None:
    before, old = everything(out), table(out, "n_staging")
    other = {row["source_row"]: "N0" if row["stage"] != "N0" else "N1" for row in old.to_dicts()}
    time = "2026-01-31T07:30:00Z"
    path = write_decisions(
        tmp_path / "decisions.csv",
        [stage(1, "accept", reviewer="AB", time=time), stage(2, "correct", other[2], reviewer="AB", time=time),
         stage(3, "reject", reviewer="AB", time=time), stage(4, "")],
    )  # fmt: skip
    done = radlite("review", "apply", out, path)
    assert done.exit_code == 0, done.output
    assert "n_staging               1 accept, 1 correct, 1 reject" in done.output
    assert [(d["source_row"], d["decision"], d["correction"], d["reviewer"]) for d in decisions(out)] == [
        (1, "accept", None, "AB"), (2, "correct", other[2], "AB"), (3, "reject", None, "AB"),
    ]  # fmt: skip
    assert [d["answer"] for d in decisions(out)] == old["stage"][1:4].to_list()
    new = reviewed(out, "n_staging")
    assert new.select(old.columns).equals(old)
    assert new["reviewed_stage"][1:5].to_list() == [old["stage"][1], other[2], None, None]
    assert new["reviewed_stage_decision"][:5].to_list() == [None, "accept", "correct", "reject", None]
    assert new["reviewed_by"][:2].to_list() == [None, ["AB"]]
    assert new["reviewed_at"][1].isoformat() == "2026-01-31T07:30:00+00:00"
    assert len(list((out / "_run" / "review" / "reviewed" / "n_staging").iterdir())) == 3
    assert everything(out) == before
    whole = radlite("verify", out)
    assert whole.exit_code == 0, whole.output
    modes = {path.stat().st_mode & 0o77 for path in (out / "_run" / "review").rglob("*")}
    assert modes == {0}


def test_applying_twice_is_applying_once(out: Path, tmp_path: Path) -> None:
    path = write_decisions(tmp_path / "decisions.csv", [stage(1, "accept"), stage(30, "reject")])
    seen = []
    for _ in range(2):
        assert radlite("review", "apply", out, path, path).exit_code == 0
        folder = out / "_run" / "review"
        seen.append({p.name: p.read_bytes() for p in sorted(folder.rglob("*.parquet"))})
    assert seen[0] == seen[1] and len(decisions(out)) == 2


def test_a_csv_filled_in_by_hand_is_merged(out: Path, tmp_path: Path) -> None:
    """As a spreadsheet saves it: semicolons, a byte order mark, texts of several lines, labels in small letters."""
    assert radlite("review", out, "--task", "n_staging", "--task", "rads_assignment").exit_code == 0
    lines = pl.read_csv(out / "_run" / "review" / "review.csv", infer_schema=False).fill_null("").to_dicts()
    filled = [line | {"text": f"{line['text']}\nand more; of it"} for line in lines]
    of_rads = next(i for i, line in enumerate(filled) if line["task"] == "rads_assignment")
    of_stage = next(i for i, line in enumerate(filled) if line["task"] == "n_staging")
    filled[of_stage] |= {"decision": "Accept"}
    filled[of_rads] |= {"decision": "correct", "correction": "ni-rads 2a // 1"}
    path = write_decisions(tmp_path / "filled.csv", filled, ";")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    done = radlite("review", "apply", out, path)
    assert done.exit_code == 0, done.output
    row = int(filled[of_rads]["source_row"])
    rads = reviewed(out, "rads_assignment").filter(pl.col("source_row") == row).to_dicts()[0]
    assert [rads[f"reviewed_{name}"] for name in ("system", "category", "category_neck", "label")] == [
        "NI-RADS", "2a", "1", "NI-RADS 2a // 1",
    ]  # fmt: skip
    assert {(d["task"], d["reviewer"]) for d in decisions(out)} == {("n_staging", None), ("rads_assignment", None)}


def test_spans_are_relabelled_and_taken_out(out: Path, tmp_path: Path) -> None:
    spans = [{"text": "zanz", "label": "anatomy", "start": start, "end": start + 4} for start in (0, 5, 10, 15)]
    rewrite(out, "radiology_ner", 2, entities=spans)
    rewrite(out, "radiology_ner", 3, entities=[])
    rewrite(out, "radiology_ner", 4, entities=[])

    def span(start: int, decision: str, correction: str = "") -> dict[str, Any]:
        return {"task": "radiology_ner", "source_row": 2, "column": "entities", "start": start, "end": start + 4,
                "decision": decision, "correction": correction}  # fmt: skip

    empty = {"task": "radiology_ner", "column": "entities"}
    lines = [
        span(0, "accept"), span(5, "reject"), span(10, "correct", "observation_present"),
        {**empty, "source_row": 3, "decision": "accept"}, {**empty, "source_row": 4, "decision": "reject"},
    ]  # fmt: skip
    done = radlite("review", "apply", out, write_decisions(tmp_path / "spans.csv", lines))
    assert done.exit_code == 0, done.output
    rows = reviewed(out, "radiology_ner").to_dicts()
    assert [(s["start"], s["label"], s["decision"]) for s in rows[2]["reviewed_entities"]] == [
        (0, "anatomy", "accept"), (10, "observation_present", "correct"), (15, "anatomy", None),
    ]  # fmt: skip
    assert rows[2]["entities"] == spans
    assert [rows[i]["reviewed_entities_decision"] for i in (2, 3, 4, 5)] == ["correct", "accept", "reject", None]
    assert [rows[i]["reviewed_entities"] for i in (3, 4, 5)] == [[], None, None]


def test_flags_are_reviewed_one_by_one(out: Path, tmp_path: Path) -> None:
    old = table(out, "abnormality_detection").to_dicts()[7]
    turned = "negative" if old["edema"] != "negative" else "uncertain"
    flag = {"task": "abnormality_detection", "source_row": 7}
    path = write_decisions(
        tmp_path / "flags.csv",
        [{**flag, "column": "edema", "decision": "correct", "correction": turned},
         {**flag, "column": "fracture", "decision": "accept", "correction": ""}],
    )  # fmt: skip
    assert radlite("review", "apply", out, path).exit_code == 0
    row = reviewed(out, "abnormality_detection").to_dicts()[7]
    assert (row["reviewed_edema"], row["reviewed_edema_decision"]) == (turned, "correct")
    assert (row["reviewed_fracture"], row["reviewed_fracture_decision"]) == (old["fracture"], "accept")
    assert (row["reviewed_pneumonia"], row["reviewed_pneumonia_decision"]) == (None, None)


def test_words_are_corrected_and_stand_in_no_message(out: Path, tmp_path: Path) -> None:
    words = {"task": "radiology_qa", "source_row": 1, "column": "answer"}
    lines = [{**words, "decision": "correct", "correction": "'- zanzibar, left", "reviewer": "AB"}]
    done = radlite("review", "apply", out, write_decisions(tmp_path / "words.csv", lines))
    assert done.exit_code == 0 and "zanzibar" not in done.output
    assert reviewed(out, "radiology_qa")["reviewed_answer"][1] == "- zanzibar, left"
    assert decisions(out)[0]["answer"] is None
    lines = [{**words, "decision": "correct", "correction": "zanzibar, right", "reviewer": "CD"}]
    done = radlite("review", "apply", out, write_decisions(tmp_path / "others.csv", lines))
    assert done.exit_code == 2 and "decided otherwise" in done.output and "zanzibar" not in done.output


def test_a_reviewers_later_decision_wins_and_two_reviewers_must_agree(out: Path, tmp_path: Path) -> None:
    def by(name: str, who: str, hour: int, correction: str) -> Path:
        line = stage(1, "correct", correction, reviewer=who, time=f"2026-01-31T{hour:02d}:00:00Z")
        return write_decisions(tmp_path / f"{name}.csv", [stage(0, "accept"), line])

    answer = table(out, "n_staging")["stage"][1]
    one, two = [label for label in ("N0", "N1", "N2") if label != answer][:2]
    assert radlite("review", "apply", out, by("later", "AB", 9, one), by("early", "AB", 8, two)).exit_code == 0
    assert [(d["source_row"], d["correction"]) for d in decisions(out)] == [(0, None), (1, one)]
    before = everything(out) | {str(p): p.read_bytes().hex() for p in (out / "_run" / "review").rglob("*.parquet")}
    contrary = by("contrary", "CD", 10, two)
    done = radlite("review", "apply", out, contrary)
    kept = out / "_run" / "review" / "decisions.parquet"
    assert done.exit_code == 2 and done.output == (
        f"radlite: {contrary} line 3: on this answer another reviewer decided otherwise, in {kept}\n"
    )
    after = everything(out) | {str(p): p.read_bytes().hex() for p in (out / "_run" / "review").rglob("*.parquet")}
    assert after == before
    assert radlite("review", "apply", out, by("settled", "AB", 11, two), contrary).exit_code == 0
    assert [(d["correction"], d["reviewer"]) for d in decisions(out)[1:]] == [(two, "AB"), (two, "CD")]


WRONG = {
    "its task is none of the run's": {"task": "zanzibar"},
    "the run has no such answer": {"source_row": ROWS},
    "no such answer (row, column": {"column": "zanzibar"},
    "no such answer (row, column, and of a span": {"start": 0, "end": 4},
    "its source_row is no whole number": {"source_row": "zanzibar"},
    "its source_row is no whole": {"source_row": "9" * 30},
    "its source_row is": {"source_row": ""},
    "its start is no whole number": {"start": "-1"},
    "its decision is none of accept": {"decision": "", "correction": "N1"},
    "its decision is none of accept, correct, reject": {"decision": "zanzibar"},
    "its correction is none of N0, N1, N2, N3, NX": {"decision": "correct", "correction": "zanzibar"},
    "and correct needs one": {"decision": "correct"},
    "and accept has none": {"decision": "accept", "correction": "N1"},
    "row 9 is empty, there is no answer": {"source_row": 9},
    "it was decided on the answers of another run": {"run": "r0"},
    "its time is not like": {"time": "zanzibar"},
    "is not the run's": {"answer": "zanzibar"},
}


@pytest.mark.parametrize("message", WRONG)
def test_a_line_that_does_not_fit_is_named(made: Path, out: Path, tmp_path: Path, message: str) -> None:
    """Files are refused whole, and no cell is quoted: a line out of step holds a text where a label should be."""
    line = stage(2, "accept", **{"start": "", "end": "", "run": "", "answer": "", "time": "", "reviewer": ""})
    path = write_decisions(tmp_path / "wrong.csv", [stage(1, "accept"), line | WRONG[message]])
    done = radlite("review", "apply", out, path)
    assert done.exit_code == 2 and done.output.count("\n") == 1, done.output
    assert done.output.startswith(f"radlite: {path} line 3: ") and message in done.output
    assert "zanzibar" not in done.output
    assert not (out / "_run" / "review").exists()


def test_files_that_cannot_be_read_are_named(made: Path, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("task,decision\n", encoding="utf-8")
    (tmp_path / "b.csv").write_bytes(b"task,source_row,column,decision,correction\n\xff\n")
    (tmp_path / "c.csv").write_text('task,source_row,column,decision,correction\n"a"b\n', encoding="utf-8")
    (tmp_path / "e.csv").write_text("task,source_row,column,decision,correction\n\nx,1,x,,,\n", encoding="utf-8")
    for name, message in (
        ("a.csv", "it has no column source_row, column, correction"), ("b.csv", "it is not UTF-8"),
        ("c.csv line 2", "broken quoting"), ("d.csv", "No such file or directory"),
        ("e.csv line 3", "6 fields where the header has 5"),
    ):  # fmt: skip
        done = radlite("review", "apply", made, tmp_path / name.split()[0])
        assert (done.exit_code, done.output) == (2, f"radlite: {tmp_path / name}: {message}\n")


def test_a_damaged_table_of_decisions_is_named(out: Path, tmp_path: Path) -> None:
    path = write_decisions(tmp_path / "decisions.csv", [stage(1, "accept")])
    assert radlite("review", "apply", out, path).exit_code == 0
    kept = out / "_run" / "review" / "decisions.parquet"
    os.truncate(kept, 100)
    done = radlite("review", "apply", out, path)
    assert done.exit_code == 1 and done.output.startswith(f"radlite: {kept}: not readable")
