"""Runs what is before, beside and after a payload: starts it, waits for it, ends it with everything that it started."""

from __future__ import annotations

import logging
import os
import queue
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Callable, NamedTuple, Optional

from pilot.common.exception import FileHandlingFailure
from pilot.info.payloadtask import PayloadTask, UtilityCommand
from pilot.payload.command import shell_argv
from pilot.payload.killer import send

if TYPE_CHECKING:
    from pilot.payload.child import Child
    from pilot.payload.process import Supervisor
    from pilot.util.cancel import CancelToken

logger = logging.getLogger(__name__)

ENDED, CANCELLED, LATE = "ended", "cancelled", "late"
"""What a wait has ended with."""

LEFTOVER_GRACE = 1.0
"""s that what a process left behind after its own end gets to obey SIGTERM."""

HARMLESS = (160, 161, 162)
"""Exit codes of pre- and postprocess that are no failure: no more points, none but some were processed, loop limit."""

_STEP_CODES = {"preprocess": 1356, "coprocess": 0, "postprocess": 1357}
_MOST_NAMES = 100_000


class Running(NamedTuple):
    """A utility that was started."""

    command: UtilityCommand
    child: Child
    stdout: Path
    stderr: Path


class Ended(NamedTuple):
    """A utility that has ended: exit code (128 + n for signal n), and whether it was killed for taking too long."""

    code: int
    late: bool
    running: Running


def job_step(task: PayloadTask, name: str, setup: str) -> Optional[UtilityCommand]:
    """Return the ``preprocess``, ``coprocess`` or ``postprocess`` of the job, None when it has none.

    A command that is a URL is downloaded. ``setup`` (ends with ``;`` or is empty) stands in front.

    Raises:
        PilotException: 1149, 1143: there is no such script.
    """
    step = getattr(task.job, name)
    command = step.get("command", "").strip()
    if not command:
        return None
    if command.startswith(("http://", "https://")):
        import shlex

        command = shlex.quote(f"./{task.download(command)}")
    line = f"{setup}{command} {step.get('args', '')}".strip()
    return UtilityCommand(name, line, error_code=_STEP_CODES[name], harmless=HARMLESS)


def start_utility(
    supervisor: Supervisor, utility: UtilityCommand, workdir: Path, environ: Mapping[str, str]
) -> Running:
    """Start a utility in the job's directory, output in files of its own.

    Raises:
        FileHandlingFailure: it cannot be started (1098: the disk is full).
    """
    descriptors: list[int] = []
    try:
        paths = []
        for stream in ("stdout", "stderr"):
            path, descriptor = _new_file(workdir / f"{utility.label}_{stream}.txt")
            paths.append(path)
            descriptors.append(descriptor)
        child = supervisor.spawn(
            shell_argv(utility.line), cwd=workdir, env=environ, stdout=descriptors[0], stderr=descriptors[1])
    except OSError as exc:
        import errno

        raise FileHandlingFailure(
            f"{utility.label} could not be started in {workdir}: {exc.strerror or exc}"
            f"{f' ({exc.filename})' if exc.filename else ''}",
            code=1098 if exc.errno in (errno.ENOSPC, errno.EDQUOT) else utility.error_code or 1310) from exc
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    logger.debug("%s runs, process %d", utility.label, child.pid)
    return Running(utility, child, *paths)


def _new_file(path: Path) -> tuple[Path, int]:
    """Create a file; when the name exists, with ``-1``, ``-2`` ... behind it."""
    for number in range(_MOST_NAMES):
        candidate = path.with_name(f"{path.name}-{number}") if number else path
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            return candidate, os.open(candidate, flags, 0o644)
        except FileExistsError:
            continue
    raise OSError(17, f"{_MOST_NAMES} files of that name exist", str(path))


def wait_for(child: Child, token: CancelToken, seconds: Optional[float] = None) -> str:
    """Block until ``child`` has ended (ENDED), ``token`` is cancelled (CANCELLED) or ``seconds`` are over (LATE)."""
    wakes: queue.SimpleQueue[str] = queue.SimpleQueue()

    def ended(_child: Child) -> None:
        wakes.put(ENDED)

    def cancelled() -> None:
        wakes.put(CANCELLED)

    child.on_exit(ended)
    token.on_cancel(cancelled)
    try:
        return wakes.get(timeout=seconds)
    except queue.Empty:
        return LATE
    finally:
        token.forget(cancelled)


def run_utility(
    supervisor: Supervisor, utility: UtilityCommand, workdir: Path, environ: Mapping[str, str], token: CancelToken,
    grace: Callable[[], float],
) -> Ended:
    """Run a utility to its end and end what it left behind, unless that is its purpose.

    Args:
        supervisor: starts it.
        utility: the command.
        workdir: directory of the job.
        environ: its whole environment.
        token: of the job: when it is cancelled the utility is ended.
        grace: called then: s from SIGTERM to SIGKILL.

    Raises:
        CancelledError: the job was broken off.
        FileHandlingFailure: it cannot be started.
    """
    token.check()
    running = start_utility(supervisor, utility, workdir, environ)
    child = running.child
    try:
        why = wait_for(child, token, utility.timeout or None)
    except BaseException:
        child.kill_tree(0.0)
        raise
    if why != ENDED:
        logger.warning("%s is ended: %s", utility.label,
                       token.reason if why == CANCELLED else f"it has taken more than {utility.timeout:.0f} s")
        child.kill_tree(grace())
        if why == CANCELLED:
            token.check()
    elif not utility.daemon:
        end_leftovers(child, utility.label)
    status = child.wait(1.0)
    code = status.code if status is not None else 255
    logger.info("%s ended with exit code %d after %.1f s of CPU time", utility.label, code, child.cpu_seconds)
    return Ended(code, why == LATE, running)


def stop_utility(running: Running, patience: float) -> None:
    """End a utility that runs beside the payload: its signal, ``patience`` s, then SIGKILL to all that is left."""
    child = running.child
    if child.running:
        target = next((info for info in child.descendants() if _is_tool(info.pid, running.command)), None)
        if target is not None and running.command.signal != 15:
            send([target], signal.Signals(running.command.signal))
            child.wait(patience)
        else:  # nobody there who knows the signal: a shell would die of it and leave the rest
            child.kill_tree(patience)
            return
    end_leftovers(child, running.command.label)


def _is_tool(pid: int, command: UtilityCommand) -> bool:
    """True for the process that the last piece of the line has started, for its signal (the shell before it would die
    of SIGUSR1, and a monitor without its shell would go on for ever)."""
    words = read_arguments(pid)
    name = os.path.basename(tool_name(command.line))
    # a script is an argument of its interpreter
    return bool(name) and name in (os.path.basename(word) for word in words[:2])


def tool_name(line: str) -> str:
    """Return the first word of the last ``;`` piece of a shell line: ``prmon`` of ``source setup.sh;prmon --pid 1``."""
    return (line.rstrip("; ").rpartition(";")[2].split() or [""])[0]


def read_arguments(pid: int) -> list[str]:
    """Return the arguments of a process, empty when it is gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as stream:
            content = stream.read(1 << 17)
    except OSError:
        return []
    return [word.decode("utf-8", "replace") for word in content.split(b"\0")]


def end_leftovers(child: Child, label: str) -> None:
    """End what a process has left behind after its own end."""
    left = child.descendants()
    if left:
        logger.warning("%s left %d processes behind (%s): they are ended", label, len(left),
                       ", ".join(sorted({info.comm for info in left})[:5]))
        child.kill_tree(LEFTOVER_GRACE, None)
