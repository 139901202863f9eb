"""Matches file names against a user's regular expression without letting it take the pilot hostage.

A pattern like ``(a+)+$`` can run for years, and Python's matcher holds the interpreter all the while: no heartbeat, no
signal. So the matching is done by a short-lived Python of its own that can be given up.
"""

from __future__ import annotations

import json
import subprocess
import sys

from pilot.common.exception import PilotException

_TIME_LIMIT = 10.0
_PROGRAM = (
    "import json,re,sys\n"
    "pattern,names=json.load(sys.stdin)\n"
    "match=re.compile(pattern).search\n"
    "json.dump([name for name in names if match(name)],sys.stdout)\n"
)


def names_matching(pattern: str, names: list[str], time_limit: float = _TIME_LIMIT) -> list[str]:
    """Return the names that ``pattern`` matches anywhere (the server attributes files with ``re.search``, so do we).

    Args:
        pattern: regular expression of an output declared as ``regex|<pattern>``.
        names: file names.
        time_limit: s after which the pattern is given up.

    Raises:
        PilotException: 1371, no regular expression, or one that takes too long.
    """
    if not names:
        return []
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _PROGRAM], input=json.dumps([pattern, names]), capture_output=True,
            text=True, timeout=time_limit, check=False)
    except subprocess.TimeoutExpired:
        raise PilotException(
            f"bad output name: matching regex|{pattern} took more than {time_limit:.0f} s; write a simpler pattern",
            code=1371) from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise PilotException(f"bad output name: regex|{pattern} is no regular expression: {reason}", code=1371)
    found = json.loads(done.stdout)
    return [name for name in found if isinstance(name, str)]
