"""Memory that may still be used: the node's, and what cgroups of both versions leave."""

from __future__ import annotations

from pathlib import Path
from typing import Mapping, Optional

import pytest

from pilot.monitoring.memory import available_memory

GIB = 1 << 30
NODE = {"proc/meminfo": f"MemTotal: {64 << 20} kB\nMemAvailable: {8 << 20} kB\n"}


def v2(directory: str, limit: object, used: int, cache: int = 0) -> Mapping[str, str]:
    place = f"sys/fs/cgroup/{directory}memory."
    return {f"{place}max": f"{limit}\n", f"{place}current": f"{used}\n",
            f"{place}stat": f"anon 1\ninactive_file {cache}\nactive_file 77\n"}


def v1(limit: int, used: int, cache: int) -> Mapping[str, str]:
    place = "sys/fs/cgroup/memory/slot/"
    return {f"{place}memory.limit_in_bytes": f"{limit}\n", f"{place}memory.usage_in_bytes": f"{used}\n",
            f"{place}memory.stat": f"inactive_file 1\ntotal_inactive_file {cache}\n"}


@pytest.mark.parametrize(("files", "expected"), [
    ({}, None),
    (NODE, 8 * GIB),
    ({**NODE, "proc/self/cgroup": "0::/a/b\n", **v2("a/b/", "max", GIB)}, 8 * GIB),
    ({**NODE, "proc/self/cgroup": "0::/a/b\n", **v2("a/b/", 4 * GIB, 3 * GIB, GIB // 2)}, 3 * GIB // 2),
    # the tightest one up to the top counts
    ({**NODE, "proc/self/cgroup": "0::/a/b\n", **v2("a/b/", 4 * GIB, GIB), **v2("a/", 5 * GIB, 4 * GIB)}, GIB),
    # in a container the own path may not be visible, and the top has the limit
    ({**NODE, "proc/self/cgroup": "0::/../pod\n", **v2("", 2 * GIB, GIB)}, GIB),
    ({**NODE, "proc/self/cgroup": "0::/a\n", **v2("a/", GIB, 2 * GIB)}, 0),
    ({**NODE, "proc/self/cgroup": "9:cpu:/slot\n4:memory:/slot\n", **v1(3 * GIB, 2 * GIB, GIB)}, 2 * GIB),
    ({**NODE, "proc/self/cgroup": "4:memory:/slot\n", **v1(0x7FFFFFFFFFFFF000, GIB, 0)}, 8 * GIB),
    ({**NODE, "proc/self/cgroup": "nonsense\n"}, 8 * GIB),
])
def test_the_least_of_node_and_cgroups_counts(
        tmp_path: Path, files: Mapping[str, str], expected: Optional[int]) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_memory(tmp_path) == expected


def test_this_machine_has_some_memory_left() -> None:
    found = available_memory()
    assert found is not None and found > 0
