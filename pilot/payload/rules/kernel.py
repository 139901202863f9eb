"""What the kernel did to the payload: out of memory, faults of a process, core dumps."""

from __future__ import annotations

import signal
from collections.abc import Iterable

from pilot.common.errorcodes import ELSEWHERE, MEMORY, SITE, USER, ErrorCodes
from pilot.info.diagnosis import Case, Finding, Rule

_NEAR_LIMIT = 0.95
_STEP_MB = 500
_NAME = 24


class OomKill(Rule):
    """The kernel's out-of-memory killer has struck in the payload's group. Its counter also counts when the transform
    has survived its child and ends with a code of its own."""

    name = "oom-kill"
    beside_report = True

    def look(self, case: Case) -> Iterable[Finding]:
        """1212."""
        if case.oom is not None and case.oom.new:
            evidence = f"{case.oom.file} oom_kill {case.oom.before} -> {case.oom.after}"
            text = f"the kernel killed {case.oom.new} process(es) for lack of memory"
        elif case.kernel_words:
            evidence, text = f"kernel log: {case.kernel_words}", "the kernel killed a process for lack of memory"
        else:
            return
        who, retry = memory_advice(case)
        yield Finding(ErrorCodes.PAYLOADOUTOFMEMORY, f"{case.ending}: {text}{_usage(case)}", evidence, who=who,
                      retry=retry)


class OomSuspected(Rule):
    """SIGKILL from nobody that is known, shortly after the payload stood near its limit: probably the batch system's
    or the kernel's, but that is an inference, and the text says so."""

    name = "oom-suspected"
    beside_report = True

    def look(self, case: Case) -> Iterable[Finding]:
        """1212."""
        if (case.oom is not None and case.oom.new) or case.kernel_words:
            return
        limit = case.memory_limit_kb
        if case.signal == signal.SIGKILL and limit and case.max_memory_kb >= _NEAR_LIMIT * limit:
            who, retry = memory_advice(case)
            yield Finding(
                ErrorCodes.PAYLOADOUTOFMEMORY, f"{case.ending}: inferred from the last memory sample{_usage(case)}",
                f"last sample {case.max_memory_kb} kB of {limit} kB", who=who, retry=retry)


class SegmentationFault(Rule):
    """A process of the payload used memory that is not its own."""

    name = "segmentation-fault"

    def look(self, case: Case) -> Iterable[Finding]:
        """1328."""
        if case.signal == signal.SIGSEGV:
            cause = f": {case.cause.text}" if case.cause.text else ""
            yield Finding(ErrorCodes.PAYLOADSIGSEGV, f"{case.ending}{cause}", case.cause.place or "exit code")


class UnknownInstruction(Rule):
    """The processor does not know an instruction of the payload: built for a newer one."""

    name = "illegal-instruction"

    def look(self, case: Case) -> Iterable[Finding]:
        """1388."""
        if case.signal == signal.SIGILL:
            text = f"{case.ending}: the processor lacks an instruction, or the payload jumped into data"
            yield Finding(ErrorCodes.WRONGARCHITECTURE, text, "exit code")


class CoreDump(Rule):
    """A failed payload left a core dump."""

    name = "core-dump"
    beside_report = True

    def look(self, case: Case) -> Iterable[Finding]:
        """1355."""
        if case.core_dumps:
            cause = f"; {case.cause.text}" if case.cause.text else ""
            yield Finding(ErrorCodes.COREDUMP, f"{case.ending}: {', '.join(case.core_dumps[:3])}{cause}",
                          ", ".join(case.core_dumps))


def memory_advice(case: Case) -> tuple[str, str]:
    """Return who must act and the retry advice for lack of memory.

    The site, when the limit is below what the job has asked for; else the user, with a quarter more (in steps of
    500 MB) than the limit, or than what was asked for or used when no limit is known.
    """
    limit, asked = case.memory_limit_kb / 1024, case.job.minramcount
    if limit and asked and limit < 0.98 * asked:
        return SITE, ELSEWHERE
    base = limit or max(asked, case.max_memory_kb / 1024)
    if not base:
        return USER, MEMORY
    return USER, f"with {max(1, round(base / 4 / _STEP_MB + 0.49)) * _STEP_MB} MB more"


def _usage(case: Case) -> str:
    words = [f"{case.max_memory_kb} kB used"] if case.max_memory_kb else []
    words += [f"limit {case.memory_limit_kb} kB"] if case.memory_limit_kb else []
    words += [f"resource type {case.job.resourcetype[:_NAME]}"] if case.job.resourcetype else []
    return f", {', '.join(words)}" if words else ""
