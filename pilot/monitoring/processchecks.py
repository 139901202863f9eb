"""Checks of a payload's processes: how much memory they hold, how many they are."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Callable, MutableMapping, Optional

from pilot.common.errorcodes import ErrorCodes
from pilot.monitoring.checks import Blind, Breach, Look, ProcessCheck
from pilot.monitoring.memorylimit import MemoryBound
from pilot.monitoring.processdetails import read_details
from pilot.util.procfs import PAGE_BYTES, ProcInfo

logger = logging.getLogger(__name__)

_SHOWN = 10
MAXNPROC = "PILOT_MAXNPROC"


class MemoryLimit(ProcessCheck):
    """1235: the largest memory of the payload so far is above its limit."""

    name = "memory"

    def __init__(self, period: float, subject: str, bound: Callable[[], Optional[MemoryBound]]) -> None:
        """
        Args:
            period: s between two looks.
            subject: ``subresource=SCORE, corecount=1``.
            bound: returns the limit, None when the job has none; raises Blind while it is not known.
        """
        self.period = period
        self._subject, self._bound = subject, bound
        self._last: Sequence[ProcInfo] = ()

    def look(self, look: Look) -> Optional[Breach]:
        """Compare."""
        bound = self._bound()
        if bound is None:
            return None
        use = look.memory
        if use is None or not use.known:
            raise Blind("neither a memory monitor nor /proc tells what the payload's processes hold"
                        f" (limit {bound.kb} kB, {bound.origin})")
        self._last = look.processes
        if use.max_pss <= bound.kb:
            return None
        return Breach(ErrorCodes.PAYLOADEXCEEDMAXMEM,
                      f"job has exceeded the memory limit {use.max_pss} kB > {bound.kb} kB ({self._subject};"
                      f" {use.source}; {bound.origin})")

    def evidence(self, breach: Breach) -> None:
        """The largest processes, and what their memory is made of."""
        for info in sorted(self._last, key=lambda item: item.rss, reverse=True)[:_SHOWN]:
            details = read_details(info.pid)
            said = f"PSS {details.pss} kB ({details.parts}), swap {details.swap} kB" if (
                details is not None and details.readable) else "PSS unknown"
            logger.info("process %d (%s, parent %d): RSS %d kB, %s", info.pid, info.comm, info.ppid,
                        info.rss * PAGE_BYTES // 1024, said)


class ProcessCount(ProcessCheck):
    """Counts the processes of the payload's tree; the maximum stands in the environment variable ``PILOT_MAXNPROC``."""

    name = "processes"

    def __init__(self, period: float, job_id: str, environ: MutableMapping[str, str] = os.environ) -> None:
        self.period = period
        self._job_id, self._environ = job_id, environ

    def look(self, look: Look) -> Optional[Breach]:
        """Count; never a breach."""
        count = len(look.processes)
        said = self._environ.get(MAXNPROC, "")
        most = max(count, int(said) if said.isdecimal() else 0)
        self._environ[MAXNPROC] = str(most)
        logger.info("job %s: the payload has %d processes, at most %d so far", self._job_id, count, most)
        return None
