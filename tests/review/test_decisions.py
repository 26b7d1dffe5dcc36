"""Review: decisions are merged beside the output, and what does not fit is named."""

import hashlib
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from reviewing import ROWS, decisions, radlite, reviewed, rewrite, stage, table, write_decisions


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


def test_a_file_without_decisions_names_no_folder(out: Path) -> None:
    assert radlite("review", out, "--task", "n_staging").exit_code == 0
    done = radlite("review", "apply", out, out / "_run" / "review" / "review.csv")
    assert (done.exit_code, done.output) == (0, "nothing reviewed: no line holds a decision\n")


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
    "its time is not like 2026": {"time": "0001-01-01T00:00:00+14:00"},
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
