"""Debug commands: useful to the operator, harmless to the node."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilot.payload.debug import debug_answer
from pilot.payload.debugplace import OUTPUT_LIMIT, DebugCommandRefused, DebugPlace
from pilot.payload.process import Supervisor


@pytest.fixture(scope="module")
def supervisor() -> Iterator[Supervisor]:
    instance = Supervisor()
    yield instance
    instance.close()


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    work = tmp_path / "work"
    (work / "PanDA_Pilot-1" / "sub").mkdir(parents=True)
    (tmp_path / "outside.txt").write_text("outside\n")
    return work


def write(path: Path, content: str | bytes, when: float) -> None:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    os.utime(path, (when, when))


def run(command: str, workdir: Path, supervisor: Supervisor, limit: float = 30.0) -> str:
    text = debug_answer(command, DebugPlace(workdir, supervisor, dict(os.environ), time_limit=limit)).text
    assert len(text.encode()) <= OUTPUT_LIMIT
    return text


def test_debug_shows_the_text_file_that_was_written_last(workdir: Path, supervisor: Supervisor) -> None:
    job = workdir / "PanDA_Pilot-1"
    write(job / "payload.stdout", "old\n", 1000)
    write(job / "sub" / "athena.log", "".join(f"line {n}\n" for n in range(30)), 2000)
    write(job / "out.root", b"\0\1\2", 3000)
    write(job / "empty.log", "", 3100)
    write(job / "pilotlog.txt", "pilot\n", 4000)
    write(job / "prmon.txt", "prmon\n", 4000)
    write(job / "x509_proxy", "-----BEGIN PRIVATE KEY-----\n", 4000)
    write(job / "panda_secrets.json", "{}\n", 4000)
    (job / "link.txt").symlink_to(workdir.parent / "outside.txt")
    lines = run("debug", workdir, supervisor).splitlines()
    assert lines == ["PanDA_Pilot-1/sub/athena.log", *(f"line {n}" for n in range(20, 30))]


def test_debug_without_any_candidate_is_about_payload_stdout(workdir: Path, supervisor: Supervisor) -> None:
    assert run("debug", workdir, supervisor) == "payload.stdout\n"


def test_the_end_is_kept_and_characters_stay_whole(workdir: Path, supervisor: Supervisor) -> None:
    write(workdir / "a.log", "é" * 5000 + "end", 1000)
    text = run("debug", workdir, supervisor)
    assert text.endswith("ééend")
    assert set(text) == {"é", "e", "n", "d"}


@pytest.mark.parametrize(
    ("command", "name", "lines"),
    [
        ("tail a.log", "a.log", 10),
        ("tail -n 3 a.log", "a.log", 3),
        ("tail -n3 a.log", "a.log", 3),
        ("tail -3 a.log", "a.log", 3),
        ("tail -n 0 a.log", "a.log", 1),
        ("tail *.log", "a.log", 10),
        ("tail b.out", "PanDA_Pilot-1/b.out", 10),
        ("tail PanDA_Pilot-1/*.out", "PanDA_Pilot-1/b.out", 10),
    ],
)
def test_tail(workdir: Path, supervisor: Supervisor, command: str, name: str, lines: int) -> None:
    text = "".join(f"{n}\n" for n in range(50))
    write(workdir / "a.log", text, 2000)
    write(workdir / "PanDA_Pilot-1" / "c.log", "c", 1000)
    write(workdir / "PanDA_Pilot-1" / "b.out", text, 1000)
    assert run(command, workdir, supervisor).splitlines() == [name, *map(str, range(50 - lines, 50))]


@pytest.mark.parametrize("line_end", ["", "\r"])
def test_ls_and_du_show_the_work_directory(workdir: Path, supervisor: Supervisor, line_end: str) -> None:
    write(workdir / "a b.txt", "x" * 10 + line_end, 1000)
    assert "a b.txt" in run("ls -l", workdir, supervisor)
    assert run("ls 'a b.txt'", workdir, supervisor) == "a b.txt\n"
    assert "a b.txt" in run("ls *.txt", workdir, supervisor)
    assert "PanDA_Pilot-1" in run("du -a --max-depth=1", workdir, supervisor)


def test_ps_shows_processes_and_never_environments(workdir: Path, supervisor: Supervisor) -> None:
    for command in ("ps -ef", "ps aux", "ps -aux", "ps -eo pid,comm --sort=-pid", f"ps -p {os.getpid()} -o pid"):
        text = run(command, workdir, supervisor)
        assert "error" not in text.lower()
        assert any(character.isdigit() for character in text)
    for command in ("ps auxe", "ps eww", "ps e", "ps -ax e", "ps -o environ", "ps -eo pid,ENVIRON", "ps -auxe"):
        with pytest.raises(DebugCommandRefused):
            run(command, workdir, supervisor)


@pytest.mark.parametrize(
    "command",
    [
        "", "cat a.log", "rm a.log", "gdb --pid 1", "ls; id", "ls && id", "ls | sh", "ls $(id)", "ls `id`", "ls > x",
        "ls &#59; id", "ls\nid", "ls 'a", "tail $HOME/x", "tail ../outside.txt", "tail /etc/passwd", "tail ~/x",
        "tail", "tail a.log b.log", "tail --pid=1 a.log", "tail -n x a.log", "ls ..", "ls /etc", "ls sub/../..",
        "ls link.txt", "ls out", "tail out/passwd", "ls *.txt/..", "du /", "ls -l; id", "ls\\ id", "ps; id",
        "tail -n 5 x509_proxy", "tail robot-unified", "tail pilot.proxy", "gdb", "gdb --pid", "gdb ./program",
        "ls -I x", "ls --color=always", "du --files0-from=/etc/passwd", "du -X /etc/passwd", "tail nothing.log",
        "tail x509_proxy", "tail link.txt", "ls out/etc",
    ],
)
def test_dangerous_commands_are_refused(workdir: Path, supervisor: Supervisor, command: str) -> None:
    write(workdir / "a.log", "x\n", 1000)
    write(workdir / "x509_proxy", "secret\n", 1000)
    (workdir / "link.txt").symlink_to(workdir.parent / "outside.txt")
    (workdir / "out").symlink_to("/")
    with pytest.raises(DebugCommandRefused):
        run(command, workdir, supervisor)


def test_a_link_out_of_the_work_directory_is_not_listed(workdir: Path, supervisor: Supervisor) -> None:
    (workdir / "out").symlink_to("/etc")
    with pytest.raises(DebugCommandRefused, match="link out of the job's directory"):
        run("ls out/", workdir, supervisor)
    (workdir / "out2.txt").write_text("x")
    assert run("ls out*", workdir, supervisor) == "out2.txt\n"


def test_secrets_in_the_text_are_masked(workdir: Path, supervisor: Supervisor) -> None:
    write(workdir / "a.log", "password=TopSecret99\n", 1000)
    assert "TopSecret99" not in run("debug", workdir, supervisor)


def test_a_command_that_takes_too_long_is_ended(
    workdir: Path, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = workdir / "bin"
    tools.mkdir()
    (tools / "du").write_text("#!/bin/bash\necho part\nsleep 300\n")
    (tools / "du").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    text = run("du", workdir, supervisor, limit=1.0)
    assert text.startswith("part\n")
    assert "ended after" in text
    assert supervisor.children() == []


def test_a_missing_tool_is_said(workdir: Path, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(workdir))
    assert run("du", workdir, supervisor) == "du: No such file or directory"


@pytest.mark.parametrize("name", ["pipe", "loop", "directory", "missing.txt"])
def test_what_is_no_file_is_refused_and_blocks_nobody(workdir: Path, supervisor: Supervisor, name: str) -> None:
    os.mkfifo(workdir / "pipe")
    (workdir / "loop").symlink_to("loop")
    (workdir / "directory").mkdir()
    try:
        text = run(f"tail {name}", workdir, supervisor)
    except DebugCommandRefused:
        return
    assert text == f"{name}\n", "nothing can be read of it"


def test_the_programs_get_no_secrets(workdir: Path, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = workdir / "bin"
    tools.mkdir()
    (tools / "du").write_text("#!/bin/bash\nenv\n")
    (tools / "du").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("X509_USER_PROXY", "/tmp/proxy")
    monkeypatch.setenv("PANDA_AUTH_TOKEN", "tokenfile")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/somewhere")
    names = {line.partition("=")[0] for line in run("du", workdir, supervisor).splitlines()}
    assert "PATH" in names
    assert not names & {"X509_USER_PROXY", "PANDA_AUTH_TOKEN", "LD_LIBRARY_PATH"}


def test_a_command_that_nobody_waits_for_ends(workdir: Path, supervisor: Supervisor) -> None:
    tools = workdir / "bin"
    tools.mkdir()
    (tools / "du").write_text("#!/bin/bash\nexec sleep 300\n")
    (tools / "du").chmod(0o755)
    place = DebugPlace(workdir, supervisor, {"PATH": f"{tools}:{os.environ['PATH']}"})
    place.token.cancel(1200, "over")
    debug_answer("du", place)
    assert supervisor.children() == []
