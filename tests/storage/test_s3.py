"""Archives and outputs on an S3 that speaks HTTP: the same rows as on disk, through kills, failures and other hosts."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from bucket import BUCKET, SECRET, Bucket
from click.testing import CliRunner
from on_s3 import LOCK, OUT, start, wait_for_receipts
from small import TASKS, in_this_process, missing, small_job, visible, write_archive
from table import FULL, record

from radlite_batch import lease, storage
from radlite_batch.archive import ArchiveSpec
from radlite_batch.cli import main
from radlite_batch.errors import OutputError, RunChanged
from radlite_batch.job import Job, Output, Workers
from radlite_batch.run import run
from radlite_batch.verify import verify

ROWS = 22


def job_of(archive: str, out: Path, shard_rows: int = 4, processes: int = 1) -> Job:
    return Job(ArchiveSpec((archive,)), TASKS, Output(out, shard_rows=shard_rows), "fake", Workers(processes))


def local_run(tmp_path: Path, archive: Path, shard_rows: int = 4) -> dict[str, list[dict[str, object]]]:
    """What the same run gives on disk."""
    with pytest.MonkeyPatch.context() as patch:
        in_this_process(patch)
        assert run(small_job(archive, tmp_path / "calm", shard_rows)).exit_code == 0
    return visible(tmp_path / "calm")


def in_bucket(bucket: Bucket, folder: Path) -> dict[str, list[dict[str, object]]]:
    shutil.rmtree(folder, ignore_errors=True)
    return visible(bucket.save("out/", folder))


def radlite(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, arguments)
    return done.exit_code, done.output


def test_a_run_from_s3_into_s3_gives_the_rows_of_a_local_one(bucket: Bucket, tmp_path: Path) -> None:
    folder = tmp_path / "2024"
    folder.mkdir()
    write_archive(folder / "a.csv", ROWS)
    pl.read_csv(write_archive(tmp_path / "b.csv", 9, ROWS), infer_schema=False).write_parquet(folder / "b.parquet")
    for path in folder.iterdir():
        bucket.write(f"archive/2024/{path.name}", path.read_bytes())
    bucket.write("archive/2024/notes.txt", b"no archive")
    expected = local_run(tmp_path, folder)

    job = job_of(f"s3://{BUCKET}/archive/2024", storage.folder(OUT), processes=2)
    summary = run(job)
    assert (summary.state, summary.exit_code, summary.rows_done) == ("complete", 0, ROWS + 9)
    assert in_bucket(bucket, tmp_path / "seen") == expected
    assert bucket.broken == []
    assert [key for _, key in bucket.changes if key != LOCK][-1] == "out/_SUCCESS"
    assert not any("_run/staging" in key or "_run/slots" in key for key in bucket.objects())
    manifest = json.loads(bucket.objects()["out/_run/manifest.json"])
    names = [f"s3://{BUCKET}/archive/2024/{name}" for name in ("a.csv", "b.parquet")]
    assert [file["path"] for file in manifest["files"]] == names
    assert manifest["job"]["output"]["path"] == OUT

    before, bucket.changes = len(bucket.reads), []
    assert run(job).rows_done == ROWS + 9  # finished: nothing is written, and no archive fetched, again
    assert {key for _, key in bucket.changes} == {LOCK}
    assert not any(key.startswith("archive/") for key in bucket.reads[before:])


def test_every_command_takes_the_url(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch)
    bucket.write("archive/a.csv", write_archive(tmp_path / "a.csv", 9, broken=(5,)).read_bytes())
    job = tmp_path / "job.toml"
    job.write_text(
        f'archive.paths = "s3://{BUCKET}/archive/*.csv"\ntasks.run = ["n_staging"]\npack.name = "fake"\n'
        f'output.path = "{OUT}"\noutput.shard_rows = 4\nstorage.endpoint_url = "{bucket.endpoint}"\n'
    )
    monkeypatch.delenv("AWS_ENDPOINT_URL")  # the job says it
    code, text = radlite("plan", str(job), "--no-measure")
    assert code == 0 and f"output    {OUT}\n" in text and f"archive   s3://{BUCKET}/archive/a.csv: 9 rows" in text
    assert bucket.changes == []
    code, text = radlite("run", str(job))
    assert code == 3 and f"in {OUT}" in text
    for host in ("this", "another"):
        monkeypatch.setenv("RADLITE_CACHE", str(tmp_path / host))
        code, text = radlite("status", OUT, "--json")
        assert code == 0 and json.loads(text)["state"] == "complete" and json.loads(text)["output"] == OUT
        code, text = radlite("verify", OUT)
        assert code == 0 and text.endswith("whole\n")
        code, text = radlite("report", OUT)
        assert code == 0 and f"page      {OUT}/_run/report.html\n" in text
        assert bucket.objects()["out/_run/report.html"].startswith(b"<!")
        code, text = radlite("metrics", OUT)
        assert code == 0 and f'radlite_rows_done{{output="{OUT}"}} 9\n' in text
        code, text = radlite("export", OUT, "--format", "csv")
        assert (
            code == 2
            and text == f"radlite: {OUT}: an export stays on this machine; name a folder of it with --output\n"
        )
        code, text = radlite("export", OUT, "--format", "csv", "--output", str(tmp_path / host / "told"))
        assert code == 0 and (tmp_path / host / "told" / "wide.csv").read_text().count("\n") == 10
        code, text = radlite("review", OUT, "--to", str(tmp_path / host / "told"))
        assert code == 0 and f"<title>Review of {OUT}" in (tmp_path / host / "told" / "review.html").read_text("utf-8")
    assert not any("/export/" in key or "/review/" in key for key in bucket.objects())
    monkeypatch.setenv("RADLITE_CACHE", str(tmp_path / "this"))
    other = f"s3://{BUCKET}/other"
    assert radlite("run", str(job), "--output", other)[0] == 3
    monkeypatch.setenv("RADLITE_CACHE", str(tmp_path / "another"))  # which knows nothing of the second run
    code, text = radlite("diff", OUT, other)
    assert code == 0 and f"page      {other}/_run/diff/diff.html\n" in text
    page = bucket.objects()["other/_run/diff/diff.html"].decode()
    assert f"<h1>{OUT} \u2192 {other}</h1>" in page and "other/_run/diff/changes.csv" in bucket.objects()
    assert radlite("report", other, "--previous", OUT)[0] == 0
    page = bucket.objects()["other/_run/report.html"].decode()
    assert f"<h1>{other}: complete</h1>" in page and f"of {OUT}" in page
    assert radlite("retry", OUT)[0] == 3
    bucket.write("out/wide/part-00001.parquet", bucket.objects()["out/wide/part-00001.parquet"][::-1])
    code, text = radlite("verify", OUT)
    assert code == 1 and f"wrong     {OUT}/wide/part-00001.parquet: damaged, its checksum is another; " in text
    assert radlite("status", f"s3://{BUCKET}/nothing")[0] == 2


def test_a_killed_run_goes_on_from_another_host(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = write_archive(tmp_path / "a.csv", 2000)
    expected = local_run(tmp_path, archive, 256)
    bucket.write("a.csv", archive.read_bytes())
    process = start(f"s3://{BUCKET}/a.csv", tmp_path / "one")
    wait_for_receipts(bucket, process, 2)
    process.kill()
    process.communicate()
    assert bucket.broken == [] and "out/_SUCCESS" not in bucket.objects()

    second = start(f"s3://{BUCKET}/a.csv", tmp_path / "two")
    _, errors = second.communicate()
    assert second.returncode == 75 and f"process {process.pid} on " in errors and len(errors.splitlines()) == 1
    bucket.age(LOCK, lease.DEAD + 1)
    kept = {key: data for key, data in bucket.objects().items() if "/receipts/" in key}
    in_this_process(monkeypatch)
    out = storage.folder(OUT)  # of a third host
    assert run(job_of(f"s3://{BUCKET}/a.csv", out, 256)).exit_code == 0
    assert bucket.objects().items() >= kept.items()  # what was committed was not done again
    assert in_bucket(bucket, tmp_path / "seen") == expected
    assert bucket.broken == []
    assert verify(out).findings == []


def test_a_server_that_goes_away_ends_the_run_with_one_line(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = write_archive(tmp_path / "a.csv", 2000)
    process = start(str(archive), tmp_path / "one")
    wait_for_receipts(bucket, process, 1)
    bucket.stop()
    try:
        _, errors = process.communicate()
    finally:
        bucket.start()
    assert process.returncode == 1
    (line,) = [line for line in errors.splitlines() if line.startswith("radlite: ")]
    assert line.startswith(f"radlite: {OUT}/") and line == errors.splitlines()[-1]
    assert SECRET not in errors
    assert bucket.broken == []
    monkeypatch.setenv("RADLITE_CACHE", str(tmp_path / "one"))
    in_this_process(monkeypatch)
    run(small_job(archive, storage.folder(OUT), 256))  # at once: the lock's holder has ended on this very host
    assert in_bucket(bucket, tmp_path / "seen") == local_run(tmp_path, archive, 256)
    assert bucket.broken == []


def nth(n: int) -> Callable[[str, str], bool]:
    """Fails the nth change, counted from 1, and all that follow."""
    count = 0

    def refuse(method: str, key: str) -> bool:
        nonlocal count
        count += method in ("PUT", "DELETE")
        return count >= n

    return refuse


def test_whichever_change_fails_the_run_can_go_on(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = write_archive(tmp_path / "a.csv", 9)
    expected = local_run(tmp_path, archive)
    in_this_process(monkeypatch)
    job = small_job(archive, storage.folder(OUT))
    run(job)
    total = len(bucket.changes)
    tried, lost = range(1, total, 1 if FULL else 7), 0
    for n in tried:
        bucket.reset()
        bucket.refuse = nth(n)
        with pytest.raises(OutputError, match=rf"^{OUT}\S*: the storage answered 503$"):
            run(job)
        assert bucket.broken == []
        bucket.refuse = lambda method, key: False
        if n % 2:  # from another host, once the lock has aged
            monkeypatch.setenv("RADLITE_CACHE", str(tmp_path / f"cache{n}"))
            job = small_job(archive, storage.folder(OUT))
            if LOCK in bucket.objects():
                bucket.age(LOCK, lease.DEAD + 1)
        assert run(job).exit_code == 0
        seen = in_bucket(bucket, tmp_path / "seen")
        lost += missing(expected, seen)
        assert seen == expected
        assert bucket.broken == []
        assert verify(job.output.path).findings == []
    record("changes of an S3 output that failed", len(tried), lost)


def test_an_archive_that_changes_is_fetched_again(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process(monkeypatch)
    first, more = (write_archive(tmp_path / f"{rows}.csv", rows).read_bytes() for rows in (9, 12))
    bucket.write("archive/a.csv", first)
    job = job_of(f"s3://{BUCKET}/archive/", storage.folder(OUT))
    run(job)
    bucket.write("archive/b.csv", more)
    assert run(job).rows == 21  # files that were added append rows
    assert [key for key in bucket.reads if key.startswith("archive/")] == ["archive/a.csv", "archive/b.csv"]
    bucket.write("archive/a.csv", first.replace(b"normal", b"NORMAL"))
    with pytest.raises(RunChanged, match=rf"^s3://{BUCKET}/archive/a.csv: its bytes changed"):
        run(job)
    (found,) = verify(job.output.path).findings
    assert found == f"s3://{BUCKET}/archive/a.csv: its bytes changed since the run was planned"
    bucket.write("archive/a.csv", b'report_id,text\n1,"never closed\n')
    code, text = radlite("plan", "--input", f"s3://{BUCKET}/archive/a.csv", "--tasks", "n_staging", "--output", "out")
    assert code == 2 and f"s3://{BUCKET}/archive/a.csv line 2: a quoted field is never closed" in text
    code, text = radlite("plan", "--input", f"s3://{BUCKET}/none*.csv", "--tasks", "n_staging", "--output", "out")
    assert code == 2 and f"s3://{BUCKET}/none*.csv: no CSV or Parquet file there" in text


def test_credentials_and_texts_stay_where_they_belong(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process(monkeypatch)
    word = "Zyxwvut"
    bucket.write("a.csv", f"report_id,text\n1,{word} nodes.\n2,Clear {word}.\n".encode())
    code, text = radlite(
        "run", "--input", f"s3://{BUCKET}/a.csv", "--tasks", "n_staging", "--pack", "fake", "--output", OUT
    )
    assert code == 0
    bucket.refuse = lambda method, key: True
    code, refused = radlite("status", OUT)
    assert code == 1 and len(refused.splitlines()) == 1
    cache = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    everything = [text.encode(), refused.encode(), *bucket.objects("out/").values(), *(p.read_bytes() for p in cache)]
    assert not any(SECRET.encode() in data for data in everything)
    assert [key for key, data in bucket.objects().items() if word.encode() in data] == ["a.csv"]
    holding = [path for path in cache if word.encode() in path.read_bytes()]
    assert [path.name for path in holding] == ["a.csv"]  # the copy, in a folder that only its owner may open
    assert {path.parent.stat().st_mode & 0o777 for path in holding} == {0o700}
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "cache").glob("*/*/")} == {0o700}
