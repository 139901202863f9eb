"""What every service of the testbed is: a directory, a port, processes that are started, awaited and stopped."""

from __future__ import annotations

import ctypes
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Optional, Sequence

PATIENCE = 60.0
"""Seconds that a service may take to answer, or to end."""
PORTS = range(20000, 32000)
"""Below those that the kernel gives to connections: none of them takes a port between the look and the start."""
TAIL = 2000
"""Characters of a log that an error shows."""
_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
_given: set[int] = set()


class MissingService(Exception):
    """A program is not installed here; the text names it and the command that installs it."""


class BrokenService(Exception):
    """A service is installed and did not start, or did not stop."""


def free_port() -> int:
    """A port that nothing listens on, and that this process has not been given before."""
    while True:
        port = random.choice(PORTS)
        if port in _given:
            continue
        with socket.socket(socket.AF_INET6) as any_address, socket.socket() as loopback:
            any_address.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            try:
                loopback.bind(("127.0.0.1", port))
                loopback.close()
                any_address.bind(("::", port))
            except OSError:
                continue
        _given.add(port)
        return port


def needs(program: str, *places: str) -> str:
    """Full name of a program, looked for in PATH and in ``places``; MissingService when it is not there."""
    found = shutil.which(program) or shutil.which(program, path=os.pathsep.join(("/usr/sbin", *places)))
    if found is None:
        raise MissingService(f"'{program}' is not installed here: 'make grid-packages' (as root) installs it")
    return found


def as_user(user: str, command: Sequence[str]) -> List[str]:
    """Command line that runs ``command`` as ``user`` when we are root, unchanged otherwise.

    ``xrootd`` and ``postgres`` refuse to run as root. A change of user loses the parent-death signal without "keep".
    """
    if os.geteuid() != 0:
        return list(command)
    try:
        pwd.getpwnam(user)
    except KeyError:
        raise MissingService(f"there is no user '{user}' here: 'make grid-packages' (as root) makes it") from None
    return [needs("setpriv"), "--reuid", user, "--regid", user, "--clear-groups", "--pdeathsig", "keep", *command]


def own(path: Path, user: str, mode: int = 0o755) -> Path:
    """Make a directory that belongs to ``user`` when we are root."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)
    if os.geteuid() == 0:
        shutil.chown(path, user, user)
    return path


def tail(*logs: Path) -> str:
    """The ends of logs, for the text of an error."""
    texts = [log.read_text(encoding="utf-8", errors="replace")[-TAIL:].strip() for log in logs if log.exists()]
    return "\n".join(text for text in texts if text) or f"nothing in {', '.join(map(str, logs))}"


class Service:
    """A service in ``directory``. ``bound``: the kernel ends it when this process dies, however that happens."""

    name = "service"

    def __init__(self, directory: Path, bound: bool = True) -> None:
        self.directory = directory
        self.bound = bound
        self.processes: List[subprocess.Popen[bytes]] = []
        self.started_in = 0.0

    @property
    def pids(self) -> List[int]:
        """Process ids, in the order of their start; each is the leader of a session of its own."""
        return [process.pid for process in self.processes]

    @property
    def env(self) -> Dict[str, str]:
        """Environment variables that a client needs."""
        return {}

    def describe(self) -> Dict[str, str]:
        """Name and value of what a person needs to know: URLs, mostly."""
        return {}

    def start(self) -> None:
        """Start everything and return when it answers."""
        begin = time.monotonic()
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        self.started_in = time.monotonic() - begin

    def _start(self) -> None:
        raise NotImplementedError

    def detach(self) -> None:
        """Let go of what would end with this process although the service is to stay."""

    def stop(self) -> None:
        """End the processes in the reverse order of their start."""
        while self.processes:
            self.end(self.processes.pop())

    @staticmethod
    def end(process: subprocess.Popen[bytes], how: signal.Signals = signal.SIGTERM) -> None:
        """Ask a process to end, then make it."""
        if process.poll() is None:
            process.send_signal(how)
            try:
                process.wait(PATIENCE / 4)
            except subprocess.TimeoutExpired:
                pass  # killed below, with all that it started
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # nothing is left of its session
        process.wait()

    def launch(self, command: Sequence[str], log: Path, env: Optional[Mapping[str, str]] = None,
               cwd: Optional[Path] = None, death: signal.Signals = signal.SIGTERM) -> subprocess.Popen[bytes]:
        """Start a process in a session of its own, with its output in ``log``."""
        parent = os.getpid()

        def tie() -> None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, int(death), 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)

        with open(log, "ab") as output:
            process = subprocess.Popen(list(command), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                                       cwd=cwd or self.directory, env={**os.environ, **(env or {})},
                                       start_new_session=True, preexec_fn=tie if self.bound else None)
        self.processes.append(process)
        return process

    def wait_until(self, answers: Callable[[], bool], process: subprocess.Popen[bytes], *logs: Path) -> None:
        """Return when the service answers; BrokenService with the end of its logs when it ends or says nothing."""
        end = time.monotonic() + PATIENCE
        while not answers():
            if process.poll() is not None:
                raise BrokenService(f"{self.name} ended with {process.returncode} at its start:\n{tail(*logs)}")
            if time.monotonic() > end:
                raise BrokenService(f"{self.name} does not answer after {PATIENCE:.0f} s:\n{tail(*logs)}")
            time.sleep(0.02)

    def run(self, command: Sequence[str], env: Optional[Mapping[str, str]] = None, cwd: Optional[Path] = None) -> str:
        """Run a tool to its end and return its output; BrokenService with all that it said when it fails."""
        done = subprocess.run(list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, errors="replace", cwd=cwd or self.directory, timeout=PATIENCE,
                              env={**os.environ, **(env or {})})
        if done.returncode:
            said = done.stdout[-TAIL:]
            raise BrokenService(f"{self.name}: '{' '.join(command)}' ended with {done.returncode}:\n{said}")
        return done.stdout


def listens(port: int) -> bool:
    """Whether something accepts connections on a port of the loopback interface."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
