"""May the pilot ask for (another) job? The counting rules as a small object without I/O.

Source: options ``-v`` and ``-x``, queuedata ``timefloor``, section 'Job retrieval loop' of the control document. Only
answers count: a server that cannot be reached has a patience of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

_HARVESTER_REQUESTS = 60
_PUSH_FAILURES = 12
_DEFAULT_FAILURES = 5
_HPC_FAILURES = 5


@dataclass
class RetrievalLimits:
    """Counts requests and failures.

    ``max_requests``: getJob requests since the last job (-v); ``max_failures``: unsuccessful answers over the pilot's
    life (-x); ``timefloor``: s since the start of retrieval in which further jobs may be taken, 0 = one job only.
    """

    max_requests: int
    max_failures: int
    timefloor: float = 0.0
    requests: int = 0
    failures: int = 0
    jobs: int = 0

    unreachable: bool = field(default=False)
    """True when the last failure was a server that could not be reached."""

    @classmethod
    def from_options(
        cls, requests: int, failures: int, *, harvester: bool, push: bool, timefloor: float
    ) -> RetrievalLimits:
        """Apply the special rules: 60 requests in Harvester mode, 12 failures for push with the default of 5."""
        if harvester:
            requests = _HARVESTER_REQUESTS
        if push and failures == _DEFAULT_FAILURES:
            failures = _PUSH_FAILURES
        return cls(requests, failures, timefloor)

    def refusal(self, elapsed: float) -> Optional[str]:
        """Return why no (further) job may be asked for, None when one may. ``elapsed``: s since retrieval began."""
        if self.jobs and self.timefloor <= 0:
            return "the queue's timefloor is 0: one job per pilot"
        if self.jobs and elapsed > self.timefloor:
            return f"the queue's timefloor of {self.timefloor:.0f} s is over ({elapsed:.0f} s since the first request)"
        if self.failures >= self.max_failures:
            return f"reached maximum number of getjob failures: {self.failures} (-x {self.max_failures})"
        if self.requests >= self.max_requests:
            return (f"reached maximum number of getjob requests: {self.requests} since the last job "
                    f"(-v {self.max_requests})")
        return None

    def requested(self) -> None:
        """A request was answered, or given up."""
        self.requests += 1

    def failed(self, *, unreachable: bool = False) -> None:
        """The answer held no job."""
        self.failures += 1
        self.unreachable = unreachable

    def got_job(self) -> None:
        """A job was granted: requests are counted anew."""
        self.jobs += 1
        self.requests = 0
        self.unreachable = False

    def is_hpc_without_jobs(self, resource_type: str) -> bool:
        """True when an HPC queue has had enough empty answers for exit code 82."""
        return self.jobs == 0 and self.failures >= _HPC_FAILURES and resource_type.lower().startswith("hpc")
