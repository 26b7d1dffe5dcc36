"""NOTE_NLP as OMOP CDM 5.4 defines it."""

import csv
from pathlib import Path

import duckdb
import pytest
from planted import CANARY, plant, run_fake, span

from radlite_batch.export.mapping import shipped
from radlite_batch.export.omop import write_omop
from radlite_batch.export.source import Source
from radlite_batch.results.manifest import read_manifest

# OHDSI, OMOP Common Data Model v5.4, table NOTE_NLP (field-level specification and DDL): name, type, required.
NOTE_NLP = (
    ("note_nlp_id", "integer", True),
    ("note_id", "integer", True),
    ("section_concept_id", "integer", False),
    ("snippet", "varchar(250)", False),
    ("offset", "varchar(50)", False),
    ("lexical_variant", "varchar(250)", True),
    ("note_nlp_concept_id", "integer", False),
    ("note_nlp_source_concept_id", "integer", False),
    ("nlp_system", "varchar(250)", False),
    ("nlp_date", "date", True),
    ("nlp_datetime", "datetime", False),
    ("term_exists", "varchar(1)", False),
    ("term_temporal", "varchar(50)", False),
    ("term_modifiers", "varchar(2000)", False),
)
# Concepts of the vocabulary Cancer Modifier: AJCC/UICC clinical N and M categories.
CATEGORIES = {
    "N0": 1634145, "N1": 1635729, "N2": 1634523, "N3": 1633914, "NX": 0, "M0": 1635291, "M1": 1635085, "MX": 0,
}  # fmt: skip
IDS = [f"{n}" for n in (7, 0, 123456789, 4, 5, 6)]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = run_fake(tmp_path_factory.mktemp("run"), IDS)
    stages = {row: {"stage": f"N{row}", "confidence": 0.5 + row / 10} for row in range(4)}
    long = span(3, "x" * 300 + "\r\n=1", "observation_uncertain")
    plant(
        out,
        {
            "n_staging": stages | {4: {"stage": "NX"}},
            "m_staging": {0: {"stage": "M0"}, 1: {"stage": "M1"}, 2: {"stage": "MX"}},
            "radiology_ner": {
                0: {"entities": [span(9, 'small, "=', "observation_absent"), span(20, "=1\rx", "observation_present")]},
                1: {"entities": [long]},
            },
        },
    )
    return out


def exported(out: Path, folder: Path, mapping: Path | None = None, least: float | None = None) -> list[dict[str, str]]:
    write_omop(Source(out, min_confidence=least), folder, mapping)
    with open(folder / "note_nlp.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def test_the_columns_are_the_published_ones_and_load_as_their_types(out: Path, tmp_path: Path) -> None:
    rows = exported(out, tmp_path)
    assert list(rows[0]) == [name for name, _, _ in NOTE_NLP]
    columns = []
    for name, kind, required in NOTE_NLP:
        length = kind.partition("(")[2].rstrip(")")
        check = f' CHECK (length("{name}") <= {length})' if length else ""
        columns.append(f'"{name}" {kind}{" NOT NULL" if required else ""}{check}')
    with duckdb.connect() as base:
        base.execute(f"CREATE TABLE note_nlp ({', '.join(columns)})")
        base.execute(f"INSERT INTO note_nlp FROM read_csv('{tmp_path}/note_nlp.csv', header=true, all_varchar=true)")
        found = base.execute("SELECT count(*), count(DISTINCT note_nlp_id), min(nlp_date) FROM note_nlp").fetchone()
    assert found is not None and found[:2] == (len(rows), len(rows))
    assert found[2].isoformat() == rows[0]["nlp_datetime"][:10]


def test_stages_become_concepts(out: Path, tmp_path: Path) -> None:
    rows = [row for row in exported(out, tmp_path) if "_staging" in row["term_modifiers"]]
    for row in rows:
        assert int(row["note_nlp_concept_id"]) == CATEGORIES[row["lexical_variant"]]
        assert row["offset"] == "" and row["note_nlp_source_concept_id"] == "0"
    first = next(row for row in rows if row["note_id"] == "123456789")
    assert first["lexical_variant"] == "N2"
    assert first["term_modifiers"] == "task=n_staging;stage=N2;confidence=0.7000;status=preliminary"


def test_spans_stand_where_they_are_and_say_whether_they_exist(out: Path, tmp_path: Path) -> None:
    rows = [row for row in exported(out, tmp_path) if "radiology_ner" in row["term_modifiers"]]
    found = [(row["note_id"], row["offset"], row["lexical_variant"], row["term_exists"]) for row in rows[:3]]
    assert found == [
        ("7", "9", 'small, "=', "N"),
        ("7", "20", "'=1\rx", "Y"),
        ("0", "3", "x" * 250, ""),
    ]
    assert ";end=307;" in rows[2]["term_modifiers"]


def test_the_system_is_named_with_its_checksum(out: Path, tmp_path: Path) -> None:
    manifest = read_manifest(out)
    assert manifest is not None
    sha256 = manifest.identity["models"]["fake"]["sha256"]
    system = exported(out, tmp_path)[0]["nlp_system"]
    assert system == f"radlite-batch {manifest.identity['version']}, pack fake, model fake sha256 {sha256}"


def test_the_snippet_stays_empty_and_no_other_text_of_a_report_is_told(out: Path, tmp_path: Path) -> None:
    rows = exported(out, tmp_path)
    assert {row["snippet"] for row in rows} == {""}
    told = [row for row in rows if CANARY in ",".join(row.values())]
    assert all(CANARY in row["lexical_variant"] and row["offset"] for row in told)


@pytest.mark.parametrize("ids", [["1", "x"], ["1", "007"], ["1", ""], ["1", "-2"], ["4", "4"]])
def test_ids_that_are_no_integers_or_are_there_twice_give_way_to_source_row(ids: list[str], tmp_path: Path) -> None:
    out = run_fake(tmp_path, ids, ("n_staging",))
    told = write_omop(Source(out), tmp_path, None)
    assert told[1] == f"{tmp_path}/note_ids.csv  note_id is source_row"
    with open(tmp_path / "note_nlp.csv", newline="") as file:
        assert [row["note_id"] for row in csv.DictReader(file)] == ["0", "1"]
    with open(tmp_path / "note_ids.csv", newline="") as file:
        assert [tuple(row.values()) for row in csv.DictReader(file)] == [("0", ids[0]), ("1", ids[1])]


def test_ids_that_are_integers_are_note_ids(out: Path, tmp_path: Path) -> None:
    told = write_omop(Source(out), tmp_path, None)
    assert told[1] == f"{tmp_path}/note_ids.csv  note_id is report_id"
    with open(tmp_path / "note_ids.csv", newline="") as file:
        assert [tuple(row.values()) for row in csv.DictReader(file)] == [(named, named) for named in IDS]
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "note_nlp.csv": 0o600,
        "note_ids.csv": 0o600,
    }


def test_the_users_table_and_threshold_are_obeyed(out: Path, tmp_path: Path) -> None:
    mine = tmp_path / "my.csv"
    header = next(line for line in shipped("omop").read_text().splitlines() if line.startswith("task,"))
    mine.write_text(f"{header}\nn_staging,stage,*,42,2000000001,node stage,Y,past\n")
    rows = exported(out, tmp_path, mine, least=0.65)
    planted = [(row["note_id"], row["lexical_variant"]) for row in rows if row["note_id"] in IDS[:4]]
    assert planted == [("123456789", "node stage"), ("4", "node stage")]
    assert rows[0]["note_nlp_concept_id"] == "42" and rows[0]["note_nlp_source_concept_id"] == "2000000001"
    assert rows[0]["term_temporal"] == "past" and {row["term_modifiers"][:14] for row in rows} == {"task=n_staging"}
