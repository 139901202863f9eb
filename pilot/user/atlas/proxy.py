"""Proxies of ATLAS: how long one has to live, and which roles are asked for at the server.

Source: control and monitoring document 7.10, payload document 19. The file is read in this process; where that is not
possible arcproxy or voms-proxy-info is asked, when there is one.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Callable, Mapping, NamedTuple, Optional

from pilot.util.proxyfile import ProxyFacts, ProxyUnreadable, read_proxy

START_HOURS = 72
"""A pilot that begins may have jobs of three days before it."""
RUNNING_HOURS = 1
GRACE = 20 * 60
"""Seconds that may lack."""
_TOOL_TIME = 60.0

NOPROXY, NOVOMSPROXY, ABOUT_TO_EXPIRE, EXPIRED, TOO_SHORT = 1163, 1177, 1370, 1373, 1382
ARC_FAILURE, ARC_LIBRARY_FAILURE, GENERAL = 1380, 1381, 1008


class ToolAnswer(NamedTuple):
    """How a command has ended."""

    code: int
    stdout: str
    stderr: str


RunTool = Callable[[list[str], Mapping[str, str]], Optional[ToolAnswer]]
"""Runs a command; None = there is no such command."""


def verify_proxy(
    path: str, *, at_start: bool, now: Optional[float] = None, run: Optional[RunTool] = None
) -> tuple[int, str]:
    """Return (pilot error code, text); code 0 = the proxy lives long enough.

    Args:
        path: of the proxy file; '' = there is none.
        at_start: before a job is asked for: 72 h are needed (1382); else 1 h (1373 for the certificate, 1370 for the
            VOMS attributes). 20 minutes may lack.
        now: s since 1970, default: the clock.
        run: runs arcproxy or voms-proxy-info, when the file cannot be read here.
    """
    if not path:
        return NOPROXY, "there is no proxy: neither --cacert, X509_USER_PROXY nor /tmp/x509up_u<uid> names a file"
    try:
        facts = read_proxy(path)
    except ProxyUnreadable as exc:
        return _ask_tools(path, str(exc), at_start, time.time() if now is None else now, run or run_tool)
    return judge(facts, path, at_start=at_start, now=time.time() if now is None else now)


def judge(facts: ProxyFacts, path: str, *, at_start: bool, now: float) -> tuple[int, str]:
    """Apply the rules to what a proxy file says; see ``verify_proxy``."""
    if not facts.has_key:
        return NOPROXY, f"{path} has no private key"
    if facts.begins > now + GRACE:
        return NOPROXY, f"the proxy {path} is valid from {_day(facts.begins)} only; is this node's clock right?"
    hours = START_HOURS if at_start else RUNNING_HOURS
    need = hours * 3600 - GRACE
    left = facts.ends - now
    if left <= 0 or (left < need and not at_start):
        return EXPIRED, f"the certificate of {path} {_ends(facts.ends, now)}{'' if left <= 0 else _needed(hours)}"
    if facts.voms_ends is None:
        return NOVOMSPROXY, f"the proxy {path} has no VOMS attributes"
    voms_left = facts.voms_ends - now
    if voms_left < need and not at_start:
        return ABOUT_TO_EXPIRE, f"the VOMS attributes of {path} {_end(facts.voms_ends, now)}{_needed(hours)}"
    if voms_left <= 0:
        return NOVOMSPROXY, f"the VOMS attributes of {path} {_end(facts.voms_ends, now)}"
    if min(left, voms_left) < need:
        return TOO_SHORT, f"the proxy {path} {_ends(min(facts.ends, facts.voms_ends), now)}{_needed(hours)}"
    return 0, ""


def _day(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(when))


def _ends(when: float, now: float) -> str:
    return f"has ended at {_day(when)}" if when <= now else f"ends in {(when - now) / 3600:.1f} h, at {_day(when)}"


def _end(when: float, now: float) -> str:
    return _ends(when, now).replace("has ended", "have ended").replace("ends", "end")


def _needed(hours: int) -> str:
    return f"; {hours} h are needed (20 min may lack)"


# --- roles ------------------------------------------------------------------------------------------------------------


def get_voms_role(role: str = "production") -> str:
    """Return the role that is asked for: of the pilot itself (``production``), or of a user's payload."""
    return "atlas:/atlas/Role=production" if role == "production" else "atlas"


def getproxy_dictionary(voms_role: str) -> dict[str, str]:
    """Return the parameters of getProxy."""
    return {"role": voms_role, "dn": "atlpilo2"} if voms_role == "atlas" else {"role": voms_role}


# --- commands of the middleware ---------------------------------------------------------------------------------------


def _ask_tools(path: str, reason: str, at_start: bool, now: float, run: RunTool) -> tuple[int, str]:
    """Judge by what arcproxy or voms-proxy-info say of a file that cannot be read here."""
    unreadable = NOPROXY, f"the proxy {path} cannot be used: {reason}"
    if not os.path.isfile(path):
        return unreadable
    environ = {**os.environ, "X509_USER_PROXY": path}
    answer = run(["arcproxy", "-i", "validityEnd", "-i", "validityLeft", "-i", "vomsACvalidityEnd", "-i",
                  "vomsACvalidityLeft"], environ)
    if answer is not None:
        return interpret_arcproxy(answer, path, at_start=at_start, now=now)
    answer = run(["voms-proxy-info", "-actimeleft", "-timeleft", "--file", path], environ)
    if answer is None:
        return unreadable
    return _interpret_lines(answer, path, at_start, now, left_only=True)


def interpret_arcproxy(answer: ToolAnswer, path: str, *, at_start: bool, now: float) -> tuple[int, str]:
    """Return (code, text) of arcproxy's answer: four lines, end and seconds left of certificate and VOMS attributes."""
    if "error while loading shared libraries" in answer.stderr:
        return 0, "arcproxy does not work here (1381 ARCPROXYLIBFAILURE): not verified"
    if "Unable to verify signature! Server certificate possibly not installed" in answer.stdout + answer.stderr:
        return 0, "arcproxy cannot verify the signature of the VOMS server: not verified"
    if answer.code and "arcproxy:" in answer.stdout:
        return ARC_FAILURE, f"arcproxy: {answer.stdout.strip()[:200]}"
    return _interpret_lines(answer, path, at_start, now, left_only=False)


def _interpret_lines(answer: ToolAnswer, path: str, at_start: bool, now: float, *, left_only: bool) -> tuple[int, str]:
    if answer.code:
        return NOVOMSPROXY, f"{path}: {(answer.stderr or answer.stdout).strip()[:200] or f'exit code {answer.code}'}"
    numbers = [_seconds(line) for line in answer.stdout.splitlines() if line.strip()]
    wanted = 2 if left_only else 4
    if len(numbers) < wanted or None in numbers[:wanted]:
        return GENERAL, f"what was said about {path} cannot be understood: {answer.stdout.strip()[:200]!r}"
    values = [float(number or 0) for number in numbers]
    voms, certificate = (now + values[0], now + values[1]) if left_only else (values[2], values[0])
    facts = ProxyFacts(0.0, certificate, voms, (), has_key=True)
    return judge(facts, path, at_start=at_start, now=now)


def _seconds(text: str) -> Optional[float]:
    """Return a number, or HH:MM:SS in s."""
    match = re.fullmatch(r"(\d+):(\d\d):(\d\d)", text.strip())
    if match:
        hours, minutes, seconds = map(int, match.groups())
        return float(hours * 3600 + minutes * 60 + seconds)
    try:
        return float(text)
    except ValueError:
        return None


def run_tool(argv: list[str], environ: Mapping[str, str]) -> Optional[ToolAnswer]:
    """Run a command within 60 s; None = there is none, or it does not answer."""
    from pilot.util.cancel import CancelToken
    from pilot.util.command import run_command

    try:
        done = run_command(argv, env=environ, cwd=Path("/"), token=CancelToken(), timeout=_TOOL_TIME)
    except OSError:
        return None
    return None if done.timed_out else ToolAnswer(done.code, done.stdout, done.stderr)
