"""What a machine has, where a container or a systemd unit gives less of it."""

import math
from pathlib import Path

import pytest

from radlite_batch import machine
from radlite_batch.machine import _group_quotas, _group_rooms

GIB = 1 << 30


def group(path: Path, limit: str, used: int, unused: int = 0) -> None:
    path.mkdir(parents=True, exist_ok=True)
    (path / "memory.max").write_text(f"{limit}\n")
    (path / "memory.current").write_text(f"{used}\n")
    (path / "memory.stat").write_text(f"anon 5\ninactive_file {unused}\nactive_file 7\n")


def test_the_tightest_group_on_the_way_up_counts(tmp_path: Path) -> None:
    group(tmp_path / "system.slice" / "radlite.service", "max", 3 * GIB)
    group(tmp_path / "system.slice", str(8 * GIB), 3 * GIB, GIB)
    assert min(_group_rooms(tmp_path, "system.slice/radlite.service")) == 6 * GIB
    group(tmp_path / "system.slice" / "radlite.service", str(4 * GIB), 3 * GIB)
    assert min(_group_rooms(tmp_path, "system.slice/radlite.service")) == GIB
    group(tmp_path / "system.slice" / "radlite.service", str(GIB), 3 * GIB)
    assert min(_group_rooms(tmp_path, "system.slice/radlite.service")) == 0


def test_without_groups_it_is_what_the_kernel_says(tmp_path: Path) -> None:
    assert min(_group_rooms(tmp_path, "a/b")) > 1 << 60
    assert 0 < machine.memory_available() < 1 << 50


def test_the_tightest_quota_on_the_way_up_counts(tmp_path: Path) -> None:
    own = tmp_path / "docker" / "container"
    own.mkdir(parents=True)
    assert min(_group_quotas(tmp_path, "docker/container")) == math.inf
    (own / "cpu.max").write_text("max 100000\n")
    assert min(_group_quotas(tmp_path, "docker/container")) == math.inf
    (own.parent / "cpu.max").write_text("400000 100000\n")
    (own / "cpu.max").write_text("125000 50000\n")
    assert min(_group_quotas(tmp_path, "docker/container")) == 2.5


@pytest.mark.parametrize(("quota", "count"), [(math.inf, 4), (64.0, 4), (4.0, 4), (2.5, 2), (0.5, 1)])
def test_a_quota_makes_cores_fewer(monkeypatch: pytest.MonkeyPatch, quota: float, count: int) -> None:
    monkeypatch.setattr(machine, "cores", lambda: [0, 1, 2, 3])
    monkeypatch.setattr(machine, "_group_quotas", lambda root, own: [math.inf, quota])
    assert machine.core_count() == count


def test_the_cpu_has_a_name_and_flags() -> None:
    assert machine.cpu_name()
    assert machine.cpu_flags() in Path("/proc/cpuinfo").read_text() and len(machine.cpu_flags().split()) > 3
