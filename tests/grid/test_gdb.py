"""Debug command gdb with the real gdb on real processes: backtraces, core files that gdb can read, healthy payloads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Callable, Iterator, List

import pytest

from pilot.payload.debug import debug_answer
from pilot.payload.debugplace import DebugAnswer, DebugPlace
from pilot.payload.process import Child, Supervisor
from tests.grid.conftest import required
from tests.grid.testbed.service import needs
from tests.integration.harness import Farm

Ask = Callable[[str], DebugAnswer]
SLEEPER = "import sys; print('up', flush=True); sys.stdin.read()"



class Payload:
    """bash with a Python below it; it ends when ``let_go`` is called."""

    def __init__(self, workdir: Path) -> None:
        self.workdir, self.supervisor = workdir, Supervisor()
        out_read, out_write = os.pipe()
        hold_read, self._hold = os.pipe()
        self.child: Child = self.supervisor.spawn(
            ["/bin/bash", "-c", f'{sys.executable} -c "{SLEEPER}"; exit 7'], cwd=workdir, env=dict(os.environ),
            stdout=out_write, stdin=hold_read)
        os.close(out_write)
        os.close(hold_read)
        with open(out_read, "rb") as stream:
            assert stream.readline() == b"up\n"

    def ask(self, command: str) -> DebugAnswer:
        return debug_answer(command, DebugPlace(self.workdir, self.supervisor, dict(os.environ), self.child))

    def pid(self, name: str) -> int:
        return next(info.pid for info in self.child.descendants() if info.comm.startswith(name))

    def let_go(self) -> int:
        os.close(self._hold)
        status = self.child.wait(60)
        assert status is not None
        return status.code


@pytest.fixture
def payload(tmp_path: Path) -> Iterator[Payload]:
    required(lambda: needs("gdb"))
    running = Payload(tmp_path)
    if "Operation not permitted" in running.ask("gdb --pid %").text:
        running.supervisor.close()
        pytest.skip("processes may not be looked into here (ptrace)")
    yield running
    running.supervisor.close()


def test_a_backtrace_leaves_the_payload_alone(payload: Payload) -> None:
    answer = payload.ask("gdb --pid %")
    assert "#0 " in answer.text and "read" in answer.text
    assert len(answer.text.encode()) <= 2048
    answer = payload.ask("gdb --pid bash -ex 'info proc' -ex bt")
    assert f"process {payload.child.pid}" in answer.text
    assert "wait" in answer.text
    names = sorted(path.name for path in payload.workdir.iterdir())
    assert names == ["gdb_output.txt"]
    assert payload.let_go() == 7


def test_a_core_file_that_gdb_reads(payload: Payload) -> None:
    pid = payload.pid("python")
    answer = payload.ask("gdb --pid % -ex generate-core-file")
    assert answer.core == payload.workdir / f"core.{pid}"
    assert answer.core.stat().st_mode & 0o777 == 0o600
    gdb = shutil.which("gdb") or ""
    text = subprocess.run([gdb, "-nx", "-batch", "-ex", "bt", "-c", str(answer.core), os.path.realpath(sys.executable)],
                          capture_output=True, text=True, check=True).stdout
    assert "#0 " in text
    assert payload.let_go() == 7, "taking a core file alone ends nobody"


def test_scripts_of_the_payload_are_not_run(payload: Payload) -> None:
    """A .gdbinit in the job's directory, and one at home."""
    for name in (".gdbinit", "gdbinit"):
        (payload.workdir / name).write_text("shell touch executed\n")
    payload.ask("gdb --pid % -ex bt")
    assert not (payload.workdir / "executed").exists()
    assert payload.let_go() == 7


def test_the_operator_sees_the_frames_and_gets_the_core(farm: Farm, payload: Payload) -> None:
    assert payload.let_go() == 7  # it has shown that gdb works here
    gate = farm.gate("payload")
    code = f"open('{gate.arrival}', 'w').write('up\\n'); open('{gate.hold}').readline()"
    job = farm.submit_job(f'{sys.executable} -c "{code}"\ntrue')
    pilot = farm.start_pilot(settings={"pilot.heartbeat": 1, "pilot.debug_heartbeat": 1})
    gate.reached()

    def texts() -> List[str]:
        return [str(update.get("stdout") or "") for update in farm.server.job(job)["updates"]]

    farm.server.command(job, "gdb --pid % -ex bt")
    farm.server.wait(lambda: any("#0 " in text for text in texts()))
    assert pilot.process.poll() is None
    farm.server.command(job, "gdb --pid % -ex generate-core-file")
    assert pilot.wait() == 0
    final = farm.final(job)
    assert (final["state"], final["pilotErrorCode"]) == ("failed", 1144)
    assert any("is in the job's directory" in text for text in texts())
    assert farm.payload_processes() == []
