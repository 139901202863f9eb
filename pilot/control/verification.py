"""Tries the set-up of a payload alone before the payload, and finds out afterwards when set-up was really over.

A release that is not there, a container that cannot be started, or a set-up script that hangs is then told as what it
is, and not as a failure of the payload. Source: payload document 2 (improved set-up time) and 7.6.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from pilot.common.errorcodes import ErrorCodes
from pilot.common.exception import PilotException
from pilot.control.data import add_error
from pilot.control.plan import PayloadPlan, write_files
from pilot.info.job import Job
from pilot.info.payloadtask import PayloadCommand
from pilot.payload.cause import find_cause
from pilot.payload.command import start_shell
from pilot.payload.diagnose import Evidence, diagnose
from pilot.payload.process import Child, ExitStatus
from pilot.payload.textfiles import matching_lines, printable, read_head
from pilot.payload.utilities import ENDED, wait_for

if TYPE_CHECKING:
    from pilot.context import PilotContext

logger = logging.getLogger(__name__)

STDOUT, STDERR = "setup.stdout", "setup.stderr"
_NO_RELEASE = b"No release candidates found"
_RETURNED = "PILOT: the release's set-up has returned"
_HEAD = 64 * 1024
_LINES = 50
_END_GRACE = 2.0
"""s that a set-up which hangs gets to end by itself."""


def verify_setup(ctx: PilotContext, plan: PayloadPlan) -> bool:
    """Run what stands in the command before the payload, in the payload's container, when the experiment and the queue
    want it. Returns False when it does not work; what is wrong is then among the job's errors: 1244 no such release,
    1306 to 1372 the container's runtime, else 1110.

    Raises:
        PilotException: 1110 it hangs or cannot be started; see ``Experiment.contain``.
        CancelledError: the job is to end.
    """
    job, bare = plan.task.job, plan.bare
    if bare is None or not bare.setup.strip() or not _wanted(ctx, plan):
        return True
    trial = replace(bare, line=f'{_strict(plan)}echo "Done."')
    if plan.command is not bare:  # else the payload stays outside, whatever the hooks would say to another line
        trial = _telling(ctx, ctx.experiment.contain(plan.task, trial))
    logger.info("job %s: its set-up is tried first: %s", job.jobid, bare.setup)
    begin = time.monotonic()
    write_files(plan.task, trial)
    child = _start(ctx, PayloadPlan(plan.task, trial))
    limit = ctx.settings.jobs.verify_setup_time
    if wait_for(child, job.cancel, limit) != ENDED:
        child.kill_tree(_END_GRACE, None)
        job.cancel.check()
        raise PilotException(
            f"the set-up of the payload had not ended after {limit:.0f} s (setting jobs.verify_setup_time): is CVMFS, "
            f"or the file system of the image, slow here? Last words: {_last_words(job) or 'none'}",
            code=ErrorCodes.SETUPFAILURE)
    child.kill_tree(0.0, None)  # what it left behind
    job.cancel.check()
    if not _judge(ctx, job, child):
        return False
    write_files(plan.task, plan.command)  # the trial had its own in their place
    logger.info("job %s: the set-up works, tried in %.1f s", job.jobid, time.monotonic() - begin)
    return True


def note_setup_end(ctx: PilotContext, plan: PayloadPlan) -> None:
    """Count the time up to the end of set-up that the payload has printed as set-up, not as payload.

    Called when the payload has ended and its times are known.
    """
    job = plan.task.job
    started, length = job.timing.wall.get("payload"), job.timing.spans.get("payload", 0.0)
    head = printable(read_head(job.workdir / ctx.settings.payload.payloadstdout, _HEAD))
    end = ctx.experiment.setup_end(plan.task, plan.command, "\n".join(head.split("\n")[:_LINES]))
    if started is None or end is None:
        return
    if not started - 1 <= end <= started + length + 1:  # whole seconds are printed
        logger.info("job %s: the end of set-up in stdout is not between the payload's start and end", job.jobid)
        return
    taken = min(max(end - started, 0.0), length)
    job.timing.spans["payload"] = length - taken
    job.timing.spans["setup"] = job.timing.spans.get("setup", 0.0) + taken
    logger.info("job %s: set-up was over %.0f s after the payload's start", job.jobid, taken)


def _wanted(ctx: PilotContext, plan: PayloadPlan) -> bool:
    """The queue's word decides where there is one, else the setting; both ask the experiment first."""
    word = plan.task.queue.verify_setup
    wanted = ctx.settings.jobs.verify_setup if word is None else word
    return wanted and ctx.experiment.verifies_setup(plan.task.job, plan.task.queue)


def _strict(plan: PayloadPlan) -> str:
    """Return the set-up; outside of a container it ends where asetup fails, which the next ``;`` would hide."""
    bare = plan.bare or plan.command
    text = bare.setup if bare.setup.rstrip().endswith(";") else f"{bare.setup};"
    if plan.command is not bare or not bare.asetup:
        return text
    return text.replace(bare.asetup, f"{bare.asetup.rstrip().rstrip(';')} || exit $?;", 1)


def _telling(ctx: PilotContext, trial: PayloadCommand) -> PayloadCommand:
    """Return the trial with a release file that says how it ends: the container may go on whatever it returns."""
    name = ctx.settings.container.release_setup
    files = {key: content._replace(text=content.text.replace("return $retCode", f'echo "{_RETURNED} $retCode"\n'
                                                                                "return $retCode"))
             if key == name else content for key, content in trial.files.items()}
    return replace(trial, files=files)


def _start(ctx: PilotContext, plan: PayloadPlan) -> Child:
    try:
        return start_shell(ctx.supervisor, plan.command.line, plan.task.workdir, plan.environ, (STDOUT, STDERR))
    except OSError as exc:
        raise PilotException(f"the set-up of the payload could not be started: {exc.strerror or exc}",
                             code=ErrorCodes.SETUPFAILURE) from exc


def _judge(ctx: PilotContext, job: Job, child: Child) -> bool:
    """Add to the job's errors what is wrong with the set-up; False when something is."""
    assert child.status is not None
    status: ExitStatus | int = child.status
    out, err = job.workdir / STDOUT, job.workdir / STDERR
    if child.status.code == 0:
        said = [line.split()[-1] for line in matching_lines(out, (_RETURNED.encode(),), 1)]
        status = int(said[0]) if said and said[0].isdigit() else 0
    if status == 0:
        lines = [line for path in (out, err) for line in matching_lines(path, (_NO_RELEASE,), 1)]
        if lines:
            add_error(ctx, job, ErrorCodes.NORELEASEFOUND, printable(lines[0]).strip(), evidence="setup.stdout, -err")
        return not lines
    evidence = Evidence(setup=True, error_file=ctx.settings.payload.error_report)
    for finding in diagnose(job, status, out, err, evidence, ctx.experiment.diagnosis_rules(job)):
        text = finding.text
        if finding.code == ErrorCodes.SETUPFAILURE:
            text = f"the set-up that was tried before the payload ({STDOUT}, {STDERR}): {text}"
        add_error(ctx, job, finding.code, text, rank=finding.rank, who=finding.who, retry=finding.retry,
                  evidence=finding.evidence)
    return False


def _last_words(job: Job) -> str:
    return find_cause(job.workdir / STDOUT, job.workdir / STDERR)
