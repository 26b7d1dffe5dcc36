"""Files are read plain or gzipped, and a complaint names the file, the record and the field, never a value."""

import gzip
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from written import lines, table

from radlite_batch.errors import ArchiveError
from training.datasets.base import digest, drawn, flag
from training.datasets.files import Record, find, json_file, json_lines, present, rows
from training.datasets.registry import SOURCES

SECRET = "Small left effusion."


def complaint(error: pytest.ExceptionInfo[ArchiveError]) -> str:
    text = str(error.value)
    assert SECRET not in text and "\n" not in text
    return text


def test_a_table_gives_its_rows(tmp_path: Path) -> None:
    table(tmp_path / "a.csv", [{"id": "1", "text": f"{SECRET}\nHeart large."}, {"id": "2", "text": ""}])
    read = list(rows(find(tmp_path, "a.csv"), ("id", "text")))
    assert [row.text("text") for row in read] == [f"{SECRET}\nHeart large.", ""]
    assert read[1].where.endswith("a.csv: row 2")


def test_a_gzipped_file_is_found_under_its_plain_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"\xef\xbb\xbfid\n7\n"))
    assert [row.text("id") for row in rows(find(tmp_path, "a.csv"), ("id",))] == ["7"]


def test_a_missing_file_and_a_missing_column_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"b\.csv: no such file"):
        find(tmp_path, "b.csv")
    with pytest.raises(ArchiveError, match=r"none of b\.csv, c\.csv is here"):
        present(tmp_path, ("b.csv", "c.csv"))
    table(tmp_path / "a.csv", [{"id": "1"}])
    with pytest.raises(ArchiveError, match=r"a\.csv: no column 'text'"):
        list(rows(tmp_path / "a.csv", ("id", "text")))


@pytest.mark.parametrize("line", ["1", f"1,2,{SECRET}"])
def test_a_row_of_another_length_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.csv").write_text(f"id,text\n0,x\n{line}\n")
    with pytest.raises(ArchiveError, match="row 2 has more or fewer fields") as error:
        list(rows(tmp_path / "a.csv", ("id", "text")))
    complaint(error)


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (f'id,text\n0,x\n1,"{SECRET}\n2,y\n', "row 2"),
        (f'id,text\n0,"{SECRET}" y\n', "row 1"),
        ('id,"text\n0,x\n', "header"),
    ],
)
def test_a_quote_that_is_not_closed_is_named(tmp_path: Path, content: str, place: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(ArchiveError, match=rf"a\.csv: {place}: a quote is not closed") as error:
        list(rows(tmp_path / "a.csv", ("id", "text")))
    complaint(error)


def test_half_a_character_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(r'{"text": "\ud83e\udec1", "half": "\ud800", "deep": [{"a": "\udfff"}]}')
    (line,) = json_lines(tmp_path / "a.jsonl")
    assert line.text("text") == "\U0001fac1"
    with pytest.raises(ArchiveError, match=r"a\.jsonl: line 1: field 'half' is not valid Unicode"):
        line.text("half")
    with pytest.raises(ArchiveError, match="field 'deep' is not valid Unicode"):
        line.of("deep", list)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{}\n{broken", "line 2: no JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (f'["{SECRET}"]'.encode(), "line 1 is no JSON object"),
        (b"{}\n" + b"[" * 100_000, r"line 2: not readable \(RecursionError\)"),
        (b"1" * 5000, r"line 1: not readable \(ValueError\)"),
    ],
)
def test_lines_that_are_no_objects_are_named(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(ArchiveError, match=said) as error:
        list(json_lines(tmp_path / "a.jsonl"))
    assert "a.jsonl" in complaint(error)


def test_a_document_of_another_kind_is_named(tmp_path: Path) -> None:
    lines(tmp_path / "a.json", [[SECRET]])
    with pytest.raises(ArchiveError, match=r"a\.json: no JSON dict"):
        json_file(tmp_path / "a.json", dict)
    (tmp_path / "a.json").write_text('{"a": ' * 100_000)
    with pytest.raises(ArchiveError, match=r"a\.json: not readable \(RecursionError\)"):
        json_file(tmp_path / "a.json", dict)
    (tmp_path / "a.json").write_text("{broken")
    with pytest.raises(ArchiveError, match=r"a\.json: no JSON \("):
        json_file(tmp_path / "a.json", dict)


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: data[:10] + b"\xff" * 20 + data[30:]])
def test_a_damaged_gzip_is_named(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    (tmp_path / "a.csv.gz").write_bytes(damage(gzip.compress(b"id\n" + bytes(range(48, 58)) * 400)))
    with pytest.raises(ArchiveError, match=r"a\.csv\.gz: not readable"):
        list(rows(tmp_path / "a.csv.gz", ("id",)))


def test_fields_are_of_their_kind_or_named() -> None:
    record = Record("a.csv: row 3", {"text": SECRET, "spans": [1], "flag": 1.0, "none": None})
    assert (record.text("text"), record.of("spans", list)) == (SECRET, [1])
    assert record.one_of("flag", {"1.0": "positive", "None": "absent"}) == "positive"
    assert record.one_of("none", {"1.0": "positive", "None": "absent"}) == "absent"
    with pytest.raises(ArchiveError, match=r"a\.csv: row 3: no field 'label'"):
        record.text("label")
    with pytest.raises(ArchiveError, match=r"a\.csv: row 3: field 'spans' is no str"):
        record.text("spans")
    with pytest.raises(ArchiveError, match="field 'text' is none of 'N0', 'N1'") as error:
        record.one_of("text", {"N0": 0, "N1": 1})
    complaint(error)


@pytest.mark.parametrize("source", SOURCES)
def test_a_folder_without_the_files_of_a_source_is_named(tmp_path: Path, source: str) -> None:
    with pytest.raises(ArchiveError, match=re.escape(str(tmp_path))):
        list(SOURCES[source].read(tmp_path))


def test_what_codes_leave_out_may_be_any_state_but_positive() -> None:
    assert flag(True) == "positive"
    assert flag(False) == ["negative", "uncertain", "absent"]


def test_a_draw_depends_on_its_key_alone_and_is_spread() -> None:
    numbers = [drawn(f"patient {i}") for i in range(2000)]
    assert numbers == [drawn(f"patient {i}") for i in range(2000)]
    assert min(numbers) >= 0 and max(numbers) < 1
    assert 0.45 < sum(n < 0.5 for n in numbers) / 2000 < 0.55


def test_a_digest_names_words_and_not_their_layout() -> None:
    assert digest("No  effusion.\n") == digest("no effusion.")
    assert digest("No effusion.") != digest("No effusions.")
