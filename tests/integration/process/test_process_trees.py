"""The whole tree of a payload is found, counted and ended; nobody else's process is touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pilot.payload.killer import send
from pilot.payload.process import Child, Supervisor
from pilot.util import procfs

Drive = Callable[..., dict[str, object]]

KILL_A_DAEMON = """
supervisor = Supervisor()
supervisor.start()
child = bash(supervisor, "env -i %s python3 daemon.py; exit 2")
status = child.wait(30)
pid = number_in("daemon.pid")
members = [info.pid for info in child.descendants()]
report = child.kill_tree(0.1)
answer(code=status.code, found=pid in members, alive=alive(pid), killed=report.killed, left=report.left,
       own=os.getpid(), sid=os.getsid(0))
supervisor.close()
"""


def wait_for(path: Path) -> str:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if path.exists() and path.read_text().strip():
            return path.read_text().strip()
        time.sleep(0.01)
    raise AssertionError(f"{path.name} did not appear")


def bash(supervisor: Supervisor, directory: Path, line: str) -> Child:
    return supervisor.spawn(["/bin/bash", "-c", line], cwd=directory, env=os.environ)


def is_alive(pid: int) -> bool:
    info = procfs.read_process(pid)
    return info is not None and info.alive


def test_a_daemon_with_a_cleared_environment_is_found_and_killed(drive: Drive) -> None:
    result = drive(KILL_A_DAEMON % "")
    assert result == {**result, "code": 2, "found": True, "alive": False, "killed": 1, "left": 0}


def test_it_works_for_a_session_leader(drive: Drive) -> None:
    result = drive(KILL_A_DAEMON % "", prefix=("setsid", "--wait"))
    assert result["own"] == result["sid"]
    assert result == {**result, "code": 2, "found": True, "alive": False}


def can_unshare() -> bool:
    command = ["unshare", "--pid", "--fork", "--mount-proc", "true"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.mark.skipif(not can_unshare(), reason="no permission to make a pid name space")
def test_it_works_as_process_one(drive: Drive) -> None:
    # As process 1 a daemon must prove that it is ours: here with the marker in its environment.
    script = KILL_A_DAEMON.replace("env -i %s ", "")
    result = drive(script, prefix=("unshare", "--pid", "--fork", "--mount-proc"))
    assert result["own"] == 1
    assert result == {**result, "code": 2, "found": True, "alive": False}


@pytest.mark.skipif(not can_unshare(), reason="no permission to make a pid name space")
def test_as_process_one_strangers_orphans_are_collected_but_never_killed(drive: Drive) -> None:
    # A stranger as `kubectl exec` makes it: process 1 inherits it although the payload has nothing to do with it.
    body = """
supervisor = Supervisor()
supervisor.start()
child = bash(supervisor, "exec sleep 300")
clean = {k: v for k, v in ENV.items()}
stranger = subprocess.Popen(["sleep", "301"], start_new_session=True, env=clean)
seen = [info.pid for info in child.descendants()]
child.kill_tree(0.1)
survived = alive(stranger.pid)
os.kill(stranger.pid, signal.SIGKILL)
until(lambda: procfs.read_process(stranger.pid) is None, "the stranger to be collected")
stranger.returncode = 0
answer(seen=stranger.pid in seen, survived=survived, payload=alive(child.pid))
"""
    result = drive(body, prefix=("unshare", "--pid", "--fork", "--mount-proc"))
    assert result == {"seen": False, "survived": True, "payload": False}


def test_children_that_a_shell_left_to_the_pilot_are_strangers(drive: Drive, tmp_path: Path) -> None:
    body = """
strangers = [number_in("one.pid"), number_in("two.pid")]
supervisor = Supervisor()
supervisor.start()
child = bash(supervisor, "python3 daemon.py; exit 0")
child.wait(30)
daemon = number_in("daemon.pid")
child.kill_tree(0.1)
supervisor.close()
survived = [alive(pid) for pid in strangers]
for pid in strangers:
    os.kill(pid, signal.SIGKILL)
answer(survived=survived, daemon=alive(daemon))
"""
    shell = "sleep 300 & echo $! > one.pid; setsid sleep 301 & echo $! > two.pid; exec \"$@\""
    result = drive(body, prefix=("bash", "-c", shell, "bash"))
    assert result == {"survived": [True, True], "daemon": False}


def test_a_strangers_process_below_process_one_survives(drive: Drive, tmp_path: Path) -> None:
    line = "echo $$ > stranger.pid; exec sleep 300"
    subprocess.run(["setsid", "-f", "bash", "-c", line], cwd=tmp_path, check=True)
    stranger = int(wait_for(tmp_path / "stranger.pid"))
    try:
        result = drive(KILL_A_DAEMON % "")
        assert result["alive"] is False
        assert is_alive(stranger)
    finally:
        os.kill(stranger, signal.SIGKILL)


def test_without_a_subreaper_the_daemon_is_found_by_its_marker(drive: Drive) -> None:
    body = """
import pilot.payload.process as process
process.become_subreaper = lambda: False
supervisor = Supervisor()
supervisor.start()
child = bash(supervisor, "python3 daemon.py; exit 2")
child.wait(30)
pid = number_in("daemon.pid")
report = child.kill_tree(0.1)
until(lambda: not alive(pid), "the daemon's end")
answer(killed=report.killed, left=report.left)
"""
    assert drive(body) == {"killed": 1, "left": 0}


def test_each_child_has_its_own_daemons(drive: Drive) -> None:
    body = """
supervisor = Supervisor()
supervisor.start()
first = bash(supervisor, "python3 daemon.py; exec sleep 300")
daemon = number_in("daemon.pid")
second = bash(supervisor, "exec sleep 300")
other = second.kill_tree(0.1)
kept = alive(daemon)
report = first.kill_tree(0.1)
answer(other=other.seen, kept=kept, seen=report.seen, alive=alive(daemon))
"""
    assert drive(body) == {"other": 1, "kept": True, "seen": 2, "alive": False}


def test_a_process_that_ends_on_term_is_not_killed_and_may_flush(supervisor: Supervisor, tmp_path: Path) -> None:
    line = "trap 'echo flushed > flushed; exit 5' TERM; echo x > ready; while :; do sleep 0.05; done"
    child = bash(supervisor, tmp_path, line)
    wait_for(tmp_path / "ready")
    report = child.kill_tree(20.0)
    assert (tmp_path / "flushed").read_text() == "flushed\n"
    assert child.status is not None
    assert child.status.code == 5
    assert report.left == 0


def test_a_process_that_ignores_term_is_killed_after_the_grace_time(supervisor: Supervisor, tmp_path: Path) -> None:
    child = bash(supervisor, tmp_path, "trap '' TERM; echo x > ready; while :; do sleep 0.05; done")
    wait_for(tmp_path / "ready")
    report = child.kill_tree(0.2)
    assert child.status is not None
    assert child.status.signal == signal.SIGKILL
    assert report.killed >= 1


def test_the_shell_does_not_go_on_with_its_next_command(supervisor: Supervisor, tmp_path: Path) -> None:
    child = bash(supervisor, tmp_path, "echo x > ready; sleep 300; echo next > next")
    wait_for(tmp_path / "ready")
    child.kill_tree(10.0)
    assert not (tmp_path / "next").exists()


def test_a_stopped_tree_is_continued_to_act_on_term(supervisor: Supervisor, tmp_path: Path) -> None:
    line = "trap 'echo flushed > flushed; exit 0' TERM; echo $$ > ready; while :; do sleep 0.05; done"
    child = bash(supervisor, tmp_path, line)
    wait_for(tmp_path / "ready")
    os.killpg(child.pid, signal.SIGSTOP)
    report = child.kill_tree(20.0)
    assert (tmp_path / "flushed").exists()
    assert report.left == 0


def test_a_thousand_children_are_ended(supervisor: Supervisor, tmp_path: Path) -> None:
    line = "trap '' TERM; for i in $(seq 1000); do sleep 600 & done; echo x > ready; wait; sleep 600"
    child = bash(supervisor, tmp_path, line)
    wait_for(tmp_path / "ready")
    assert len(child.descendants()) == 1001
    report = child.kill_tree(0.1)
    assert report.left == 0
    assert report.seen == 1001
    assert child.descendants() == []


def test_a_tree_that_keeps_forking_is_ended(supervisor: Supervisor, tmp_path: Path) -> None:
    script = tmp_path / "respawn.py"
    script.write_text(
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "for _ in range(3):\n"
        "    os.fork()\n"
        "open('ready', 'w').write('x')\n"
        "while True:\n"
        "    if os.fork() == 0:\n"
        "        time.sleep(0.05)\n"
        "        os._exit(0)\n"
        "    time.sleep(0.002)\n"
        "    while os.waitpid(-1, os.WNOHANG)[0]:\n"
        "        pass\n"
    )
    child = supervisor.spawn([sys.executable, str(script)], cwd=tmp_path, env=os.environ)
    wait_for(tmp_path / "ready")
    report = child.kill_tree(0.2)
    assert report.left == 0
    assert child.descendants() == []


def test_a_daemon_that_forks_and_ends_faster_than_any_scan_is_caught(drive: Drive) -> None:
    body = """
hopper = (
    "import os, signal\\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\\n"
    "while True:\\n"
    "    if os.fork():\\n"
    "        os._exit(0)\\n"
)
supervisor = Supervisor()
supervisor.start()
child = supervisor.spawn([sys.executable, "-c", hopper], cwd=HERE, env=ENV)
child.wait(30)
other = bash(supervisor, "exec sleep 300")
report = child.kill_tree(0.1)
kept = other.running
other.kill_tree(0)
try:
    left = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    gone = False
except ChildProcessError:
    gone = True
answer(gone=gone, kept=kept, left=report.left)
"""
    assert drive(body) == {"gone": True, "kept": True, "left": 0}


def test_a_process_whose_first_thread_has_ended_is_alive_and_killed(supervisor: Supervisor, tmp_path: Path) -> None:
    script = tmp_path / "headless.py"
    script.write_text(
        "import ctypes, os, threading, time\n"
        "def work():\n"
        "    while open('/proc/%d/stat' % os.getpid()).read().rsplit(')', 1)[1].split()[0] != 'Z':\n"
        "        time.sleep(0.01)\n"
        "    open('ready', 'w').write('x')\n"
        "    time.sleep(600)\n"
        "threading.Thread(target=work).start()\n"
        "ctypes.CDLL(None).syscall(60, 0)\n"
    )
    if os.uname().machine != "x86_64":
        pytest.skip("uses the number of the exit system call of x86_64")
    child = supervisor.spawn([sys.executable, str(script)], cwd=tmp_path, env=os.environ)
    wait_for(tmp_path / "ready")
    assert [info.pid for info in child.descendants()] == [child.pid]
    assert child.kill_tree(0).left == 0
    assert child.status is not None


def test_a_pid_that_belongs_to_another_process_now_is_not_signalled(supervisor: Supervisor, tmp_path: Path) -> None:
    child = bash(supervisor, tmp_path, "exec sleep 300")
    info = procfs.read_process(child.pid)
    assert info is not None
    send([info._replace(start=info.start - 1)], signal.SIGKILL)
    assert is_alive(child.pid)
    send([info], signal.SIGKILL)
    assert child.wait(20) is not None


def test_killing_twice_and_killing_the_dead_is_harmless(supervisor: Supervisor, tmp_path: Path) -> None:
    child = bash(supervisor, tmp_path, "exec sleep 300")
    child.kill_tree(0)
    assert child.kill_tree(5.0).seen == 0


def test_close_ends_what_still_runs(tmp_path: Path) -> None:
    supervisor = Supervisor()
    child = bash(supervisor, tmp_path, "sleep 300 & sleep 300")
    supervisor.close()
    assert child.status is not None
    assert child.descendants() == []


def test_cpu_time_of_everything_is_counted_once_orphans_included(drive: Drive) -> None:
    body = """
supervisor = Supervisor()
supervisor.start()
burn = "import os,time\\nwhile time.process_time() < 0.6: pass\\nopen('%s','w').write(str(sum(os.times()[:2])))"
(HERE / "a.py").write_text(burn % "a.cpu")
(HERE / "b.py").write_text(burn % "b.cpu")
line = "python3 daemon.py 0.6; python3 a.py & python3 b.py; wait; while [ ! -s daemon.cpu ]; do sleep 0.05; done"
child = bash(supervisor, line)
samples = []
while child.wait(0.3) is None:
    samples.append(child.live_cpu_seconds())
supervisor.settle(child)
until(lambda: not alive(number_in("daemon.pid")), "the daemon's end")
supervisor.settle(child)
burnt = sum(float((HERE / name).read_text()) for name in ("a.cpu", "b.cpu", "daemon.cpu"))
answer(burnt=burnt, counted=child.cpu_seconds, live=child.live_cpu_seconds(), samples=samples,
       orphans=child.orphan_seconds)
supervisor.close()
"""
    result = drive(body)
    burnt, counted = float(str(result["burnt"])), float(str(result["counted"]))
    assert burnt * 0.97 <= counted <= burnt + 0.8
    assert float(str(result["orphans"])) >= 0.55
    samples = result["samples"]
    assert isinstance(samples, list)
    assert max(samples) <= counted * 1.05 + 0.05
    assert result["live"] == result["counted"]
