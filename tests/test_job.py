"""Job files: what is in them is what runs, and anything else in them is an error that says what to write instead."""

from pathlib import Path

import pytest

from radlite_batch.archive import ArchiveSpec, Filter
from radlite_batch.errors import JobError
from radlite_batch.job import Job, Output, RunLimits, Workers, load_job
from radlite_batch.pack import pack_names

JOBS = sorted((Path(__file__).parents[1] / "jobs").glob("*.toml"))
SMALLEST = '[archive]\npaths = "a.csv"\n[tasks]\nrun = "n_staging"\n[output]\npath = "out"\n'


def load(tmp_path: Path, text: str) -> Job:
    (tmp_path / "job.toml").write_text(text, encoding="utf-8")
    return load_job(tmp_path / "job.toml")


def with_key(section: str, line: str) -> str:
    """The smallest job with one more line in this section."""
    if f"[{section}]\n" in SMALLEST:
        return SMALLEST.replace(f"[{section}]\n", f"[{section}]\n{line}\n")
    return f"{SMALLEST}[{section}]\n{line}\n"


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_the_jobs_that_come_with_the_project_load(path: Path) -> None:
    job = load_job(path)
    assert job.tasks and job.archive.paths
    assert job.pack in pack_names() or job.pack.endswith(".toml")


def test_defaults(tmp_path: Path) -> None:
    job = load(tmp_path, SMALLEST)
    assert job == Job(
        archive=ArchiveSpec((str(tmp_path / "a.csv"),), "report_id", ("text",), {}, "utf-8", Filter((), "", "")),
        tasks=("n_staging",),
        output=Output(tmp_path / "out", private=True, shard_rows=256),
        pack="smol",
        workers=Workers(0, 0, 0, "local"),
        limits=RunLimits("", 0.0, None, "too_long"),
    )


def test_every_key_arrives(tmp_path: Path) -> None:
    job = load(
        tmp_path,
        """
        [archive]
        paths = ["/data/2023/*.csv", "2024"]
        report_id = "accession"
        text = ["findings", "impression"]
        columns = {prior_text = "previous"}
        encoding = "latin-1"
        filter = {modality = ["CT", "MR"], date_from = 2024-01-01, date_to = "2024-12-31"}
        [tasks]
        run = ["m_staging", "n_staging"]
        [pack]
        name = "packs/own.toml"
        [workers]
        processes = 4
        threads = 2
        reports_in_hand = 8
        backend = "local"
        memory = 2048
        format = "bf16"
        [output]
        path = "../out"
        private = false
        shard_rows = 10
        [limits]
        until = "06:00"
        max_hours = 2
        max_rows = 1000
        overlong = "cut_end"
        record_seconds = 60
        """,
    )
    assert job.archive.paths == ("/data/2023/*.csv", str(tmp_path / "2024"))
    assert (job.archive.report_id, job.archive.text) == ("accession", ("findings", "impression"))
    assert (job.archive.columns, job.archive.encoding) == ({"prior_text": "previous"}, "latin-1")
    assert job.archive.filter == Filter(("CT", "MR"), "2024-01-01", "2024-12-31")
    assert job.tasks == ("m_staging", "n_staging")
    assert job.pack == str(tmp_path / "packs/own.toml")
    assert job.workers == Workers(4, 2, 8, "local", 2048, format="bf16")
    assert job.output == Output(tmp_path.parent / "out", private=False, shard_rows=10)
    assert job.limits == RunLimits("06:00", 2.0, 1000, "cut_end", 60.0)


def test_paths_count_from_the_jobs_folder_not_from_where_it_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "job.toml").write_text(SMALLEST)
    monkeypatch.chdir(tmp_path)
    job = load_job(Path("jobs/job.toml"))
    assert job.archive.paths == (str(tmp_path / "jobs/a.csv"),)
    assert job.output.path == tmp_path / "jobs/out"


@pytest.mark.parametrize(
    ("section", "line", "message"),
    [
        ("worker", "processes = 2", "unknown key 'worker'; did you mean 'workers'?"),
        ("archive", "path = 'a.csv'", "unknown key 'archive.path'; did you mean 'paths'?"),
        ("archive.filter", "modalities = 'CT'", "unknown key 'archive.filter.modalities'; did you mean 'modality'?"),
        (
            "archive.columns",
            "priortext = 'x'",
            "archive.columns: unknown field 'priortext'; did you mean 'prior_text'?",
        ),
        ("tasks", "runs = 'n_staging'", "unknown key 'tasks.runs'; did you mean 'run'?"),
        ("pack", "names = 'smol'", "unknown key 'pack.names'; did you mean 'name'?"),
        ("workers", "process = 2", "unknown key 'workers.process'; did you mean 'processes'?"),
        ("output", "shardrows = 2", "unknown key 'output.shardrows'; did you mean 'shard_rows'?"),
        ("limits", "max_hour = 2", "unknown key 'limits.max_hour'; did you mean 'max_hours'?"),
    ],
)
def test_an_unknown_key_is_an_error_with_a_suggestion(tmp_path: Path, section: str, line: str, message: str) -> None:
    with pytest.raises(JobError) as error:
        load(tmp_path, with_key(section, line))
    assert str(error.value) == f"{tmp_path / 'job.toml'}: {message}"


def test_an_unknown_task_is_an_error_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"unknown task 'n_stage'; did you mean 'n_staging'\?"):
        load(tmp_path, SMALLEST.replace("n_staging", "n_stage"))
    with pytest.raises(JobError, match="no task is named"):
        load(tmp_path, SMALLEST.replace('"n_staging"', "[]"))


@pytest.mark.parametrize(
    ("section", "line", "message"),
    [
        ("archive", "report_id = 1", "archive.report_id must be a string"),
        ("archive", "text = [1]", "archive.text must be a list of strings"),
        ("archive", "columns = 'findings'", "archive.columns must be a table"),
        ("archive.columns", "findings = 3", "archive.columns"),
        ("archive.filter", "modality = 3", "archive.filter.modality must be a list of strings"),
        ("archive.filter", "date_from = 5", "archive.filter.date_from"),
        ("archive.filter", "date_to = '31/12/2024'", "archive.filter.date_to"),
        ("pack", "name = ['smol']", "pack.name must be a string"),
        ("workers", "processes = '2'", "workers.processes must be a whole number"),
        ("workers", "threads = true", "workers.threads must be a whole number"),
        ("output", "private = 'no'", "output.private must be true or false"),
        ("output", "shard_rows = 2.5", "output.shard_rows must be a whole number"),
        ("limits", "max_hours = '8'", "limits.max_hours must be a number"),
        ("limits", "until = 06:00:00", "limits.until must be a string"),
    ],
)
def test_a_value_of_the_wrong_type_is_an_error_naming_its_key(
    tmp_path: Path, section: str, line: str, message: str
) -> None:
    with pytest.raises(JobError) as error:
        load(tmp_path, with_key(section, line))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("section", "line", "message"),
    [
        ("archive", "text = []", "archive.text names no column"),
        ("archive", "report_id = 'text'", "archive.report_id or --id-column: 'text' is a column of text"),
        ("archive", "report_id = 'findings'", "'findings' is a column of text; name that of the ids"),
        (
            "archive.filter",
            "date_from = 2024-12-31\ndate_to = 2024-01-01",
            "archive.filter.date_from lies after date_to",
        ),
        ("archive", "encoding = 'utf-16'", "archive.encoding must be one of utf-8, latin-1, cp1252"),
        ("workers", "processes = -1", "must not be negative"),
        ("workers", "memory = -1", "must not be negative"),
        ("workers", "memory = '2 GB'", "workers.memory must be a whole number"),
        ("workers", "backend = 'slurm'", "workers.backend must be"),
        ("workers", "format = 'q5_0'", "workers.format must be one of as shipped, bf16, f16, q8_0, q4_0"),
        ("output", "shard_rows = 0", "output.shard_rows must be above 0"),
        ("limits", "until = '25:00'", "limits.until: '25:00' is not a time like 06:00"),
        ("limits", "until = 'six'", "limits.until: 'six' is not a time like 06:00"),
        ("limits", "until = '06:00+02:00'", "limits.until"),
        ("limits", "max_hours = -1", "limits.max_hours must lie between 0 and 100,000"),
        ("limits", "max_hours = nan", "limits.max_hours must lie between 0 and 100,000"),
        ("limits", "max_hours = inf", "limits.max_hours"),
        ("limits", "max_rows = 0", "limits.max_rows must be above 0"),
        ("limits", "record_seconds = 0", "limits.record_seconds must be above 0"),
        ("limits", "record_seconds = inf", "limits.record_seconds"),
        ("limits", "overlong = 'cut'", "limits.overlong must be one of too_long, cut_end"),
    ],
)
def test_a_value_out_of_range_is_an_error_naming_its_key(tmp_path: Path, section: str, line: str, message: str) -> None:
    with pytest.raises(JobError) as error:
        load(tmp_path, with_key(section, line))
    assert message in str(error.value)


def test_a_cluster_needs_a_folder_that_its_nodes_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADLITE_CACHE", str(tmp_path / "cache"))
    elsewhere = SMALLEST.replace('"out"', '"memory://bucket/out"')
    cluster = '[workers]\nbackend = "dask"\n'
    scheduler = f'{cluster}scheduler = "tcp://head:8786"\n'
    assert load(tmp_path, SMALLEST + scheduler).workers.scheduler
    assert load(tmp_path, elsewhere + cluster).workers.backend == "dask"  # of this host alone, whose mirror it shares
    for text in (elsewhere + scheduler, SMALLEST.replace("a.csv", "memory://bucket/a.csv") + scheduler):
        with pytest.raises(JobError) as error:
            load(tmp_path, text)
        assert "workers.scheduler needs an archive and an output folder that all nodes share" in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ('paths = "a.csv"\n', "archive.paths is missing"),
        ('run = "n_staging"\n', "tasks.run is missing"),
        ('path = "out"\n', "output.path is missing"),
    ],
)
def test_a_missing_key_is_an_error_naming_it(tmp_path: Path, missing: str, message: str) -> None:
    with pytest.raises(JobError, match=message):
        load(tmp_path, SMALLEST.replace(missing, ""))
    with pytest.raises(JobError, match=r"archive\.paths names no file"):
        load(tmp_path, SMALLEST.replace('"a.csv"', "[]"))


@pytest.mark.parametrize(
    ("name", "message"), [('"a.csv"', "archive.paths names no file"), ('"out"', "output.path names no folder")]
)
def test_an_empty_path_is_not_the_jobs_own_folder(tmp_path: Path, name: str, message: str) -> None:
    for empty in ('""', '"file://"'):
        with pytest.raises(JobError, match=message):
            load(tmp_path, SMALLEST.replace(name, empty))


def test_a_byte_order_mark_is_no_part_of_a_job(tmp_path: Path) -> None:
    assert load(tmp_path, f"\ufeff{SMALLEST}") == load(tmp_path, SMALLEST)


def test_a_section_that_is_no_table_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="workers must be a table"):
        load(tmp_path, f"workers = 3\n{SMALLEST}")


def test_a_file_that_is_missing_or_no_toml_is_an_error_naming_it(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"none\.toml: No such file"):
        load_job(tmp_path / "none.toml")
    with pytest.raises(JobError, match=r"job\.toml: not a TOML file"):
        load(tmp_path, "archive: paths")
    (tmp_path / "job.toml").write_bytes(b"# caf\xe9\n")
    with pytest.raises(JobError, match=r"job\.toml: not a TOML file"):
        load_job(tmp_path / "job.toml")
