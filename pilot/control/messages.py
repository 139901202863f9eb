"""What the components tell each other: small immutable records, one inbox per component.

Named tuples, not dataclasses: each frozen dataclass costs every pilot 0.3 ms of CPU at start, a named tuple 0.05 ms.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from pilot.control.shutdown import StopReason
from pilot.info.job import Job

if TYPE_CHECKING:
    from pilot.control.company import Company
    from pilot.monitoring.checks import Breach, Look
    from pilot.panda.commands import Commands
    from pilot.payload.process import Child


class FetchJob(NamedTuple):
    """To the fetcher: get the next job; ``task_id`` restricts it to a task ('' = any)."""

    task_id: str = ""


class JobsGranted(NamedTuple):
    """From the fetcher: definitions as dispatched (stored already), and how long getting them took (s).

    ``held``: bytes that a job before it, which leaves at the same time, may still write.
    """

    definitions: tuple[Mapping[str, object], ...]
    seconds: float
    wall: float
    held: int = 0


class NotYet(NamedTuple):
    """From the fetcher: why no job is asked for while another one leaves."""

    reason: str


class NoMoreJobs(NamedTuple):
    """From the fetcher: why there will be no further job."""

    reason: StopReason


class Validate(NamedTuple):
    """To control/job: check the job, make its directory."""

    job: Job


class StageIn(NamedTuple):
    """To control/data: move the inputs here."""

    job: Job


class RunPayload(NamedTuple):
    """To control/payload: run the payload."""

    job: Job


class StageOut(NamedTuple):
    """To control/data: the tail; ``outputs`` False = the log only."""

    job: Job
    outputs: bool


class Report(NamedTuple):
    """To control/job: make the final report."""

    job: Job
    finished: bool


class Clean(NamedTuple):
    """To control/job: remove the job's directory."""

    job: Job


class JobLeft(NamedTuple):
    """To control/job: the job has left the road."""

    job: Job


class JobEntered(NamedTuple):
    """To the monitor: a job is on the road."""

    job: Job


class JobWaits(NamedTuple):
    """To the monitor: the job stands still until it goes on (True) for a reason that is not its own."""

    job_id: str
    goes_on: bool = False


class JobGone(NamedTuple):
    """To the monitor: the final report of the job is written, no more heartbeats."""

    job_id: str


class PayloadStarted(NamedTuple):
    """To the monitor: watch these processes; ``company`` keeps what is known of their memory."""

    job: Job
    child: Child
    company: Company


class PayloadEnded(NamedTuple):
    """To the monitor: the payload's processes are gone."""

    job_id: str


class ServerCommand(NamedTuple):
    """To the monitor: commands in the answer to a heartbeat."""

    job_id: str
    commands: Commands


class DebugAnswered(NamedTuple):
    """To the monitor: what a command of debug mode has come to."""

    job_id: str
    command: str
    text: str
    core: str = ""
    """Path of the core file that gdb has written on request."""


class MemoryLooked(NamedTuple):
    """To the monitor: a look at a payload's memory, begun with a sample of its processes, has come to its end."""

    job_id: str
    child: Child
    look: Look


class CheckFailed(NamedTuple):
    """To the monitor: a check of a job has found a broken limit, and its evidence is in the log."""

    job_id: str
    check: str
    breach: Breach


class DeadlineSet(NamedTuple):
    """To the monitor: the pilot is ending; break off what still runs at these monotonic times."""

    outputs: float
    tail: float
    reason: StopReason


class LeaveByMoved(NamedTuple):
    """To the monitor: the pilot's leave-by time has changed (a shutdown was announced, a proxy renewed)."""


class LookAround(NamedTuple):
    """To control/job: something has changed (a tail begins, the pilot is to end): is there anything to do?"""
