"""Records transfers in the PilotDB and has their traces sent; what sends is loaded with the first trace only."""

from __future__ import annotations

import logging
import socket
import threading
import time
from typing import TYPE_CHECKING, Callable, Optional
from urllib.parse import SplitResult, urlsplit

from pilot.option_rules import traces_wanted
from pilot.settings import Settings
from pilot.util.redact import redact
from pilot.version import PILOT_VERSION

if TYPE_CHECKING:
    from pilot.context import PilotContext
    from pilot.info.job import Job
    from pilot.panda.credentials import Credentials
    from pilot.staging.context import TransferRecord
    from pilot.staging.traces import TraceBase
    from pilot.staging.tracesender import Answer, TraceSender

logger = logging.getLogger(__name__)

_CONNECT, _READ = 10.0, 30.0
"""Seconds for connecting, and of silence, before a request to the trace server is given up."""


def usable_url(url: str) -> bool:
    """Return whether ``rucio.url`` names a trace server; empty means no traces, anything else is a mistake."""
    try:
        parts = _split(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if url and not good:
        logger.error("no traces are sent: rucio.url is %r, expected a URL like https://host/traces/", redact(url))
    return good


def _split(url: str) -> SplitResult:
    return urlsplit(url if "://" in url or not url else f"https://{url}")


class TracePost:
    """Requests to the trace server: anonymous, verified like all others of the pilot, bounded in time.

    Args:
        settings: ``rucio.url`` and ``server.verify_tls``.
        credentials: know the CA directory; neither token nor proxy is shown to the trace server.
    """

    def __init__(self, settings: Settings, credentials: Optional[Credentials]) -> None:
        from pilot.panda.credentials import Credentials
        from pilot.panda.server import user_agent
        from pilot.panda.transport import Transport

        class Anonymous(Credentials):
            def token(self) -> str:
                return ""

            def proxy(self) -> str:
                return ""

            def ca_path(self) -> str:
                return credentials.ca_path() if credentials is not None else super().ca_path()

        parts = _split(settings.rucio.url)
        self._path = parts._replace(scheme="", netloc="").geturl() or "/"
        self._transport = Transport(
            f"{parts.scheme}://{parts.netloc}", credentials=Anonymous(), user_agent=user_agent(PILOT_VERSION),
            connect_timeout=_CONNECT, read_timeout=_READ, verify_tls=settings.server.verify_tls)

    def __call__(self, body: bytes) -> Answer:
        """Send a JSON text."""
        from pilot.panda.errors import TransportError
        from pilot.staging.tracesender import Answer

        try:
            reply = self._transport.post(self._path, body, "application/json")
        except TransportError as exc:
            return Answer(exc.status, exc.detail.replace(" (server.connect_timeout)", "")
                          .replace(" (server.read_timeout)", ""))
        return Answer(reply.status, reply.text[:300])

    def force_ipv4(self) -> None:
        """Use IPv4 only, as the queue says."""
        self._transport.force_ipv4(True)

    def break_off(self) -> None:
        """End a request that is in flight."""
        self._transport.break_off("the pilot ends")


class Transfers:
    """What one pilot keeps of its transfers, and tells of them. Thread-safe."""

    def __init__(self, ctx: PilotContext) -> None:
        self._ctx = ctx
        self._lock = threading.Lock()
        self._sender: Optional[TraceSender] = None
        self.wanted = traces_wanted(ctx.options, ctx.environ) and usable_url(ctx.settings.rucio.url)
        """Traces are to be sent."""

    def recorder(self, job: Job) -> Callable[[TransferRecord], None]:
        """Return what takes the attempts to move files of ``job`` in one direction."""
        started = time.time()
        log_names = {spec.lfn for spec in job.logdata}
        bases: list[TraceBase] = []

        def record(transfer: TransferRecord) -> None:
            job.has_transfers = True
            trace = None
            if self.wanted and transfer.traced:
                from pilot.staging.traces import trace_of

                if not bases:  # two threads may come here at once: they make the same
                    bases.append(self._base(job, started))
                trace = trace_of(bases[0], transfer)
            direction = "log" if transfer.is_log or transfer.lfn in log_names else transfer.direction
            self._ctx.store.add_transfer(
                job.jobid, transfer.lfn, direction, tool=transfer.tool, at=transfer.started, seconds=transfer.seconds,
                size=transfer.size, status=transfer.state, code=transfer.code, detail=redact(transfer.text),
                transfer_id=transfer.transfer_id, trace=trace)
            if trace is not None:
                self._running_sender().wake(job.jobid, job.workdir)

        return record

    def start(self) -> None:
        """Send what an earlier pilot in this directory has left, if there is anything."""
        if self.wanted and self._ctx.store.waiting_traces():
            self._running_sender().wake()

    def error(self, job_id: str) -> int:
        """``rucioTraceError`` of a job as far as this pilot knows; 0 = none."""
        sender = self._sender
        return sender.error(job_id) if sender is not None else 0

    def begin_end(self, done: Callable[[], None]) -> bool:
        """Have the rest sent now, ``done`` is called then (or at a failure); False when there is nothing to send."""
        if self._sender is None or not self._ctx.store.waiting_traces():
            return False
        self._sender.begin_end(done)
        return True

    def close(self) -> None:
        """End the sender."""
        if self._sender is not None:
            self._sender.close()

    def _base(self, job: Job, started: float) -> TraceBase:
        from pilot.staging.traces import trace_base

        ctx = self._ctx
        environ = {**ctx.environ, **ctx.queue.environment()}
        return trace_base(job, environ=environ, pilot_version=PILOT_VERSION, queue=ctx.queue.resource, started=started,
                          host=ctx.environ.get("PANDA_HOSTNAME") or socket.gethostname())

    def post(self) -> TracePost:
        """Return a way to the trace server."""
        post = TracePost(self._ctx.settings, self._ctx.credentials)
        if self._ctx.queue.internet_protocol_version == "IPv4":
            post.force_ipv4()
        return post

    def _running_sender(self) -> TraceSender:
        with self._lock:
            if self._sender is None:
                from pilot.staging.tracesender import TraceSender

                ctx, post = self._ctx, self.post()
                self._sender = TraceSender(
                    ctx.store, post, retry_base=ctx.settings.server.retry_base,
                    retry_max=ctx.settings.server.retry_max, break_off=post.break_off,
                    error_file=ctx.settings.rucio.rucio_trace_error_file)
            return self._sender
