"""The errors of one job: a list with ranks, not one field that the last writer overwrites.

The list keeps the order of time for the log; what is reported is the entry with the lowest rank (see the table), ties
go to the older one. So a secondary error (the log could not be stored either) never hides the root cause.
"""

from __future__ import annotations

from collections.abc import Iterator
from threading import Lock
from typing import NamedTuple

from pilot.common.errorcodes import ERROR_TABLE, format_diagnosis

STAGE_OUT_RANK = 9
"""Rank of what goes wrong in stage-out or with the log, also of codes that elsewhere mean a lost input (1103, 1242)."""

# These count as 'output missing' when the payload itself succeeded: then they are the root cause.
_RANK_OF_STAGE_OUT_AFTER_SUCCESS = 7


class JobError(NamedTuple):
    """One error: code, complete diagnosis (default text first) and a rank that overrides the table's, if any."""

    code: int
    diagnosis: str
    rank: int | None = None


class ErrorList:
    """Errors of one job in the order of time. Safe to use from several threads."""

    def __init__(self) -> None:
        self._errors: list[JobError] = []
        self._lock = Lock()

    def add(self, code: int, detail: str = "", *, rank: int | None = None) -> bool:
        """Append an error; a code that is already present keeps its first text.

        Args:
            code: pilot error code.
            detail: what happened; the default text of the code is put in front.
            rank: overrides the table's rank, e.g. for a secondary use of a code.

        Returns:
            True when the code is new.
        """
        with self._lock:
            if any(error.code == code for error in self._errors):
                return False
            self._errors.append(JobError(code, format_diagnosis(code, detail), rank))
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

    @staticmethod
    def _rank(error: JobError, payload_succeeded: bool) -> int:
        rank = error.rank
        if rank is None:
            entry = ERROR_TABLE.get(error.code)
            rank = entry.rank if entry else STAGE_OUT_RANK
        if rank == STAGE_OUT_RANK and payload_succeeded:
            return _RANK_OF_STAGE_OUT_AFTER_SUCCESS
        return rank

    def report(self) -> str:
        """Return the numbered list for the log, in the order of time."""
        lines = [f"{number}\t{error.code}\t{error.diagnosis}" for number, error in enumerate(self, 1)]
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
