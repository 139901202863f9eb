"""Credentials of user payloads: a proxy of its own for each job that wants one, and the end of every secret on disk.

A job that is to run with another identity than the pilot's never runs with the pilot's: without its proxy it fails
before the payload. The proxy is part of the job; the pilot's own environment never names it.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Iterable, NamedTuple, Optional

from pilot.common.exception import PilotException
from pilot.info.job import Job
from pilot.panda.credentials import store_user_proxy, write_secret
from pilot.panda.errors import ServerRefusal, TransportError
from pilot.util.backoff import Backoff
from pilot.util.bounded import TookTooLong, bounded
from pilot.util.cancel import CancelledError

if TYPE_CHECKING:
    from pilot.context import PilotContext

logger = logging.getLogger(__name__)

PATIENCE = 60.0
"""Seconds within which the server has to give the proxy."""
_ATTEMPTS = 3
_PASSING = frozenset({90})
"""Status codes of refusals that may be over in a moment: the server could not fetch the proxy itself."""
_SUFFIXES = ("-unified", "-payload")
_ABOUT_TO_EXPIRE, _NOVOMSPROXY = 1370, 1177


class NoPayloadProxy(PilotException):
    """The payload's proxy cannot be had (1163)."""

    default_code = 1163


class _Wanted(NamedTuple):
    role: str
    dn: str
    suffix: str
    dispatch: bool


def provide(ctx: PilotContext, job: Job) -> None:
    """Fetch, check and store the payload's proxy, when the job wants one; called in validation.

    Raises:
        NoPayloadProxy: 1163, the server does not give it, or it is none.
        PilotException: it ends too soon (1373, 1177), it cannot be written (1303).
        CancelledError: the job is to end.
    """
    wanted = _wanted(ctx, job)
    if wanted is None:
        return
    job.needs_payload_proxy = True
    text = _download(ctx, job, wanted)
    own = os.environ.get("X509_USER_PROXY") or f"/tmp/x509up_u{os.getuid()}"
    job.payload_proxy = store_user_proxy(text, job.workdir / proxy_name(own, wanted.suffix), ctx.home)
    job.payload_proxy_text, job.dispatches_proxy = text, wanted.dispatch
    job.secret_paths.append(job.payload_proxy)
    _verify(ctx, job.payload_proxy)
    logger.info("job %s: the payload has a proxy of its own (role %s): %s", job.jobid, wanted.role, job.payload_proxy)


def _wanted(ctx: PilotContext, job: Job) -> Optional[_Wanted]:
    """User jobs on unified queues, and on others those that run in a container of the pilot's (payload.md 19)."""
    options = ctx.options
    if not (job.is_analysis and options.verify_proxy):
        return None
    role, dn = ctx.experiment.payload_proxy_role(job)
    if not role:
        return None
    queue = ctx.info.queue_for(job)
    if queue.is_unified:
        return _Wanted(role, dn, "-unified", dispatch=True)
    if not (options.verify_payload_proxy and ctx.settings.pilot.payload_proxy_from_server):
        return None
    return _Wanted(role, dn, "-payload", dispatch=False) if ctx.experiment.uses_container(job, queue) else None


def proxy_name(own: str, suffix: str) -> str:
    """Return the file name of a payload's proxy: that of the pilot's with a suffix, ``.proxy`` stays at its end."""
    name = os.path.basename(own)
    return f"{name[:-len('.proxy')]}{suffix}.proxy" if name.endswith(".proxy") else f"{name}{suffix}"


def _download(ctx: PilotContext, job: Job, wanted: _Wanted) -> str:
    server = ctx.server
    if server is None:
        raise NoPayloadProxy("payload proxy could not be downloaded: this pilot does not talk to the PanDA server (-z)")
    base = max(ctx.settings.server.retry_base, 0.01)
    backoff = Backoff(base, max(ctx.settings.server.retry_max, base))
    until = time.monotonic() + PATIENCE
    for attempt in range(_ATTEMPTS):
        try:
            return bounded(lambda: server.get_proxy(wanted.role, wanted.dn), max(0.0, until - time.monotonic()),
                           job.cancel, "getproxy")
        except ServerRefusal as exc:
            problem, passing = exc.detail, exc.status_code in _PASSING
        except (TransportError, TookTooLong) as exc:
            problem, passing = getattr(exc, "detail", str(exc)), True
        pause = backoff.next()
        if not passing or attempt + 1 == _ATTEMPTS or time.monotonic() + pause > until:
            break
        logger.warning("job %s: getProxy: %s", job.jobid, problem)
        if job.cancel.wait(pause):
            raise CancelledError(job.cancel.reason, code=job.cancel.code)
    raise NoPayloadProxy(f"payload proxy could not be downloaded: {problem}")


def _verify(ctx: PilotContext, path: Path) -> None:
    from pilot.util.proxyfile import ProxyUnreadable, check_pair_and_chain, read_proxy

    try:
        read_proxy(path)
        problem = check_pair_and_chain(path)
    except ProxyUnreadable as exc:
        problem = str(exc)
    if problem:
        raise NoPayloadProxy(f"payload proxy is not usable: {problem}")
    code, text = ctx.experiment.verify_proxy(str(path), at_start=False)
    if code:  # a new one is what we have just got
        raise PilotException(f"payload proxy: {text}", code=_NOVOMSPROXY if code == _ABOUT_TO_EXPIRE else code)


def renew(job: Job) -> None:
    """Write the payload's proxy anew: payloads tidy up, or put links in places. Nothing without such a proxy.

    Raises:
        NoPayloadProxy: 1163: one is wanted, and there is none.
        FileHandlingFailure: it cannot be written.
    """
    if not job.needs_payload_proxy:
        return
    if job.payload_proxy is None or not job.payload_proxy_text:
        raise NoPayloadProxy("payload proxy is missing")
    write_secret(job.payload_proxy, job.payload_proxy_text)


def environment(job: Job) -> dict[str, str]:
    """Return the variables of the payload: its proxy."""
    if job.payload_proxy is None:
        return {}
    path = str(job.payload_proxy)
    return {"X509_USER_PROXY": path, **dispatch(job)}


def dispatch(job: Job) -> dict[str, str]:
    """Return the variable that has the open test and the stage-out of outputs use the payload's proxy."""
    return {"X509_UNIFIED_DISPATCH": str(job.payload_proxy)} if job.dispatches_proxy else {}


# --- the end of secrets -----------------------------------------------------------------------------------------------


def forget(job: Job, paths: Optional[Iterable[Path]] = None) -> None:
    """Remove the job's secrets from the disk, or these of them; done whether or not its directory is kept."""
    for path in list(job.secret_paths if paths is None else paths):
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as exc:
            logger.warning("job %s: %s, which holds secrets, cannot be removed: %s", job.jobid, path, exc.strerror)
            continue
        if path in job.secret_paths:
            job.secret_paths.remove(path)


def remove_abandoned(workdir: str, secrets_name: str) -> int:
    """Remove the secrets that a dead pilot has left in the directory of a job; returns how many files."""
    try:
        names = os.listdir(workdir) if workdir else []
    except OSError:
        return 0
    removed = 0
    for name in names:
        if name == secrets_name or name.rpartition(".proxy")[0].endswith(_SUFFIXES) or name.endswith(_SUFFIXES):
            path = os.path.join(workdir, name)
            try:
                if not os.path.isdir(path) or os.path.islink(path):
                    os.unlink(path)
                    removed += 1
            except OSError as exc:
                logger.warning("%s, which may hold secrets, cannot be removed: %s", path, exc.strerror)
    return removed
