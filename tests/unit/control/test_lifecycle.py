"""Every state against every event: the road of a job has no hole."""

from __future__ import annotations

import itertools

import pytest

from pilot.control.lifecycle import ABORTS, Event, InvalidTransition, JobState, Stage, Step, next_step

ALL_STATES = [
    JobState(stage, has_inputs, failed, aborted)
    for stage, has_inputs, failed, aborted in itertools.product(
        Stage, (False, True), (False, True), (None, *sorted(ABORTS)))
]
ENDS = {
    Stage.RECEIVED: {Event.ACCEPTED, Event.REJECTED},
    Stage.STAGEIN: {Event.STAGED_IN, Event.STAGEIN_FAILED},
    Stage.PAYLOAD: {Event.PAYLOAD_OK, Event.PAYLOAD_FAILED},
    Stage.STAGEOUT: {Event.STAGED_OUT, Event.STAGEOUT_FAILED},
    Stage.REPORTING: {Event.REPORTED},
    Stage.CLEANING: {Event.CLEANED},
    Stage.DONE: set(),
}
ORDER = list(Stage)


@pytest.mark.parametrize("state", ALL_STATES)
@pytest.mark.parametrize("event", list(Event))
def test_every_event_is_either_an_end_of_the_stage_an_abort_or_refused(state: JobState, event: Event) -> None:
    if event in ABORTS:
        after, step = next_step(state, event)
        assert after.stage is state.stage, "an abort never moves a job on its road"
        assert step in (Step.INTERRUPT, Step.HURRY, Step.NOTHING)
    elif event in ENDS[state.stage]:
        after, step = next_step(state, event)
        assert ORDER.index(after.stage) > ORDER.index(state.stage), "a job only moves forward"
        assert after.failed or not state.failed, "a failed job never becomes good again"
        assert after.aborted == state.aborted
        assert step is not Step.NOTHING
    else:
        with pytest.raises(InvalidTransition):
            next_step(state, event)


@pytest.mark.parametrize("state", [state for state in ALL_STATES if state.stage is Stage.STAGEOUT])
def test_only_good_jobs_are_reported_finished(state: JobState) -> None:
    _, step = next_step(state, Event.STAGED_OUT)
    assert step is (Step.REPORT_FAILED if state.failed else Step.REPORT_FINISHED)
    _, step = next_step(state, Event.STAGEOUT_FAILED)
    assert step is Step.REPORT_FAILED


@pytest.mark.parametrize("failure, stage", [
    (Event.REJECTED, Stage.RECEIVED), (Event.STAGEIN_FAILED, Stage.STAGEIN), (Event.PAYLOAD_FAILED, Stage.PAYLOAD)])
def test_every_failure_takes_the_one_tail(failure: Event, stage: Stage) -> None:
    after, step = next_step(JobState(stage, True), failure)
    assert (after.stage, step) == (Stage.STAGEOUT, Step.STAGE_OUT_LOG)


def test_job_without_inputs_skips_stage_in() -> None:
    assert next_step(JobState(), Event.ACCEPTED) == (JobState(Stage.PAYLOAD), Step.RUN_PAYLOAD)
    assert next_step(JobState(has_inputs=True), Event.ACCEPTED)[1] is Step.STAGE_IN


@pytest.mark.parametrize("abort", sorted(ABORTS))
@pytest.mark.parametrize("stage", [Stage.RECEIVED, Stage.STAGEIN, Stage.PAYLOAD])
def test_abort_before_the_tail_interrupts_once_and_fails_the_job(abort: Event, stage: Stage) -> None:
    once, step = next_step(JobState(stage), abort)
    assert step is Step.INTERRUPT and once.failed and once.aborted is abort
    twice, step = next_step(once, Event.SIGNAL)
    assert step is Step.NOTHING and twice == once, "the first abort counts"


def test_signal_during_stage_out_lets_a_good_job_finish() -> None:
    state, step = next_step(JobState(Stage.STAGEOUT), Event.SIGNAL)
    assert step is Step.HURRY and not state.failed
    assert next_step(state, Event.STAGED_OUT)[1] is Step.REPORT_FINISHED


def test_kill_during_stage_out_fails_the_job() -> None:
    state, step = next_step(JobState(Stage.STAGEOUT), Event.KILL)
    assert step is Step.INTERRUPT and state.failed
    assert next_step(state, Event.STAGED_OUT)[1] is Step.REPORT_FAILED


@pytest.mark.parametrize("abort", sorted(ABORTS))
@pytest.mark.parametrize("stage", [Stage.REPORTING, Stage.CLEANING, Stage.DONE])
def test_abort_after_the_report_changes_nothing(abort: Event, stage: Stage) -> None:
    assert next_step(JobState(stage), abort) == (JobState(stage), Step.NOTHING)
