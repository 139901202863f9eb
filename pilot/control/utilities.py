"""Runs the utilities of an experiment that are waited for: before the stage-in, before and after the payload."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from pilot.common.exception import PilotException
from pilot.control.plan import PayloadPlan, payload_task
from pilot.info.payloadtask import Moment, PayloadCommand, UtilityCommand
from pilot.payload.cause import find_cause
from pilot.payload.textfiles import read_head
from pilot.payload.utilities import Ended, end_leftovers, run_utility, stop_utility
from pilot.user.base import Experiment

if TYPE_CHECKING:
    from pilot.context import PilotContext
    from pilot.info.job import Job

logger = logging.getLogger(__name__)

_OUTPUT_LIMIT = 1 << 20
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def before_stagein(ctx: PilotContext, job: Job) -> None:
    """Run what an experiment wants before the stage-in (Xcache).

    Raises:
        PilotException: a utility that must not fail has.
        CancelledError: the job was broken off.
    """
    if _has_utilities(ctx):
        run_utilities(ctx, _bare_plan(ctx, job), Moment.BEFORE_STAGEIN)


def after_payload(ctx: PilotContext, job: Job) -> None:
    """Run what an experiment wants after the last turn, and end what it has left running until then.

    Called when the payload is over, and once more in the tail: a job whose stage-in fails never gets to its payload.
    """
    track = ctx.road.track(job.jobid)
    if track is None or track.company_left:
        return
    track.company_left = True
    try:
        if _has_utilities(ctx) and not job.cancel.cancelled:
            run_utilities(ctx, _bare_plan(ctx, job), Moment.AFTER_PAYLOAD_FINISHED)
    except (PilotException, OSError) as exc:
        logger.warning("job %s: what runs after the payload: %s", job.jobid, exc)
    finally:
        for running in track.daemons:
            stop_utility(running, min(running.command.patience, stop_grace(ctx)))
        track.daemons.clear()


def run_utilities(ctx: PilotContext, plan: PayloadPlan, moment: Moment) -> None:
    """Run the experiment's utilities of a moment one after the other.

    Raises:
        PilotException: one that must not fail (``error_code``) has failed, or cannot be started.
        CancelledError: the job was broken off.
    """
    for utility in ctx.experiment.utility(moment, plan.task, plan.command):
        ended = run_step(ctx, plan, utility)
        if ended.code == 0 or ended.code in utility.harmless:
            continue
        text = step_failure(ended)
        if utility.error_code:
            raise PilotException(text, code=utility.error_code)
        logger.warning("job %s: %s; the job goes on", plan.task.job.jobid, text)


def run_step(ctx: PilotContext, plan: PayloadPlan, utility: UtilityCommand) -> Ended:
    """Run one utility to its end, and tell the experiment.

    Raises:
        CancelledError: the job was broken off.
        PilotException: it cannot be started.
    """
    job = plan.task.job
    logger.info("job %s: %s: %s", job.jobid, utility.label, plan.printable(utility.line))
    ended = run_utility(ctx.supervisor, utility, job.workdir, plan.environ_outside, job.cancel, lambda: stop_grace(ctx))
    if utility.daemon:
        track = ctx.road.track(job.jobid)
        if track is not None:
            track.daemons.append(ended.running)
        else:
            end_leftovers(ended.running.child, utility.label)
    tell_experiment(ctx, plan, utility, ended)
    return ended


def tell_experiment(ctx: PilotContext, plan: PayloadPlan, utility: UtilityCommand, ended: Ended) -> None:
    """Give the output to the experiment, and what it makes of it to the job's transfers and payload."""
    output = read_head(ended.running.stdout, _OUTPUT_LIMIT).decode("utf-8", "replace")
    for name, value in ctx.experiment.utility_ended(plan.task, utility, ended.code, output).items():
        if _VARIABLE.fullmatch(name) and "\0" not in value:
            plan.task.job.variables[name] = value
        else:
            logger.warning("%s is no environment variable: ignored", name)


def step_failure(ended: Ended, said: str = "") -> str:
    """Return words for a utility that has failed: exit code and cause, which is ``said`` if that is known."""
    utility = ended.running.command
    what = f"{utility.label} was ended after {utility.timeout:.0f} s" if ended.late else \
        f"{utility.label} ended with exit code {ended.code}"
    cause = said or find_cause(ended.running.stdout, ended.running.stderr)
    return f"{what}: {cause}" if cause else what


def stop_grace(ctx: PilotContext) -> float:
    """Return s from SIGTERM to SIGKILL: as set, less when the pilot has to be gone (log and report need time)."""
    grace = ctx.settings.shutdown.term_grace
    left = ctx.shutdown.remaining(float("inf"))
    return min(grace, left / 3) if left < float("inf") else grace


def _has_utilities(ctx: PilotContext) -> bool:
    """False for the experiments that have none: preparing the question would cost each job some time."""
    return type(ctx.experiment).utility is not Experiment.utility


def _bare_plan(ctx: PilotContext, job: Job) -> PayloadPlan:
    """Return the surroundings of a utility that knows nothing of the payload's command."""
    return PayloadPlan(payload_task(ctx, job, job.jobparams), PayloadCommand(""))
