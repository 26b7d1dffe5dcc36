"""What a machine has, where a container or a systemd unit gives less of it."""

from pathlib import Path

from radlite_batch import machine
from radlite_batch.machine import _group_rooms

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
