"""The last resort: the exit code and the payload's own words; and the payload's own report of its error."""

from __future__ import annotations

import signal
from collections.abc import Iterable

from pilot.common.errorcodes import ELSEWHERE, SITE, ErrorCodes
from pilot.info.diagnosis import Case, Finding, Rule
from pilot.payload.rules.texts import script_advice

_FROM_OUTSIDE = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})
_LIMITS = frozenset({signal.SIGXCPU, signal.SIGXFSZ, signal.SIGBUS})
"""A limit of the node, or a mapped file that the disk could not hold."""


class PayloadsOwnError(Rule):
    """payload_error_report.json: the payload's own words are the diagnosis."""

    name = "error-report"
    on_success = True
    beside_report = True

    def look(self, case: Case) -> Iterable[Finding]:
        """1305."""
        error = case.error_report
        if error is not None:
            text = error.diag or f"error {error.code} reported by the payload"
            who, retry = script_advice(error.code)
            yield Finding(ErrorCodes.PAYLOADEXECUTIONFAILURE, text if case.code == 0 else f"{case.ending}: {text}",
                          f"error_code {error.code}", who=who, retry=retry)


class Ending(Rule):
    """What is always true of a failed payload: its exit code, and the words that most probably name the cause."""

    name = "exit-code"

    def look(self, case: Case) -> Iterable[Finding]:
        """1305, for a set-up that was tried alone 1110."""
        evidence = case.cause.place or "exit code"
        if case.setup:
            yield Finding(ErrorCodes.SETUPFAILURE, f"{case.ending}: {case.cause.text}", evidence)
            return
        remark, who, retry = "", "", ""
        if case.signal in _FROM_OUTSIDE:
            remark = "an unknown hand (not the pilot) sent the signal; last words: "
            who, retry = SITE, ELSEWHERE
        elif case.signal in _LIMITS:
            who, retry = SITE, ELSEWHERE
        yield Finding(ErrorCodes.PAYLOADEXECUTIONFAILURE, f"{case.ending}: {remark}{case.cause.text}", evidence,
                      who=who, retry=retry)
