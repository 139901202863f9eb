"""Which checks there are: of a job's processes, of its files, and of the pilot itself. One line each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pilot.control.watch.heartbeatfile import HeartbeatFile

if TYPE_CHECKING:
    from pilot.context import PilotContext
    from pilot.control.watch.memoryguard import MemoryGuard
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
    from pilot.control.watch.diskchecks import disk_checks
    from pilot.control.watch.loopingcase import LoopingCase
    from pilot.monitoring.killfile import KillFileCheck

    pilot = ctx.settings.pilot
    checks: list[FileCheck] = [*disk_checks(ctx, job)]
    if pilot.kill_instruction_filename:
        checks.append(KillFileCheck(ctx.home / pilot.kill_instruction_filename, pilot.kill_instruction_time))
    if job.looping_check:
        checks.append(LoopingCase(ctx, job))
    return checks


def workdir_tracker(ctx: PilotContext, job: Job) -> WorkdirTracker:
    """Return what follows the job's directory; which files are signs of life is said here."""
    from pilot.control.watch import diskchecks
    from pilot.control.watch.loopingcase import job_signs

    return diskchecks.workdir_tracker(ctx, job, counts=job_signs(ctx, job))


def keepers(ctx: PilotContext) -> list[Keeper]:
    """Return what the pilot looks after, made at its start; setting ``pilot.checks`` may name some of them."""
    from pilot.control.watch.credentialkeeper import CredentialKeeper, has_credentials
    from pilot.control.watch.leavetime import LeaveByKeeper, may_change

    pilot = ctx.settings.pilot
    found: list[Keeper] = [
        HeartbeatFile(ctx.home / pilot.pilot_heartbeat_file, ctx.pulse, pilot.pilot_heartbeat),
        *([LeaveByKeeper(ctx)] if may_change(ctx) else []),
        *([CredentialKeeper(ctx)] if has_credentials(ctx) else []),
    ]
    return [keeper for keeper in found if is_wanted(ctx, keeper.name)]


def is_wanted(ctx: PilotContext, name: str) -> bool:
    """True unless setting ``pilot.checks`` names others only: whole words, an empty list means all."""
    return not ctx.settings.pilot.checks or name in ctx.settings.pilot.checks
