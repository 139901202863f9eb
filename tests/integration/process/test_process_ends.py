"""How processes end, and that everybody who waits learns of it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from pilot.payload.process import MARKER, Child, Supervisor
from pilot.util import procfs


def bash(supervisor: Supervisor, directory: Path, line: str) -> Child:
    return supervisor.spawn(["/bin/bash", "-c", line], cwd=directory, env=os.environ)


@pytest.mark.parametrize(
    ("line", "code", "number"),
    [
        ("exit 0", 0, 0),
        ("exit 3", 3, 0),
        ("exit 255", 255, 0),
        ("kill -KILL $$", 137, 9),
        ("kill -SEGV $$; :", 139, 11),
        ("bash -c 'kill -TERM $$'; exit $?", 143, 0),
        ("exit 160", 160, 0),
    ],
)
def test_exit_codes_and_signals_are_kept(
    supervisor: Supervisor, tmp_path: Path, line: str, code: int, number: int
) -> None:
    status = bash(supervisor, tmp_path, f"ulimit -c 0; {line}").wait(20)
    assert status is not None
    assert (status.code, status.signal) == (code, number)


def test_wait_returns_nothing_while_the_process_runs(supervisor: Supervisor, tmp_path: Path) -> None:
    child = bash(supervisor, tmp_path, "exec sleep 60")
    assert child.wait(0.01) is None
    assert child.running
    assert child.signal(signal.SIGTERM)
    status = child.wait(20)
    assert status is not None
    assert status.signal == signal.SIGTERM
    assert not child.signal(signal.SIGTERM)


def test_an_impossible_start_is_an_error_and_leaves_no_zombie(supervisor: Supervisor, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        supervisor.spawn([str(tmp_path / "nothing")], cwd=tmp_path, env=os.environ)
    with pytest.raises(FileNotFoundError):
        supervisor.spawn(["/bin/true"], cwd=tmp_path / "nowhere", env=os.environ)
    assert bash(supervisor, tmp_path, "exit 5").wait(20).code == 5  # type: ignore[union-attr]
    assert not [info for info in procfs.scan().children(os.getpid()) if not info.alive]


def test_callbacks_are_called_once_also_when_late_and_a_faulty_one_harms_nobody(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    called = threading.Semaphore(0)
    seen: list[int] = []

    def note(child: Child) -> None:
        assert child.status is not None
        seen.append(child.status.code)
        called.release()

    def fail(child: Child) -> None:
        raise ValueError("faulty callback")

    child = bash(supervisor, tmp_path, "read line; exit 4")
    child.on_exit(fail)
    child.on_exit(note)
    assert called.acquire(timeout=20)
    child.on_exit(note)
    assert seen == [4, 4]
    assert bash(supervisor, tmp_path, "exit 6").wait(20).code == 6  # type: ignore[union-attr]


def test_a_hundred_short_processes_from_many_threads_all_report_their_own_code(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    results: dict[int, int] = {}

    def work(first: int) -> None:
        for number in range(first, first + 10):
            status = bash(supervisor, tmp_path, f"exit {number}").wait(30)
            assert status is not None
            results[number] = status.code

    threads = [threading.Thread(target=work, args=(first,)) for first in range(0, 100, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == {number: number for number in range(100)}
    assert supervisor.children() == []


def test_children_that_other_code_starts_keep_their_status(supervisor: Supervisor, tmp_path: Path) -> None:
    child = bash(supervisor, tmp_path, "exec sleep 60")
    for number in range(20):
        assert subprocess.run(["/bin/sh", "-c", f"exit {number}"], check=False).returncode == number
    process = subprocess.Popen(["/bin/sh", "-c", "exit 9"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    # A foreign zombie stands there, and ours is collected all the same.
    assert bash(supervisor, tmp_path, "exit 8").wait(20).code == 8  # type: ignore[union-attr]
    assert process.wait() == 9
    child.kill_tree(0)


def test_the_environment_is_the_given_one_and_the_marker(supervisor: Supervisor, tmp_path: Path) -> None:
    with open(tmp_path / "out", "wb") as stream:
        child = supervisor.spawn(
            ["/usr/bin/env"], cwd=tmp_path, env={"A": "b", MARKER: "of an outer pilot"}, stdout=stream.fileno()
        )
        assert child.wait(20) is not None
    assert sorted((tmp_path / "out").read_text().splitlines()) == ["A=b", f"{MARKER}={child.marker}"]


def test_a_payload_that_removes_its_work_directory_still_ends(supervisor: Supervisor, tmp_path: Path) -> None:
    workdir = tmp_path / "work"
    workdir.mkdir()
    status = bash(supervisor, workdir, 'rm -rf "$PWD"; exit 7').wait(20)
    assert status is not None
    assert status.code == 7
    assert not workdir.exists()


def test_maximum_memory_is_that_of_the_biggest_descendant(supervisor: Supervisor, tmp_path: Path) -> None:
    status = bash(supervisor, tmp_path, "python3 -c 'x = bytearray(120 << 20)'; exit 0").wait(30)
    assert status is not None
    assert status.max_rss_kb > 120 * 1024


def test_an_uncollected_foreign_child_does_not_hide_our_orphans(supervisor: Supervisor, tmp_path: Path) -> None:
    foreign = subprocess.Popen(["/bin/true"])
    os.waitid(os.P_PID, foreign.pid, os.WEXITED | os.WNOWAIT)
    # sleep becomes an orphan, and ends after its parent.
    child = bash(supervisor, tmp_path, "sleep 0.2 & exit 3")
    assert child.wait(20).code == 3  # type: ignore[union-attr]
    for info in child.descendants():
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, info.pid, os.WEXITED | os.WNOWAIT)
    supervisor.settle(child)
    assert not [info for info in procfs.scan().children(os.getpid()) if info.session == child.session]
    assert foreign.wait() == 0
