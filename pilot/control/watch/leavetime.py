"""Collects what may end the pilot's slot, at its start and again while it runs, into the one leave-by time.

::

    at start   queue's maxtime | -l, lease, batch system, machine and job features, proxy, token ──► ctx.leave
    each minute  whatever is said in epoch seconds, or may be said later ────────────────────────────► ctx.leave
                                                                     moved? ──► LeaveByMoved ──► monitor's timers

How long an announced end is in force is its owner's business: a shutdown that is taken back, a renewed proxy or a
clock that was set right moves the leave-by time back.
"""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, Optional

from pilot.control.messages import LeaveByMoved
from pilot.monitoring.checks import Keeper
from pilot.monitoring.leaveby import End, LeaveBy, from_epoch
from pilot.option_rules import canonical_workflow

if TYPE_CHECKING:
    from pilot.context import PilotContext

logger = logging.getLogger(__name__)

_FEATURES_TIME = 10.0
"""s that the directories of the features may take before the pilot starts without them."""
_PLACES = ("MACHINEFEATURES", "JOBFEATURES")
_BATCH = ("SLURM_JOB_END_TIME", "PBS_WALLTIME", "OAR_JOB_WALLTIME_SECONDS", "COBALT_ENDTIME", "_CONDOR_JOB_AD",
          "_CONDOR_MACHINE_AD")
"""Variables that ``monitoring/batchlimits.py`` reads: without them it need not be imported."""


def begin_leave_by(ctx: PilotContext) -> None:
    """Find the leave-by time at the pilot's start; needs the queue."""
    limits = ctx.settings.limits
    ctx.leave = LeaveBy(ctx.started, limits.leave_margin, limits.shortest_job)
    for name, end in (("slot", _slot(ctx)), ("lease", _lease(ctx))):
        ctx.leave.set(name, end)
    reread(ctx, patience=_FEATURES_TIME)
    logger.info("leave-by time: in %.0f s: %s", ctx.leave_by - time.monotonic(), ctx.leave.now.text)


def _slot(ctx: PilotContext) -> End:
    """The queue's maxtime, else option -l; in a pod option -l alone."""
    limit = float(ctx.options.lifetime)
    text = f"option -l is {limit:.0f} s"
    if ctx.queue.maxtime > 0 and not ctx.options.pod:
        limit = ctx.queue.maxtime * ctx.queue.pilot_walltime_grace
        text = f"the queue's maxtime is {ctx.queue.maxtime} s"
        if ctx.queue.pilot_walltime_grace != 1.0:
            text += f" ({limit:.0f} s with its pilot_walltime_grace)"
    return End(ctx.started + limit, text, limit)


def _lease(ctx: PilotContext) -> Optional[End]:
    """Option -L; its default is the stager's alone."""
    options = ctx.options
    if not options.lease_given and canonical_workflow(options.workflow) != "stager":
        return None
    return End(ctx.started + options.leasetime, f"option -L is {options.leasetime} s", float(options.leasetime))


# --- what may change --------------------------------------------------------------------------------------------------


def may_change(ctx: PilotContext) -> bool:
    """Return True when there is anything to be read again."""
    return (any(ctx.environ.get(name) for name in (*_PLACES, *_BATCH)) or _proxy_counts(ctx)
            or (ctx.credentials is not None and bool(ctx.credentials.token())))


def reread(ctx: PilotContext, *, patience: float = 0.0) -> bool:
    """Read again what is said in epoch seconds or may come later; True when the leave-by time has moved.

    Args:
        ctx: the pilot's.
        patience: s after which the features are done without; 0 = the caller may hang.
    """
    before = ctx.leave.now
    began = time.time() - (time.monotonic() - ctx.started)
    found: dict[str, Optional[End]] = {}
    if any(ctx.environ.get(name) for name in _PLACES):
        found.update(_features(ctx, began, patience))
    if any(ctx.environ.get(name) for name in _BATCH):
        from pilot.monitoring import batchlimits

        found.update(batchlimits.ends(ctx.environ, ctx.started, began))
    found.update(proxy=_proxy(ctx), token=_token(ctx))
    for name, end in found.items():
        ctx.leave.set(name, end)
    after = ctx.leave.now
    return before.at != after.at and not abs(before.at - after.at) < 1.0


def _features(ctx: PilotContext, began: float, patience: float) -> dict[str, Optional[End]]:
    from pilot.monitoring.features import ends, notice

    def read() -> dict[str, Optional[End]]:
        return ends(ctx.environ, ctx.started, began)

    if not patience:
        return read()
    from pilot.util.bounded import TookTooLong, bounded

    try:
        found = bounded(read, patience, ctx.lookups, "features")
        promised = bounded(lambda: notice(ctx.environ), patience, ctx.lookups, "features")
    except TookTooLong as exc:
        logger.warning("machine and job features cannot be read now: %s", exc)
        return {}
    if promised is not None and promised < ctx.settings.limits.leave_margin:
        logger.warning("the site announces shutdowns %.0f s ahead (grace_secs); the way out may need %.0f s (setting "
                       "limits.leave_margin)", promised, ctx.settings.limits.leave_margin)
    return found


def _proxy_counts(ctx: PilotContext) -> bool:
    return ctx.options.verify_proxy and ctx.experiment.needs_proxy and ctx.credentials is not None


def _proxy(ctx: PilotContext) -> Optional[End]:
    """The certificate's end: nothing can be stored or reported after it. The end of VOMS attributes is none, they are
    renewed in time."""
    if not _proxy_counts(ctx) or ctx.credentials is None:
        return None
    from pilot.util.proxyfile import ProxyUnreadable, read_proxy

    try:
        at = from_epoch(ends := read_proxy(ctx.credentials.proxy()).ends, ctx.started)
    except ProxyUnreadable:
        return None  # whether a pilot can live with it is said before each getJob
    return None if at is None else End(at, f"the proxy's certificate ends at {_clock(ends)}")


def _token(ctx: PilotContext) -> Optional[End]:
    """The end of a token that nobody renews; one that is renewed sets no limit."""
    credentials = ctx.credentials
    if credentials is None or not ctx.settings.limits.token_ends_slot or not credentials.token():
        return None
    from pilot.panda.credentials import token_expiry

    if token_is_renewed(ctx):
        return None
    expiry = token_expiry(credentials.token())
    at = None if expiry is None else from_epoch(expiry, ctx.started)
    return None if at is None or expiry is None else End(at, f"the token, which is not renewed, ends at "
                                                             f"{_clock(expiry)}")


def token_renewal_wanted(ctx: PilotContext) -> bool:
    """True when an OIDC token is in use and neither ``-y`` nor the queue (``no_token_renewal``) forbids renewing it."""
    return (ctx.server is not None and ctx.credentials is not None and ctx.options.token_renewal
            and "no_token_renewal" not in ctx.queue.catchall and bool(ctx.credentials.token()))


def token_is_renewed(ctx: PilotContext) -> bool:
    """True when the token in use is renewed, and there is a key to renew it with."""
    return token_renewal_wanted(ctx) and ctx.credentials is not None and ctx.credentials.can_renew()


def _clock(epoch: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(epoch))


class LeaveByKeeper(Keeper):
    """Reads again what ends the slot."""

    name = "machinefeatures"  # as setting pilot.checks knows it from existing pilots

    def __init__(self, ctx: PilotContext) -> None:
        self._ctx = ctx
        self.period = ctx.settings.limits.leave_by_check

    def look(self) -> None:
        """Read it all; tell the monitor when the leave-by time has moved."""
        if reread(self._ctx):
            moved(self._ctx)


def moved(ctx: PilotContext) -> None:
    """Say the new leave-by time, and have the running jobs obey it."""
    leave = ctx.leave.now
    logger.warning("the leave-by time has moved: now in %.0f s: %s", leave.at - time.monotonic(), leave.text)
    ctx.road.monitor.post(LeaveByMoved())


def ask_slurm(ctx: PilotContext) -> None:
    """Ask squeue, once, how long this job may run: Slurm before 22.05 does not tell its jobs. For a thread that nobody
    waits for."""
    import shutil
    from pathlib import Path

    from pilot.monitoring.batchlimits import slurm_time_left
    from pilot.util.cancel import CancelToken
    from pilot.util.command import run_command

    tool = shutil.which("squeue")
    if tool is None:
        return
    asked = time.monotonic()
    job = ctx.environ["SLURM_JOB_ID"]
    try:
        done = run_command([tool, "-h", "-j", job, "-o", "%L"], env=dict(os.environ), cwd=Path("/"),
                           token=CancelToken(), timeout=60.0)
    except OSError as exc:
        logger.info("squeue: %s", exc)
        return
    left = slurm_time_left(done.stdout.splitlines()[0]) if done.code == 0 and done.stdout.strip() else None
    if left is None:
        logger.info("squeue does not say how long job %s may run: %s", job, (done.stderr or done.stdout).strip()[:200])
    elif ctx.leave.set("batch", End(asked + left, f"squeue gave job {job} {left:.0f} s more")):
        moved(ctx)
