"""The one thread that exports: it waits for ended jobs and for the next time of metrics, and holds nobody up.

A collector that does not answer is told once; traces of the last jobs wait for it, metrics do not. The pilot's end
waits ``telemetry.patience`` s for what is left, and no longer.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Callable, Optional

from pilot.common.errors import ErrorList
from pilot.telemetry.spans import MOST_TRANSFERS, Facts, Span, job_span

if TYPE_CHECKING:
    from pilot.settings_sections import TelemetrySection
    from pilot.store.pilotdb import PilotDB
    from pilot.telemetry.otlp import Measure, Otlp

logger = logging.getLogger(__name__)

_WAITING = 50
"""Traces of ended jobs that wait for a collector; the newest are kept."""
_MISSING = ("telemetry.otlp_endpoint is set, but OpenTelemetry is not installed here (%s): pip install "
            "'panda-pilot[otel]'; nothing is exported")


class Telemetry:
    """Exports the spans of jobs that have ended, and metrics every ``telemetry.interval`` s.

    Args:
        settings: section ``telemetry``.
        store: where jobs, transfers and samples are read from.
        resource: attributes of this pilot (host, queue, ...).
        ca: file or directory of CAs, empty for those of ``requests``.
    """

    def __init__(self, settings: TelemetrySection, store: PilotDB, resource: Mapping[str, str], ca: str) -> None:
        self._settings, self._store, self._resource, self._ca = settings, store, resource, ca
        self._inbox: queue.SimpleQueue[Optional[tuple[str, Facts, ErrorList]]] = queue.SimpleQueue()
        self._waiting: deque[tuple[str, Facts, ErrorList]] = deque(maxlen=_WAITING)
        self._otlp: Optional[Otlp] = None
        self._told = threading.Lock()
        self._silent = False
        """The collector is away, and the log says so."""
        self._given_up = False
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def job_ended(self, job_id: str, facts: Facts, errors: ErrorList) -> None:
        """Export this job's trace in the background."""
        self._inbox.put((job_id, facts, errors))

    def close(self, patience: float) -> None:
        """Send what is left, for at most ``patience`` s."""
        self._inbox.put(None)
        self._thread.join(patience)
        if not self._thread.is_alive():
            return
        with self._told:
            self._given_up = True
            if not self._silent:
                logger.warning("telemetry: the collector %s has not taken what was left within %.1f s: %s",
                               self._settings.otlp_endpoint, patience, self._why())
        if self._otlp is not None:
            threading.Thread(target=self._otlp.stop, name="telemetry end", daemon=True).start()

    def _run(self) -> None:
        try:
            from pilot.telemetry.otlp import Otlp
        except ImportError as exc:
            logger.warning(_MISSING, exc)
            return
        try:
            self._otlp = Otlp(self._settings.otlp_endpoint, self._ca, self._resource, self._measures(),
                              self._settings.timeout)
            self._serve(self._otlp)
        except Exception as exc:
            if not self._given_up:  # else the PilotDB may be closed by now
                logger.exception("telemetry: nothing more is exported: %s", exc)

    def _serve(self, otlp: Otlp) -> None:
        due = time.monotonic() + self._settings.interval
        ending = False
        while not ending:
            try:
                item = self._inbox.get(timeout=max(0.0, due - time.monotonic()))
                ending = item is None
                if item is not None:
                    self._waiting.append(item)
            except queue.Empty:
                pass  # time for the metrics
            if ending or time.monotonic() >= due:
                due = time.monotonic() + self._settings.interval
                self._note(otlp.send_metrics)
            while self._waiting and self._note(lambda: self._send(otlp, *self._waiting[0])):
                self._waiting.popleft()

    def _note(self, send: Callable[[], bool]) -> bool:
        """Send, and tell once when the collector is away, once when it is back."""
        good = send()
        with self._told:
            if good == self._silent and not self._given_up:
                self._silent = not good
                if good:
                    logger.info("telemetry: the collector %s answers again", self._settings.otlp_endpoint)
                else:
                    logger.warning("telemetry: the collector %s does not take what is exported; jobs are not "
                                   "affected: %s", self._settings.otlp_endpoint, self._why())
        return good

    def _why(self) -> str:
        return (self._otlp.words.text if self._otlp is not None else "") or "it has not answered"

    def _send(self, otlp: Otlp, job_id: str, facts: Facts, errors: ErrorList) -> bool:
        from pilot.telemetry.otlp import trace_id_of

        row = next((row for row in self._store.jobs() if row.job_id == job_id), None)
        if row is None:
            return True  # a database that was lost in mid job
        self._store.flush()
        primary = errors.primary(row.exit_code == 0)
        span: Span = job_span(
            row, facts, self._store.story(job_id), self._store.worst_transfers(job_id, MOST_TRANSFERS),
            self._store.errors(job_id),
            (primary.code, primary.diagnosis) if primary is not None else (0, ""), time.time(),
            sum(total.attempts for total in self._store.transfer_sums(job_id)))
        return otlp.send_span(span, trace_id_of(row.job_id, row.attempt))

    # --- metrics ------------------------------------------------------------------------------------------------------

    def _measures(self) -> list[Measure]:
        from pilot.telemetry.otlp import Measure

        return [
            Measure("panda.payload.cpu.time", "s", "CPU time of running payloads", True, lambda: self._samples("cpu")),
            Measure("panda.payload.cpu.cores", "1", "cores in use", False, lambda: self._samples("cores")),
            Measure("panda.payload.memory.rss", "By", "resident memory, shared pages counted each time", False,
                    lambda: self._samples("rss")),
            Measure("panda.payload.memory.pss", "By", "proportional memory", False, lambda: self._samples("pss")),
            Measure("panda.payload.memory.swap", "By", "swapped out", False, lambda: self._samples("swap")),
            Measure("panda.payload.processes", "1", "processes of running payloads", False,
                    lambda: self._samples("processes")),
            Measure("panda.transfer.bytes", "By", "bytes moved", True, lambda: self._transfers("bytes")),
            Measure("panda.transfer.count", "1", "attempts to move a file", True, lambda: self._transfers("count")),
            Measure("panda.reports.undelivered", "1", "updates that the server has not acknowledged", False,
                    lambda: [({}, len(self._store.undelivered()))]),
        ]

    def _samples(self, name: str) -> Iterable[tuple[Mapping[str, str], float]]:
        """The last sample of each job whose payload runs."""
        for row in self._store.jobs():
            if row.state == "payload":
                last = self._store.last_sample(row.job_id)
                if last is not None and (getattr(last, name) or name not in ("pss", "swap")):
                    yield {"panda.job.id": row.job_id}, float(getattr(last, name))

    def _transfers(self, what: str) -> Iterable[tuple[Mapping[str, str], float]]:
        self._store.flush()
        found: dict[tuple[str, str], float] = {}
        for row in self._store.jobs():
            for total in self._store.transfer_sums(row.job_id):
                if total.good or what == "count":
                    key = (total.direction, "done" if total.good else "failed")
                    found[key] = found.get(key, 0.0) + (total.bytes if what == "bytes" else total.attempts)
        for (direction, outcome), value in found.items():
            yield {"panda.transfer.direction": direction, "panda.transfer.outcome": outcome}, value
