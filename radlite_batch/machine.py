"""What this machine has and what processes take of it: cores, memory, proportional set size. Linux only."""

import math
import os
import platform
import resource
import sys
from contextlib import suppress
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")


def cores() -> list[int]:
    """The logical CPUs this process may use."""
    return sorted(os.sched_getaffinity(0))


def core_count() -> int:
    """How many logical CPUs this process has the time of: all it may use, or fewer under a control group's quota."""
    quota = min(_group_quotas(_GROUPS, _own_group()))
    return len(cores()) if quota >= len(cores()) else max(1, int(quota))


def cpu_name() -> str:
    return _cpuinfo("model name") or platform.machine()


def cpu_flags() -> str:
    """Its instruction sets and the like, as the kernel names them."""
    return _cpuinfo("flags") or _cpuinfo("Features")  # the latter on ARM


def _cpuinfo(key: str) -> str:
    """Of the first logical CPU; "" where the kernel does not say."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def memory_available() -> int:
    """Bytes that can be had without swapping, and within the limits of a container or a systemd unit."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return min(int(line.split()[1]) * 1024, *_group_rooms(_GROUPS, _own_group()))
    raise OSError("/proc/meminfo has no MemAvailable")


def _own_group() -> str:
    """Our control group of version 2, below the root."""
    own = Path("/proc/self/cgroup").read_text().partition("0::/")[2].splitlines()
    return own[0] if own else ""


def _groups(root: Path, own: str) -> list[Path]:
    """From our own control group up to the root."""
    return [group for group in (root / own, *(root / own).parents) if group.is_relative_to(root)]


def _group_quotas(root: Path, own: str) -> list[float]:
    """CPU time in each second that each control group (version 2) allows, in seconds; infinite without a limit."""
    quotas = [math.inf]
    for group in _groups(root, own):
        with suppress(OSError):  # the root has none
            limit, period = (group / "cpu.max").read_text().split()
            quotas += [int(limit) / int(period)] if limit != "max" else []
    return quotas


def _group_rooms(root: Path, own: str) -> list[int]:
    """Bytes that are left in each limited control group (version 2) from our own up to the root; pages of files that
    nobody uses count as left. Without a limit: no more than any machine has."""
    rooms = [sys.maxsize]
    for group in _groups(root, own):
        try:
            limit, used = ((group / f"memory.{name}").read_text().strip() for name in ("max", "current"))
            unused = (group / "memory.stat").read_text().partition("inactive_file ")[2].split()
        except OSError:
            continue
        rooms += [max(0, int(limit) - int(used) + int(unused[0]))] if limit != "max" else []
    return rooms


def process_memory(pid: int) -> dict[str, int] | None:
    """Bytes of pss, rss and anonymous; None if the process is gone.

    Shared pages count in pss by their share only; anonymous is what it took for itself, beside files it maps."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    sizes = {parts[0].rstrip(":").lower(): int(parts[1]) * 1024 for line in lines[1:] if (parts := line.split())}
    return {key: sizes[key] for key in ("pss", "rss", "anonymous")}


def tree_memory(pid: int) -> dict[str, int]:
    """pss and rss summed over a process and its descendants."""
    total = {"pss": 0, "rss": 0}
    for member in (pid, *descendants(pid)):
        memory = process_memory(member) or {}
        for key in total:
            total[key] += memory.get(key, 0)
    return total


def descendants(pid: int) -> list[int]:
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in path.read_text().split()]
        except OSError:
            continue
        for child in children:
            found += [child, *descendants(child)]
    return found


def forbid_dumps() -> None:
    """A core dump of this process or its children would hold reports; so may what ggml has a debugger print."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A system that pipes dumps to a program takes no notice of the limit: no memory is to be in them.
    with suppress(OSError):  # a kernel without dumps has no filter
        Path("/proc/self/coredump_filter").write_text("0")
    os.environ["GGML_NO_BACKTRACE"] = "1"


def limit_memory(n_bytes: int) -> None:
    """The kernel refuses this process more of its own than n_bytes; files mapped for reading do not count."""
    resource.setrlimit(resource.RLIMIT_DATA, (n_bytes, n_bytes))
