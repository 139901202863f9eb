"""A job's memory limit: what it is made from, where it is told, and the kernel's help in keeping it."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Optional

from pilot.info.resourcetypes import ResourceTypes
from pilot.monitoring.checks import Blind
from pilot.monitoring.memorylimit import MemoryBound, MemoryFacts, memory_bound
from pilot.store.viewrows import Limit

if TYPE_CHECKING:
    from pilot.context import PilotContext
    from pilot.info.job import Job
    from pilot.payload.cgroup import PayloadGroup

logger = logging.getLogger(__name__)

ASK_AFTER = 4.0
"""s after a payload's start: those that have ended by then need no limit, and the server gets no request for them."""
_SHOWN = 24
"""Characters of a resource type's name in a text."""


def memory_facts(ctx: PilotContext, job: Job) -> MemoryFacts:
    """Return what the limit is made from. The job's own resource type counts before the option's."""
    queue = ctx.info.queue_for(job)
    return MemoryFacts(
        (job.resourcetype or ctx.options.resource_type)[:_SHOWN], job.corecount, job.minramcount,
        ctx.options.harvester_submitmode.lower() != "push", queue.maxrss, queue.corecount, queue.pilot_rss_grace)


def resource_types(ctx: PilotContext) -> ResourceTypes:
    """Return the pilot's one table."""
    if ctx.resource_types is None:
        ctx.resource_types = ResourceTypes(ctx.server.resource_types if ctx.server is not None else None)
    return ctx.resource_types


class MemoryGuard:
    """The limit of one job: found once, when its payload has run for some seconds."""

    def __init__(self, ctx: PilotContext, job: Job) -> None:
        self._ctx, self._job_id = ctx, job.jobid
        self.facts = memory_facts(ctx, job)
        self._lock = threading.Lock()
        self._found = False
        self._bound: Optional[MemoryBound] = None
        self._set: Optional[PayloadGroup] = None

    @property
    def subject(self) -> str:
        """``subresource=SCORE, corecount=1``."""
        return f"subresource={self.facts.resource_type or 'unknown'}, corecount={self.facts.cores}"

    def bound(self) -> Optional[MemoryBound]:
        """Return the limit, None for a job without one.

        Raises:
            Blind: the server has been asked for its resource types, and has not answered yet.
        """
        with self._lock:
            return self._bound if self._found else self._find()

    def _find(self) -> Optional[MemoryBound]:
        per_core = None
        if "VHIMEM" not in self.facts.resource_type:
            table = resource_types(self._ctx)
            table.ask()
            if not table.settled:
                raise Blind("the limit is not known: the server's resource types are on their way")
            per_core = table.per_core
        self._bound = memory_bound(self.facts, per_core)
        self._found = True
        if self._bound is None:
            logger.warning("job %s: no memory limit: %s, the queue's maxrss is %d, the job's minRamCount %d MB",
                           self._job_id, self.subject, self.facts.maxrss, self.facts.min_ram)
            return None
        logger.info("job %s: memory limit %d kB: %s", self._job_id, self._bound.kb, self._bound.origin)
        self._ctx.store.set_limit(self._job_id, Limit("memory", self._bound.bytes, "bytes", self._bound.origin))
        return self._bound

    def limit_kb(self, started: float, group: Optional[PayloadGroup]) -> int:
        """Return the limit as far as it is known now, and tell the payload's control group of it; 0 = not known.

        Args:
            started: of the payload, monotonic s.
            group: of the payload.
        """
        if not self._found and time.monotonic() - started < ASK_AFTER:
            return 0
        try:
            bound = self.bound()
        except Blind:
            return 0
        if bound is None:
            return 0
        if group is not None and self._set is not group:
            self._set = group
            if group.limit_memory(bound.bytes):
                logger.info("job %s: the kernel holds the payload below %d kB, too (%s/memory.max)", self._job_id,
                            bound.kb, group.directory)
        return bound.kb
