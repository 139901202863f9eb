"""Which checks there are: of a job's processes, of its files, and of the pilot itself. One line each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pilot.monitoring.workdir import WorkdirTracker

if TYPE_CHECKING:
    from pilot.context import PilotContext
    from pilot.info.job import Job
    from pilot.monitoring.checks import FileCheck, Keeper, ProcessCheck


def process_checks(ctx: PilotContext, job: Job) -> list[ProcessCheck]:
    """Return the checks of the payload's processes, made when a job enters the road."""
    return []


def file_checks(ctx: PilotContext, job: Job) -> list[FileCheck]:
    """Return the checks of the job's files, made before the first look at them: they may import what is rare."""
    return []


def workdir_tracker(ctx: PilotContext, job: Job) -> WorkdirTracker:
    """Return what follows the job's directory; which files are signs of life is said here."""
    return WorkdirTracker(job.workdir)


def keepers(ctx: PilotContext) -> list[Keeper]:
    """Return what the pilot looks after, made at its start."""
    return []
