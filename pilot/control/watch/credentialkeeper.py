"""Looks after the pilot's proxy and token while it runs.

::

    every pilot.proxy_verification_time
      proxy (unless -t) ── good ─────────────────────────────────► nothing
                        ── VOMS attributes end soon (1370) ──► a new one from the server, in the old one's place
                        │                                        └─ not to be had: again at the next look, 1177 when
                        │                                           there is no time for that any more
                        └─ 1163, 1177, 1373 ─────────────────► the payload is ended, the log is stored, the job fails
      token ── has ended ──► said, once

The control document's 7.10. A proxy of another role never takes the place of the pilot's.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from pilot.common.exception import PilotException
from pilot.control.lifecycle import Event, Stage
from pilot.control.watch.leavetime import moved, reread
from pilot.monitoring.checks import Keeper
from pilot.panda.credentials import store_user_proxy, token_expiry, write_secret

if TYPE_CHECKING:
    from pilot.context import PilotContext
    from pilot.util.proxyfile import ProxyFacts

logger = logging.getLogger(__name__)

NOPROXY, NOVOMSPROXY, ABOUT_TO_EXPIRE, EXPIRED = 1163, 1177, 1370, 1373
_ENDS_PAYLOADS = frozenset({NOPROXY, NOVOMSPROXY, EXPIRED})
_BEFORE_THE_TAIL = (Stage.RECEIVED, Stage.STAGEIN, Stage.PAYLOAD)


def has_credentials(ctx: PilotContext) -> bool:
    """Return True when there is something to look after."""
    return ctx.credentials is not None and (ctx.options.verify_proxy or bool(ctx.credentials.token()))


class CredentialKeeper(Keeper):
    """See the module."""

    name = "proxy"

    def __init__(self, ctx: PilotContext) -> None:
        self._ctx = ctx
        self.period = float(ctx.settings.pilot.proxy_verification_time)
        self._said = ""

    def look(self) -> None:
        """Look once."""
        self._look_at_token()
        if self._ctx.options.verify_proxy:
            self._look_at_proxy()

    def _say(self, text: str) -> None:
        """Say it once; looks repeat."""
        if text != self._said:
            self._said = text
            if text:
                logger.warning("%s", text)

    # --- token --------------------------------------------------------------------------------------------------------

    def _look_at_token(self) -> None:
        assert self._ctx.credentials is not None
        token = self._ctx.credentials.token()
        expiry = token_expiry(token) if token else None
        if expiry is not None and expiry <= time.time():
            self._say(f"the token has ended at {time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime(expiry))}: the PanDA"
                      " server will refuse updates until there is a new one; look at PANDA_AUTH_TOKEN_KEY, option -y "
                      "and the site's token service")

    # --- proxy --------------------------------------------------------------------------------------------------------

    def _look_at_proxy(self) -> None:
        ctx = self._ctx
        assert ctx.credentials is not None
        proxy = ctx.credentials.proxy()
        try:
            code, text = ctx.experiment.verify_proxy(proxy, at_start=False)
        except PilotException as exc:  # a fault of the plug-in's is no fault of the proxy's
            self._say(f"the proxy cannot be verified: {exc.detail}")
            return
        if code == ABOUT_TO_EXPIRE:
            code, text = self._renew(proxy, text)
        if code in _ENDS_PAYLOADS:
            self._end_payloads(code, text)
        elif text:
            self._say(f"proxy: {text}")

    def _end_payloads(self, code: int, text: str) -> None:
        for job in self._ctx.road.jobs():
            track = self._ctx.road.track(job.jobid)
            if track is not None and track.state.stage in _BEFORE_THE_TAIL and track.state.aborted is None:
                self._ctx.road.abort(job.jobid, Event.LIMIT, code, text)

    # --- a new one ----------------------------------------------------------------------------------------------------

    def _renew(self, proxy: str, text: str) -> tuple[int, str]:
        """Get a new proxy in the place of one whose VOMS attributes end soon; (0, what is to be said) when it is good,
        or can still be good at the next look."""
        from pilot.util.proxyfile import ProxyUnreadable, read_proxy

        try:
            old = read_proxy(proxy)
        except ProxyUnreadable:
            old = None
        try:
            place = self._replace(Path(proxy), old)
        except PilotException as exc:
            left = (old.voms_ends - time.time()) if old is not None and old.voms_ends is not None else 0.0
            reserve = self.period + self._ctx.settings.limits.leave_margin
            problem = f"{text}; a new one cannot be had: {exc.detail}"
            return (0, problem) if left > reserve else (NOVOMSPROXY, problem)
        logger.info("%s: the server has given a new one, it is in %s", text, place)
        self._said = ""
        if reread(self._ctx):
            moved(self._ctx)
        return 0, ""

    def _replace(self, path: Path, old: Optional[ProxyFacts]) -> Path:
        """Fetch a proxy, judge it, and put it into the place of the old one (in PILOT_HOME where that is read-only).

        Raises:
            PilotException: none could be had, or it is of no use; the old one is as it was.
        """
        ctx = self._ctx
        role, dn = ctx.experiment.pilot_proxy_role()
        if not role:
            raise PilotException(f"experiment {ctx.experiment.name} names no role for it", code=NOVOMSPROXY)
        if ctx.server is None:
            raise PilotException("this pilot does not talk to the PanDA server (-z)", code=NOVOMSPROXY)
        text = ctx.server.get_proxy(role, dn)
        trial = ctx.home / f".renewed-{os.getpid()}.proxy"
        write_secret(trial, text)
        try:
            problem = self._objection(trial, old)
        finally:
            trial.unlink()
        if problem:
            raise PilotException(f"what the server gave is not usable: {problem}", code=NOVOMSPROXY)
        # behind a link stands the file that everybody reads: that one is replaced
        place = store_user_proxy(text, path.resolve(), ctx.home)
        if place != path.resolve():
            logger.warning("%s cannot be written: payloads that run already keep the old proxy", path)
            assert ctx.credentials is not None
            ctx.credentials.use_proxy(str(place))
        return place

    def _objection(self, trial: Path, old: Optional[ProxyFacts]) -> str:
        """Return what stands against a proxy that was fetched; never a fall-back of identity."""
        from pilot.util.proxyfile import ProxyUnreadable, check_pair_and_chain, read_proxy

        try:
            new = read_proxy(trial)
        except ProxyUnreadable as exc:
            return str(exc)
        broken = check_pair_and_chain(trial)
        if broken:
            return broken
        if old is not None and old.attributes and old.attributes[0] not in new.attributes:
            return f"it has the attributes {', '.join(new.attributes) or 'none'}, the old one {old.attributes[0]}"
        code, text = self._ctx.experiment.verify_proxy(str(trial), at_start=False)
        return text.replace(str(trial), "new proxy") if code else ""
