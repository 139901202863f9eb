"""What a rule of diagnosis sees and what it says; experiments bring rules of their own (``diagnosis_rules``).

::

    Case (how the payload ended, what it wrote, what the kernel saw) ──► each Rule ──► Findings ──► job.errors

All rules are asked; the rank of the codes (``pilot.common.errorcodes``) decides which finding is reported, so no rule
has to know of another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Optional, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from pilot.info.job import Job
    from pilot.info.jobreportdata import JobReportData
    from pilot.util.oomkills import OomKills


class Line(NamedTuple):
    """A line of the payload's output: printable text (at most 4 kB), and where it stands."""

    text: str
    place: str
    """``payload.stderr line 12``; far inside a huge file ``payload.stderr byte 9876543210``."""


class PayloadOutput(Protocol):
    """stdout or stderr of the payload; it may be huge, binary, missing, or no file at all."""

    @property
    def path(self) -> Path:
        """The file."""

    def head(self, limit: int) -> str:
        """Return the first ``limit`` bytes as printable text."""

    def tail(self, limit: int) -> str:
        """Return the last ``limit`` bytes as printable text."""

    def lines(self, *needles: bytes) -> Sequence[Line]:
        """Return the lines that have one of the rule's ``needles``: of the first 4 MiB and the last 12 MiB, at most
        200 for each needle, in their order."""


class Cause(NamedTuple):
    """The words of the payload that most probably name the cause."""

    text: str
    place: str = ""


class ReportedError(NamedTuple):
    """payload_error_report.json, written by worker-node scripts: exeErrorCode and exeErrorDiag."""

    code: int
    diag: str


@dataclass(frozen=True)
class Case:
    """How a payload ended; rules only read it."""

    job: Job
    code: int
    """Exit code: 0 to 255, 128 + n for signal n."""
    signal: int
    """Signal that the exit code stands for, 0 for none; after a shell or a container it may be a guess."""
    ending: str
    """``exit code 139 (SIGSEGV: segmentation fault)``."""
    stdout: PayloadOutput
    stderr: PayloadOutput
    cause: Cause
    report: Optional[JobReportData] = None
    """The job report, where the experiment judges by it (``ReportPolicy.judges``)."""
    error_report: Optional[ReportedError] = None
    oom: Optional[OomKills] = None
    kernel_words: str = ""
    """What the kernel's log says about one of the payload's processes, if it may be read."""
    max_memory_kb: int = 0
    """Largest use that was measured, kB; 0 = unknown."""
    memory_limit_kb: int = 0
    """Limit that the pilot knows, kB; 0 = unknown."""
    core_dumps: Sequence[str] = ()
    """Names (and sizes) of core dumps in the work directory."""
    setup: bool = False
    """What ended was the set-up alone, tried before the payload."""

    @property
    def outputs(self) -> tuple[PayloadOutput, PayloadOutput]:
        """stderr and stdout, in this order."""
        return self.stderr, self.stdout


class Finding(NamedTuple):
    """Something that is wrong. ``who`` and ``retry`` override the table of codes (``WHO``, ``RETRY``)."""

    code: int
    text: str
    """What happened; the code's default text is put in front."""
    evidence: str = ""
    """Where that was seen: file and line, counter before and after."""
    rank: Optional[int] = None
    who: str = ""
    retry: str = ""


class Rule:
    """One thing that may be wrong. Override what differs; state between two calls is not kept."""

    name: str = ""
    """Short, lower case; part of the evidence."""
    needles: Sequence[bytes] = ()
    """Fixed texts that ``PayloadOutput.lines`` shall find: all rules share one pass over the files."""
    on_failure: bool = True
    """Asked when the exit code is not 0."""
    on_success: bool = False
    """Asked when the exit code is 0."""
    beside_report: bool = False
    """Asked also when the payload has reported its error itself (payload_error_report.json)."""

    def look(self, case: Case) -> Iterable[Finding]:
        """Return what this rule finds."""
        raise NotImplementedError
