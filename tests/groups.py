"""Control groups for tests: real ones where this machine lets us make them, made-up trees where it does not."""

from __future__ import annotations

import os
import signal
import time
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator, Mapping, Optional

import pytest

V1 = Path("/sys/fs/cgroup")
"""Where the hierarchies of version 1 are mounted, and version 2 on nodes that have nothing else."""
V2 = (V1, V1 / "unified")


def v2_mount() -> Optional[Path]:
    """The real version 2 hierarchy, None without one in which groups can be made."""
    return next((top for top in V2 if (top / "cgroup.controllers").exists() and os.access(top, os.W_OK)), None)


def v2_here(controller: str) -> bool:
    """True when new groups of version 2 have a controller."""
    top = v2_mount()
    return top is not None and controller in (top / "cgroup.subtree_control").read_text().split()


@contextmanager
def memory_limited(megabytes: int) -> Iterator[Path]:
    """A real control group with a limit of memory; skips where none can be made."""
    with _limited("memory", "memory.limit_in_bytes", "memory.max", megabytes << 20) as group:
        yield group


@contextmanager
def processes_limited(count: int) -> Iterator[Path]:
    """A real control group with a limit of processes; skips where none can be made."""
    with _limited("pids", "pids.max", "pids.max", count) as group:
        yield group


@contextmanager
def _limited(controller: str, v1_file: str, v2_file: str, value: int) -> Iterator[Path]:
    name = f"pilot-test-{uuid.uuid4().hex[:8]}"
    if (V1 / controller / "cgroup.procs").exists():
        group, limit = V1 / controller / name, v1_file
    elif v2_here(controller):
        group, limit = (v2_mount() or V1) / name, v2_file
    else:
        pytest.skip(f"no control groups with {controller} here; made-up files stand in elsewhere")
    try:
        group.mkdir()
        (group / limit).write_text(str(value))
    except OSError as error:
        pytest.skip(f"control groups cannot be made here ({error}); made-up files stand in elsewhere")
    try:
        yield group
    finally:
        remove(group)


def joined(group: Path) -> list[str]:
    """A command prefix: what follows runs in the group."""
    return ["/bin/bash", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "x"]


def remove(group: Path) -> None:
    """Remove a group and those below; its last processes may be about to end."""
    for _ in range(20):  # what a failed test has left: no processes but those that it has started
        pids = (group / "cgroup.procs").read_text().split()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        if not pids:
            break
    until = time.monotonic() + 30
    for place, _, _ in os.walk(group, topdown=False):
        while True:
            try:
                os.rmdir(place)
                break
            except FileNotFoundError:
                break
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.01)


def machine(root: Path, membership: str, files: Mapping[str, str]) -> Path:
    """A made-up root directory: /proc/self/cgroup with ``membership``, and other files."""
    for name, content in {"proc/self/cgroup": membership, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root
