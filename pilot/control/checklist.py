"""Which checks there are: of a job's processes, of its files, and of the pilot itself. One line each."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pilot.context import PilotContext
    from pilot.control.memoryguard import MemoryGuard
    from pilot.info.job import Job
    from pilot.monitoring.checks import FileCheck, Keeper, ProcessCheck
    from pilot.monitoring.workdir import WorkdirTracker


def process_checks(ctx: PilotContext, job: Job, guard: MemoryGuard) -> list[ProcessCheck]:
    """Return the checks of the payload's processes, made before the first look at them: they may import what is
    rare. ``guard`` knows the job's memory limit."""
    from pilot.monitoring.processchecks import MemoryLimit, ProcessCount

    periods = ctx.settings.pilot
    return [
        MemoryLimit(periods.memory_usage_verification_time, guard.subject, guard.bound),
        ProcessCount(periods.process_verification_time, job.jobid),
    ]


def file_checks(ctx: PilotContext, job: Job) -> list[FileCheck]:
    """Return the checks of the job's files, made before the first look at them: they may import what is rare."""
    from pilot.control.diskchecks import disk_checks

    return [*disk_checks(ctx, job)]


def workdir_tracker(ctx: PilotContext, job: Job) -> WorkdirTracker:
    """Return what follows the job's directory; which files are signs of life is said here."""
    from pilot.control import diskchecks

    return diskchecks.workdir_tracker(ctx, job, counts=lambda path: True)


def keepers(ctx: PilotContext) -> list[Keeper]:
    """Return what the pilot looks after, made at its start."""
    return []
