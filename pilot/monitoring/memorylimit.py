"""How much memory a job's payload may use: one pure rule, with words for where the number comes from.

::

    resource type (job, else --resource-type)
      without VHIMEM, also none   maxrampercore of the server (else built-in, else 4001) x cores of the job
      SCORE_VHIMEM                maxrss of the queue / cores of the queue x cores of the job
      MCORE_VHIMEM                maxrss of the queue
      another one with VHIMEM     minRamCount of the job, on pull queues rounded up to 1000 MB
    x (1 + pilot_rss_grace / 100) of the queue, 2 unless it says otherwise

Source: control and monitoring document, 7.4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Optional

PER_CORE_UNKNOWN = 4001
"""MB per core of a resource type for which neither the server nor the table below has a number."""

BUILT_IN: Mapping[str, int] = {
    f"{cores}{level}": megabytes
    for cores in ("SCORE", "MCORE")
    for level, megabytes in (("", 2000), ("_HIMEM", 3000), ("_LOMEM", 1000))
}
"""MB per core without an answer of the server."""

_ROUND = 1000


class MemoryFacts(NamedTuple):
    """What the rule looks at."""

    resource_type: str
    """The job's own, else the option's; may be empty."""
    cores: int
    """Of the job."""
    min_ram: int
    """minRamCount of the job, MB; 0 = unknown."""
    pull: bool
    """The pilot asks the server for its jobs."""
    maxrss: int
    """Of the queue, MB; 0 = unknown."""
    queue_cores: int
    grace: float
    """Factor of the queue (params.pilot_rss_grace)."""


class MemoryBound(NamedTuple):
    """A limit and its origin."""

    kb: int
    origin: str

    @property
    def bytes(self) -> int:
        """The limit in bytes."""
        return self.kb * 1024


def memory_bound(facts: MemoryFacts, per_core: Optional[Mapping[str, Optional[int]]]) -> Optional[MemoryBound]:
    """Return the limit, None when nothing says one.

    Args:
        facts: of job and queue.
        per_core: the server's resource types, name -> MB per core; None: it was not asked, or did not answer.
    """
    scaled, origin = _scaled(facts, per_core)
    kb = int(facts.grace * scaled * 1024)
    if kb <= 0:
        return None
    return MemoryBound(kb, f"{origin} x grace {facts.grace:g}")


def _scaled(facts: MemoryFacts, per_core: Optional[Mapping[str, Optional[int]]]) -> tuple[float, str]:
    """Return (MB, where they come from); 0 MB = unknown."""
    name, cores = facts.resource_type, max(facts.cores, 1)
    if "VHIMEM" not in name:
        megabytes, source = _per_core(name, per_core)
        return megabytes * cores, f"{source} {megabytes} MB/core x {cores}"
    if name == "SCORE_VHIMEM" and facts.maxrss > 0:
        queue_cores = max(facts.queue_cores, 1)
        return facts.maxrss / queue_cores * cores, f"the queue's maxrss {facts.maxrss} MB / {queue_cores} x {cores}"
    if name == "MCORE_VHIMEM" and facts.maxrss > 0:
        return facts.maxrss, f"the queue's maxrss {facts.maxrss} MB"
    if facts.min_ram <= 0:
        return 0, ""
    megabytes = -(-facts.min_ram // _ROUND) * _ROUND if facts.pull else facts.min_ram
    return megabytes, f"the job's minRamCount {facts.min_ram} MB" + (
        f" ({megabytes})" if megabytes != facts.min_ram else "")


def _per_core(name: str, per_core: Optional[Mapping[str, Optional[int]]]) -> tuple[int, str]:
    shown = name or "no resource type,"
    if per_core is None:
        known = BUILT_IN.get(name)
        return (known, f"{shown} (built-in)") if known else (PER_CORE_UNKNOWN, f"{shown} (default)")
    value = per_core.get(name)
    return (value, f"{shown} (server)") if value else (PER_CORE_UNKNOWN, f"{shown} (default)")
