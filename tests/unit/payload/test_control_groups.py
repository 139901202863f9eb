"""Control groups of payloads: where they are made, what they are told, on made-up trees; the rest in a real hierarchy
of version 2, where this machine has one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Iterator, Optional

import pytest

from pilot.payload.cgroup import ControlGroups, PayloadGroup, condor_version
from pilot.payload.process import Child, Supervisor
from tests import groups
from tests.groups import machine

AD = 'OpSys = "LINUX"\nCondorVersion = "$CondorVersion: {} 2025-04-22 BuildID: 1 $"\n'
MOUNT = "sys/fs/cgroup"


def tree(root: Path, path: str, controllers: str = "memory pids io", inner: bool = True) -> Path:
    """A made-up hierarchy of version 2 with the pilot in ``path``; returns the directory of its group."""
    files = {f"{MOUNT}/cgroup.procs": "1\n", f"{MOUNT}/cgroup.controllers": controllers,
             f"{MOUNT}/cgroup.subtree_control": ""}
    parts = path.strip("/").split("/")
    for depth in range(1, len(parts) + 1):
        place = f"{MOUNT}/{'/'.join(parts[:depth])}"
        files.update({f"{place}/cgroup.procs": "", f"{place}/cgroup.controllers": controllers,
                      f"{place}/cgroup.subtree_control": "", f"{place}/cgroup.type": "domain\n"})
    machine(root, f"0::{path}\n", files)
    return root / MOUNT / "/".join(parts)


@pytest.mark.parametrize(("text", "version"), [
    (AD.format("24.0.7"), (24, 0, 7)), (AD.format("8.9.11"), (8, 9, 11)), ("", None), ("CondorVersion = 5", None),
])
def test_version_of_htcondor(tmp_path: Path, text: str, version: object) -> None:
    path = tmp_path / ".machine.ad"
    path.write_text(text)
    assert condor_version({"_CONDOR_MACHINE_AD": str(path)}) == version


@pytest.mark.parametrize("environ", [{}, {"_CONDOR_MACHINE_AD": "/does/not/exist"}])
def test_no_htcondor(environ: dict[str, str]) -> None:
    assert condor_version(environ) is None


def made(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.is_dir())


def made_by(root: Path, environ: Optional[dict[str, str]] = None) -> ControlGroups:
    """Let a pilot make its groups; on a made-up tree the kernel does not fill them, so it stops at the first one."""
    pilot = ControlGroups("abc", environ or {}, root)
    assert pilot.new() is None
    return pilot


def test_own_group_is_the_base(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    own = tree(tmp_path, "/system.slice/slurmstepd.scope/job_7/step_0")
    made_by(tmp_path)
    assert f"no control groups for payloads: {own}/pilot-abc: this is no control group" in caplog.text.replace(
        "no cgroup.procs: ", "")
    assert made(own) == [], "nothing is left"


@pytest.mark.parametrize(("version", "base"), [("24.0.7", "slot1.slice"), ("25.1.0", "slot1.slice"), ("24.0.6", ""),
                                               ("23.10.18", "")])
def test_htcondor_gives_the_slice_above_its_scope(
    tmp_path: Path, version: str, base: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    tree(tmp_path, "/htcondor/slot1.slice/job.scope")
    (tmp_path / "ad").write_text(AD.format(version))
    made_by(tmp_path, {"_CONDOR_MACHINE_AD": "/ad"})
    if base:
        assert f"{base}/pilot-abc" in caplog.text
    else:
        assert f"HTCondor {version} keeps its groups for itself" in caplog.text


def test_a_scope_of_systemd_is_used_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    tree(tmp_path, "/user.slice/run-7.scope")
    made_by(tmp_path)
    assert "run-7.scope/pilot-abc" in caplog.text


@pytest.mark.parametrize("membership", ["", "4:memory:/x\n", "0::/../other\n", "0::/gone\n", "garbage"])
def test_where_there_is_none(tmp_path: Path, membership: str) -> None:
    tree(tmp_path, "/a")
    (tmp_path / "proc/self/cgroup").write_text(membership)
    made_by(tmp_path)
    assert made(tmp_path / MOUNT / "a") == []


def test_not_delegated(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level("INFO")
    own = tree(tmp_path, "/slot")
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("cgroup.procs"))  # root may all
    made_by(tmp_path)
    assert f"{own} is not delegated to this user" in caplog.text


def test_controllers_are_switched_on_and_processes_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as files without a kernel show it: what is written where, and in which order."""
    own = tree(tmp_path, "/slot", "memory pids cpu io")
    (own / "cgroup.procs").write_text(f"{os.getpid()}\n")
    written: list[tuple[str, str]] = []

    def write(file: Path, text: str) -> str:
        written.append((str(file.relative_to(own)), text))
        if text == str(os.getpid()):
            (own / "cgroup.procs").write_text("")
        return "" if text != "+cpu" else "not here"

    monkeypatch.setattr("pilot.payload.cgroup._write", write)
    monkeypatch.setattr(Path, "mkdir", mkdir_as_the_kernel_does(Path.mkdir))
    pilot = ControlGroups("a/b", {}, tmp_path)
    group = pilot.new()
    assert group is not None and group.directory == own / "pilot-ab/payload-1"
    assert written[:4] == [("pilot-ab/controller/cgroup.procs", str(os.getpid())),
                           ("cgroup.subtree_control", "+memory"), ("cgroup.subtree_control", "+pids"),
                           ("cgroup.subtree_control", "+cpu")]


def test_root_moves_no_strangers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write into cron's group, but the other jobs of cron are none of the pilot's business."""
    relatives, stranger = [os.getppid(), os.getpid()], 2**22 + 1
    cases = {tmp_path / "alone": relatives, tmp_path / "shared": [*relatives, stranger]}
    for root, pids in cases.items():
        (tree(root, "/cron.service") / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
    written: list[str] = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(Path, "mkdir", mkdir_as_the_kernel_does(Path.mkdir))
    monkeypatch.setattr("pilot.payload.cgroup._write", lambda file, text: written.append(text) or "")
    for root, pids in cases.items():
        assert ControlGroups("a", {}, root).new() is not None
        assert ("+memory" in written) is (stranger not in pids)
        written.clear()


def mkdir_as_the_kernel_does(real: object) -> object:
    """``mkdir`` that makes the files of a control group, too."""
    def mkdir(self: Path, *args: object, **how: object) -> None:
        real(self, *args, **how)  # type: ignore[operator]
        for name in ("cgroup.procs", "cgroup.subtree_control", "cgroup.controllers"):
            (self / name).write_text("")
    return mkdir


def test_files_of_a_group(tmp_path: Path) -> None:
    group = PayloadGroup(tmp_path)
    assert group.use().cpu_seconds is None and group.oom_count() is None and not group.kill()
    assert not group.limit_memory(5) and group.pids() == set()
    for name, text in {
        "cpu.stat": "usage_usec 2500000\nuser_usec 2000000\n", "memory.peak": "123456\n", "pids.current": "3\n",
        "pids.peak": "9\n", "memory.events": "oom 1\noom_kill 4\n", "memory.max": "max\n", "cgroup.kill": "",
        "cgroup.procs": "5\n0\n6\n",
    }.items():
        (tmp_path / name).write_text(text)
    assert group.use() == (2.5, 123456, 3, 9)
    count = group.oom_count()
    assert count is not None and (count.kills, count.file) == (4, tmp_path / "memory.events")
    assert group.limit_memory(1 << 30) and (tmp_path / "memory.max").read_text() == f"{1 << 30}\n"
    assert group.kill() and (tmp_path / "cgroup.kill").read_text() == "1"
    assert group.pids() == {5, 6} and group.memory_max == 1 << 30


# --- a real hierarchy -------------------------------------------------------------------------------------------------

REAL = pytest.mark.skipif(groups.v2_mount() is None, reason="no control groups of version 2 can be made here")
OWN = "/bin/cat /proc/self/cgroup"


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    supervisor = Supervisor(uuid.uuid4().hex[:12])
    yield supervisor
    supervisor.close()


def start(supervisor: Supervisor, script: str, directory: Path, env: Optional[dict[str, str]] = None) -> Child:
    with open(directory / "out", "wb") as out:
        return supervisor.spawn(["/bin/bash", "-c", script], cwd=directory, env=env or dict(os.environ),
                                stdout=out.fileno(), grouped=True)


@REAL
def test_the_first_line_runs_inside(supervisor: Supervisor, tmp_path: Path) -> None:
    child = start(supervisor, f"{OWN}; exit 7", tmp_path)
    status = child.wait(60)
    assert status is not None and status.code == 7 and child.group is not None
    place = next(line for line in (tmp_path / "out").read_text().splitlines() if line.startswith("0::"))
    assert place.endswith(f"/{child.group.directory.parent.name}/payload-1")
    child.leave_group()
    assert not child.group.directory.exists()
    second = start(supervisor, OWN, tmp_path)
    assert second.wait(60) and "/payload-2" in (tmp_path / "out").read_text()
    second.leave_group()
    supervisor.close()
    assert not child.group.directory.parent.exists(), "the pilot leaves nothing"


@REAL
def test_environment_and_arguments_are_what_they_were(supervisor: Supervisor, tmp_path: Path) -> None:
    (tmp_path / "startup").write_text("echo started >> started.txt\n")
    env = {"BASH_ENV": str(tmp_path / "startup"), "BASH_FUNC_f%%": "() { echo 'from a function'; }", "a.b": "1",
           "EMPTY": "", "PATH": os.environ["PATH"]}
    child = start(supervisor, "f; /usr/bin/env -0; printf '%s|' \"$@\"", tmp_path, env)
    assert child.wait(60)
    with_group = (tmp_path / "out").read_bytes()
    with open(tmp_path / "out", "wb") as out:
        other = supervisor.spawn(["/bin/bash", "-c", "f; /usr/bin/env -0; printf '%s|' \"$@\""], cwd=tmp_path, env=env,
                                 stdout=out.fileno())
    assert other.wait(60)

    def words(content: bytes) -> set[bytes]:
        return {word for word in content.split(b"\0") if b"PANDA_PILOT_PAYLOAD" not in word}

    assert words(with_group) == words((tmp_path / "out").read_bytes()) and b"from a function" in with_group
    assert (tmp_path / "started.txt").read_text() == "started\n" * 2, "once per payload"


@REAL
def test_a_program_that_is_not_there(supervisor: Supervisor, tmp_path: Path) -> None:
    child = supervisor.spawn(["/no/such/program"], cwd=tmp_path, env={}, grouped=True)
    status = child.wait(60)
    assert status is not None and status.code == 127
    with pytest.raises(OSError):
        supervisor.spawn(["/bin/true"], cwd=tmp_path / "gone", env={}, grouped=True)


@REAL
def test_cpu_time_that_nobody_has_waited_for(supervisor: Supervisor, tmp_path: Path) -> None:
    burn = f"{sys.executable} -c \"import time\nwhile time.process_time() < 0.5: pass\""
    child = start(supervisor, f"({burn} & ) ; trap '' CHLD; {burn} & wait", tmp_path)
    assert child.wait(60)
    while child.group is not None and child.group.pids():
        time.sleep(0.01)
    child.orphan_seconds = 0.0  # as if somebody else had collected it
    child.leave_group()
    used = child.group.use().cpu_seconds if child.group is not None else None
    assert used is not None and used >= 0.9 and child.cpu_seconds >= used


@REAL
def test_kill_reaches_what_ignores_everything(supervisor: Supervisor, tmp_path: Path) -> None:
    script = ("trap '' TERM INT HUP; for i in 1 2 3; do (setsid bash -c 'trap \"\" TERM; echo up; sleep 1000 & wait' &)"
              "; done; while :; do sleep 1000; done")
    child = start(supervisor, script, tmp_path)
    while (tmp_path / "out").read_text().count("up") < 3:
        time.sleep(0.01)
    pids = child.group.pids() if child.group is not None else set()
    assert len(pids) >= 5
    report = child.kill_tree(0.2)
    assert report.left == 0 and report.killed >= 4
    assert child.group is not None and child.group.pids() == set()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    child.leave_group()
    assert not child.group.directory.exists()


@REAL
def test_members_are_found_by_their_group_without_a_subreaper(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon with an environment of its own, whose parents have ended: neither tree, session nor marker show it."""
    child = start(supervisor, "(setsid env -i /bin/sleep 1000 &); echo up; sleep 1000", tmp_path)
    while "up" not in (tmp_path / "out").read_text():
        time.sleep(0.01)
    monkeypatch.setattr(supervisor, "_orphans", lambda table, known: [])
    until = time.monotonic() + 60
    while [info.comm for info in child.descendants()].count("sleep") < 2:  # one of them has no parent but init
        assert time.monotonic() < until
    assert child.kill_tree(0.0).left == 0


@REAL
def test_groups_of_a_killed_pilot_are_removed_by_the_next(tmp_path: Path) -> None:
    code = ("import os, sys; from pathlib import Path; from pilot.payload.cgroup import ControlGroups\n"
            "groups = ControlGroups(sys.argv[1], {}); print(groups.new().directory, flush=True)\n"
            "os.kill(os.getpid(), 9)")
    root = str(Path(__file__).resolve().parents[3])
    name = uuid.uuid4().hex[:12]
    done = subprocess.run([sys.executable, "-c", code, name], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = Path(done.stdout.strip())
    assert left.is_dir()
    other = ControlGroups(uuid.uuid4().hex[:12], {})
    group = other.new()
    assert group is not None and not left.exists() and not left.parent.exists()
    third = ControlGroups(uuid.uuid4().hex[:12], {})
    assert third.new() is not None and group.directory.is_dir(), "groups of pilots that live stay"
    third.close()
    assert group.directory.is_dir()
    group.remove()
    other.close()
    assert not group.directory.parent.exists()


def test_groups_that_do_not_account_for_memory_are_not_worth_their_time(
        tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level("INFO")
    own = tree(tmp_path, "/user.slice/pilot.scope", controllers="pids")
    real = Path.mkdir

    def mkdir(self: Path) -> None:
        """As the kernel does: a new group has its files."""
        real(self)
        for name in ("cgroup.procs", "cgroup.subtree_control"):
            (self / name).touch()

    monkeypatch.setattr(Path, "mkdir", mkdir)
    assert ControlGroups("abc", {}, tmp_path, bare=False).new() is None
    assert f"no control groups for payloads: {own} does not account for memory" in caplog.text
    assert ControlGroups("abd", {}, tmp_path).new() is not None
