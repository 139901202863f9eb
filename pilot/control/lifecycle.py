"""The road of a job as one pure function: ``next_step(state, event) -> (new state, step)``.

No I/O, no threads, no clock. The components only carry out the steps. The state diagram in the docs is generated from
this module (``docs/generate_lifecycle.py``)::

    received ──accepted──► stagein ──staged_in──► payload ──payload_ok──► stageout ──staged_out──► reporting
       │  │ (no inputs) ──────────────────────────►  │                      ▲                         │
       │  └─rejected───────────────┐                 │payload_failed        │                      reported
       │                           ▼                 ▼                      │                         ▼
       └──────────────────── the one tail: what may be staged out, log, final report ────────────  cleaning ──► done

Success, payload failure, stage-in failure, kill by the server, a signal, a limit: all take the same tail. An abort
changes what is staged out and the deadlines, never the road.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Optional


class Stage(str, Enum):
    """Where a job is on its road."""

    RECEIVED = "received"
    STAGEIN = "stagein"
    PAYLOAD = "payload"
    STAGEOUT = "stageout"
    REPORTING = "reporting"
    CLEANING = "cleaning"
    DONE = "done"


class Event(str, Enum):
    """What can happen to a job."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    STAGED_IN = "staged_in"
    STAGEIN_FAILED = "stagein_failed"
    PAYLOAD_OK = "payload_ok"
    PAYLOAD_FAILED = "payload_failed"
    STAGED_OUT = "staged_out"
    STAGEOUT_FAILED = "stageout_failed"
    REPORTED = "reported"
    CLEANED = "cleaned"
    KILL = "kill"
    """The server or an operator kills the job (``tobekilled``): nothing but the log is worth staging out."""
    LIMIT = "limit"
    """A check of the pilot ends the job (time, disk, memory, looping, ...)."""
    SIGNAL = "signal"
    """The pilot itself is told to end; results that exist already may still leave within the deadline."""


ABORTS = frozenset({Event.KILL, Event.LIMIT, Event.SIGNAL})


class Step(str, Enum):
    """What is to be done next."""

    VALIDATE = "validate"
    STAGE_IN = "stage in"
    RUN_PAYLOAD = "run payload"
    STAGE_OUT_ALL = "stage out outputs and log"
    STAGE_OUT_LOG = "stage out log only"
    REPORT_FINISHED = "report finished"
    REPORT_FAILED = "report failed"
    CLEAN = "clean up"
    LEAVE = "leave the road"
    INTERRUPT = "interrupt the running stage"
    HURRY = "let the running stage end within the deadline"
    NOTHING = "nothing"


@dataclass(frozen=True)
class JobState:
    """All that decides about the next step."""

    stage: Stage = Stage.RECEIVED
    has_inputs: bool = False
    failed: bool = False
    """True once anything has happened that makes the job fail."""
    aborted: Optional[Event] = None
    """The first abort, if any."""


class InvalidTransition(Exception):
    """An event that cannot happen in this stage; the text carries the job's story."""

    def __init__(self, state: JobState, event: Event, story: str = "") -> None:
        tail = f"; {story}" if story else ""
        super().__init__(f"event '{event.value}' cannot happen in stage '{state.stage.value}'{tail}")
        self.state = state
        self.event = event


# The regular ends of each stage.
_ENDS: dict[Stage, tuple[Event, ...]] = {
    Stage.RECEIVED: (Event.ACCEPTED, Event.REJECTED),
    Stage.STAGEIN: (Event.STAGED_IN, Event.STAGEIN_FAILED),
    Stage.PAYLOAD: (Event.PAYLOAD_OK, Event.PAYLOAD_FAILED),
    Stage.STAGEOUT: (Event.STAGED_OUT, Event.STAGEOUT_FAILED),
    Stage.REPORTING: (Event.REPORTED,),
    Stage.CLEANING: (Event.CLEANED,),
    Stage.DONE: (),
}

_FAILURES = frozenset({Event.REJECTED, Event.STAGEIN_FAILED, Event.PAYLOAD_FAILED, Event.STAGEOUT_FAILED})


def next_step(state: JobState, event: Event) -> tuple[JobState, Step]:
    """Return the state after ``event`` and what has to be done.

    Args:
        state: where the job is.
        event: what happened.

    Raises:
        InvalidTransition: the event is not an end of this stage.
    """
    if event in ABORTS:
        return _abort(state, event)
    if event not in _ENDS[state.stage]:
        raise InvalidTransition(state, event)
    after = replace(state, failed=state.failed or event in _FAILURES)
    if state.stage is Stage.RECEIVED:
        return _after_received(after)
    if state.stage is Stage.STAGEIN:
        return _tail(after) if after.failed else (replace(after, stage=Stage.PAYLOAD), Step.RUN_PAYLOAD)
    if state.stage is Stage.PAYLOAD:
        return _tail(after)
    if state.stage is Stage.STAGEOUT:
        return replace(after, stage=Stage.REPORTING), Step.REPORT_FAILED if after.failed else Step.REPORT_FINISHED
    if state.stage is Stage.REPORTING:
        return replace(after, stage=Stage.CLEANING), Step.CLEAN
    return replace(after, stage=Stage.DONE), Step.LEAVE


def _after_received(after: JobState) -> tuple[JobState, Step]:
    if after.failed:
        return _tail(after)
    if after.has_inputs:
        return replace(after, stage=Stage.STAGEIN), Step.STAGE_IN
    return replace(after, stage=Stage.PAYLOAD), Step.RUN_PAYLOAD


def _tail(state: JobState) -> tuple[JobState, Step]:
    return replace(state, stage=Stage.STAGEOUT), Step.STAGE_OUT_LOG if state.failed else Step.STAGE_OUT_ALL


def _abort(state: JobState, event: Event) -> tuple[JobState, Step]:
    if state.stage in (Stage.REPORTING, Stage.CLEANING, Stage.DONE):
        return state, Step.NOTHING  # too late: the report says what is true
    first = state.aborted is None
    marked = replace(state, aborted=event) if first else state
    if state.stage is Stage.STAGEOUT:
        if event is Event.SIGNAL:
            # The payload has ended: what it made may still leave, and the job stays what it is.
            return marked, Step.HURRY
        return replace(marked, failed=True), Step.NOTHING if state.failed else Step.INTERRUPT
    # Before the tail every abort breaks off the running stage; a second one changes nothing.
    already = state.aborted is not None
    return replace(marked, failed=True), Step.NOTHING if already else Step.INTERRUPT
