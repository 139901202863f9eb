"""Debug command gdb: what may be asked for, about which process, what is run. The real one: tests/grid/test_gdb.py."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilot.payload.debug import debug_answer
from pilot.payload.debugplace import DebugAnswer, DebugCommandRefused, DebugPlace
from pilot.payload.process import Child, Supervisor

FAKE = """#!/bin/bash
printf '%s\\n' "$@" > argv.txt
core=
for word in "$@"; do case "$word" in generate-core-file*) core=${word#* };; esac; done
if [ -n "$core" ]; then echo core > "$core"; fi
echo "#0 main ()"
"""
SLEEPER = "import sys; print('up', flush=True); sys.stdin.read()"


class Job:
    """A payload: bash with a Python below it, and a stand-in for gdb."""

    def __init__(self, directory: Path) -> None:
        self.workdir = directory / "work"
        self.tools = directory / "tools"
        self.workdir.mkdir()
        self.tools.mkdir()
        self.supervisor = Supervisor()
        self.environ = {"PATH": f"{self.tools}:/usr/bin:/bin"}
        self.payload: Child
        self.install(FAKE)

    def install(self, text: str) -> None:
        (self.tools / "gdb").write_text(text)
        (self.tools / "gdb").chmod(0o755)

    def start(self, line: str) -> None:
        """Start a payload and wait until its innermost process is up."""
        out_read, out_write = os.pipe()
        self._hold_read, self._hold = os.pipe()
        self.payload = self.supervisor.spawn(["/bin/bash", "-c", line], cwd=self.workdir, env=dict(os.environ),
                                             stdout=out_write, stdin=self._hold_read)
        os.close(out_write)
        with open(out_read, "rb") as stream:
            assert stream.readline() == b"up\n"

    def run(self, command: str, **changes: object) -> DebugAnswer:
        place = DebugPlace(self.workdir, self.supervisor, self.environ, self.payload, **changes)  # type: ignore[arg-type]
        return debug_answer(command, place)

    def argv(self) -> list[str]:
        return (self.workdir / "argv.txt").read_text().splitlines()

    def pid(self, name: str) -> int:
        return next(info.pid for info in self.payload.descendants() if info.comm.startswith(name))


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    made = Job(tmp_path)
    made.start(f"{sys.executable} -c \"{SLEEPER}\"; true")
    try:
        yield made
    finally:
        made.supervisor.close()


def test_a_backtrace_of_the_python_below_the_payload(job: Job) -> None:
    answer = job.run("gdb --pid %")
    assert answer == DebugAnswer("#0 main ()")
    argv = job.argv()
    assert argv[-4:] == ["-p", str(job.pid("python")), "-ex", "thread apply all bt"]
    assert argv[:4] == ["-nx", "-nh", "-q", "-batch"]
    assert (job.workdir / "gdb_output.txt").read_text() == "#0 main ()\n"
    assert "core" not in [path.name[:4] for path in job.workdir.iterdir()]


@pytest.mark.parametrize("order", ["--pid bash", "--pid=bash", "-p bash", "-batch -q --pid bash"])
def test_a_process_by_its_name(job: Job, order: str) -> None:
    job.run(f"gdb {order} -ex bt")
    assert job.argv()[-4:] == ["-p", str(job.pid("bash")), "-ex", "bt"]


def test_a_process_by_its_number_must_belong_to_the_payload(job: Job) -> None:
    job.run(f"gdb --pid {job.pid('bash')} -ex 'info threads' -ex='bt full 5'")
    assert job.argv()[-4:] == ["-ex", "info threads", "-ex", "bt full 5"]
    for stranger in (os.getpid(), 1, 99999999):
        with pytest.raises(DebugCommandRefused, match="no process"):
            job.run(f"gdb --pid {stranger}")


def test_athena_goes_before_other_pythons_and_the_youngest_before_older_ones(tmp_path: Path) -> None:
    made = Job(tmp_path)
    script = tmp_path / "athena.py"
    script.write_text(SLEEPER.replace("; ", "\n"))
    made.start(f"mkfifo hold; ({sys.executable} -c 'open(\"hold\").read()' &); "
               f"exec {sys.executable} -u {script} --evt 5")
    try:
        made.run("gdb --pid %")
        assert made.argv()[made.argv().index("-p") + 1] == str(made.payload.pid)
    finally:
        made.supervisor.close()


@pytest.mark.parametrize("command", [
    "shell id", "!id", "python import os", "source x.py", "call system", "print system", "p x", "set var x=1", "kill",
    "x/10i 0", "run", "file /etc/passwd", "generate-core-file /tmp/core", "gcore ../core", "info scope main", "",
    "bt -full-args", "thread apply all shell id", "attach 1", "dump memory x", "pipe bt", "define x", "call  kill",
    "add-auto-load-safe-path /", "compile code 1", "jit-reader-load x", "save breakpoints x", "thread apply all",
])
def test_other_gdb_commands_are_refused(job: Job, command: str) -> None:
    with pytest.raises(DebugCommandRefused):
        job.run(f"gdb --pid % -ex '{command}'")
    assert not (job.workdir / "argv.txt").exists()


@pytest.mark.parametrize("words", [
    "", "--pid % -x script", "--pid % --command=x", "--pid % core", "--args ls", "--pid", "--pid % -ex", "--pid $PPID",
    "-iex bt --pid %", "--pid % -ex bt | sh", "--pid ../x", "--pid '% 1'", "--pid 'a b'", "--pid % -cd /",
    "--pid % -d /", "--pid % --eval bt", "--pid % -ex gcore -ex gcore", "--pid % -ex \"bt\n shell id\"",
])
def test_other_options_are_refused(job: Job, words: str) -> None:
    with pytest.raises(DebugCommandRefused):
        job.run(f"gdb {words}")
    assert not (job.workdir / "argv.txt").exists()


def test_no_such_process_yet(job: Job) -> None:
    with pytest.raises(DebugCommandRefused, match=r"no process athena in the payload now; there are: bash \("):
        job.run("gdb --pid athena")
    with pytest.raises(DebugCommandRefused, match="does not run now"):
        debug_answer("gdb --pid %", DebugPlace(job.workdir, job.supervisor, job.environ))


def test_without_gdb_the_answer_says_so(job: Job) -> None:
    job.environ["PATH"] = str(job.workdir)
    with pytest.raises(DebugCommandRefused, match="gdb is not installed on this node"):
        job.run("gdb --pid %")
    assert job.payload.running


def test_a_core_file_is_kept_for_this_user_only(job: Job) -> None:
    name = f"core.{job.pid('python')}"
    (job.workdir / "elsewhere").write_text("untouched")
    (job.workdir / name).symlink_to("elsewhere")
    answer = job.run("gdb --pid % -ex bt -ex generate-core-file")
    core = job.workdir / name
    assert answer.core == core
    assert answer.text.startswith(f"{name} (5 bytes) is in the job's directory")
    assert core.read_text() == "core\n"
    assert not core.is_symlink()
    assert core.stat().st_mode & 0o777 == 0o600
    assert (job.workdir / "elsewhere").read_text() == "untouched"
    assert not list(job.workdir.glob(".gdb-*"))


def test_a_core_file_needs_room(job: Job) -> None:
    with pytest.raises(DebugCommandRefused, match="have to stay free"):
        job.run("gdb --pid % -ex gcore", reserve=1 << 60)
    assert not (job.workdir / "argv.txt").exists()


def test_a_core_file_that_was_not_written(job: Job) -> None:
    job.install("#!/bin/bash\necho 'ptrace: Operation not permitted.'\n")
    answer = job.run("gdb --pid % -ex generate-core-file")
    assert answer.core is None
    assert answer.text.startswith("no core file was written\ngdb: this node does not let process")


def test_a_gdb_that_hangs_is_ended_and_leaves_nothing(job: Job) -> None:
    job.install("#!/bin/bash\necho part\nfor word; do case $word in gen*) echo half > ${word#* };; esac; done\n"
                "trap '' TERM\nsleep 300\n")
    answer = job.run("gdb --pid % -ex generate-core-file", gdb_time_limit=1.0)
    assert answer.core is None
    assert "ended after 1 s" in answer.text
    assert "part" in answer.text
    assert not list(job.workdir.glob("*core*"))
    assert job.supervisor.children() == [job.payload]


def test_the_first_frames_stand_in_the_answer_and_all_in_the_file(job: Job) -> None:
    job.install("#!/bin/bash\nfor i in {0..999}; do echo \"#$i é function ()\"; done\n")
    answer = job.run("gdb --pid %")
    assert answer.text.startswith("#0 é function ()\n#1 é")
    assert len(answer.text.encode()) <= 2048
    assert (job.workdir / "gdb_output.txt").read_text().count("\n") == 1000


def test_a_stopped_process_goes_on(job: Job) -> None:
    pid = job.pid("python")
    job.install(f"#!/bin/bash\nkill -STOP {pid}\nuntil grep -q '^State:.T' /proc/{pid}/status; do :; done\n")
    job.run("gdb --pid %")
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=True).stdout
    assert not state.startswith("T")
