"""The Python API of the sandbox: a server in a background thread, for tests and the demo."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, Coroutine, Dict, List, Mapping, Optional, Sequence, Set, Type, TypeVar, Union

from sandbox import events
from sandbox.admin import AdminInterface
from sandbox.core import Core, Job
from sandbox.faults import Faults
from sandbox.identity import Authenticator, AuthMode
from sandbox.server import HttpServer, Options, TLSFiles
from sandbox.state import State
from sandbox.wire import RecordedRequest

T = TypeVar("T")


class Sandbox:
    """A PanDA server for one machine.

    db: ``:memory:`` or a file.  port, https_port: 0 lets the kernel choose.  auth: see Authenticator.
    tls: serve https too.  queues: queue documents by name.  queues_dir: directory with further ``<queue>.all.json``.
    trf_dir: directory behind /trf/ and /cache/.  adder_delay: s after which the adder looks at a final report,
    None: only on demand.  expire_every: s between looks at the time limits of 7.3, None: only on demand.
    production_dns: DNs (substrings) with the production role, used with auth other than none.
    """

    def __init__(
        self,
        db: Union[str, Path] = ":memory:",
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        https_port: int = 0,
        auth: AuthMode = "none",
        v1: bool = True,
        legacy: bool = True,
        tls: Optional[TLSFiles] = None,
        queues: Optional[Mapping[str, Mapping[str, Any]]] = None,
        queues_dir: Optional[Path] = None,
        trf_dir: Optional[Path] = None,
        adder_delay: Optional[float] = None,
        expire_every: Optional[float] = None,
        first_id: int = 7000000001,
        production_dns: Optional[Sequence[str]] = None,
        admin_from_anywhere: bool = False,
    ) -> None:
        self.host, self.adder_delay, self.expire_every = host, adder_delay, expire_every
        self._condition = threading.Condition()
        self._version = 0
        self.core = Core(db, first_id=first_id, queues=queues, on_change=self._changed)
        self.core.on_final = self._on_final
        authenticator = Authenticator(mode=auth)
        if production_dns is not None:
            authenticator.production_dns = tuple(production_dns)
        self.state = State(self.core, authenticator)
        self.faults: Faults = Faults()
        self.auth, self.creds = self.state.auth, self.state.creds
        options = Options(v1, legacy, Path(trf_dir) if trf_dir else None, Path(queues_dir) if queues_dir else None,
                          admin_from_anywhere)
        self.server: HttpServer = HttpServer(self.state, options, self.faults, self._changed)
        self.server.admin = AdminInterface(self, options.admin_from_anywhere).handle
        self.server.listeners = [(host, port, None)]
        if tls is not None:
            self.server.listeners.append((host, https_port, tls.context()))
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._thread: Optional[threading.Thread] = None
        self.port, self.https_port = port, https_port

    # -- running ----------------------------------------------------------------------------------------------------

    def start(self) -> Sandbox:
        """Listen; returns when requests are answered."""
        loop = asyncio.new_event_loop()
        self._loop = loop
        self._thread = threading.Thread(target=loop.run_forever, name="sandbox", daemon=True)
        self._thread.start()
        try:
            self.up()
        except BaseException:
            self.stop()
            raise
        if self.expire_every is not None:
            loop.call_soon_threadsafe(self._expire_later)
        return self

    def stop(self) -> None:
        """Stop listening, end the thread, close the data base."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        self._run(self.server.down())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        self._loop = self._thread = None
        self.core.close()

    def __enter__(self) -> Sandbox:
        return self.start()

    def __exit__(self, kind: Optional[Type[BaseException]], exc: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.stop()

    def up(self) -> None:
        """Listen (again, on the same ports)."""
        ports = self._run(self.server.up())
        self.port = ports[0]
        self.https_port = ports[1] if len(ports) > 1 else 0

    def down(self) -> None:
        """Stop listening and drop all connections: connection refused from now on."""
        self._run(self.server.down())

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        assert self._loop is not None, "the sandbox is not started"
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    @property
    def url(self) -> str:
        """Base URL of the plain http port."""
        return f"http://{self._host_in_url()}:{self.port}"

    @property
    def https_url(self) -> str:
        """Base URL of the https port (needs ``tls``)."""
        return f"https://{self._host_in_url()}:{self.https_port}"

    def _host_in_url(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    # -- waiting ----------------------------------------------------------------------------------------------------

    def _changed(self) -> None:
        with self._condition:
            self._version += 1
            self._condition.notify_all()

    def wait(self, condition: Callable[[], T], timeout: float = 30) -> T:
        """Block until ``condition()`` is true and return its value; looked at after each request or change of state.

        TimeoutError after ``timeout`` s, with the last requests in its text. Things outside the sandbox (a process
        that ends) are not noticed unless a request comes.
        """
        deadline = time.monotonic() + timeout
        while True:
            with self._condition:
                seen = self._version
            value = condition()
            if value:
                return value
            with self._condition:
                left = deadline - time.monotonic()
                if left <= 0 or not self._condition.wait_for(self._newer_than(seen), left):
                    last = [f"{r.dialect} {r.operation} {r.params.get('state', r.params.get('job_status', ''))} "
                            f"-> {r.status} {r.fault or ''}" for r in self.requests[-10:]]
                    raise TimeoutError(f"not within {timeout} s; last requests: {last}; jobs: {self.core.counts()}")

    def _newer_than(self, seen: int) -> Callable[[], bool]:
        return lambda: self._version != seen

    # -- jobs -------------------------------------------------------------------------------------------------------

    def submit(self, definition: Mapping[str, Any], raw: bool = False, site: Optional[str] = None) -> int:
        """Add a job (dispatch names; computingSite names the queue); returns its PandaID. See Core.submit."""
        queue = site or next(iter(self.core.queues), "TEST_QUEUE")
        job_id = self.core.submit(definition, queue, raw)
        if definition.get("eventRanges"):
            self.add_event_ranges(job_id, definition["eventRanges"])
        return job_id

    def job(self, job_id: int) -> Job:
        """All about a job: state, history, attemptNr, fields, updates, final, finals, commands, errors, ..."""
        return self.core.job(job_id)

    def jobs(self) -> List[Job]:
        """Short views of all jobs, newest first."""
        return self.core.jobs()

    def kill(self, job_id: int) -> bool:
        """Kill a job, as its owner would."""
        return self.core.kill(job_id)

    def command(self, job_id: int, text: str) -> bool:
        """Send a command to the job's pilot."""
        return self.core.command(job_id, text)

    def debug(self, job_id: int, on: bool = True) -> bool:
        """Set or clear the debug mode of a job."""
        return self.core.debug(job_id, on)

    def set_state(self, job_id: int, state: str, archived: Optional[bool] = None) -> None:
        """Force a state, as the server's daemons do (transferring, merging, ...)."""
        self.core.set_state(job_id, state, archived)

    def add_event_ranges(self, job_id: int, ranges: Sequence[Mapping[str, Any]]) -> None:
        """Give an event service job its ranges."""
        events.add_ranges(self.core, job_id, ranges)

    def add_queue(self, name: str, document: Mapping[str, Any]) -> None:
        """Serve a queue document under /cache/schedconfig/<name>.all.json."""
        self.core.queues[name] = dict(document)

    @property
    def unknown_parameters(self) -> Set[str]:
        """Parameters that this server does not know, as older servers: add names to have them refused."""
        return self.state.unknown_parameters

    def run_adder(self) -> List[int]:
        """Let the adder look at all final reports; returns the jobs that it ended."""
        return self.core.run_adder()

    def advance_clock(self, seconds: float) -> None:
        """Let time pass for the server's limits."""
        self.core.advance_clock(seconds)

    def expire(self, archive: bool = True) -> List[int]:
        """Apply the time limits of 7.3; returns the jobs given up."""
        return self.core.expire(archive)

    @property
    def requests(self) -> List[RecordedRequest]:
        """The recorded requests, oldest first (those of the admin interface are not recorded)."""
        return list(self.server.requests)

    @property
    def workers_killed(self) -> int:
        """How many requests would have killed a worker process of the real server (bad gzip, short body)."""
        return self.state.workers_killed

    def counters(self) -> Dict[str, int]:
        """Number of jobs by state."""
        return self.core.counts()

    # -- timers -----------------------------------------------------------------------------------------------------

    def _on_final(self, job_id: int) -> None:
        if self.adder_delay is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.call_later, self.adder_delay, self.core.run_adder, job_id)

    def _expire_later(self) -> None:
        self.core.expire()
        if self._loop is not None and self.expire_every is not None:
            self._loop.call_later(self.expire_every, self._expire_later)
