"""Names the cause of a payload's failure: pilot codes, and texts that a shifter can act on.

The rules are in ``pilot.payload.rules``; several may match, and the rank of the codes decides which is reported
(``pilot.common.errors``): the generic code 1305 is always among the findings of a failed payload, behind whatever says
more.
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from pilot.common.errorcodes import DIAGNOSIS_LIMIT, ErrorCodes, message_of
from pilot.info.diagnosis import Case, Cause, Finding, ReportedError, Rule
from pilot.info.job import Job
from pilot.info.jobreportdata import JobReportData
from pilot.payload.cause import cause_of, shorten
from pilot.payload.exitcode import describe, normalise, signal_of
from pilot.payload.jobreport import ERROR_REPORT, read_error_report
from pilot.payload.kernel import ExitStatus
from pilot.payload.rules import RULES
from pilot.payload.search import SearchedOutput
from pilot.payload.textfiles import printable, read_head
from pilot.util.oomkills import OomKills
from pilot.util.redact import redact

_ADVICE_ROOM = 34
"""Characters behind a quotation for who must act and the retry advice (ErrorList.reported)."""

logger = logging.getLogger(__name__)

_EVIDENCE_LIMIT = 500


class Evidence(NamedTuple):
    """What is known of the payload's end beside its exit code and its words; see ``pilot.info.diagnosis.Case``.

    ``killed_by_pilot``: the pilot ended the payload, for a reason that stands in the job's errors.
    ``error_file``: name of the file in which the payload may report its error.
    """

    oom: OomKills | None = None
    kernel_words: str = ""
    max_memory_kb: int = 0
    memory_limit_kb: int = 0
    killed_by_pilot: bool = False
    error_file: str = ERROR_REPORT
    report: JobReportData | None = None
    core_dumps: Sequence[str] = ()
    setup: bool = False


def diagnose(
    job: Job, status: ExitStatus | int, stdout: Path, stderr: Path, evidence: Evidence | None = None,
    more_rules: Sequence[Rule] = (),
) -> list[Finding]:
    """Return everything that is wrong with the payload's end; empty for success.

    Sets ``job.exe_error_code`` and ``job.exe_error_diag`` when the payload has left ``payload_error_report.json``: then
    its own words are the diagnosis, beside what the kernel has seen. Files may be huge, binary or missing (a payload
    may remove its work directory).

    Args:
        job: the job, with its work directory.
        status: how the process ended, or its exit code (-n counts as 128 + n).
        stdout, stderr: the payload's output.
        evidence: what else is known.
        more_rules: the experiment's own, asked before those of every payload.
    """
    evidence = evidence or Evidence()
    code = normalise(status if isinstance(status, int) else status.code)
    if code != 0 and evidence.killed_by_pilot:
        return [_presentable(Finding(
            ErrorCodes.PAYLOADEXECUTIONFAILURE, f"{describe(code)}: the pilot ended the payload"), "killed-by-pilot")]
    report = read_error_report(job.workdir, evidence.error_file)
    error = None
    if report is not None:
        job.exe_error_code, job.exe_error_diag = report.code, redact(printable(report.diag)).strip()
        error = ReportedError(report.code, job.exe_error_diag)
    rules = [rule for rule in (*more_rules, *RULES)
             if (rule.on_failure if code else rule.on_success) and (error is None or rule.beside_report)]
    needles = [needle for rule in rules for needle in rule.needles]
    cause = Cause("")
    if code and error is None:
        cause = cause_of(stdout, stderr)
        cause = cause if cause.text else Cause(_silence(job, stdout, stderr))
    number = signal_of(code)
    case = Case(
        job=job, code=code, signal=int(number or 0), ending=describe(code), stdout=SearchedOutput(stdout, needles),
        stderr=SearchedOutput(stderr, needles), cause=cause, report=evidence.report, error_report=error,
        oom=evidence.oom, kernel_words=evidence.kernel_words, max_memory_kb=evidence.max_memory_kb,
        memory_limit_kb=evidence.memory_limit_kb, core_dumps=evidence.core_dumps, setup=evidence.setup)
    return _ask(rules, case)


def _ask(rules: Iterable[Rule], case: Case) -> list[Finding]:
    """Return what all rules find, each code once. A rule with a fault costs its own finding, never the verdict."""
    found: dict[int, Finding] = {}
    for rule in rules:
        name = rule.name or type(rule).__name__
        try:
            for finding in rule.look(case):
                found.setdefault(finding.code, _presentable(finding, name))
        except Exception:
            logger.exception("the diagnosis by rule %s failed; the others go on", name)
    if case.code and not found:
        found[0] = _presentable(Finding(ErrorCodes.PAYLOADEXECUTIONFAILURE, case.ending), "exit-code")
    return list(found.values())


def _presentable(finding: Finding, rule: str) -> Finding:
    """Return a finding whose text keeps both ends within the limit of a diagnosis, without secrets; the rule is named
    in the evidence."""
    room = DIAGNOSIS_LIMIT - len(message_of(finding.code)) - 2 - _ADVICE_ROOM
    text = shorten(" ".join(redact(printable(finding.text)).split()), room)
    seen = " ".join(redact(printable(finding.evidence)).split())
    return finding._replace(text=text, evidence=shorten(f"rule {rule}{': ' + seen if seen else ''}", _EVIDENCE_LIMIT))


def find_core_dumps(workdir: Path, *, remove: bool) -> list[str]:
    """Return the names of core dumps in the work directory, and remove them unless they are wanted.

    A core dump is a regular file ``core`` or ``core.*`` with the ELF type 'core': a user's file of that name stays.
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


def _silence(job: Job, stdout: Path, stderr: Path) -> str:
    """Return why there is no text to quote."""
    missing = [path.name for path in (stdout, stderr) if not path.exists()]
    if not job.workdir.is_dir():
        return "no output to quote, the payload removed its work directory"
    if missing:
        return f"no output to quote, {' and '.join(missing)} is missing"
    return "nothing was written to stdout or stderr"
