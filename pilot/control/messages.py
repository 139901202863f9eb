"""What the components tell each other: small frozen records, one inbox per component."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pilot.control.shutdown import StopReason
from pilot.info.job import Job

if TYPE_CHECKING:
    from pilot.panda.commands import Commands
    from pilot.payload.process import Child


@dataclass(frozen=True)
class FetchJob:
    """To the fetcher: get the next job; ``task_id`` restricts it to a task ('' = any)."""

    task_id: str = ""


@dataclass(frozen=True)
class JobsGranted:
    """From the fetcher: definitions as dispatched (stored already), and how long getting them took (s)."""

    definitions: tuple[Mapping[str, object], ...]
    seconds: float
    wall: float


@dataclass(frozen=True)
class NoMoreJobs:
    """From the fetcher: why there will be no further job."""

    reason: StopReason


@dataclass(frozen=True)
class Validate:
    """To control/job: check the job, make its directory."""

    job: Job


@dataclass(frozen=True)
class StageIn:
    """To control/data: move the inputs here."""

    job: Job


@dataclass(frozen=True)
class RunPayload:
    """To control/payload: run the payload."""

    job: Job


@dataclass(frozen=True)
class StageOut:
    """To control/data: the tail; ``outputs`` False = the log only."""

    job: Job
    outputs: bool


@dataclass(frozen=True)
class Report:
    """To control/job: make the final report."""

    job: Job
    finished: bool


@dataclass(frozen=True)
class Clean:
    """To control/job: remove the job's directory."""

    job: Job


@dataclass(frozen=True)
class JobLeft:
    """To control/job: the job has left the road."""

    job: Job


@dataclass(frozen=True)
class JobEntered:
    """To the monitor: a job is on the road."""

    job: Job


@dataclass(frozen=True)
class JobGone:
    """To the monitor: the final report of the job is written, no more heartbeats."""

    job_id: str


@dataclass(frozen=True)
class PayloadStarted:
    """To the monitor: watch these processes."""

    job: Job
    child: Child


@dataclass(frozen=True)
class PayloadEnded:
    """To the monitor: the payload's processes are gone."""

    job_id: str


@dataclass(frozen=True)
class ServerCommand:
    """To the monitor: commands in the answer to a heartbeat."""

    job_id: str
    commands: Commands


@dataclass(frozen=True)
class DeadlineSet:
    """To the monitor: the pilot is ending; break off what still runs at these monotonic times."""

    outputs: float
    tail: float
    reason: StopReason


@dataclass(frozen=True)
class LookAround:
    """To control/job: something has changed (a payload has ended, the pilot is to end): is there anything to do?"""
