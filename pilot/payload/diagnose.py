"""Names the cause of a payload's failure: pilot code and a text that a shifter can act on.

The most specific finding is reported first by rank (``pilot.common.errors``), so nothing here has to overwrite
anything: the generic code 1305 is always among the findings of a failed payload, behind whatever says more.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from pilot.common.errorcodes import DIAGNOSIS_LIMIT, ErrorCodes, message_of
from pilot.info.job import Job
from pilot.payload.cause import find_cause, meaningful_lines, shorten
from pilot.payload.exitcode import describe, normalise, signal_of
from pilot.payload.jobreport import ERROR_REPORT, read_error_report
from pilot.payload.kernel import ExitStatus
from pilot.payload.textfiles import matching_lines, printable, read_head, read_tail
from pilot.util.redact import redact

logger = logging.getLogger(__name__)

Finding = tuple[int, str]

_NEAR_LIMIT = 0.95
_STDERR_WINDOW = 256 * 1024

# Texts of container runtimes; they count only in lines that begin with the runtime's own level, because healthy
# payloads print the same words (error-codes.md 8.2).
_RUNTIME_LINE = re.compile(r"^\s*(FATAL|ERROR|WARNING)\s*:\s+(.*)$")
_RUNTIME_TEXTS = (
    ("Not mounting requested bind point", ErrorCodes.SINGULARITYBINDPOINTFAILURE),
    ("No more available loop devices", ErrorCodes.SINGULARITYNOLOOPDEVICES),
    ("Failed to mount image", ErrorCodes.SINGULARITYIMAGEMOUNTFAILURE),
    ("error: while mounting", ErrorCodes.SINGULARITYIMAGEMOUNTFAILURE),
    ("Failed invoking the NEWUSER namespace runtime", ErrorCodes.SINGULARITYNEWUSERNAMESPACE),
    ("Failed to create user namespace", ErrorCodes.SINGULARITYFAILEDUSERNAMESPACE),
    ("esource temporarily unavailable", ErrorCodes.SINGULARITYRESOURCEUNAVAILABLE),
    ("Singularity is not installed", ErrorCodes.SINGULARITYNOTINSTALLED),
    ("Apptainer is not installed", ErrorCodes.APPTAINERNOTINSTALLED),
    ("Operation not permitted", ErrorCodes.SINGULARITYGENERALFAILURE),
)
_CONTAINER_CODES = frozenset({64, 251, 255})
"""Exit codes with which a runtime ends that has not started the payload."""

_NO_SPACE = (b"No space left on device", b"Disk quota exceeded")
_IO_ERROR = (b"Input/output error",)
_MEMORY = (b"FATAL out of memory: taking the application down", b"St9bad_alloc", b"std::bad_alloc")
_NEEDLES = (*_NO_SPACE, *_IO_ERROR, *_MEMORY)

# A write that failed, as coreutils, ROOT and Python say it. A read error that the payload survived, or a directory that
# it could not make and did without, is none.
_WRITE_FAILED = re.compile(rb"\bwrit(?:e|ing)|flush|\bclos(?:e|ing)|f(?:data)?sync|\[Errno (?:28|122)\]", re.IGNORECASE)
_WRITE_FAILED_EIO = re.compile(rb"\bwrit(?:e|ing)|flush|\bclos(?:e|ing)|f(?:data)?sync", re.IGNORECASE)

FINDING_RANKS = {ErrorCodes.NOLOCALSPACE: 6}
"""Ranks (``ErrorList.add``) of codes that mean less in the payload's words than in a monitor's (error-codes.md 7)."""

_OUR_SHELL = re.compile(r"^(?:/bin/)?bash: line \d+: (.*): (command not found|No such file or directory)$")


class Evidence(NamedTuple):
    """What the monitors know of the payload's end.

    ``oom_kills``: kills by the kernel's out-of-memory killer in the payload's group above the base line of its start.
    ``max_memory_kb``, ``memory_limit_kb``: largest measured use and known limit (kB), 0 when unknown.
    ``killed_by_pilot``: the pilot ended the payload, for a reason that stands in the job's errors.
    ``error_report``: name of the file in which the payload may report its error.
    """

    oom_kills: int = 0
    max_memory_kb: int = 0
    memory_limit_kb: int = 0
    killed_by_pilot: bool = False
    error_report: str = ERROR_REPORT


def diagnose(
    job: Job, status: ExitStatus | int, stdout: Path, stderr: Path, evidence: Evidence | None = None
) -> list[Finding]:
    """Return (pilot code, detail) of everything that is wrong with the payload's end; empty for success.

    Sets ``job.exe_error_code`` and ``job.exe_error_diag`` when the payload has left ``payload_error_report.json``: then
    its own words are the diagnosis. Files may be huge, binary or missing (a payload may remove its work directory).

    Args:
        job: the job, with its work directory.
        status: how the process ended, or its exit code (-n counts as 128 + n).
        stdout, stderr: the payload's output.
        evidence: what the monitors know.
    """
    evidence = evidence or Evidence()
    code = normalise(status if isinstance(status, int) else status.code)
    report = read_error_report(job.workdir, evidence.error_report)
    if report is not None:
        job.exe_error_code = report.code
        job.exe_error_diag = redact(printable(report.diag)).strip()
        text = job.exe_error_diag or f"error {report.code} reported by the payload"
        return [_finding(ErrorCodes.PAYLOADEXECUTIONFAILURE, text if code == 0 else f"{describe(code)}: {text}")]
    if code == 0:
        return _hidden_failures(stdout, stderr)
    if evidence.killed_by_pilot or (job.cancel.cancelled and signal_of(code) in (signal.SIGTERM, signal.SIGKILL)):
        return [_finding(ErrorCodes.PAYLOADEXECUTIONFAILURE, f"{describe(code)}: the pilot ended the payload")]
    findings = [*_container_findings(code, stderr), *_signal_findings(code, evidence)]
    findings += _text_findings(code, stdout, stderr)
    cause = find_cause(stdout, stderr) or _silence(job, stdout, stderr)
    findings.extend(_cause_findings(code, cause))
    findings.append(_finding(ErrorCodes.PAYLOADEXECUTIONFAILURE, f"{describe(code)}: {_remark(code)}{cause}"))
    return findings


def find_core_dumps(workdir: Path, *, remove: bool) -> list[str]:
    """Return the names of core dumps in the work directory, and remove them unless they are wanted (debug mode).

    A core dump is a regular file ``core`` or ``core.*`` with the ELF type 'core': a user's file of that name stays. For
    a failed payload the caller adds COREDUMP 1355.
    """
    found = []
    try:
        names = sorted(os.listdir(workdir))
    except OSError:
        return []
    for name in names:
        path = workdir / name
        if (name == "core" or name.startswith("core.")) and not path.is_symlink() and _is_core(read_head(path, 18)):
            found.append(name)
            if remove:
                try:
                    path.unlink()
                except OSError as error:
                    logger.warning("cannot remove the core dump %s: %s", name, error.strerror)
    return found


def _is_core(head: bytes) -> bool:
    """True for the first bytes of an ELF file of type ET_CORE (4)."""
    if len(head) < 18 or not head.startswith(b"\x7fELF"):
        return False
    (kind,) = struct.unpack_from(">H" if head[5] == 2 else "<H", head, 16)
    return bool(kind == 4)


def _finding(code: int, detail: str) -> Finding:
    """Return a finding whose text keeps its beginning within the limit of a diagnosis, without secrets."""
    room = DIAGNOSIS_LIMIT - len(message_of(code)) - 2
    return code, shorten(" ".join(redact(printable(detail)).split()), room)


def _hidden_failures(stdout: Path, stderr: Path) -> list[Finding]:
    """Return write errors of a payload that ended with exit code 0: its outputs are truncated (incident i).

    Conservative: only lines that say that *writing* failed because of space, quota or an I/O error count, and a
    container runtime's FATAL line only when it is the last thing that was said.
    """
    for path in (stderr, stdout):
        for line in matching_lines(path, (*_NO_SPACE, *_IO_ERROR)):
            text = f"exit code 0, but a write failed: {printable(line).strip()}"
            if any(needle in line for needle in _NO_SPACE) and _WRITE_FAILED.search(line):
                return [_finding(ErrorCodes.NOLOCALSPACE, text)]
            if any(needle in line for needle in _IO_ERROR) and _WRITE_FAILED_EIO.search(line):
                return [_finding(ErrorCodes.PAYLOADEXECUTIONFAILURE, text)]
    last = meaningful_lines(printable(read_tail(stderr, 4096)))[-1:]
    return _runtime_findings(0, [line for line in last if line.startswith("FATAL")])


def _container_findings(code: int, stderr: Path) -> list[Finding]:
    """Return what the container runtime says about a payload that it could not run."""
    head, tail = read_head(stderr, _STDERR_WINDOW), read_tail(stderr, _STDERR_WINDOW)
    text = printable(head) if len(head) < _STDERR_WINDOW else printable(head) + "\n" + printable(tail)
    return _runtime_findings(code, text.split("\n"))


def _runtime_findings(code: int, lines: Iterable[str]) -> list[Finding]:
    for line in lines:
        match = _RUNTIME_LINE.match(line)
        if not match:
            continue
        level, message = match.groups()
        # A runtime's warning explains an end only when it is the runtime that gave up.
        if level != "FATAL" and code not in _CONTAINER_CODES:
            continue
        for text, pilot_code in _RUNTIME_TEXTS:
            if text in message:
                return [_finding(pilot_code, f"{describe(code)}: {message}")]
        if code == 64 and "cannot create directory" in message:
            return [_finding(ErrorCodes.MKDIR, f"{describe(code)}: {message}")]
    return []


def _signal_findings(code: int, evidence: Evidence) -> list[Finding]:
    """Return what the signal and the kernel's evidence say; an out-of-memory kill counts whatever the exit code is,
    since a transform may survive its child."""
    number = signal_of(code)
    usage = f"{evidence.max_memory_kb} kB used" + (
        f", limit {evidence.memory_limit_kb} kB" if evidence.memory_limit_kb else ""
    )
    if evidence.oom_kills > 0:
        text = f"{describe(code)}: the kernel killed {evidence.oom_kills} process(es) for lack of memory, {usage}"
        return [_finding(ErrorCodes.PAYLOADOUTOFMEMORY, text)]
    if number == signal.SIGSEGV:
        return [_finding(ErrorCodes.PAYLOADSIGSEGV, describe(code))]
    limit = evidence.memory_limit_kb
    if number == signal.SIGKILL and limit and evidence.max_memory_kb >= _NEAR_LIMIT * limit:
        text = f"{describe(code)}: inferred from the last memory sample, {usage}"
        return [_finding(ErrorCodes.PAYLOADOUTOFMEMORY, text)]
    return []


def _text_findings(code: int, stdout: Path, stderr: Path) -> list[Finding]:
    """Return what known messages in the output of a failed payload say, each code once."""
    found: dict[int, Finding] = {}
    for path in (stderr, stdout):
        for line in matching_lines(path, _NEEDLES):
            text = printable(line).strip()
            if any(needle in line for needle in _MEMORY):
                pilot_code = ErrorCodes.PAYLOADOUTOFMEMORY
            elif any(needle in line for needle in _NO_SPACE):
                pilot_code = ErrorCodes.NOLOCALSPACE
            else:
                continue
            found.setdefault(pilot_code, _finding(pilot_code, f"{describe(code)}: {text}"))
    return list(found.values())


def _cause_findings(code: int, cause: str) -> list[Finding]:
    """Return the codes that stand for what the cause line says."""
    match = _OUR_SHELL.match(cause)
    if code == 127 and match:
        return [_finding(ErrorCodes.TRANSFORMNOTFOUND, f"{describe(code)}: {cause}")]
    if code == 2 and "unrecognized arguments" in cause:
        return [_finding(ErrorCodes.UNRECOGNIZEDTRFARGUMENTS, f"{describe(code)}: {cause}")]
    if "SL5 is unsupported" in cause:
        return [_finding(ErrorCodes.UNSUPPORTEDSL5OS, f"{describe(code)}: {cause}")]
    return []


def _remark(code: int) -> str:
    """Return what a signal from outside means."""
    number = signal_of(code)
    if number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        return "an unknown hand (not the pilot) sent the signal; last words: "
    return ""


def _silence(job: Job, stdout: Path, stderr: Path) -> str:
    """Return why there is no text to quote."""
    missing = [path.name for path in (stdout, stderr) if not path.exists()]
    if not job.workdir.is_dir():
        return "no output to quote, the payload removed its work directory"
    if missing:
        return f"no output to quote, {' and '.join(missing)} is missing"
    return "nothing was written to stdout or stderr"


def primary_text(findings: Sequence[Finding]) -> str:
    """Return the findings as one log line."""
    return "; ".join(f"{code} {message_of(code)}: {text}" for code, text in findings)
