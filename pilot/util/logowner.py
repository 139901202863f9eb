"""Whose log a line belongs to while the logs of two jobs grow at the same time (pipelining).

A line belongs to the job that its text begins with (``job <PandaID>: ...``), else to the job that its thread works for.
What is nobody's goes into both logs.
"""

from __future__ import annotations

import logging
from threading import local
from typing import Callable


class LogOwners:
    """The jobs that have a log, and the job that each thread works for."""

    def __init__(self) -> None:
        self.present = ""
        """The job of the pilot log."""
        self.others: frozenset[str] = frozenset()
        """Jobs that still leave, with a log of their own."""
        self._thread = local()

    def work_for(self, jobid: str) -> None:
        """Say which job this thread works for from now on; empty: none."""
        self._thread.jobid = jobid

    def for_the_same_job(self, work: Callable[[], None]) -> Callable[[], None]:
        """Return ``work`` for another thread, which then works for the same job as this one."""
        jobid = getattr(self._thread, "jobid", "")

        def run() -> None:
            self.work_for(jobid)
            work()

        return run

    def is_for(self, jobid: str, record: logging.LogRecord) -> bool:
        """True when the line belongs into the log of ``jobid`` (empty: into the pilot log)."""
        if not self.others:
            return True
        owner = self.owner(record)
        return owner == (jobid or self.present) or (owner != self.present and owner not in self.others)

    def owner(self, record: logging.LogRecord) -> str:
        """The job that the line belongs to, empty when it is nobody's. Ask in the thread that has logged it."""
        args = record.args
        if isinstance(args, tuple) and args and str(record.msg).startswith("job %s"):
            return str(args[0])
        return str(getattr(self._thread, "jobid", ""))


owners = LogOwners()
"""One for the process, as the log is."""
