"""Texts in what the payload wrote that have a code of their own (payload document 14.2, for every experiment)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Optional

from pilot.common.errorcodes import ELSEWHERE, RELEASE, SAME, SITE, STORAGE, ErrorCodes
from pilot.info.diagnosis import Case, Finding, Line, Rule
from pilot.payload.reporterror import NO_TARBALL, runs_scripts
from pilot.payload.rules.kernel import memory_advice

NO_SPACE = (b"No space left on device", b"Disk quota exceeded")
_IO_ERROR = (b"Input/output error",)
_PAYLOADS_RANK = 6
"""Rank of 1098 in the payload's words: less than in a monitor's (error codes 7)."""

# A write that failed, as coreutils, ROOT and Python say it. A read error that the payload survived, or a directory that
# it could not make and did without, is none.
_WRITE_FAILED_EIO = re.compile(r"\bwrit(?:e|ing)|flush|\bclos(?:e|ing)|f(?:data)?sync", re.IGNORECASE)
_WRITE_FAILED = re.compile(rf"{_WRITE_FAILED_EIO.pattern}|\[Errno (?:28|122)\]", re.IGNORECASE)
_URL = re.compile(r"https?://\S.*$", re.MULTILINE)
_SYSTEM = re.compile(r"GLIBC(?:XX)?_[\d.]+['`\"]? not found|cannot execute binary file|[Ee]xec format error")


class TextRule(Rule):
    """A fixed text, in stderr or stdout."""

    code = 0
    who = ""
    retry = ""
    rank: Optional[int] = None
    in_stderr = True
    in_stdout = True

    def fits(self, case: Case, line: Line) -> bool:
        """False for a line that has the text but means something else."""
        return True

    def look(self, case: Case) -> Iterable[Finding]:
        """The first line that fits."""
        for output, wanted in zip(case.outputs, (self.in_stderr, self.in_stdout)):
            for line in output.lines(*self.needles) if wanted else ():
                if self.fits(case, line):
                    yield self.finding(case, line)
                    return

    def finding(self, case: Case, line: Line) -> Finding:
        """What the line means."""
        return Finding(self.code, f"{case.ending}: {line.text}", line.place, self.rank, self.who, self.retry)


class OutOfMemoryText(TextRule):
    """The program itself says that it got no more memory."""

    name = "text-out-of-memory"
    code = ErrorCodes.PAYLOADOUTOFMEMORY
    needles = (b"FATAL out of memory: taking the application down", b"St9bad_alloc", b"std::bad_alloc", b"MemoryError")

    def fits(self, case: Case, line: Line) -> bool:
        """Python's exception counts as the last line of a traceback only."""
        return "bad_alloc" in line.text or "FATAL" in line.text or bool(
            re.match(r"(?:\w+\.)*_?(?:Array)?MemoryError(?::|$)", line.text))

    def finding(self, case: Case, line: Line) -> Finding:
        """With the amount of memory that may help."""
        who, retry = memory_advice(case)
        return super().finding(case, line)._replace(who=who, retry=retry)


class NoSpace(TextRule):
    """The local disk, or the quota on it, is used up."""

    name = "text-no-space"
    code = ErrorCodes.NOLOCALSPACE
    rank = _PAYLOADS_RANK
    needles = NO_SPACE


class WriteFailed(Rule):
    """A payload that ended well has said that writing failed: its outputs are truncated (incident i).

    Conservative: only lines that say that *writing* failed because of space, quota or an I/O error count.
    """

    name = "text-write-failed"
    needles = (*NO_SPACE, *_IO_ERROR)
    on_failure = False
    on_success = True

    def look(self, case: Case) -> Iterable[Finding]:
        """1098, or 1305 for an I/O error."""
        for output in case.outputs:
            for line in output.lines(*self.needles):
                full = any(needle.decode() in line.text for needle in NO_SPACE)
                text = f"exit code 0, but a write failed: {line.text}"
                if full and _WRITE_FAILED.search(line.text):
                    yield Finding(ErrorCodes.NOLOCALSPACE, text, line.place, _PAYLOADS_RANK)
                    return
                if not full and _WRITE_FAILED_EIO.search(line.text):
                    yield Finding(ErrorCodes.PAYLOADEXECUTIONFAILURE, text, line.place, who=SITE, retry=ELSEWHERE)
                    return


class SqliteLocks(TextRule):
    """SQLite on NFS."""

    name = "text-sqlite"
    code = ErrorCodes.NFSSQLITE
    needles = (b"prepare 5 database is locked", b"Error SQLiteStatement")
    in_stderr = False


class MissingUserCode(TextRule):
    """The worker-node script could not fetch the user's sandbox."""

    name = "text-user-code"
    code = ErrorCodes.MISSINGUSERCODE
    needles = (b"ERROR: unable to fetch source tarball from web",)
    in_stderr = False


class UserTarball(Rule):
    """Worker-node scripts before 2025 end with 146 when the sandbox cannot be downloaded; job reports have it, too."""

    name = "user-tarball"
    on_success = True

    def look(self, case: Case) -> Iterable[Finding]:
        """1246."""
        reported = case.report is not None and case.report.exit_code == NO_TARBALL
        if not runs_scripts(case.job) or not (reported or case.code == NO_TARBALL):
            return
        urls: Sequence[str] = _URL.findall(case.stdout.tail(20_000))
        url = f"{urls[0].strip()} " if urls else ""
        yield Finding(ErrorCodes.NOUSERTARBALL, f"User tarball {url}cannot be downloaded from PanDA server",
                      "exitCode 146 of the job report" if reported else "exit code 146")


class UnrecognizedArguments(TextRule):
    """argparse does not know an option: the job parameters do not fit the transform."""

    name = "text-arguments"
    code = ErrorCodes.UNRECOGNIZEDTRFARGUMENTS
    needles = (b"unrecognized arguments",)
    in_stdout = False

    def fits(self, case: Case, line: Line) -> bool:
        """Only as the reason of the end: argparse ends with 2."""
        return case.code == 2 and "unrecognized arguments" in case.cause.text


class UnsupportedSystem(TextRule):
    """asetup refuses an old operating system."""

    name = "text-sl5"
    code = ErrorCodes.UNSUPPORTEDSL5OS
    needles = (b"SL5 is unsupported",)


class WrongArchitecture(TextRule):
    """Programs or libraries that were built for another system than the node's (P1: 1248 and 221)."""

    name = "text-architecture"
    code = ErrorCodes.WRONGARCHITECTURE
    needles = (b"GLIBC", b"cannot execute binary file", b"xec format error")

    def fits(self, case: Case, line: Line) -> bool:
        """GLIBC is in many a harmless line."""
        return bool(_SYSTEM.search(line.text))


# What the small code of a worker-node script (exeErrorCode modulo 100) says: who must act, what to try.
_SCRIPT_ERRORS = {
    2: (RELEASE, ELSEWHERE), 3: ("", SAME), 4: (RELEASE, ELSEWHERE), 5: (SITE, ELSEWHERE), 7: (STORAGE, ELSEWHERE),
    8: (STORAGE, ELSEWHERE), 10: (SITE, ELSEWHERE), 11: (SITE, SAME), 20: (SITE, SAME),
}


def script_advice(code: int) -> tuple[str, str]:
    """Return who must act and the retry advice for an exeErrorCode of worker-node scripts (5101 to 5721), '' for the
    table's."""
    return _SCRIPT_ERRORS.get(code % 100, ("", "")) if 5100 < code < 5800 else ("", "")
