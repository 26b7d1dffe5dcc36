"""The wide table as CSV: the rows of the run, lists in words, guarded cells."""

from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner, Result
from planted import CANARY, plant, run_fake, span

from radlite_batch.cli import main
from radlite_batch.errors import OutputError, UsageError
from radlite_batch.export.commands import FORMATS
from radlite_batch.export.source import Source
from radlite_batch.export.wide import write_wide
from radlite_batch.tasks.abnormality_detection import LABELS
from radlite_batch.verify import verify

IDS = ["=1+1", "  @x", "-7", "plain", 'a;b\n"c"', "5", "x\ry"]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = run_fake(tmp_path_factory.mktemp("run"), IDS)
    flags = {label: "absent" for label in LABELS} | {"edema": "positive", "fracture": "positive"}
    plant(
        out,
        {
            "n_staging": {0: {"stage": "N2", "confidence": 0.5}, 1: {"stage": "N1", "confidence": 0.25}},
            "m_staging": {2: {"status": "unparsed", "stage": None, "alternatives": None, "confidence": None}},
            "abnormality_detection": {0: flags},
            "radiology_ner": {
                0: {"entities": [span(0, CANARY, "anatomy"), span(15, "effusion", "observation_absent")]}
            },
            "impression_generation": {3: {"impression": "=HYPERLINK(1)"}},
        },
    )
    return out


def radlite(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def read(path: Path) -> pl.DataFrame:
    return pl.read_csv(path / "wide.csv", infer_schema=False)


def test_every_row_is_there_as_the_table_has_it(out: Path, tmp_path: Path) -> None:
    write_wide(Source(out), tmp_path, with_text=False)
    table = read(tmp_path)
    wide = pl.concat([pl.read_parquet(part) for part in sorted((out / "wide").iterdir())])
    assert table.columns == wide.columns
    assert table["source_row"].to_list() == [str(row) for row in range(len(IDS))]
    assert table["report_id"].to_list() == ["'=1+1", "'  @x", "-7", *IDS[3:]]
    sure = table["n_staging_confidence"].cast(pl.Float32)
    assert sure.to_list() == wide["n_staging_confidence"].to_list()
    assert table["n_staging"].to_list() == wide["n_staging"].to_list()
    assert table["m_staging"].to_list()[2] is None


def test_lists_become_words_and_answers_are_guarded(out: Path, tmp_path: Path) -> None:
    write_wide(Source(out), tmp_path, with_text=False)
    table = read(tmp_path)
    assert table["abnormality_detection"].to_list()[0] == "edema; fracture"
    assert table["radiology_ner"].to_list()[0] == "0-8 anatomy; 15-23 observation_absent"
    assert table["impression_generation"].to_list()[3] == "'=HYPERLINK(1)"
    assert not table["radiology_ner"].str.contains(CANARY).any()


def test_the_text_of_spans_is_written_where_it_is_asked_for(out: Path, tmp_path: Path) -> None:
    write_wide(Source(out), tmp_path, with_text=True)
    found = read(tmp_path)["radiology_ner"].to_list()[0]
    assert found == f"0-8 anatomy {CANARY}; 15-23 observation_absent effusion"


def test_answers_that_are_less_sure_are_left_out(out: Path, tmp_path: Path) -> None:
    write_wide(Source(out, min_confidence=0.5), tmp_path, with_text=False)
    table = read(tmp_path)
    assert table["n_staging"].to_list()[:2] == ["N2", None]
    assert table["n_staging_confidence"].to_list()[:2] == ["0.5", "0.25"]
    assert table["radiology_qa"].null_count() == len(IDS)  # an answer in words has no confidence


def test_files_are_their_owners_and_lie_in_the_run_by_default(out: Path) -> None:
    done = radlite("export", out, "--format", "csv")
    assert done.exit_code == 0, done.output
    path = out / "_run" / "export" / "csv" / "wide.csv"
    assert done.output == f"{path}  {len(IDS)} rows\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["wide.csv"]


def test_an_unfinished_run_is_exported_only_on_request(tmp_path: Path) -> None:
    out = run_fake(tmp_path, [f"r{i}" for i in range(10)], ("n_staging",), shards=2)
    refused = radlite("export", out, "--format", "csv")
    assert refused.exit_code == 2
    assert refused.output == (
        f"radlite: {out}: the run is not finished; with --partial the 2 of 3 shards that are committed are exported\n"
    )
    done = radlite("export", out, "--format", "csv", "--partial", "--output", tmp_path / "part")
    assert done.exit_code == 0, done.output
    assert read(tmp_path / "part")["report_id"].to_list() == [f"r{i}" for i in range(8)]


def test_a_run_is_whole_with_its_exports_in_it(tmp_path: Path) -> None:
    out = run_fake(tmp_path, IDS, ("n_staging", "radiology_ner"))
    for name in FORMATS:
        done = radlite("export", out, "--format", name)
        assert done.exit_code == 0, done.output
    assert verify(out).findings == []


def test_a_damaged_or_absent_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run was planned there"):
        Source(tmp_path / "gone")
    out = run_fake(tmp_path, ["a", "b"], ("n_staging",))
    part = next((out / "n_staging").iterdir())
    whole = part.read_bytes()
    part.write_bytes(bytes(len(whole)))  # of the same size: only reading it shows the damage
    with pytest.raises(OutputError, match=r"part-00000.parquet: damaged"):
        list(Source(out).reports())
    part.unlink()
    with pytest.raises(OutputError, match="damaged or gone"):
        Source(out)


def test_an_old_export_stays_where_a_new_one_fails(tmp_path: Path) -> None:
    out, folder = run_fake(tmp_path, IDS, ("n_staging",)), tmp_path / "told"
    write_wide(Source(out), folder, with_text=False)
    before = (folder / "wide.csv").read_bytes()
    last = out / "wide" / "part-00001.parquet"
    last.write_bytes(bytes(last.stat().st_size))
    with pytest.raises(OutputError, match=r"part-00001.parquet: damaged"):
        write_wide(Source(out), folder, with_text=False)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"wide.csv": before}
