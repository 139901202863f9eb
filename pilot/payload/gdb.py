"""Debug command ``gdb``: looks into a running process of the payload, or takes a core file of it.

The command of the operator (``gdb --pid % -ex 'thread apply all bt'``) is read word by word and a new argument list is
made of it: no shell, no scripts of the payload, no gdb command that writes, calls or runs anything.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Optional

from pilot.payload.debugplace import DebugCommandRefused, DebugPlace, Output, run_bounded
from pilot.payload.textfiles import printable
from pilot.util import procfs
from pilot.util.procfs import ProcInfo
from pilot.util.redact import redact
from pilot.util.space import free_space

logger = logging.getLogger(__name__)

_BACKTRACE = r"(?:bt|backtrace|where)(?: full)?(?: -?\d{1,6})?"
_ALLOWED = re.compile(
    rf"{_BACKTRACE}|thread apply (?:all|\d{{1,6}}) {_BACKTRACE}|thread \d{{1,6}}|frame \d{{1,6}}|up|down|detach|quit|"
    r"info (?:threads|registers|all-registers|signals|sharedlibrary|inferiors|proc(?: mappings| status| stat)?|frame|"
    r"locals|args|program|auxv|source|target|line)")
_CORE = ("generate-core-file", "gcore")
_WITHOUT_EFFECT = frozenset({"-batch", "--batch", "-q", "-quiet", "--quiet", "-silent", "--silent", "-n", "-nx", "--nx",
                             "-nh", "--nh"})
"""Options that say what is done anyway."""
_PID_OPTIONS = ("--pid", "-pid", "-p")
_COMMAND_OPTIONS = ("-ex", "--ex", "-eval-command", "--eval-command")
_NAME = re.compile(r"[\w.+@-]{1,64}")
_LISTED = 8
OUTPUT_NAME = "gdb_output.txt"
"""File in the job's directory with all that gdb has printed; the log archive takes it along."""
_KEPT = 1 << 20
# What the payload has brought along is data for gdb, never code: no scripts of its files, no helper libraries.
_SAFE_START = (
    "-nx", "-nh", "-q", "-batch", "-iex", "set auto-load python-scripts off", "-iex", "set auto-load gdb-scripts off",
    "-iex", "set auto-load local-gdbinit off", "-iex", "set libthread-db-search-path $sdir",
    "-iex", "set pagination off", "-iex", "set width 0", "-iex", "set confirm off",
    "-iex", "set print frame-arguments none",
)  # fmt: skip
_NOISE = re.compile(r"\[Thread debugging using|Using host libthread_db|\[New LWP |\[Inferior \d+ \(process \d+\) det|"
                    r"warning: (?:Memory read failed for corefile section|target file /proc/\d+/cmdline contained)|"
                    r"\d+\t(?:in )?[./].*No such file or directory")


class _Order:
    """What the operator wants."""

    def __init__(self) -> None:
        self.process = ""
        self.commands: list[str] = []

    @property
    def wants_core(self) -> bool:
        return any(command in _CORE for command in self.commands)


def run_gdb(words: list[str], place: DebugPlace) -> tuple[str, Optional[Path]]:
    """Carry out ``gdb --pid PROCESS [-ex COMMAND]...`` on a process of the payload.

    Args:
        words: what follows ``gdb``. PROCESS is ``%`` (the youngest athena.py, else the youngest Python of the payload),
            the name of a program, or a pid of the payload. Without a command: a backtrace of all threads.
        place: of the job.

    Returns:
        Text for the operator, and the core file when one was asked for and written.

    Raises:
        DebugCommandRefused: an option, command or process that is not allowed, or no room for the core file.
    """
    order = _read(words)
    target = _target(order.process, place)
    if not shutil.which("gdb", path=place.program_environment().get("PATH", os.defpath)):
        raise DebugCommandRefused("gdb is not installed on this node (not in the PATH of the pilot): nothing was done")
    if order.wants_core:
        _check_space(target, place)
    # an own directory: links of the payload called core.<pid> or gdb_output.txt would lead anywhere
    directory = Path(tempfile.mkdtemp(prefix=".gdb-", dir=place.workdir))
    try:
        name = f"core.{target.pid}"
        commands = [f"generate-core-file {directory.name}/{name}" if command in _CORE else command
                    for command in order.commands]
        output = _attach(target, commands, place)
        text = _explain(output, target, place)
        _write(directory, place.workdir, text)
        if not order.wants_core:
            return text, None
        core = None
        if not output.timed_out and not place.token.cancelled:
            core = _keep(directory / name, place.workdir / name)
        if core is None:
            return f"no core file was written\n{text}", None
        return f"{name} ({core.stat().st_size} bytes) is in the job's directory\n{text}", core
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _read(words: list[str]) -> _Order:
    """Return what the words ask for; everything that is not known is refused."""
    order = _Order()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        option, equals, value = word.partition("=")
        if option in (*_PID_OPTIONS, *_COMMAND_OPTIONS):
            if not equals:
                if not rest:
                    raise DebugCommandRefused(f"debug command refused, a value is missing after {word}")
                value = rest.pop(0)
            if option in _PID_OPTIONS:
                order.process = value
            else:
                order.commands.append(_checked(value))
        elif word not in _WITHOUT_EFFECT:
            raise DebugCommandRefused(f"debug command refused, option of gdb: {word} (--pid and -ex are possible)")
    if not order.process:
        raise DebugCommandRefused("debug command refused, gdb needs --pid %, --pid NAME or --pid NUMBER")
    if sum(command in _CORE for command in order.commands) > 1:
        raise DebugCommandRefused("debug command refused, more than one core file is asked for")
    order.commands = order.commands or ["thread apply all bt"]
    return order


def _checked(command: str) -> str:
    command = " ".join(command.split())
    if command in _CORE or _ALLOWED.fullmatch(command):
        return command
    raise DebugCommandRefused(
        f"debug command refused, gdb command: {command[:100]!r} (bt, thread apply all bt, info ..., frame N, thread N,"
        " generate-core-file without a name are possible)")


# --- which process ----------------------------------------------------------------------------------------------------


def _target(wanted: str, place: DebugPlace) -> ProcInfo:
    """Return the process to look at; only one of this job's payload comes into question."""
    if wanted != "%" and not _NAME.fullmatch(wanted):
        raise DebugCommandRefused(f"debug command refused, process: {wanted[:64]!r}")
    processes = place.payload.descendants() if place.payload is not None else []
    if not processes:
        raise DebugCommandRefused("gdb: the payload does not run now: nothing was done this time")
    if wanted == "%":
        found = [info for info in processes if "athena.py" in _names(info)]
        found = found or [info for info in processes if any(name.startswith("python") for name in _names(info))]
    elif wanted.isdigit():
        found = [info for info in processes if info.pid == int(wanted)]
    else:
        found = [info for info in processes if wanted in _names(info)]
    if found:
        return max(found, key=lambda info: (info.start, info.pid))
    kind = "athena.py or python" if wanted == "%" else wanted
    listed = ", ".join(f"{info.comm} ({info.pid})" for info in processes[-_LISTED:])
    raise DebugCommandRefused(f"gdb: no process {kind} in the payload now; there are: {listed}. Name one with --pid")


def _names(info: ProcInfo) -> set[str]:
    """Return the names a process goes by: the kernel's, and the file names of program and script."""
    names = {info.comm}
    try:
        with open(f"/proc/{info.pid}/cmdline", "rb") as stream:
            words = stream.read(4096).split(b"\0")
    except OSError:
        return names
    # the program, and the script of an interpreter: the first word that is no option
    scripts = [word for word in words[1:] if word and not word.startswith(b"-")][:1]
    return names | {os.path.basename(word).decode("utf-8", "replace") for word in [*words[:1], *scripts] if word}


# --- the core file ----------------------------------------------------------------------------------------------------


def _check_space(target: ProcInfo, place: DebugPlace) -> None:
    need, free = core_size(target.pid), free_space(place.workdir, place.environ)
    if free is not None and need + place.reserve > free:
        raise DebugCommandRefused(
            f"gdb: no core file of process {target.pid}: it would need up to {need} B, and of {free} B free"
            f" {place.reserve} B have to stay free (setting pilot.free_space_limit)")


def core_size(pid: int) -> int:
    """Return the most that gdb may write: readable private memory, and shared memory without a file."""
    total = 0
    try:
        with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as stream:
            for line in stream:
                span, access, _, device, _, *_ = line.split(None, 5)
                begin, _, end = span.partition("-")
                if access.startswith("r") and (access[3:4] == "p" or device == "00:00") and "[vsyscall]" not in line:
                    total += int(end, 16) - int(begin, 16)
    except (OSError, ValueError):
        return total
    return total


def _keep(written: Path, place: Path) -> Optional[Path]:
    """Move a core file to its place, readable for this user only; None when gdb has written none."""
    try:
        if not written.is_file() or written.is_symlink() or written.stat().st_size == 0:
            return None
        written.chmod(0o600)
        os.rename(written, place)
    except OSError:
        return None
    return place


# --- gdb itself -------------------------------------------------------------------------------------------------------


def _attach(target: ProcInfo, commands: list[str], place: DebugPlace) -> Output:
    argv = ["gdb", *_SAFE_START, "-p", str(target.pid)]
    for command in commands:
        argv += ["-ex", command]
    if not procfs.same_process(target):
        raise DebugCommandRefused(f"gdb: process {target.pid} has just ended: nothing was done this time")
    killed = True
    try:
        output = run_bounded(argv, place, place.gdb_time_limit, _KEPT)
        killed = output.timed_out or place.token.cancelled
        return output
    except OSError as exc:
        raise DebugCommandRefused(f"gdb cannot be started: {exc.strerror or exc}") from exc
    finally:
        _let_run(target, killed)


def _let_run(target: ProcInfo, killed: bool) -> None:
    """A gdb that was killed may leave its process stopped, or about to stop."""
    now = procfs.read_process(target.pid)
    if now is not None and now.start == target.start and (killed or now.state in "Tt"):
        try:
            os.kill(target.pid, signal.SIGCONT)
        except OSError as exc:
            if exc.errno != errno.ESRCH:
                raise


def _explain(output: Output, target: ProcInfo, place: DebugPlace) -> str:
    """Return gdb's output without its chatter, behind what helps where it could not do its work."""
    lines = printable(output.raw).split("\n")
    text = "\n".join(line for line in lines if line and not _NOISE.match(line))
    if "Operation not permitted" in text and "ptrace" in text:
        scope = _yama_scope()
        hint = f" (kernel.yama.ptrace_scope is {scope})" if scope not in ("", "0") else ""
        text = f"gdb: this node does not let process {target.pid} be looked into{hint}\n{text}"
    if output.timed_out:
        text = f"gdb: ended after {place.gdb_time_limit:.0f} s\n{text}"
    return text


def _write(directory: Path, workdir: Path, text: str) -> None:
    """Leave all of the output in the job's directory, secrets masked; not worth an error."""
    try:
        (directory / OUTPUT_NAME).write_text(f"{redact(text)}\n", encoding="utf-8")
        os.rename(directory / OUTPUT_NAME, workdir / OUTPUT_NAME)
    except OSError as exc:
        logger.warning("%s could not be written: %s", workdir / OUTPUT_NAME, exc.strerror)


def _yama_scope() -> str:
    try:
        with open("/proc/sys/kernel/yama/ptrace_scope", encoding="ascii") as stream:
            return stream.read(8).strip()
    except (OSError, ValueError):
        return ""
