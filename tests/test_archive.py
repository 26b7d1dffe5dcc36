"""Archives: every row arrives once, whatever is in it, and any shard can be read by itself."""

import csv
import datetime
import io
import os
import random
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radlite_batch.archive import ArchiveReader, ArchiveSpec, Filter, discover, plan_shards, survey
from radlite_batch.errors import ArchiveError
from radlite_batch.records import Report

SPEC = ArchiveSpec(("unused",))
BAD_STRINGS = pa.array([b"a\xffb"]).view(pa.string())  # what a writer that does not check may leave


def read(path: Path, spec: ArchiveSpec = SPEC, shard_rows: int = 256) -> list[Report]:
    """Every row of one file, as planned and read with this shard size."""
    surveyed = survey(path, spec, True, shard_rows, None)
    shards = plan_shards([surveyed], shard_rows, 0, 0)
    reader = ArchiveReader(spec)
    reports = [report for shard in shards for report in reader.reports(shard)]
    assert [report.source_row for report in reports] == list(range(surveyed.rows))
    return reports


def from_csv(tmp_path: Path, content: bytes, spec: ArchiveSpec = SPEC) -> list[Report]:
    (tmp_path / "a.csv").write_bytes(content)
    return read(tmp_path / "a.csv", spec)


def from_parquet(tmp_path: Path, table: pa.Table, spec: ArchiveSpec = SPEC) -> list[Report]:
    pq.write_table(table, tmp_path / "a.parquet")
    return read(tmp_path / "a.parquet", spec)


def pairs(reports: list[Report]) -> list[tuple[str | None, str]]:
    assert all(report.problem is None for report in reports)
    return [(report.report_id, report.text) for report in reports]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(b"report_id,text\n0012,Clear.\n", [("0012", "Clear.")], id="leading zeros stay"),
        pytest.param(b'report_id,text\n1,"Clear.\nNo ""mass""."\n', [("1", 'Clear.\nNo "mass".')], id="quoted break"),
        pytest.param(b"\xef\xbb\xbfreport_id,text\n1,a\n", [("1", "a")], id="byte order mark"),
        pytest.param(b'\xef\xbb\xbf"report_id",text\n1,a\n', [("1", "a")], id="byte order mark, quoted header"),
        pytest.param(b"report_id,text\n1,a\x00b\n", [("1", "a\x00b")], id="NUL is text"),
        pytest.param(b"report_id,text\n1,a\n1,b\n", [("1", "a"), ("1", "b")], id="duplicate ids keep both rows"),
        pytest.param(b'report_id,text\n,a\n"",b\n', [(None, "a"), (None, "b")], id="missing ids are null"),
        pytest.param(b'report_id,text\n1,\n2,""\n', [("1", ""), ("2", "")], id="empty texts"),
        pytest.param(b"\nreport_id,text\n\n1,a\n\n\n2,b\n\n", [("1", "a"), ("2", "b")], id="blank lines"),
        pytest.param(b'report_id,text\r\n1,a\r\n2,"b\r\nc"\r\n', [("1", "a"), ("2", "b\r\nc")], id="CRLF"),
        pytest.param(b"report_id,text\n1,a", [("1", "a")], id="no last line break"),
        pytest.param(b"report_id,text\n", [], id="header alone"),
        pytest.param(b"report_id,text\n1," + b"ab" * 500_000 + b"\n", [("1", "ab" * 500_000)], id="1 MB field"),
    ],
)
def test_csv_rows_arrive_as_written(tmp_path: Path, content: bytes, expected: list[tuple[str | None, str]]) -> None:
    assert pairs(from_csv(tmp_path, content)) == expected


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"9", "1 fields where the header has 2"),
        (b"9,Clear,lungs", "3 fields where the header has 2"),
        (b'9,"Clear" lungs', "broken quoting"),
        (b"9,Cl\xe9ar", "column text: bytes that are not utf-8"),
    ],
)
def test_an_unreadable_csv_row_spoils_no_neighbour(tmp_path: Path, line: bytes, problem: str) -> None:
    before, bad, after = from_csv(tmp_path, b"report_id,text\n1,a\n" + line + b"\n2,b\n")
    assert pairs([before, after]) == [("1", "a"), ("2", "b")]
    assert (bad.problem, bad.text, bad.source_row) == (problem, "", 1)
    assert bad.report_id == (None if problem == "broken quoting" else "9")


@pytest.mark.parametrize(
    "rows",
    [
        b'1,"Chest clear.\n2,b\n3,"Liver, spleen normal."\n4,d\n',  # it would swallow row 2
        b'1,"Known "mass" in the liver.\nSmith, seen in May.\n2,b\n',  # its second line would be a row
    ],
)
def test_where_the_next_row_cannot_be_told_the_archive_is_refused(tmp_path: Path, rows: bytes) -> None:
    with pytest.raises(ArchiveError, match=r"a\.csv line 2: broken quoting in a field that may go on") as error:
        from_csv(tmp_path, b"report_id,text\n" + rows)
    assert not {"Chest", "Smith", "mass"} & set(str(error.value).split())


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"report_id,text\r\n1,No nodes\r2,Mets\r\n3,last\r\n", 2),
        (b'report_id,text\n1,"two\nlines"\n2,a\r3,b\n', 4),
        (b"report_id,text\r1,a\r2,b\r", 1),
    ],
)
def test_a_carriage_return_that_alone_ends_a_line_is_an_error(tmp_path: Path, content: bytes, line: int) -> None:
    with pytest.raises(ArchiveError, match=rf"a\.csv line {line}: a carriage return alone ends a line; save"):
        from_csv(tmp_path, content)


def test_a_header_that_cannot_be_decoded_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"a\.csv: its header line is not utf-8"):
        from_csv(tmp_path, b"report_id,text,Gr\xf6sse\n1,a,b\n")


def test_hidden_files_are_none_of_a_folder_and_packed_ones_are_refused(tmp_path: Path) -> None:
    for name in ("a.csv", ".checkpoints/a.csv", "b/.c.csv", "notes.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("report_id,text\n")
    assert discover([str(tmp_path)]) == [tmp_path / "a.csv"]
    (tmp_path / "b" / "d.csv.gz").write_bytes(b"")
    with pytest.raises(ArchiveError, match=r"b/d\.csv\.gz: packed; unpack it"):
        discover([str(tmp_path)])


def test_a_file_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"befund_\xe4.csv")).write_text("report_id,text\n")
    with pytest.raises(ArchiveError, match="its name is not UTF-8; rename it"):
        discover([str(tmp_path)])


def test_latin_1_is_read_when_the_job_says_so(tmp_path: Path) -> None:
    spec = ArchiveSpec(("unused",), encoding="latin-1")
    assert pairs(from_csv(tmp_path, b"report_id,text\n1,caf\xe9\n", spec)) == [("1", "café")]


@pytest.mark.parametrize(
    ("content", "line"),
    [(b'report_id,text\n1,a\n2,b\n3,"open\nmore\n', 4), (b'report_id,text\n1,"two\nlines"\n\n2,"open\n', 5)],
)
def test_a_quote_never_closed_is_an_error_with_file_and_line(tmp_path: Path, content: bytes, line: int) -> None:
    with pytest.raises(ArchiveError, match=rf"a\.csv line {line}: a quoted field is never closed"):
        from_csv(tmp_path, content)


def test_several_text_columns_are_joined_by_name(tmp_path: Path) -> None:
    spec = ArchiveSpec(("unused",), text=("findings", "impression"))
    rows = b"report_id,findings,impression\n1,Clear.,Normal.\n2,,Normal.\n3,,\n"
    assert pairs(from_csv(tmp_path, rows, spec)) == [
        ("1", "FINDINGS: Clear.\nIMPRESSION: Normal."),
        ("2", "IMPRESSION: Normal."),
        ("3", ""),
    ]


def test_columns_are_mapped_by_the_job_and_else_by_their_own_name(tmp_path: Path) -> None:
    spec = ArchiveSpec(("unused",), report_id="accession", text=("body",), columns={"question": "ask"})
    (report,) = from_csv(tmp_path, b"ask,body,accession,findings,other\nMass?,Clear.,007,Lungs clear.,x\n", spec)
    assert (report.report_id, report.text) == ("007", "Clear.")
    assert report.fields == {"question": "Mass?", "findings": "Lungs clear."}


@pytest.mark.parametrize(
    "given", [{"report_id": "reportid"}, {"text": ("texts",)}, {"columns": {"findings": "finding"}}]
)
def test_a_missing_column_is_an_error_with_a_suggestion(tmp_path: Path, given: dict[str, Any]) -> None:
    spec = ArchiveSpec(("unused",), **given)
    with pytest.raises(ArchiveError, match=r"a\.csv: no column '\w+'; did you mean '(report_id|text|findings)'\?"):
        from_csv(tmp_path, b"report_id,text,findings\n1,a,b\n", spec)
    with pytest.raises(ArchiveError, match=r"a\.parquet: no column '\w+'; did you mean '(report_id|text|findings)'\?"):
        from_parquet(tmp_path, pa.table({"report_id": ["1"], "text": ["a"], "findings": ["b"]}), spec)


def test_two_columns_of_one_name_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"a\.csv: two columns are named 'text'"):
        from_csv(tmp_path, b"report_id,text,text\n1,a,b\n")
    twice = pa.Table.from_arrays(
        [pa.array(["1"]), pa.array(["a"]), pa.array(["b"])], names=["report_id", "text", "text"]
    )
    with pytest.raises(ArchiveError, match=r"a\.parquet: two columns are named 'text'"):
        from_parquet(tmp_path, twice)


def test_filter_by_modality_and_date() -> None:
    def admitted(rule: Filter, modality: str, date: str) -> bool:
        return rule.admits(Report(0, "1", "a", {"modality": modality, "study_date": date}))

    rule = Filter(("CT", "MR"), "2024-01-01", "2024-12-31")
    assert admitted(rule, "CT", "2024-01-01") and admitted(rule, "MR", "2024-12-31 23:59:59")
    assert not admitted(rule, "US", "2024-06-01")
    assert not admitted(rule, "CT", "2023-12-31") and not admitted(rule, "CT", "2025-01-01")
    assert not admitted(rule, "CT", "")
    assert admitted(rule, "CT", "20240101") and not admitted(rule, "CT", "20231231")
    assert admitted(Filter(("CT",)), "CT", "") and Filter().admits(Report(0, None, ""))


def test_a_date_that_the_filter_cannot_read_is_a_problem_and_no_date_is_none(tmp_path: Path) -> None:
    days = ["2024-06-01", "20240601", "20240601120000", "01.06.2024", "1711122000", " "]
    archive = "report_id,text,study_date\n" + "".join(f"{i},a,{day}\n" for i, day in enumerate(days))
    rule = Filter(date_from="2024-01-01")
    found = from_csv(tmp_path, archive.encode(), ArchiveSpec(("unused",), filter=rule))
    assert [bool(report.problem) for report in found] == [False, False, False, True, True, False]
    assert found[3].problem == "study_date: not a date like 2024-12-31 or 20241231, which the filter needs"
    assert [rule.admits(report) for report in found if not report.problem] == [True, True, True, False]
    assert not any(report.problem for report in from_csv(tmp_path, archive.encode()))


def test_a_filter_on_a_column_the_archive_lacks_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="modality"):
        from_csv(tmp_path, b"report_id,text\n1,a\n", ArchiveSpec(("unused",), filter=Filter(("CT",))))


def test_parquet_values_become_strings(tmp_path: Path) -> None:
    table = pa.table(
        {
            "report_id": pa.array([12, None, 7]),
            "text": pa.array([b"caf\xc3\xa9", None, b"a\x00b"]),
            "modality": pa.array(["CT", None, "CT"]).dictionary_encode(),
            "study_date": pa.array([datetime.date(2024, 1, 2), None, datetime.date(2024, 1, 3)]),
            "unused": pa.array([[1], [2], [3]]),
        }
    )
    first, second, third = from_parquet(tmp_path, table)
    assert pairs([first, second, third]) == [("12", "café"), (None, ""), ("7", "a\x00b")]
    assert first.fields == {"modality": "CT", "study_date": "2024-01-02"}
    assert second.fields == {"modality": "", "study_date": ""}


def test_parquet_ids_may_be_whole_floats_or_uuids(tmp_path: Path) -> None:
    ids = pa.array([10012345678.0, float("nan"), None])
    assert [r.report_id for r in from_parquet(tmp_path, pa.table({"report_id": ids, "text": ["a", "b", "c"]}))] == [
        "10012345678", None, None,
    ]  # fmt: skip
    name = uuid.UUID(int=7)
    ids = pa.array([name.bytes, None], pa.uuid())
    found = from_parquet(tmp_path, pa.table({"report_id": ids, "text": ["a", "b"]}))
    assert [report.report_id for report in found] == [str(name), None]


def test_a_parquet_column_that_is_no_text_is_named(tmp_path: Path) -> None:
    table = pa.table({"report_id": ["1"], "text": pa.array([["a"]])})
    with pytest.raises(ArchiveError, match=r"a\.parquet: column 'text' holds list.*, not text"):
        from_parquet(tmp_path, table)


def test_parquet_ids_and_large_strings_stay_as_written(tmp_path: Path) -> None:
    table = pa.table({"report_id": pa.array(["0012", "0012", ""]), "text": pa.array(["a", "", "c"], pa.large_string())})
    assert pairs(from_parquet(tmp_path, table)) == [("0012", "a"), ("0012", ""), (None, "c")]


@pytest.mark.parametrize(
    "bad",
    [BAD_STRINGS, *(pa.array([b"a\xffb"], kind) for kind in (pa.binary(), pa.binary(3))),
     pa.array([b"a\xffb"]).dictionary_encode()],
)  # fmt: skip
def test_invalid_utf8_in_parquet_is_one_rows_problem(tmp_path: Path, bad: pa.Array) -> None:
    (report,) = from_parquet(tmp_path, pa.table({"report_id": ["1"], "text": bad}))
    assert (report.report_id, report.text, report.problem) == ("1", "", "column text: bytes that are not utf-8")


@pytest.mark.parametrize("bad", [pa.array([["Clear."]]), pa.DictionaryArray.from_arrays(pa.array([0]), BAD_STRINGS)])
def test_parquet_columns_that_cannot_be_text_are_an_error(tmp_path: Path, bad: pa.Array) -> None:
    with pytest.raises(ArchiveError, match=r"a\.parquet"):
        from_parquet(tmp_path, pa.table({"report_id": ["1"], "text": bad}))


def test_a_parquet_file_damaged_inside_is_an_error(tmp_path: Path) -> None:
    numbers = [str(i) for i in range(5000)]
    pq.write_table(pa.table({"report_id": numbers, "text": numbers}), tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(content[:50] + b"\xff" * 2000 + content[2050:])
    with pytest.raises(ArchiveError, match=r"a\.parquet"):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_an_empty_or_foreign_file_is_an_error(tmp_path: Path, name: str) -> None:
    for content in (b"", b"PAR1 of something else"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ArchiveError, match=name):
            read(tmp_path / name)


def test_files_folders_and_globs_are_found_in_planned_order(tmp_path: Path) -> None:
    for name in ("b.csv", "a.CSV", "sub/c.parquet", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    a, b, c = tmp_path / "a.CSV", tmp_path / "b.csv", tmp_path / "sub/c.parquet"
    assert discover([str(c)]) == [c]
    assert discover([str(tmp_path)]) == [a, b, c]
    assert discover([str(tmp_path / "**/*.parquet"), str(tmp_path / "*.[cC]*")]) == [c, a, b]
    assert discover([str(b), str(tmp_path)]) == [b, a, c]  # each once
    for wrong in ("none.csv", "none*", "notes.txt", "n*.txt"):
        with pytest.raises(ArchiveError, match=r"none|notes|n\*"):
            discover([str(tmp_path / wrong)])


def test_what_lies_in_the_output_is_left_out_of_folders_and_nothing_left_is_an_error(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in ("a.csv", "out/wide/b.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to(tmp_path)
    for path, output in ((tmp_path, out), (tmp_path / "**/*.[cp]*", out), (tmp_path, tmp_path / "link" / "out")):
        assert discover([str(path)], output) == [tmp_path / "a.csv"]
    assert discover([str(tmp_path / "link")], out) == [tmp_path / "a.csv"]
    for path in (out / "wide" / "b.parquet", out, out / "*" / "*.parquet"):
        with pytest.raises(ArchiveError, match=r"lies in the output folder .*/out; name another output"):
            discover([str(tmp_path / "a.csv"), str(path)], out)


def test_links_are_followed_once_and_a_folder_that_a_glob_matches_is_looked_into(tmp_path: Path) -> None:
    for name in ("elsewhere/b.csv", "archive/x.parquet/part-0.parquet", "archive/y.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    archive = tmp_path / "archive"
    (archive / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "circle").symlink_to(archive)
    spark, y, b = archive / "x.parquet" / "part-0.parquet", archive / "y.parquet", tmp_path / "elsewhere" / "b.csv"
    assert discover([str(archive)]) == [b, spark, y]
    assert discover([str(archive / "*.parquet")]) == [spark, y]


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.csv").touch()
    scandir = os.scandir

    def refusing(path: Any) -> Any:  # the tests may be run by root, to whom nothing is closed
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    for path in (tmp_path, tmp_path / "clos*"):
        with pytest.raises(ArchiveError, match=r"closed: Permission denied"):
            discover([str(path)])


def test_a_link_keeps_its_name_and_is_no_second_file(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "blob").write_bytes(b"report_id,text\n1,a\n")
    link, other = tmp_path / "link.csv", tmp_path / "other.csv"
    link.symlink_to(Path("real", "blob"))
    other.symlink_to(link)
    assert discover([str(link), str(tmp_path)]) == [link]
    assert pairs(read(link)) == [("1", "a")]
    link.unlink()
    with pytest.raises(ArchiveError, match=r"other\.csv: No such file or directory"):  # none is passed over
        read(discover([str(tmp_path)])[0])


def test_source_row_counts_over_files_in_planned_order(tmp_path: Path) -> None:
    (tmp_path / "z.csv").write_bytes(b"report_id,text\n1,a\n2,b\n3,c\n")
    pq.write_table(pa.table({"report_id": ["4", "5"], "text": ["d", "e"]}), tmp_path / "y.parquet")
    files = [survey(tmp_path / name, SPEC, True, 2, None) for name in ("z.csv", "y.parquet")]
    shards = plan_shards(files, 2, 7, 10)
    assert [(s.number, s.start, s.rows, s.first_row) for s in shards] == [(7, 0, 2, 10), (8, 2, 1, 12), (9, 0, 2, 13)]
    reports = [report for shard in shards for report in ArchiveReader(SPEC).reports(shard)]
    assert [(r.source_row, r.report_id) for r in reports] == [(10, "1"), (11, "2"), (12, "3"), (13, "4"), (14, "5")]


def test_max_rows_plans_the_first_rows_only(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"report_id,text\n1,a\n2,b\n3,c\n4,d\n5,e\n")
    surveyed = survey(tmp_path / "a.csv", SPEC, True, 2, 3)
    reports = [r for shard in plan_shards([surveyed], 2, 0, 0) for r in ArchiveReader(SPEC).reports(shard)]
    assert (surveyed.rows, pairs(reports)) == (3, [("1", "a"), ("2", "b"), ("3", "c")])


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_a_file_that_lost_rows_since_its_survey_is_an_error(tmp_path: Path, name: str) -> None:
    def write(rows: int) -> None:
        if name == "a.csv":
            (tmp_path / name).write_text("report_id,text\n" + "1,a\n" * rows)
        else:
            pq.write_table(pa.table({"report_id": ["1"] * rows, "text": ["a"] * rows}), tmp_path / name)

    write(10)
    shards = plan_shards([survey(tmp_path / name, SPEC, True, 4, None)], 4, 0, 0)
    write(6)
    for shard in shards[1:]:
        with pytest.raises(ArchiveError, match=r"rows from row \d on, \d were planned"):
            list(ArchiveReader(SPEC).reports(shard))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b'report_id,text\n1,carcinoma" x\n2,"carcinoma" x\n', id="broken quoting"),
        pytest.param(b"report_id,text\n1,carcinoma,carcinoma\ncarcinoma\n", id="ragged"),
        pytest.param(b"report_id,text\n1,carcinoma\xff\n", id="undecodable"),
        pytest.param(b'report_id,text\n1,"carcinoma\n', id="never closed"),
        pytest.param(b"1,carcinoma\n2,clear\n", id="no header"),
        pytest.param(b"carcinoma,carcinoma\n", id="no header, equal fields"),
        pytest.param(b'"report_id"x,text\n1,carcinoma\n', id="broken header"),
    ],
)
def test_no_message_and_no_problem_holds_text_of_a_row(tmp_path: Path, content: bytes) -> None:
    try:
        said = [report.problem or "" for report in from_csv(tmp_path, content)]
    except ArchiveError as error:
        said = [str(error)]
    assert any(said) and "carcinoma" not in "".join(said)


def check_shards(path: Path, shard_rows: int, order: random.Random) -> list[Report]:
    """Asserts that every shard, alone or in any order, equals the same rows of a full read; returns those."""
    whole = read(path, shard_rows=1_000_000)
    shards = plan_shards([survey(path, SPEC, True, shard_rows, None)], shard_rows, 0, 0)
    assert sum(shard.rows for shard in shards) == len(whole)
    order.shuffle(shards)
    reader = ArchiveReader(SPEC)
    for shard in shards:
        expected = whole[shard.start : shard.start + shard.rows]
        assert list(reader.reports(shard)) == expected == list(ArchiveReader(SPEC).reports(shard))
    return whole


ODD_LINES = ("\n", "\r\n", "short\n", "a,b,c\n", 'x,"y" z\n', "1,plain\n")


@settings(max_examples=100, deadline=None, database=None)
@given(
    records=st.lists(st.one_of(st.tuples(st.text(max_size=5), st.text(max_size=30)), st.sampled_from(ODD_LINES))),
    shard_rows=st.integers(1, 6),
    order=st.randoms(use_true_random=False),
)
def test_any_shard_of_a_csv_file_reads_alone(
    tmp_path_factory: pytest.TempPathFactory, records: list[Any], shard_rows: int, order: random.Random
) -> None:
    out = io.StringIO("report_id,text\n")
    out.seek(0, io.SEEK_END)
    writer = csv.writer(out, quoting=csv.QUOTE_ALL)
    for record in records:
        _ = out.write(record) if isinstance(record, str) else writer.writerow(record)
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_bytes(out.getvalue().encode())
    whole = check_shards(path, shard_rows, order)
    expected = [
        ("1", "plain") if isinstance(r, str) else (r[0] or None, r[1]) for r in records if r not in ODD_LINES[:5]
    ]
    assert pairs([report for report in whole if report.problem is None]) == expected
    assert len(whole) == sum(record not in ("\n", "\r\n") for record in records)


@settings(max_examples=25, deadline=None, database=None)
@given(
    texts=st.lists(st.one_of(st.none(), st.text(max_size=20)), max_size=8),
    sizes=st.tuples(st.integers(1, 400), st.integers(150, 1500), st.integers(100, 2000)),
    order=st.randoms(use_true_random=False),
)
def test_any_shard_of_a_parquet_file_reads_alone(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str | None], sizes: tuple[int, int, int], order: random.Random
) -> None:
    copies, shard_rows, group = sizes
    rows = [(f"{i:05d}", text) for i, text in enumerate(texts * copies)]
    path = tmp_path_factory.mktemp("parquet") / "a.parquet"
    table = pa.table({"report_id": [i for i, _ in rows], "text": pa.array([text for _, text in rows], pa.string())})
    pq.write_table(table, path, row_group_size=group)
    assert pairs(check_shards(path, shard_rows, order)) == [(i, text or "") for i, text in rows]
