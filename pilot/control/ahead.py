"""Pipelining: may the next job come while another one leaves, and may its inputs come yet?

::

    job N      payload ──┤ outputs, log, final report ├── clean-up
    job N+1              ├ getJob ┤ inputs ┤ payload ── ...
                         ▲        ▲
                         │        └── wait_for_space: inputs that do not fit beside job N come when it has left
                         └── refusal: not enough disk or memory beside job N? then getJob when it has left

That time, the queue's state and a stop that was asked for forbid it is found out where each getJob finds it out.
What job N may still write here is at most what its directory holds, inputs not counted: an archive of its log, and
archives of its outputs. That much is left alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Optional

from pilot.info.job import Job
from pilot.util.space import directory_size, free_space, size_of

if TYPE_CHECKING:
    from pilot.context import PilotContext

_MEGABYTE = 1024 * 1024
_MEMORY_PER_CORE = 2000
"""MB that the next payload is taken to need on a queue without ``maxrss``."""


def is_wanted(ctx: PilotContext) -> bool:
    """True when successive jobs overlap: the queue's word, else the setting ``jobs.pipelining``."""
    return ctx.settings.jobs.pipelining if ctx.queue.pipelining is None else ctx.queue.pipelining


def held_bytes(leaving: Iterable[Job]) -> int:
    """Return the bytes that jobs may still write here until they have left."""
    return sum(_held(job) for job in leaving)


def _held(job: Job) -> int:
    if not job.workdir.name:
        return 0  # it has no directory yet
    return max(0, directory_size(job.workdir).bytes - size_of(job.workdir, (spec.lfn for spec in job.indata)))


def refusal(ctx: PilotContext, held: int) -> Optional[str]:
    """Return why no job may be asked for beside one that leaves and holds ``held`` bytes; None when one may."""
    free, need = free_space(ctx.home, ctx.environ), ctx.settings.pilot.free_space_limit
    if free is not None and free <= need + held:
        return (f"{free} B of disk are free in {ctx.home}; needed are {need} B (setting pilot.free_space_limit) beside "
                f"the {held} B of the job that leaves")
    from pilot.monitoring.memory import available_memory  # only pilots that get here need it

    memory = available_memory()
    needed = ctx.queue.maxrss or ctx.queue.corecount * _MEMORY_PER_CORE
    if memory is not None and memory < needed * _MEGABYTE:
        origin = "the queue's maxrss" if ctx.queue.maxrss else f"{_MEMORY_PER_CORE} MB per core"
        return f"{memory // _MEGABYTE} MB of memory are free, a job may need {needed} MB ({origin})"
    return None


def wait_for_space(ctx: PilotContext, job: Job, held: int) -> Optional[str]:
    """Return why the inputs of ``job`` have to wait until the job before it has left; None when they fit beside it."""
    size = sum(spec.filesize for spec in job.indata if spec.require_transfer())
    if not size:
        return None
    free, reserve = free_space(ctx.home, ctx.environ), ctx.settings.limits.reserve_space
    if free is None or size + reserve + held <= free:
        return None
    return (f"its inputs of {size} B and {reserve} B of reserve (setting limits.reserve_space) do not fit beside the "
            f"{held} B of the job that leaves: {free} B are free in {ctx.home}")
