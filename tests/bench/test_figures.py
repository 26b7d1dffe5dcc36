"""Medians, ratios and the share of the bound, from made-up timings."""

import json
from pathlib import Path

import pytest

from radlite_batch.bench.figures import Result, Spread, System, write
from radlite_batch.bench.peers import Measure
from radlite_batch.bench.picture import draw


def result() -> Result:
    """An engine at 72, 36, 24 thousand reports per hour; a peer at a quarter, a half, a quarter of that."""
    engine = [Measure(100, seconds, 1.0, 8000, 0) for seconds in (5.0, 10.0, 15.0)]
    peer = [Measure(50, seconds, 0.5, 9000, 500) for seconds in (10.0, 10.0, 30.0)]
    return Result(
        machine={"cpu": "a CPU", "cores": "2"}, pack="native", model={"form": "bf16"}, tasks=("n_staging",),
        reports=100, core_sets=((0,), (1,)), unique_tokens=8000,
        systems={"engine": System("engine", "this", measures=engine), "server": System("server", "it", measures=peer)},
        left_out={"loop": "not asked for"},
        kernel=[{256: 2000.0, 512: 1800.0}, {256: 900.0, 512: 1000.0}, {256: 800.0}],
    )  # fmt: skip


def test_rates_count_each_systems_own_reports() -> None:
    assert result().systems["engine"].rate == Spread(36000, 24000, 72000)
    assert result().systems["server"].rate == Spread(18000, 6000, 18000)
    assert result().systems["server"].per_report("written_tokens") == 10


def test_ratios_are_paired_by_round() -> None:
    assert result().ratio("engine", "server") == Spread(4, 2, 4)


def test_the_bound_is_the_better_batch_of_the_same_round() -> None:
    assert result().bound == Spread(45000, 36000, 90000)
    share = result().share_of_bound("engine")
    assert (share.median, share.least, share.most) == pytest.approx((0.8, 24 / 36, 0.8))


def test_a_round_that_a_system_lacks_is_no_ratio() -> None:
    broken = result()
    broken.systems["server"].measures.pop()
    with pytest.raises(ValueError):
        broken.ratio("engine", "server")


def test_json_and_table(tmp_path: Path) -> None:
    write(result(), "engine", tmp_path / "out")
    document = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert document["derived"]["server"]["engine_over_it"] == {"median": 4, "least": 2, "most": 4}
    assert [measure["seconds"] for measure in document["systems"]["engine"]["measures"]] == [5, 10, 15]
    table = (tmp_path / "out" / "bench.txt").read_text()
    assert "36,000 (24,000 to 72,000)" in table and "loop was left out: not asked for" in table
    assert "guessed" not in table


def test_guessed_tokens_are_shown_with_those_that_were_right(tmp_path: Path) -> None:
    guessing = result()
    guessing.systems["engine"].measures = [Measure(100, 5.0, 1.0, 8000, 900, 200, 150)] * 3
    assert "engine: 2.0 written tokens guessed per report, 75% of them right" in guessing.lines("engine")


@pytest.mark.parametrize(("suffix", "head"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_the_picture_is_written(tmp_path: Path, suffix: str, head: bytes) -> None:
    pytest.importorskip("matplotlib")
    draw(result(), "engine", tmp_path / f"bench.{suffix}")
    assert (tmp_path / f"bench.{suffix}").read_bytes().startswith(head)
