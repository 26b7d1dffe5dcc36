"""Whatever befalls a run, in whatever order, its manifest and receipts say what its tables hold."""

import csv
import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Collection
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from faulty import FAULTS, Ended, FaultyDisk
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from small import check_invariants, contents, doom, in_this_process, small_job, visible
from table import FULL, record

from radlite_batch.errors import OutputError, RunChanged
from radlite_batch.job import Job
from radlite_batch.pack import Pack
from radlite_batch.predict import predict
from radlite_batch.results.manifest import read_manifest
from radlite_batch.results.summary import RunSummary
from radlite_batch.run import retry, run
from radlite_batch.verify import verify
from radlite_batch.watch import Watch

TASK = "n_staging"
TEXTS = ("Clear lungs.", "New nodes.", "Known mass.", "")
steps = lost = 0


@cache
def stage(text: str) -> str | None:
    return predict(text, (TASK,), "fake", {})[TASK]["stage"] if text else None


class Runs(RuleBasedStateMachine):
    """One output and its archive, beside what must be true of them.

    files: texts of each file as they are. planned: as they were when the run took them on, in planned order.
    doomed: source rows that may be failed."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.out = self.folder / "out"
        self.files: dict[str, list[str]] = {}
        self.planned: dict[str, list[str]] = {}
        self.adapter, self.planned_adapter = "", ""
        self.doomed: set[int] = set()
        self.add_file(["Clear lungs.", "", "New nodes."])

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def job(self) -> Job:
        job = small_job(self.folder, self.out, shard_rows=2, tasks=(TASK,))
        paths = tuple(str(self.folder / name) for name in sorted(self.files, reverse=True))
        return dataclasses.replace(job, archive=dataclasses.replace(job.archive, paths=paths))

    def refused(self) -> bool:
        changed = any(self.files[name] != texts for name, texts in self.planned.items())
        return bool(self.planned) and (changed or self.adapter != self.planned_adapter)

    def attempt(
        self,
        do: Callable[[], RunSummary],
        disk: FaultyDisk | None = None,
        items: int = 99,
        doomed: Collection[int] = (),
    ) -> RunSummary | None:
        """The summary, or None where the disk failed, or where the run was refused as it had to be."""
        global steps
        steps += 1
        prepare, left = Pack.prepare, iter([True] * items)

        def adapted(pack: Pack, *arguments: Any) -> Any:
            file, prepared = prepare(pack, *arguments)
            return dataclasses.replace(file, adapter_sha256=self.adapter), prepared

        refused = self.refused()
        before = contents(self.out) if refused else {}
        with pytest.MonkeyPatch.context() as patch:
            in_this_process(patch)
            doom(patch, doomed)
            patch.setattr(Pack, "prepare", adapted)
            patch.setattr(Watch, "go_on", lambda watch: next(left, False))
            if disk:
                disk.install(patch)
            try:
                summary = do()
                assert not refused
            except RunChanged:
                assert refused and contents(self.out) == before
                summary = None
            except (Ended, OutputError):
                assert disk is not None and disk.struck
                summary = None
        self.doomed |= set() if refused else set(doomed)
        self.note_plan()
        return summary

    def note_plan(self) -> None:
        manifest = read_manifest(self.out)
        if manifest is None:
            assert not self.planned
            return
        names = [Path(file.path).name for file in manifest.files]
        assert names[: len(self.planned)] == list(self.planned)
        self.planned_adapter = self.planned_adapter if self.planned else self.adapter
        assert manifest.identity["models"]["fake"]["adapter"] == self.planned_adapter
        for name in names[len(self.planned) :]:
            self.planned[name] = list(self.files[name])

    @rule(texts=st.lists(st.sampled_from(TEXTS), max_size=5))
    def add_file(self, texts: list[str]) -> None:
        self.write(f"{len(self.files):03d}.csv", texts)

    @rule(n=st.integers(0, 9), text=st.sampled_from(TEXTS))
    def change_a_text(self, n: int, text: str) -> None:
        name = sorted(self.files)[n % len(self.files)]
        texts = list(self.files[name])
        if texts:
            texts[n % len(texts)] = text
            self.write(name, texts)

    @precondition(lambda self: self.refused())
    @rule()
    def bring_back_what_was_planned(self) -> None:
        for name, texts in self.planned.items():
            self.write(name, texts)
        self.adapter = self.planned_adapter

    @rule(adapter=st.sampled_from(["", "1" * 64]))
    def change_the_adapter(self, adapter: str) -> None:
        self.adapter = adapter

    def write(self, name: str, texts: list[str]) -> None:
        self.files[name] = texts
        with open(self.folder / name, "w", newline="", encoding="utf-8") as file:
            rows = [(f"{name}-{i}", text) for i, text in enumerate(texts)]
            csv.writer(file).writerows([("report_id", "text"), *rows])

    @rule(doomed=st.sets(st.integers(0, 9), max_size=2))
    def run(self, doomed: set[int]) -> None:
        if (summary := self.attempt(partial(run, self.job()), doomed=doomed)) is not None:
            self.check_complete(summary)
            assert set(self.planned) == set(self.files)

    @rule(at=st.integers(1, 80), fault=st.sampled_from(sorted(FAULTS)))
    def run_on_a_faulty_disk(self, at: int, fault: str) -> None:
        self.attempt(partial(run, self.job()), FaultyDisk(at, fault))

    @rule(items=st.integers(0, 2))
    def run_until_a_deadline(self, items: int) -> None:
        summary = self.attempt(partial(run, self.job()), items=items)
        assert summary is None or summary.state in ("complete", "stopped")

    @precondition(lambda self: self.planned)
    @rule()
    def retry(self) -> None:
        if (summary := self.attempt(partial(retry, self.out))) is not None:
            self.doomed = set()
            self.check_complete(summary)

    @precondition(lambda self: self.planned)
    @rule(at=st.integers(1, 80), fault=st.sampled_from(sorted(FAULTS)))
    def retry_on_a_faulty_disk(self, at: int, fault: str) -> None:
        self.attempt(partial(retry, self.out), FaultyDisk(at, fault))

    def check_complete(self, summary: RunSummary) -> None:
        global lost
        rows = visible(self.out).get(TASK, [])
        lost += max(0, len(self.reports()) - len(rows))
        assert [row["report_id"] for row in rows] == [id for id, _ in self.reports()]
        assert summary.state == "complete"
        assert summary.exit_code == (3 if any(row["status"] == "failed" for row in rows) else 0)
        unchanged = all(self.files[name] == texts for name, texts in self.planned.items())
        verdict = verify(self.out)
        assert unchanged and (verdict.findings, verdict.complete) == ([], True)

    def reports(self) -> list[tuple[str, str]]:
        return [(f"{name}-{i}", text) for name, texts in self.planned.items() for i, text in enumerate(texts)]

    @invariant()
    def what_is_visible_is_true(self) -> None:
        if not self.planned:
            return
        check_invariants(self.out)
        reports = self.reports()
        tables = visible(self.out)
        for row in tables.get(TASK, []):
            report_id, text = reports[row["source_row"]]
            assert row["report_id"] == report_id
            if row["status"] == "failed":
                assert row["source_row"] in self.doomed
            else:
                assert (row["status"], row["stage"]) == ("ok" if text else "empty", stage(text))
        for rows in tables.values():
            assert len({row["source_row"] for row in rows}) == len(rows)


def test_any_order_of_events_leaves_the_output_true() -> None:
    # Generated afresh each time in the full form; the same every time in the short one.
    chosen = settings(
        max_examples=200 if FULL else 6, stateful_step_count=25 if FULL else 12, deadline=None, derandomize=not FULL,
        database=None, suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    run_state_machine_as_test(Runs, settings=chosen)
    record("events in random order", steps, lost)
