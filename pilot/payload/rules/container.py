"""What a container runtime, or the shell in its place, says about a payload that it could not start.

Healthy payloads print the same words, so only lines count that begin with the runtime's own level (error codes 8.2).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from pilot.common.errorcodes import RELEASE, SITE, ErrorCodes
from pilot.info.diagnosis import Case, Finding, Rule

_LINE = re.compile(r"^\s*(FATAL|ERROR|WARNING|Error)\s*:\s+(.*)$")
_CODES = frozenset({64, 125, 251, 255})
"""Exit codes with which a runtime ends that has not started the payload (125: podman, docker)."""

_TEXTS = (
    ("Not mounting requested bind point", ErrorCodes.SINGULARITYBINDPOINTFAILURE),
    ("No more available loop devices", ErrorCodes.SINGULARITYNOLOOPDEVICES),
    ("no loop devices available", ErrorCodes.SINGULARITYNOLOOPDEVICES),
    ("Failed to mount image", ErrorCodes.SINGULARITYIMAGEMOUNTFAILURE),
    ("failed to mount image", ErrorCodes.SINGULARITYIMAGEMOUNTFAILURE),
    ("error: while mounting", ErrorCodes.SINGULARITYIMAGEMOUNTFAILURE),
    ("Failed invoking the NEWUSER namespace runtime", ErrorCodes.SINGULARITYNEWUSERNAMESPACE),
    ("Failed to create user namespace", ErrorCodes.SINGULARITYFAILEDUSERNAMESPACE),
    ("esource temporarily unavailable", ErrorCodes.SINGULARITYRESOURCEUNAVAILABLE),
    ("Singularity is not installed", ErrorCodes.SINGULARITYNOTINSTALLED),
    ("Apptainer is not installed", ErrorCodes.APPTAINERNOTINSTALLED),
    ("General payload setup verification error", ErrorCodes.SETUPFAILURE),
    ("could not open image", ErrorCodes.IMAGENOTFOUND),
    ("executable file not found in", ErrorCodes.TRANSFORMNOTFOUND),
    ("Operation not permitted", ErrorCodes.SINGULARITYGENERALFAILURE),
)
_LAST_LINES = 5
_OUR_SHELL = re.compile(r"^(?:/bin/)?bash: line \d+: (.*): (command not found|No such file or directory)$")
_NO_RUNTIME = {
    "singularity": ErrorCodes.SINGULARITYNOTINSTALLED, "apptainer": ErrorCodes.APPTAINERNOTINSTALLED,
}


class ContainerRuntime(Rule):
    """A known message of the runtime: a FATAL one with any exit code, others only when it is the runtime that gave up.
    With exit code 0 a FATAL line counts when it is the last thing that was said."""

    name = "container-runtime"
    needles = tuple(dict.fromkeys([*(text.encode() for text, _ in _TEXTS), b"cannot create directory"]))
    on_success = True

    def look(self, case: Case) -> Iterable[Finding]:
        """1306 to 1309, 1325, 1340, 1345, 1346, 1348, 1360, 1372, 1110, 1199."""
        if case.code == 0:
            last = [line.strip() for line in case.stderr.tail(4096).split("\n") if line.strip()][-1:]
            if not (last and last[0].startswith("FATAL")):
                return
        else:
            last = []
        for line in case.stderr.lines(*self.needles):
            match = _LINE.match(line.text)
            if not match or (last and line.text != last[0]):
                continue
            level, message = match.groups()
            if level != "FATAL" and case.code not in _CODES:
                continue
            for text, code in _TEXTS:
                if text in message:
                    yield Finding(code, f"{case.ending}: {message}", line.place)
                    return
            if case.code == 64 and "cannot create directory" in message:
                yield Finding(ErrorCodes.MKDIR, f"{case.ending}: {message}", line.place)
                return


class CommandNotFound(Rule):
    """The shell that the pilot has started knows no such command; what a script of the user lacks is the user's."""

    name = "command-not-found"

    def look(self, case: Case) -> Iterable[Finding]:
        """1346; 1325 or 1372 for the container runtime itself."""
        if case.code != 127:
            return
        match = _OUR_SHELL.match(case.cause.text)
        if match:
            runtime = _NO_RUNTIME.get(match.group(1).rsplit("/", 1)[-1])
            code = runtime or ErrorCodes.TRANSFORMNOTFOUND
            yield Finding(code, f"{case.ending}: {case.cause.text}", case.cause.place,
                          who=SITE if runtime else "" if case.job.is_analysis else RELEASE)


class ContainerLastWords(Rule):
    """The runtime has given up with words that nobody knows."""

    name = "container-last-words"

    def look(self, case: Case) -> Iterable[Finding]:
        """1351."""
        if case.code not in _CODES:
            return
        lines = [line.strip() for line in case.stderr.tail(16384).split("\n") if line.strip()]
        for line in reversed(lines[-_LAST_LINES:]):
            match = _LINE.match(line)
            if match and match.group(1) == "FATAL":
                yield Finding(ErrorCodes.UNRECOGNIZEDTRFSTDERR, f"{case.ending}: {match.group(2)}",
                              f"end of {case.stderr.path.name}")
                return
