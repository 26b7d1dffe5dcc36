"""`radlite verify` sees every flipped byte, every missing file, and every table that is not what the archive gives."""

import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from small import TASKS, in_this_process, missing, small_job, visible, write_archive
from table import FULL, record

from radlite_batch import rerun as again
from radlite_batch.cli import main
from radlite_batch.errors import OutputError, OutputLocked, RadliteError, UsageError
from radlite_batch.rerun import rerun
from radlite_batch.results.commit import commit, commit_json, locked, read_json
from radlite_batch.results.manifest import lock_path
from radlite_batch.results.tables import count_labels, staging_folder
from radlite_batch.run import run
from radlite_batch.tasks import registry
from radlite_batch.verify import verify

FLIPS = 2000 if FULL else 80
PART, RECEIPT = "n_staging/part-00001.parquet", "_run/receipts/00001-fake.json"
FINISHED = "_run/finished/00001.json"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished output of two shards, in which one row could not be read."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        in_this_process(patch)
        assert run(small_job(write_archive(folder / "archive.csv", 7, broken=(5,)), folder / "out")).exit_code == 3
    return folder


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "out", tmp_path / "out"))


def findings(out: Path) -> list[str]:
    try:
        return verify(out).findings
    except OutputError as error:
        return [str(error)]


def test_an_output_that_nothing_happened_to_is_whole(out: Path) -> None:
    verdict = verify(out)
    assert (verdict.findings, verdict.complete, verdict.exit_code) == ([], True, 0)
    assert (verdict.parts, verdict.rows) == (2 * len(TASKS) + 3, 7)


def test_every_flipped_byte_is_seen(out: Path) -> None:
    chance, before = random.Random(1), visible(out)
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and path.stat().st_size]
    assert {path.name for path in files} >= {"manifest.json", "summary.json", "log.jsonl", "00000-fake.json"}
    for i in range(FLIPS):
        path = files[i % len(files)]
        data = path.read_bytes()
        position = chance.choice((0, len(data) - 1, *chance.sample(range(len(data)), 3)))
        flipped = bytearray(data)
        flipped[position] ^= chance.randrange(1, 256)
        path.write_bytes(flipped)
        assert findings(out), f"byte {position} of {path.relative_to(out)}"
        path.write_bytes(data)
    assert findings(out) == []
    record("flipped bytes", FLIPS, missing(before, visible(out)))


def test_a_file_that_is_gone_cut_or_added_is_named(out: Path) -> None:
    for path in [path for path in sorted(out.rglob("*")) if path.is_file()]:
        data = path.read_bytes()
        if path.name not in ("lock", "log.jsonl", "_SUCCESS"):  # what these say, others say too
            path.unlink()
            assert any(path.name in finding for finding in findings(out)), path
        if data:
            path.write_bytes(data[: len(data) // 2])
            assert any(path.name in finding for finding in findings(out)), path
        path.write_bytes(data)
    shutil.copy(out / PART, out / "wide" / "part-00009.parquet")
    assert findings(out) == [f"{out / 'wide' / 'part-00009.parquet'}: nothing vouches for it"]


def test_a_damaged_part_makes_nothing_else_doubtful(out: Path) -> None:
    data = bytearray((out / PART).read_bytes())
    data[len(data) // 2] ^= 1
    (out / PART).write_bytes(data)
    assert findings(out) == [f"{out / PART}: damaged, its checksum is another; `radlite retry` makes it again"]


def test_no_thread_is_left_that_could_outlive_the_interpreter(out: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from radlite_batch.verify import verify;"
        "count = lambda: len(os.listdir('/proc/self/task'));"
        "before = count(); verify(Path(sys.argv[1])); print(count() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(out)], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


def test_files_that_changed_places_are_seen(out: Path) -> None:
    for first in (PART, RECEIPT, FINISHED):
        one, other = out / first, out / first.replace("00001", "00000")
        old = one.read_bytes(), other.read_bytes()
        one.write_bytes(old[1])
        other.write_bytes(old[0])
        assert len(findings(out)) >= 2
        one.write_bytes(old[0])
        other.write_bytes(old[1])
    assert findings(out) == []


def forge(
    out: Path, edit: Callable[[list[dict[str, Any]]], object], recount: bool = False, schema: pa.Schema | None = None
) -> None:
    """Changes a part's rows, and makes receipt and finished shard vouch for it; for its counts too, if `recount`."""
    table = pq.read_table(out / PART)
    rows = table.to_pylist()
    edit(rows)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema or table.schema), sink)
    sha256, size = commit(out / PART, staging_folder(out), memoryview(sink.getvalue()))
    receipt = read_json(out / RECEIPT)
    entry = receipt["tasks"]["n_staging"]
    entry |= {"sha256": sha256, "bytes": size, "rows": len(rows)}
    if recount:
        entry["status"] = dict(Counter(row["status"] for row in rows))
        entry["labels"] = count_labels(registry.TASKS["n_staging"], rows)
    reseal(out, RECEIPT, receipt)
    finished = read_json(out / FINISHED)
    finished["receipts"]["00001-fake"] = read_json(out / RECEIPT)["sha256"]
    reseal(out, FINISHED, finished)


def reseal(out: Path, name: str, document: dict[str, Any]) -> None:
    del document["sha256"]
    commit_json(out / name, staging_folder(out), document)


def other_stage(rows: list[dict[str, Any]]) -> None:
    rows[0]["stage"] = "N3" if rows[0]["stage"] != "N3" else "N0"


@pytest.mark.parametrize(
    ("finding", "recount", "edit"),
    [
        ("its rows are not those of the archive", True, lambda rows: rows[0].update(report_id="9999")),
        ("its source rows are not those of the shard", True, lambda rows: rows.append(rows[0])),
        ("its statuses are not those of the receipt", False, lambda rows: rows[0].update(status="too_long")),
        ("row 4: its status does not fit its answer", True, lambda rows: rows[0].update(status="too_long")),
        ("row 4: empty, which its report in the archive is not", True, lambda rows: rows[0].update(status="empty")),
        ("its failures are not those of its parts", True, lambda rows: rows[0].update(status="unparsed")),
        ("its labels are not those of the receipt", False, other_stage),
        ("column stage has labels outside its vocabulary", True, lambda rows: rows[0].update(stage="N9")),
        ("row 4: its model or confidence cannot be", True, lambda rows: rows[0].update(confidence=1.5)),
        ("its rows are not those of the task tables", True, other_stage),
    ],
)
def test_a_table_that_breaks_the_contract_is_seen_though_its_checksum_fits(
    out: Path, finding: str, recount: bool, edit: Callable[[list[dict[str, Any]]], object]
) -> None:
    forge(out, edit, recount)
    assert any(found.endswith(finding) for found in findings(out))


def test_another_schema_is_seen(out: Path) -> None:
    schema = pq.read_schema(out / PART)
    forge(out, lambda rows: None, schema=schema.remove(schema.get_field_index("alternatives")))
    assert f"{out / PART}: its columns are not those of the schema" in findings(out)


def test_a_summary_that_counts_otherwise_is_seen(out: Path) -> None:
    summary = read_json(out / "_run/summary.json")
    summary["rows_done"] += 1
    reseal(out, "_run/summary.json", summary)
    assert findings(out) == [f"{out}/_run/summary.json: its rows_done are not those of the receipts"]


def test_an_archive_that_changed_since_is_named(made: Path, out: Path) -> None:
    archive = made / "archive.csv"
    before = archive.read_bytes()
    try:
        archive.write_bytes(before.replace(b"Rib", b"rib"))
        assert findings(out) == [f"{archive}: its bytes changed since the run was planned"]
        archive.unlink()
        assert findings(out) == [f"{archive}: No such file or directory"]
    finally:
        archive.write_bytes(before)


def test_answering_again_finds_an_answer_that_was_not_the_models(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calm = rerun(out, 1.0)
    assert (calm.rows, calm.near_ties, calm.findings) == (6, 0, [])
    assert calm.labels == 5 + 5  # the stage and the entities of the rows that have a text
    assert rerun(out, 0.01).rows <= 1
    monkeypatch.setattr(again, "NEAR_TIE", 0.0)
    forge(out, other_stage)
    assert rerun(out, 1.0).findings == [f"{out / PART}: row 4: another stage when it was answered again"]


def test_the_command_exits_with_what_it_found(out: Path, tmp_path: Path) -> None:
    def command(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, ["verify", *arguments])
        return done.exit_code, done.output

    assert command(str(out), "--rerun", "0.5")[0] == 0
    (out / "_SUCCESS").unlink()
    code, text = command(str(out))
    assert code == 3 and text.endswith("whole, and not complete\n")
    (out / PART).unlink()
    code, text = command(str(out))
    assert code == 1 and f"wrong     {out / PART}: gone\n" in text and text.endswith("damaged, and not complete\n")
    assert command(str(tmp_path))[0] == 2


def test_an_output_in_work_is_left_alone(out: Path, tmp_path: Path) -> None:
    with locked(lock_path(out)), pytest.raises(OutputLocked):
        verify(out)
    with pytest.raises(UsageError):
        verify(tmp_path)
    (out / "_run" / "manifest.json").unlink()
    with pytest.raises(RadliteError, match=r"gone, and .* holds receipts"):
        verify(out)
