"""The morning page: its figures are those of the tables, it stands alone, quotes no report, and warns of what moved."""

import csv
import dataclasses
import random
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from radlite_batch.archive import ArchiveSpec
from radlite_batch.cli import main
from radlite_batch.drift import Thresholds, beyond_chance, drifts, moved_share
from radlite_batch.job import Job, Output, RunLimits, Workers
from radlite_batch.pages.commands import EXIT_DRIFT
from radlite_batch.pages.timeline import STEPS, timeline
from radlite_batch.report import BINS, Execution, Sample, TaskFigures, Work, gather, pooled
from radlite_batch.results.schemas import dictionary_lines
from radlite_batch.run import run
from radlite_batch.tasks.registry import TASKS

CANARY = "zanzibar"  # stands in every report, and nowhere else
ROWS = 90


def write_archive(path: Path, rows: int, words: int) -> list[str]:
    """Every tenth text is empty, and the last line is broken; returns the texts."""
    texts = ["" if i % 10 == 9 else f"{CANARY} {i} " + "node " * (words + i % 5) for i in range(rows)]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["report_id", "text", "question", "premise", "hypothesis"])
        writer.writerows([f"{i:04d}", text, "Is it?", "It is.", f"It {CANARY}."] for i, text in enumerate(texts))
        file.write("9999,broken\n")
    return texts


def job_of(folder: Path, name: str, words: int) -> Job:
    write_archive(folder / f"{name}.csv", ROWS, words)
    spec = ArchiveSpec((str(folder / f"{name}.csv"),))
    return Job(spec, tuple(TASKS), Output(folder / name, shard_rows=32), "fake", Workers(1, 1))


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of all tasks: `first`, and `second`, whose texts are eight times as long."""
    folder = tmp_path_factory.mktemp("nights")
    for name, words in (("first", 4), ("second", 32)):
        assert run(job_of(folder, name, words)).exit_code == 3  # the broken line
    return folder


def radlite(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


class Outline(HTMLParser):
    """What a page would fetch, whether its elements close in order, and its words."""

    def __init__(self, page: str):
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.fetched += [
            f"{tag} {name}" for name, _ in attributes if name in ("src", "href", "srcset", "data", "action")
        ]
        self.fetched += [tag] if tag in ("script", "link", "iframe", "object", "img") else []
        if tag not in ("meta", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def page_of(out: Path) -> tuple[str, Outline]:
    page = (out / "_run" / "report.html").read_text(encoding="utf-8")
    return page, Outline(page)


def test_the_page_stands_alone_and_quotes_no_report(nights: Path) -> None:
    done = radlite("report", nights / "second", "--previous", nights / "first")
    assert done.exit_code == 0, done.output
    page, outline = page_of(nights / "second")
    assert outline.fetched == [] and outline.open == []
    assert not re.search(r"https?:|url\(|@import", page)
    assert CANARY not in page + done.output
    for words in ("second: complete", "Rows by status", "Labels", "Confidence", "Over time", "What ran", "Drift"):
        assert words in outline.words
    assert "2 fields where the header has 5" in outline.words


def test_figures_are_those_of_the_tables(nights: Path) -> None:
    out = nights / "first"
    figures = gather(out)
    assert figures.totals.rows_done == ROWS + 1
    for name in TASKS:
        table = pl.read_parquet(out / name / "*.parquet")
        assert figures.sample.tasks[name].status == Counter(table["status"].to_list())
        sure = table["confidence"].drop_nulls()
        assert figures.sample.tasks[name].confidence.total() == len(sure)
        if len(sure):
            assert figures.sample.tasks[name].mean_confidence == pytest.approx(sure.cast(pl.Float64).mean())
            by_bin = Counter(min(int(value * BINS), BINS - 1) for value in sure.cast(pl.Float64))
            assert figures.sample.tasks[name].confidence == by_bin
    stages = pl.read_parquet(out / "n_staging" / "*.parquet")["stage"].drop_nulls().to_list()
    assert figures.sample.tasks["n_staging"].labels == {"stage": Counter(stages)}
    rads = pl.read_parquet(out / "rads_assignment" / "*.parquet")["label"].drop_nulls().to_list()
    assert figures.sample.tasks["rads_assignment"].labels == {"label": Counter(rads)}
    spans = pl.read_parquet(out / "radiology_ner" / "*.parquet")["entities"].explode().drop_nulls().to_list()
    assert figures.sample.tasks["radiology_ner"].labels == {"entities": Counter(span["label"] for span in spans)}
    assert len(figures.sample.tasks["abnormality_detection"].labels) == 14
    assert figures.sample.tasks["impression_generation"].labels == {}


def test_lengths_are_counted_by_powers_of_two(nights: Path, tmp_path: Path) -> None:
    texts = write_archive(tmp_path / "archive.csv", ROWS, 4)
    expected = Counter(2 ** (len(text).bit_length() - 1) for text in texts if text)
    assert gather(nights / "first").sample.lengths == expected


def test_failures_are_counted_by_reason(nights: Path) -> None:
    [failure] = gather(nights / "first").failures
    assert (failure.rows, failure.status, failure.tasks) == (1, "failed", tuple(TASKS))


def test_longer_texts_are_a_drift_and_the_exit_code_says_so(nights: Path) -> None:
    both = (nights / "second", "--previous", nights / "first")
    warned = radlite("report", *both, "--fail-on-drift")
    assert warned.exit_code == EXIT_DRIFT == 4
    assert "drift     text lengths: " in warned.output
    assert "text lengths" in page_of(nights / "second")[1].words
    off = [f"--drift-{kind}" for kind in ("labels", "status", "length", "confidence")]
    assert radlite("report", *both, "--fail-on-drift", *(part for flag in off for part in (flag, "1"))).exit_code == 0
    assert "Nothing moved" in page_of(nights / "second")[1].words
    assert radlite("report", nights / "first", "--previous", nights / "first", "--fail-on-drift").exit_code == 0


def test_earlier_runs_are_taken_together(nights: Path) -> None:
    first, second = gather(nights / "first").sample, gather(nights / "second").sample
    both = pooled([first, second])
    stages = [sample.tasks["n_staging"].labels["stage"] for sample in (first, second)]
    assert both.tasks["n_staging"].labels["stage"] == stages[0] + stages[1]
    assert both.tasks["n_staging"].confidence_sum == pytest.approx(
        first.tasks["n_staging"].confidence_sum + second.tasks["n_staging"].confidence_sum
    )
    assert first.lengths != both.lengths == first.lengths + second.lengths


def test_the_same_files_again_show_what_changed(nights: Path, tmp_path: Path) -> None:
    pack = tmp_path / "words.toml"
    pack.write_text(
        'name = "words"\nabout = "hashes, asked in words"\nlicence = "Apache-2.0"\nstyle = "instruct"\n'
        '[models.fake]\nbase = "fake"\nsha256 = ""\ncontext = 65536\n[routes]\ndefault = "fake"\n',
        encoding="utf-8",
    )
    spec = ArchiveSpec((str(nights / "first.csv"),))
    run(Job(spec, ("n_staging", "m_staging"), Output(tmp_path / "again"), str(pack), Workers(1, 1)))
    assert radlite("report", tmp_path / "again", "--previous", nights / "first").exit_code == 0
    words = page_of(tmp_path / "again")[1].words
    assert "Changed answers" in words and "What is not as it was in first" in words and "prompts.n_staging" in words
    radlite("report", nights / "second", "--previous", nights / "first")
    assert "Changed answers" not in page_of(nights / "second")[1].words


def test_a_stopped_run_and_a_run_without_rows_have_a_page(nights: Path, tmp_path: Path) -> None:
    job = job_of(tmp_path, "early", 4)
    run(dataclasses.replace(job, limits=RunLimits(max_hours=1e-9)))
    assert radlite("report", tmp_path / "early").exit_code == 0
    assert "early: stopped" in page_of(tmp_path / "early")[1].words
    (tmp_path / "none.csv").write_text("report_id,text\n", encoding="utf-8")
    spec = ArchiveSpec((str(tmp_path / "none.csv"),))
    run(Job(spec, ("n_staging", "radiology_ner"), Output(tmp_path / "none"), "fake", Workers(1, 1)))
    assert radlite("report", tmp_path / "none", "--previous", nights / "first").exit_code == 0


def test_names_are_text_not_markup(tmp_path: Path) -> None:
    job = dataclasses.replace(job_of(tmp_path, "a", 4), tasks=("n_staging",), output=Output(tmp_path / "<i>&"))
    run(job)
    assert radlite("report", tmp_path / "<i>&", "--to", tmp_path / "page.html").exit_code == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<h1>&lt;i&gt;&amp;: complete</h1>" in page and "<i>" not in page


@pytest.mark.parametrize(("private", "mode"), [(True, 0o600), (False, 0o644)])
def test_the_page_is_as_private_as_the_run(tmp_path: Path, private: bool, mode: int) -> None:
    job = dataclasses.replace(job_of(tmp_path, "a", 4), tasks=("n_staging",))
    run(dataclasses.replace(job, output=dataclasses.replace(job.output, private=private)))
    assert radlite("report", tmp_path / "a").exit_code == 0
    assert (tmp_path / "a" / "_run" / "report.html").stat().st_mode & 0o777 == mode
    assert not list((tmp_path / "a" / "_run").glob("*.html.*"))


def test_bad_usage_names_the_folder_or_the_part(nights: Path, tmp_path: Path) -> None:
    gone = radlite("report", tmp_path / "gone")
    assert (gone.exit_code, gone.output) == (2, f"radlite: {tmp_path / 'gone'}: no run was planned there\n")
    alone = radlite("report", nights / "first", "--fail-on-drift")
    assert (alone.exit_code, alone.output) == (2, "radlite: --fail-on-drift needs --previous\n")
    job = dataclasses.replace(job_of(tmp_path, "a", 4), tasks=("n_staging",))
    run(job)
    (tmp_path / "a" / "n_staging" / "part-00001.parquet").unlink()
    broken = radlite("report", tmp_path / "a")
    assert broken.exit_code == 1 and "part-00001.parquet: a receipt names this part" in broken.output


def test_a_damaged_part_is_named_by_whatever_reads_it(nights: Path, tmp_path: Path) -> None:
    run(dataclasses.replace(job_of(tmp_path, "a", 4), tasks=("n_staging",)))
    decisions = tmp_path / "decisions.csv"
    decisions.write_text("task,source_row,column,decision,correction\nn_staging,0,stage,reject,\n", encoding="utf-8")
    for table in ("n_staging", "wide"):
        part = tmp_path / "a" / table / "part-00001.parquet"
        part.write_bytes(bytes(part.stat().st_size))
    whole, bad = nights / "first", tmp_path / "a"
    commands = [
        ("report", bad), ("diff", bad, whole), ("diff", whole, bad), ("review", bad),
        ("review", whole, "--task", "n_staging", "--against", bad), ("review", "apply", bad, decisions),
        *(("export", bad, "--format", name) for name in ("csv", "omop", "fhir")),
    ]  # fmt: skip
    for command in commands:
        told = radlite(*command)
        assert told.exit_code == 1, command
        assert re.fullmatch(rf"radlite: {bad}/\w+/part-00001\.parquet: damaged; see `radlite verify`\n", told.output)


def test_two_models_of_a_shard_count_its_rows_once(tmp_path: Path) -> None:
    pack = tmp_path / "two.toml"
    models = "".join(f'[models.{name}]\nbase = "fake"\nsha256 = ""\ncontext = 65536\n' for name in ("one", "two"))
    pack.write_text(
        'name = "two"\nabout = "two models"\nlicence = "Apache-2.0"\nstyle = "native"\n'
        f'{models}[routes]\ndefault = "one"\nm_staging = "two"\n',
        encoding="utf-8",
    )
    run(dataclasses.replace(job_of(tmp_path, "a", 4), tasks=("n_staging", "m_staging"), pack=str(pack)))
    figures = gather(tmp_path / "a")
    assert (figures.totals.rows_done, len(figures.work)) == (ROWS + 1, 6)
    assert figures.sample.lengths.total() == ROWS * 9 // 10


def test_the_timeline_leaves_out_pauses_and_keeps_every_row() -> None:
    """Two processes for 60 s, a pause of 1,000 s, one process for 60 s more; the first execution was killed."""
    work = [
        Work(100, 160, 30, pid=1, pss=1000), Work(100, 160, 30, pid=2, pss=500), Work(1160, 1220, 60, pid=3, pss=700),
    ]  # fmt: skip
    executions = [Execution(100, 100, None, None), Execution(1160, 1221, "complete", 0)]
    course = timeline(work, executions, models=1)
    assert course.seconds == pytest.approx(121)
    assert sum(course.rates) / 3600 * course.seconds / STEPS == pytest.approx(120)
    assert course.restarts == pytest.approx([60 / 121])
    assert (course.memory[0], course.memory[-2]) == (1500, 700)
    assert sum(timeline(work, executions, models=2).rates) == pytest.approx(sum(course.rates) / 2)


def test_the_moved_share_is_what_would_have_to_move() -> None:
    assert moved_share({"a": 50, "b": 50}, {"a": 100}) == pytest.approx(0.5)
    assert moved_share({"a": 1}, {"b": 7}) == 1
    assert moved_share({"a": 1, "b": 2}, {"a": 10, "b": 20}) == 0
    assert moved_share({}, {"a": 1}) == 0


def test_chance_gives_few_warnings_and_a_real_shift_one() -> None:
    """Samples of one distribution differ beyond chance in about one of a thousand; here 2,000 pairs are drawn."""
    dice = random.Random(7)

    def sample(n: int, weights: tuple[float, ...]) -> Counter[str]:
        return Counter(dice.choices("abcde", weights, k=n))

    same = (60, 25, 10, 4, 1)
    false = sum(beyond_chance(sample(150, same), sample(400, same)) for _ in range(2000))
    assert false <= 10
    assert not beyond_chance({"a": 3, "b": 1}, {"a": 1, "b": 3})
    found = sum(beyond_chance(sample(400, (30, 55, 10, 4, 1)), sample(400, same)) for _ in range(50))
    assert found == 50


def test_each_kind_of_drift_is_told_in_numbers() -> None:
    def sample(n0: int, unparsed: int, low: int) -> Sample:
        figures = TaskFigures(
            Counter(ok=1000 - unparsed, unparsed=unparsed), {"stage": Counter(N0=n0, N1=1000 - n0)},
            Counter({2: low, 19: 1000 - low}), 0.12 * low + 0.97 * (1000 - low),
        )  # fmt: skip
        return Sample({"n_staging": figures}, Counter({64: 1000}))

    before, now = sample(600, 0, 100), sample(300, 50, 500)
    told = {drift.kind: drift.sentence for drift in drifts(now, before, Thresholds())}
    assert told == {
        "status": "n_staging: 5 % of the rows moved (most: ok 100.0 %, now 95.0 %)",
        "labels": "n_staging stage: 30 % of the labels moved (most: N0 60.0 %, now 30.0 %)",
        "confidence": "n_staging confidence: 40 % of the answers moved (mean 0.89, now 0.55)",
    }
    assert drifts(before, before, Thresholds(0, 0, 0, 0)) == []
    assert [drift.kind for drift in drifts(now, before, Thresholds(0.31, 0.06, 0, 0.41))] == []
    assert drifts(now, Sample(), Thresholds()) == []


def test_every_column_is_described_in_parquet_and_in_the_dictionary(nights: Path) -> None:
    shown = radlite("tasks", "--dictionary")
    assert shown.exit_code == 0
    chapters = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", shown.output, re.MULTILINE | re.DOTALL))
    folders = {path.parent.name for path in (nights / "first").glob("*/part-*.parquet")}
    assert folders == set(chapters) == {*TASKS, "wide", "failures"}
    for folder in folders:
        for part in (nights / "first" / folder).glob("*.parquet"):
            for field in pq.read_schema(part):
                about = field.metadata[b"description"].decode()
                assert about and f"| {field.name} | " in chapters[folder] and f" | {about} | " in chapters[folder]
    assert "| stage | string | yes |" in chapters["n_staging"] and "N0, N1, N2, N3, NX |" in chapters["n_staging"]
    assert next(iter(dictionary_lines([TASKS["n_staging"]]))) == "## n_staging"
