"""Out-of-memory kills: counters of control groups of both versions, the kernel's log, a real limit where possible."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilot.payload.kernel import ExitStatus
from pilot.payload.process import Supervisor
from pilot.util import oomkills
from pilot.util.oomkills import OomKills, kernel_words, oom_count, oom_kills_since
from tests import groups
from tests.groups import machine

V2 = "low 0\nhigh 0\nmax 12\noom 3\noom_kill {}\noom_group_kill 0\n"
V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"


@pytest.mark.parametrize(("paths", "file", "text"), [
    ("0::/slot.slice/job\n", "sys/fs/cgroup/slot.slice/job/memory.events", V2),
    ("0::/slot.slice/job\n", "sys/fs/cgroup/slot.slice/memory.events", V2),  # no memory controller further down
    ("0::/\n", "sys/fs/cgroup/memory.events", V2),  # a name space of its own
    ("0::/../../other\n", "sys/fs/cgroup/memory.events", V2),
    ("4:memory:/batch/job\n0::/\n", "sys/fs/cgroup/memory/batch/job/memory.oom_control", V1),
    ("5:cpu,memory:/outside/of/the/container\n", "sys/fs/cgroup/memory/memory.oom_control", V1),
    ("4:cpu:/x\n0::/y\n", "sys/fs/cgroup/unified/y/memory.events", V2),
])
def test_the_nearest_counter_is_found(tmp_path: Path, paths: str, file: str, text: str) -> None:
    root = machine(tmp_path, paths, {file: text.format(7)})
    before = oom_count(root)
    assert before == (7, root / file)
    (root / file).write_text(text.format(9))
    assert oom_kills_since(before) == OomKills(7, 9, str(root / file))


@pytest.mark.parametrize("paths", ["", "0::/\n", "4:memory:/x\n", "garbage\n\xff::\n:::::\n", "4:memory\n"])
def test_no_counter_is_no_evidence(tmp_path: Path, paths: str) -> None:
    root = machine(tmp_path, paths, {"sys/fs/cgroup/memory.events": "oom_kill x\n"})
    assert oom_count(root) is None
    assert oom_kills_since(None) is None


def test_a_group_that_is_gone_at_the_end_is_no_evidence(tmp_path: Path) -> None:
    root = machine(tmp_path, "0::/job\n", {"sys/fs/cgroup/job/memory.events": V2.format(1)})
    before = oom_count(root)
    (root / "sys/fs/cgroup/job/memory.events").unlink()
    assert before is not None and oom_kills_since(before) is None


def test_the_kernels_log_counts_for_our_processes_only(tmp_path: Path) -> None:
    log = tmp_path / "kmsg"
    log.write_text("6,1,100,-;Memory cgroup out of memory: Killed process 4711 (python) total-vm:1kB\n"
                   "6,2,101,-;eth0: link up\n")
    assert "Killed process 4711 (python)" in kernel_words({4711}, log)
    assert kernel_words({471, 1}, log) == ""
    assert kernel_words(set(), log) == ""
    assert kernel_words({4711}, tmp_path / "none") == ""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert kernel_words({4711}, fifo) == ""


def run(script: str, directory: Path) -> ExitStatus:
    supervisor = Supervisor()
    try:
        child = supervisor.spawn(["/bin/bash", "-c", script], cwd=directory, env=dict(os.environ))
        status = child.wait(60)
        assert status is not None
        return status
    finally:
        supervisor.close()


def test_kills_of_strangers_before_the_payload_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = machine(tmp_path / "root", "0::/job\n", {"sys/fs/cgroup/job/memory.events": V2.format(5)})
    monkeypatch.setattr(oomkills, "ROOT", root)
    events = root / "sys/fs/cgroup/job/memory.events"
    assert run("exit 1", tmp_path).oom == OomKills(5, 5, str(events))
    status = run(f"echo 'oom_kill 6' > {events}; exit 65", tmp_path)
    assert (status.code, status.oom) == (65, OomKills(5, 6, str(events)))
    assert status.oom is not None and status.oom.new == 1
    assert run("exit 0", tmp_path).oom is None


@pytest.fixture
def limited() -> Iterator[Path]:
    """A real control group with a limit of 60 MB."""
    with groups.memory_limited(60) as group:
        yield group


LOOK = """
import os, sys
sys.path.insert(0, sys.argv[1])
from pilot.payload.process import Supervisor
from pathlib import Path
supervisor = Supervisor()
child = supervisor.spawn(["/bin/bash", "-c", sys.argv[2]], cwd=Path("."), env=dict(os.environ))
status = child.wait(60)
print(status.code, status.oom.new if status.oom else None, status.oom.file if status.oom else "")
supervisor.close()
"""


def test_a_payload_above_a_real_limit_leaves_evidence(limited: Path, tmp_path: Path) -> None:
    import subprocess

    script = f"{sys.executable} -c 'x = bytearray(300 << 20)'; echo survived >&2; exit 65"
    root = str(Path(__file__).resolve().parents[3])
    done = subprocess.run([*groups.joined(limited), sys.executable, "-c", LOOK, root, script], cwd=tmp_path,
                          capture_output=True, text=True, timeout=120)
    code, kills, file = done.stdout.split()
    assert (code, kills) == ("65", "1"), done.stderr
    assert file.startswith(str(limited))
