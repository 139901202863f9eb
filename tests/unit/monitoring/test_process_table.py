"""The pass over /proc."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pilot.monitoring import procfs
from pilot.util.procfs import ProcInfo, ProcTable, parse_stat

LINE = (
    b"4242 (%s) R 17 4242 4200 0 -1 4194304 100 200 3 4 11 22 33 44 20 0 5 0 987654 1000000 777"
    b" 18446744073709551615 1 1 0"
)


@pytest.mark.parametrize("name", [b"python3", b"a b", b") R 1 1", b"((", b"\xff\xfe", b""])
def test_names_with_blanks_and_brackets_do_not_shift_the_fields(name: bytes) -> None:
    info = parse_stat(LINE % name)
    assert (info.pid, info.state, info.ppid, info.pgrp, info.session) == (4242, "R", 17, 4242, 4200)
    assert (info.utime, info.stime, info.cutime, info.cstime) == (11, 22, 33, 44)
    assert (info.threads, info.start, info.rss) == (5, 987654, 777)
    assert info.comm == name.decode("utf-8", "replace")


def process(pid: int, ppid: int, *, ticks: int = 0, waited: int = 0) -> ProcInfo:
    return ProcInfo(pid, "x", "S", ppid, pid, pid, ticks, 0, waited, 0, 1, pid, 0)


def test_a_tree_has_each_descendant_once_and_parents_first() -> None:
    table = ProcTable([process(1, 0), process(5, 1), process(6, 5), process(7, 6), process(8, 5), process(9, 1)])
    assert [info.pid for info in table.tree(5)] == [5, 6, 8, 7]
    assert [info.pid for info in table.tree(5, [9, 6])] == [5, 9, 6, 8, 7]
    assert table.tree(77) == []


def test_a_circle_of_parents_does_not_hang() -> None:
    # The table is no atomic picture: with pids used again a circle is possible.
    assert len(ProcTable([process(5, 6), process(6, 5)]).tree(5)) == 2


def test_cpu_time_of_leaves_counts_and_children_count_once() -> None:
    second = procfs.TICKS_PER_SECOND
    table = ProcTable([process(5, 1, ticks=second, waited=2 * second), process(6, 5, ticks=4 * second)])
    assert table.cpu_seconds([5, 6, 6, 99]) == 7.0


def test_the_scan_sees_this_process_and_its_child() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        table = procfs.scan()
        own, other = table.get(os.getpid()), table.get(child.pid)
        assert own is not None
        assert other is not None
        assert other in table.children(os.getpid())
        assert other.session == own.session == os.getsid(0)
        assert procfs.same_process(other)
        assert not procfs.same_process(other._replace(start=other.start + 1))
    finally:
        child.communicate(b"\n")
    assert procfs.read_process(child.pid) is None
    assert not procfs.same_process(other)


def test_a_zombie_is_not_alive() -> None:
    child = subprocess.Popen(["/bin/true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    info = procfs.read_process(child.pid)
    child.wait()
    assert info is not None
    assert info.state == "Z"
    assert not info.alive
    assert info._replace(threads=3).alive


def test_the_environment_of_a_process_can_be_asked_for_one_variable(tmp_path: Path) -> None:
    child = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={"A": "1", "AB": "2"})
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(b"x")
    child.stdin.flush()
    child.stdout.read(1)
    assert procfs.read_environ(child.pid, "AB") == "2"
    assert procfs.read_environ(child.pid, "B") is None
    child.communicate()
    assert procfs.read_environ(child.pid, "AB") is None
