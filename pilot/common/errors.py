"""The errors of one job: a list with ranks, not one field that the last writer overwrites.

The list keeps the order of time for the log; what is reported is the entry with the lowest rank (see the table), ties
go to the older one. So a secondary error (the log could not be stored either) never hides the root cause.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Lock
from typing import NamedTuple

from pilot.common.errorcodes import (
    DIAGNOSIS_LIMIT,
    ERROR_TABLE,
    NEVER,
    NOBODY,
    PILOT,
    format_diagnosis,
)

STAGE_OUT_RANK = 9
"""Rank of what goes wrong in stage-out or with the log, also of codes that elsewhere mean a lost input (1103, 1242)."""

# These count as 'output missing' when the payload itself succeeded: then they are the root cause.
_RANK_OF_STAGE_OUT_AFTER_SUCCESS = 7

_SIGNALS = range(1200, 1209)
_OTHERS = 5
"""Codes of other errors that are named behind the reported one."""



GENERIC = frozenset({1220, 1305, 1351})
"""Codes that only say that the payload failed: not worth naming behind one that says why."""


class JobError(NamedTuple):
    """One error: code, complete diagnosis (default text first) and a rank that overrides the table's, if any.

    ``who`` must act, ``retry`` is the advice for another attempt (``WHO`` and ``RETRY`` of the table of codes);
    ``evidence``: the rule and what it saw (file and line, counter before and after), '' when the diagnosis says it all.
    """

    code: int
    diagnosis: str
    rank: int | None = None
    who: str = ""
    retry: str = ""
    evidence: str = ""

    @property
    def advice(self) -> str:
        """``user; retry: never``; '' where the text ends with the signal's name, or nobody has to do anything."""
        silent = not self.who or self.who == NOBODY or self.code in _SIGNALS
        return "" if silent else f"{self.who}; retry: {self.retry}"


def with_remarks(diagnosis: str, remarks: Sequence[str], limit: int = DIAGNOSIS_LIMIT) -> str:
    """Return ``<diagnosis> [<remark>; <remark>]`` in at most ``limit`` characters.

    The text is worth more than a remark: the last remarks go, then the first, before a word of it does.
    """
    words = [word for word in remarks if word]
    while words and len(diagnosis) + len("; ".join(words)) + 3 > limit:
        words.pop()
    return f"{diagnosis} [{'; '.join(words)}]" if words else diagnosis


def rank_of(code: int, rank: int | None, payload_succeeded: bool) -> int:
    """Return the priority of an error, the lowest is the root cause; ``rank`` overrides that of the code's table."""
    if rank is None:
        entry = ERROR_TABLE.get(code)
        rank = entry.rank if entry else STAGE_OUT_RANK
    if rank == STAGE_OUT_RANK and payload_succeeded:
        return _RANK_OF_STAGE_OUT_AFTER_SUCCESS
    return rank


class ErrorList:
    """Errors of one job in the order of time. Safe to use from several threads."""

    def __init__(self) -> None:
        self._errors: list[JobError] = []
        self._lock = Lock()

    def add(self, code: int, detail: str = "", *, rank: int | None = None, who: str = "", retry: str = "",
            evidence: str = "") -> bool:
        """Append an error; a code that is already present keeps its first text.

        Args:
            code: pilot error code.
            detail: what happened; the default text of the code is put in front.
            rank: overrides the table's rank, e.g. for a secondary use of a code.
            who, retry: override the table's; see ``JobError``.
            evidence: see ``JobError``.

        Returns:
            True when the code is new.
        """
        with self._lock:
            if any(error.code == code for error in self._errors):
                return False
            entry = ERROR_TABLE.get(code)
            self._errors.append(JobError(
                code, format_diagnosis(code, detail), rank, who or (entry.who if entry else PILOT),
                retry or (entry.retry if entry else NEVER), evidence))
            return True

    def remove(self, code: int) -> None:
        """Remove ``code``; silently nothing when it is absent."""
        with self._lock:
            self._errors = [error for error in self._errors if error.code != code]

    def primary(self, payload_succeeded: bool = False) -> JobError | None:
        """Return the root cause, or None when there is no error."""
        with self._lock:
            errors = list(self._errors)
        if not errors:
            return None
        return min(errors, key=lambda error: self._rank(error, payload_succeeded))

    def reported(self, payload_succeeded: bool = False) -> tuple[int, str] | None:
        """Return code and diagnosis of the root cause for the server, None when there is no error.

        Behind the text, in brackets, as far as 256 characters allow: who must act, the retry advice, and the codes of
        the other errors. The server's rules look at the beginning (the default text), and the monitor's groups are as
        before: nothing in the brackets changes from job to job while the cause is the same.
        """
        primary = self.primary(payload_succeeded)
        if primary is None:
            return None
        others = [str(error.code) for error in sorted(self, key=lambda error: self._rank(error, payload_succeeded))
                  if error.code != primary.code and error.code not in GENERIC]
        words = [primary.advice, f"also {', '.join(others[:_OTHERS])}" if others else ""]
        return primary.code, with_remarks(primary.diagnosis, words)

    @staticmethod
    def _rank(error: JobError, payload_succeeded: bool) -> int:
        return rank_of(error.code, error.rank, payload_succeeded)

    def report(self) -> str:
        """Return the numbered list for the log, in the order of time."""
        lines = [f"{number}\t{error.code}\t{with_remarks(error.diagnosis, [error.advice], 10**6)}"
                 for number, error in enumerate(self, 1)]
        return "\n".join(["Nr.\tError code\tError diagnostics", *lines]) if lines else "no pilot errors were reported"

    def codes(self) -> list[int]:
        """Return the codes in the order of time."""
        return [error.code for error in self]

    def __iter__(self) -> Iterator[JobError]:
        with self._lock:
            return iter(list(self._errors))

    def __len__(self) -> int:
        return len(self._errors)

    def __bool__(self) -> bool:
        return bool(self._errors)

    def __contains__(self, code: object) -> bool:
        return any(error.code == code for error in self)
