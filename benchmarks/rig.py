"""The bench: a sandbox server in a process of its own, pilots as processes, time stamps of payloads, looks at /proc."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Type, TypeVar

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
QUEUE = "TEST_QUEUE"
T = TypeVar("T")

QUEUE_DOCUMENT: Dict[str, Any] = {
    "nickname": QUEUE,
    "panda_resource": QUEUE,
    "atlas_site": "LOCAL",
    "state": "ACTIVE",
    "status": "online",
    "type": "production",
    "resource_type": "GRID",
    "corecount": 1,
    "maxrss": 2000,
    "maxtime": 86400,
    "maxinputsize": -1,
    "maxwdir": 20000,
    "timefloor": 0,
    "is_cvmfs": False,
    "allow_lan": True,
    "environ": "",
    "catchall": "",
    "container_options": "",
    "container_type": "",
    "params": {},
    "astorages": {},
    "copytools": {"mv": {"setup": ""}},
    "acopytools": {"default": ["mv"]},
}


def wait_for(look: Callable[[], T], timeout: float = 120.0) -> T:
    """Look every 2 ms until the value is true."""
    limit = time.monotonic() + timeout
    while True:
        value = look()
        if value:
            return value
        if time.monotonic() > limit:
            raise TimeoutError(f"not within {timeout:.0f} s: {look}")
        time.sleep(0.002)


@dataclass
class Ended:
    """A pilot that has ended: epoch s, CPU s of it and all that it waited for, peak RSS in kB, exit code, output."""

    started: float
    ended: float
    cpu: float
    rss: int
    code: int
    home: Path

    @property
    def wall(self) -> float:
        """Start to exit in s."""
        return self.ended - self.started


class Bench:
    """One sandbox server and the directory in which everything happens.

    Args:
        python: interpreter of the pilots.
        queue: fields of the queue document that differ.
        serve: further options of ``sandbox serve``.
        directory: parent of the bench's own (default: the temporary directory).
    """

    def __init__(
        self,
        python: str,
        queue: Optional[Mapping[str, Any]] = None,
        serve: Sequence[str] = (),
        directory: Optional[str] = None,
    ) -> None:
        self.python = python
        self.directory = Path(tempfile.mkdtemp(prefix="pilot-bench-", dir=directory))
        self.queues = self.directory / "queues"
        self.queues.mkdir()
        (self.queues / f"{QUEUE}.json").write_text(json.dumps({**QUEUE_DOCUMENT, **(queue or {})}))
        self._serve = list(serve)
        self._number = 0
        self.url = self.https_url = ""
        self._server: Optional[subprocess.Popen[str]] = None

    def __enter__(self) -> Bench:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "sandbox", "serve", "--port", "0", "--queues", str(self.queues), *self._serve],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._server.stdout is not None
        words = self._server.stdout.readline().split()
        if not words:
            raise RuntimeError("the sandbox server did not start")
        self.url, self.https_url = words[2], words[-1]
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], exc: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        assert self._server is not None
        self._server.terminate()
        self._server.communicate()
        shutil.rmtree(self.directory, ignore_errors=True)

    # --- the server ---------------------------------------------------------------------------------------------------

    def call(self, method: str, path: str, data: Any = None) -> Any:
        """Use the admin interface."""
        body = None if method == "GET" else json.dumps(data or {}).encode()
        request = urllib.request.Request(
            f"{self.url}/sandbox/api/{path}", data=body, method=method, headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.load(reply)

    def submit(self, transformation: str, pars: str = "", **fields: Any) -> int:
        """Submit a job; returns its id."""
        definition = {
            "transformation": transformation,
            "jobPars": pars,
            "logFile": "",
            "outFiles": "",
            "prodSourceLabel": "managed",
            "computingSite": QUEUE,
            **fields,
        }
        return int(self.call("POST", "jobs", {"definition": definition})["PandaID"])

    def job(self, job_id: int) -> Dict[str, Any]:
        """All that the server knows of a job."""
        return dict(self.call("GET", f"jobs/{job_id}"))

    def requests(self, since: float) -> List[Dict[str, Any]]:
        """Requests that came at or after an epoch time."""
        return [item for item in self.call("GET", "requests") if item["time"] >= since]

    def final_time(self, job_id: int) -> float:
        """Epoch s at which the accepted final report came in."""
        times = [
            item["_time"]
            for item in self.job(job_id)["updates"]
            if item.get("state") in ("finished", "failed")
        ]
        if not times:
            raise RuntimeError(f"job {job_id} has no final report")
        return float(times[0])

    # --- payloads -----------------------------------------------------------------------------------------------------

    def payload(self, name: str, text: str = "", before: str = "") -> Path:
        """Write a bash payload that stamps its start and its end (``NAME.start``, ``NAME.end``; $1 is appended)."""
        script = self.directory / f"{name}.sh"
        stamp = f"printf '%s' \"$EPOCHREALTIME\" > {self.directory}/{name}$1"
        script.write_text(f"#!/bin/bash\n{stamp}.start\n{text}\n{stamp}.end\n")
        script.chmod(0o755)
        return script

    def stamp(self, name: str) -> Optional[float]:
        """The time in a stamp file, None while it is not there."""
        try:
            return float((self.directory / name).read_text() or "nan")
        except FileNotFoundError:
            return None

    def forget(self, *names: str) -> None:
        """Remove stamp files."""
        for name in names:
            (self.directory / name).unlink(missing_ok=True)

    # --- pilots -------------------------------------------------------------------------------------------------------

    def command(self, *options: str, url: str = "", settings: Sequence[str] = ()) -> List[str]:
        """The command line of a pilot."""
        line = [
            self.python,
            str(ROOT / "pilot.py"),
            "-q",
            QUEUE,
            "--pilot-user",
            "generic",
            "-j",
            "managed",
            "-t",
            "-b",
            "--url",
            url or self.url,
            *options,
        ]
        for setting in settings:
            line += ["--set", setting]
        return line

    def home(self) -> Path:
        """A new launch directory."""
        self._number += 1
        home = self.directory / f"pilot{self._number}"
        home.mkdir()
        return home

    @staticmethod
    def environment(**more: str) -> Dict[str, str]:
        """PATH and little more: nothing of this shell's own proxies, tokens, Python settings."""
        return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "LANG": "C.UTF-8", **more}

    def run(self, *options: str, env: Optional[Mapping[str, str]] = None, **how: Any) -> Ended:
        """Run a pilot to its end, measured by the launcher."""
        home = self.home()
        return self.measured(self.command(*options, **how), home, env)

    def measured(self, command: Sequence[str], home: Path, env: Optional[Mapping[str, str]] = None) -> Ended:
        """Run any command to its end, measured by the launcher."""
        result = home / "result.json"
        with open(home / "stdout.txt", "wb") as out:
            subprocess.run(
                [self.python, "-I", "-S", str(HERE / "launch.py"), str(result), *command],
                cwd=home,
                stdout=out,
                stderr=subprocess.STDOUT,
                check=True,
                env=self.environment(**(env or {})),
            )
        ended = Ended(home=home, **json.loads(result.read_text()))
        if ended.code != 0:
            raise RuntimeError(f"exit code {ended.code}:\n{(home / 'stdout.txt').read_text()[-3000:]}")
        return ended

    def start(self, *options: str, env: Optional[Mapping[str, str]] = None, **how: Any) -> subprocess.Popen[bytes]:
        """Start a pilot and return at once."""
        home = self.home()
        with open(home / "stdout.txt", "wb") as out:
            return subprocess.Popen(
                self.command(*options, **how),
                cwd=home,
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=self.environment(**(env or {})),
            )


def end(process: subprocess.Popen[bytes]) -> float:
    """End a pilot by SIGTERM; returns the epoch time of its exit."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    process.wait()
    return time.time()


# --- looks at a process -----------------------------------------------------------------------------------------------


def cpu_seconds(pid: int) -> float:
    """CPU time of a living process's threads in s, to the nanosecond; a thread that has ended is not in it."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def wakeups(pid: int) -> int:
    """Voluntary context switches of a living process's threads."""
    return sum(
        int(line.split()[1])
        for task in Path(f"/proc/{pid}/task").iterdir()
        for line in (task / "status").read_text().splitlines()
        if line.startswith("voluntary_ctxt_switches")
    )


def memory_mb(pid: int) -> Dict[str, float]:
    """RSS, HWM (peak RSS) and PSS in MB (10^6 B) and the number of threads."""
    found = {}
    text = Path(f"/proc/{pid}/status").read_text() + Path(f"/proc/{pid}/smaps_rollup").read_text()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key in ("VmRSS", "VmHWM", "Pss"):
            found[key] = int(value.split()[0]) * 1024 / 1e6
        elif key == "Threads":
            found[key] = int(value)
    return found
