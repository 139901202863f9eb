"""Runs the real pilot.py against a sandbox server: start, steer, wait, look. Waits block, nothing sleeps or polls.

::

    farm = Farm(tmp_path)                 # sandbox + directories for inputs, outputs, payload scripts
    gate = farm.gate("payload")           # two FIFOs: somebody says 'I am here' and waits until the test opens
    job = farm.submit_job(gate.shell())   # a job whose payload is that shell script
    pilot = farm.start_pilot()            # pilot.py as a process of its own
    gate.reached()
    pilot.send("SIGTERM")
    assert pilot.wait() == 143
    assert farm.final(job)["pilotErrorCode"] == 1201
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
import uuid
import zlib
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Union

from pilot.payload.process import MARKER
from pilot.store.pilotdb import PilotDB
from pilot.workflow.leftovers import find_databases
from sandbox import Sandbox

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
PILOT = ROOT / "pilot.py"
QUEUE = "TEST_QUEUE"
PYTHON = os.environ.get("PILOT_TEST_PYTHON", sys.executable)
"""The Python that runs the pilots; the tests' own unless the environment names another one."""
PATIENCE = 60.0
"""Seconds that anything may take before a test is given up; never the time that something should take."""
OWNER = "PILOT_TEST_OWNER"
"""Environment variable with a random value: every process that a test has caused inherits it."""

QUEUE_DOCUMENT: Mapping[str, Any] = {
    "nickname": QUEUE, "panda_resource": QUEUE, "atlas_site": "LOCAL", "state": "ACTIVE", "status": "online",
    "type": "production", "resource_type": "GRID", "corecount": 1, "maxrss": 2000, "maxtime": 86400,
    "maxinputsize": -1, "maxwdir": 20000, "timefloor": 0, "is_cvmfs": False, "allow_lan": True, "environ": "",
    "catchall": "", "container_options": "", "container_type": "", "params": {}, "astorages": {},
    "copytools": {"mv": {"setup": "", "copy_in": "cp"}}, "acopytools": {"default": ["mv"]},
}

# Short pauses, so that no test waits for a back-off; everything else stays as it is delivered.
TEST_SETTINGS: Mapping[str, object] = {
    "server.retry_base": 0.05, "server.retry_max": 0.2, "server.getjob_wait": 0.05, "server.getjob_wait_max": 0.05,
    "server.getjob_wait_harvester": 0.05, "pilot.free_space_limit": "10 MB", "pilot.free_space_limit_running": "5 MB",
    "rucio.url": "",  # no test talks to a trace server out there
}


class Gate:
    """A place where something outside of the test stops until the test lets it go on: two FIFOs."""

    def __init__(self, directory: Path, name: str, pilots: Sequence[Pilot] = ()) -> None:
        self.name = name
        self._pilots = pilots
        self.arrival = directory / f"{name}.arrival"
        self.hold = directory / f"{name}.hold"
        for path in (self.arrival, self.hold):
            os.mkfifo(path)
        # read and write: opening never blocks, on neither side, and nobody ever sees an end of file
        self._arrival = os.open(self.arrival, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._hold = os.open(self.hold, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def reached(self, timeout: float = PATIENCE) -> str:
        """Block until somebody has arrived; returns what it said (a pid, if it is a shell).

        A pilot that ends meanwhile is a failure at once.
        """
        text = b""
        deadline = time.monotonic() + timeout
        running = {os.pidfd_open(pilot.pid): pilot for pilot in self._pilots if pilot.process.returncode is None}
        try:
            while not text.endswith(b"\n"):
                ready, _, _ = select.select([self._arrival, *running], [], [], max(0.0, deadline - time.monotonic()))
                if self._arrival in ready:
                    text += os.read(self._arrival, 1)
                    continue
                stories = [pilot.output[-5000:] for handle, pilot in running.items() if handle in ready or not ready]
                raise TimeoutError("\n".join([f"nobody has come to the gate '{self.name}'", *stories]))
        finally:
            for handle in running:
                os.close(handle)
        return text.decode().strip()

    def open(self, times: int = 1) -> None:
        """Let those who wait go on (also those who come later)."""
        os.write(self._hold, b"go\n" * times)

    def shell(self) -> str:
        """Shell lines that arrive here and wait; no child process is involved."""
        return f"echo $$ > {self.arrival}\nread _ < {self.hold}\n"

    def say(self, words: str = "$$") -> str:
        """A shell line that arrives here and goes on."""
        return f"echo {words} > {self.arrival}\n"

    def close(self) -> None:
        """Close the FIFOs."""
        os.close(self._arrival)
        os.close(self._hold)


class Pilot:
    """A pilot process and the directory it was launched in."""

    def __init__(self, process: subprocess.Popen[bytes], directory: Path) -> None:
        self.process = process
        self.directory = directory
        self.pid = process.pid
        self._text = b""
        self._closed = False
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        """Collect the output, wake those who wait for a line of it, keep it beside the pilot's files."""
        assert self.process.stdout is not None
        with self.process.stdout as stream, open(self.directory / "stdouterr.txt", "ab", buffering=0) as copy:
            for line in iter(stream.readline, b""):
                with contextlib.suppress(OSError):  # some tests fill this disk
                    copy.write(line)
                with self._more:
                    self._text += line
                    self._more.notify_all()
        with self._more:
            self._closed = True
            self._more.notify_all()

    def wait_output(self, text: str, timeout: float = PATIENCE) -> None:
        """Block until the pilot has written ``text`` to stdout or stderr; its end before that is a failure."""
        with self._more:
            self._more.wait_for(lambda: text.encode() in self._text or self._closed, timeout)
            if text.encode() not in self._text:
                story = self._text.decode(errors="replace")[-5000:]
                raise TimeoutError(f"the pilot has not written {text!r}:\n{story}")

    def wait_lines(self, text: str, count: int, timeout: float = PATIENCE) -> None:
        """Block until ``text`` has come ``count`` times."""
        with self._more:
            assert self._more.wait_for(lambda: self._text.count(text.encode()) >= count or self._closed, timeout)
            assert self._text.count(text.encode()) >= count, self._text.decode(errors="replace")[-5000:]

    def send(self, name: str) -> float:
        """Send a signal by name; returns the time (monotonic)."""
        os.kill(self.pid, getattr(signal, name))
        return time.monotonic()

    def kill(self) -> None:
        """SIGKILL the pilot (and nothing else), and collect it."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Block until the pilot has ended; its exit code as a shell sees it."""
        try:
            code = self.process.wait(timeout)
            self._reader.join(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"the pilot has not ended within {timeout} s:\n{self.output[-5000:]}") from None
        return code if code >= 0 else 128 - code

    @property
    def output(self) -> str:
        """What it has written to stdout and stderr so far."""
        with self._more:
            return self._text.decode(errors="replace")

    @property
    def log(self) -> str:
        """The text of its pilotlog.txt files (launch directory and main work directories below)."""
        paths = [*self.directory.glob("pilotlog.txt"), *self.directory.glob("**/PanDA_Pilot2_*/pilotlog.txt")]
        return "".join(path.read_text(errors="replace") for path in paths)

    @property
    def databases(self) -> List[Path]:
        """Its PilotDBs."""
        return find_databases(self.directory)

    def store(self) -> PilotDB:
        """Its PilotDB, for looking only; close it."""
        return PilotDB(self.databases[0], read_only=True)


class Farm:
    """A sandbox server and a node: what a test of the whole pilot needs. Use the fixture ``farm``."""

    def __init__(self, directory: Path, queue: Optional[Mapping[str, Any]] = None, **sandbox: Any) -> None:
        self.directory = directory
        self.inputs, self.outputs, self.scripts, self.gates = (
            directory / name for name in ("inputs", "outputs", "scripts", "gates"))
        for path in (self.inputs, self.outputs, self.scripts, self.gates):
            path.mkdir()
        self.owner = uuid.uuid4().hex
        self.queue: Dict[str, Any] = {**QUEUE_DOCUMENT, **(queue or {})}
        self.server = Sandbox(queues={QUEUE: self.queue}, **sandbox).start()
        self.pilots: List[Pilot] = []
        self._gates: List[Gate] = []

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def set_queue(self, **fields: Any) -> None:
        """Change the queue's document."""
        self.queue.update(fields)
        self.server.add_queue(QUEUE, self.queue)

    def gate(self, name: str) -> Gate:
        """A new gate. The names of the plug-ins' gates: see gated.py; any other name is a payload's own."""
        gate = Gate(self.gates, name, self.pilots)
        self._gates.append(gate)
        return gate

    def script(self, text: str) -> Path:
        """An executable bash script in a new file."""
        path = self.scripts / f"payload-{len(list(self.scripts.iterdir()))}.sh"
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)
        return path

    def submit_job(self, payload: str = "true", *, inputs: Optional[Mapping[str, bytes]] = None,
                   outputs: Sequence[str] = (), log: bool = True, **fields: Any) -> int:
        """Submit a job whose payload is the shell text; inputs (name -> content) are put in place. Returns its id."""
        names, files = list(outputs), dict(inputs or {})
        for name, content in files.items():
            (self.inputs / name).write_bytes(content)
        logfile = f"log.{uuid.uuid4().hex[:8]}.tgz" if log else ""
        everything = [*names, *([logfile] if log else [])]
        definition: Dict[str, Any] = {
            "transformation": str(self.script(payload)), "jobPars": "", "prodSourceLabel": "managed",
            "computingSite": QUEUE, "logFile": logfile, "outFiles": ",".join(everything),
            "scopeOut": ",".join(["test"] * len(names)), "scopeLog": "test" if log else "",
            "realDatasets": ",".join(["test.ds"] * len(everything)),
            "ddmEndPointOut": ",".join(["TEST_RSE"] * len(everything)),
        }
        if files:
            definition.update(
                inFiles=",".join(files), GUID=",".join(str(uuid.uuid4()) for _ in files),
                fsize=",".join(str(len(content)) for content in files.values()),
                checksum=",".join(f"ad:{zlib.adler32(content):08x}" for content in files.values()),
                scopeIn=",".join(["test"] * len(files)), realDatasetsIn=",".join(["test.in"] * len(files)))
        return self.server.submit({**definition, **fields})

    def state(self, job: int) -> str:
        """The job's state on the server."""
        return str(self.server.job(job)["state"])

    def final(self, job: int) -> Dict[str, Any]:
        """The accepted final report of a job (legacy field names)."""
        final = self.server.job(job)["final"]
        assert final, f"job {job} has no final report; state {self.state(job)}"
        return dict(final)

    def final_updates(self, job: int) -> List[Dict[str, Any]]:
        """All final messages that came for a job, accepted or not."""
        return [update for update in self.server.job(job)["updates"]
                if update.get("state") in ("finished", "failed")]

    def wait_state(self, job: int, *states: str, timeout: float = PATIENCE) -> None:
        """Block until the job is in one of the states on the server."""
        self.server.wait(lambda: self.state(job) in states, timeout)

    # --- pilots -------------------------------------------------------------------------------------------------------

    def command(self, *options: str, settings: Optional[Mapping[str, object]] = None,
                files: bool = True) -> List[str]:
        """The command line of a pilot for the sandbox; later options win over the harness's own."""
        merged = {**TEST_SETTINGS, **(settings or {})}
        line = [PYTHON, str(PILOT), "-q", QUEUE, "--pilot-user", "generic", "-j", "managed", "-t", "-b",
                "--url", "http://127.0.0.1", "-p", str(self.server.port), "-d"]
        line += ["--input-dir", str(self.inputs), "--output-dir", str(self.outputs)] if files else []
        for key, value in merged.items():
            line += ["--set", f"{key}={json.dumps(value) if isinstance(value, (dict, list, bool)) else value}"]
        return [*line, *options]

    def environment(self, env: Optional[Mapping[str, str]] = None) -> Dict[str, str]:
        """The environment of pilots: nothing of the tests' own but PATH."""
        return {"PATH": os.environ["PATH"], "HOME": str(self.directory), "LANG": "C.UTF-8", OWNER: self.owner,
                "PYTHONPATH": f"{HERE}{os.pathsep}{ROOT}", "PILOT_TEST_GATES": str(self.gates), **(env or {})}

    def start_gated(self, *options: str, settings: Optional[Mapping[str, object]] = None, **how: Any) -> Pilot:
        """Start a pilot with the plug-ins of gated.py, which stop at the gates made so far (and only there)."""
        self.set_queue(copytools={"mv": {"copy_in": "cp"}, "gated": {"copy_in": "cp", "copy_out": "cp"}},
                       acopytools={"default": ["gated"]})
        plugins = {"plugins.copytools": {"gated": "gated:GatedTool"},
                   "plugins.experiments": {"gated": "gated:GatedExperiment"}}
        return self.start_pilot("--pilot-user", "gated", *options, settings={**plugins, **(settings or {})}, **how)

    def start(self, command: Sequence[str], *, env: Optional[Mapping[str, str]] = None,
              directory: Optional[Path] = None, stdin: Union[int, None] = subprocess.DEVNULL) -> Pilot:
        """Start any command in a launch directory (a new one unless given)."""
        launch = directory or self.directory / f"pilot-{len(self.pilots)}"
        launch.mkdir(exist_ok=True)
        process = subprocess.Popen(list(command), cwd=launch, env=self.environment(env), stdin=stdin,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        pilot = Pilot(process, launch)
        self.pilots.append(pilot)
        return pilot

    def start_pilot(self, *options: str, settings: Optional[Mapping[str, object]] = None,
                    env: Optional[Mapping[str, str]] = None, directory: Optional[Path] = None,
                    prefix: Sequence[str] = (), files: bool = True) -> Pilot:
        """Start pilot.py; ``prefix`` is a command that starts it (setsid, unshare)."""
        return self.start([*prefix, *self.command(*options, settings=settings, files=files)], env=env,
                          directory=directory)

    def run_pilot(self, *options: str, timeout: float = PATIENCE, **how: Any) -> Pilot:
        """Start a pilot and wait for its end; the exit code is in ``.process.returncode``."""
        pilot = self.start_pilot(*options, **how)
        pilot.wait(timeout)
        return pilot

    def recover(self, directory: Path, *options: str) -> Pilot:
        """Run ``pilot.py --recover DIR`` to its end. No queue, no experiment, no server: all that is stored."""
        settings = [part for key in ("server.retry_base", "server.retry_max") for part in
                    ("--set", f"{key}={TEST_SETTINGS[key]}")]
        pilot = self.start([PYTHON, str(PILOT), "--recover", str(directory), *settings, *options])
        pilot.wait()
        return pilot

    # --- processes ----------------------------------------------------------------------------------------------------

    def processes(self, variable: str = OWNER) -> List[str]:
        """Living processes that this test has caused and that have ``variable`` in their environment."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                environ = (entry / "environ").read_bytes().split(b"\0")
                state = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[0]
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            ours = f"{OWNER}={self.owner}".encode() in environ
            if ours and state not in "ZX" and any(item.startswith(f"{variable}=".encode()) for item in environ):
                found.append(f"{entry.name} {line[:200]}")
        return found

    def payload_processes(self) -> List[str]:
        """Living processes of payloads of this test."""
        return self.processes(MARKER)

    def close(self) -> List[str]:
        """End everything; returns the payload processes that had been left behind (there must be none)."""
        for pilot in self.pilots:
            if pilot.process.poll() is None:
                pilot.process.kill()
                pilot.process.wait()
        left = self.payload_processes()
        for line in self.processes():
            try:
                os.kill(int(line.split()[0]), signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.server.stop()
        for gate in self._gates:
            gate.close()
        return left
