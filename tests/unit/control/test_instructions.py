"""What is remembered of the messages of a broker, and when a pilot no longer waits for one."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any, List

import pytest

from pilot.control.instructions import _REMEMBERED, Instructions, Told
from pilot.control.shutdown import Shutdown
from pilot.panda.broker import Instruction
from pilot.settings import default_settings


@pytest.fixture
def instructions() -> Instructions:
    """Nobody listens: messages come from the test."""
    settings = default_settings()
    context: Any = SimpleNamespace(
        settings=settings, options=SimpleNamespace(allow_same_user=True), shutdown=Shutdown(100.0),
        leave_by=time.monotonic() + 1000, road=SimpleNamespace(jobs=list, job_component=SimpleNamespace(post=print)))
    found = Instructions(context)
    context.shutdown.stopping.on_cancel(found._wake)
    return found


def jobs(*tasks: str) -> List[Instruction]:
    return [Instruction("get_job", task) for task in tasks]


def test_tasks_are_taken_in_their_order_each_once(instructions: Instructions) -> None:
    for message in jobs("1", "2", "1", ""):
        instructions.hear(message)
    assert [instructions.wait() for _ in range(3)] == [Told("1"), Told("2"), Told("")]


def test_of_a_flood_the_newest_are_kept(instructions: Instructions) -> None:
    for message in jobs(*map(str, range(10 * _REMEMBERED))):
        instructions.hear(message)
    assert instructions.wait() == Told(str(9 * _REMEMBERED))
    assert len(instructions._tasks) == _REMEMBERED - 1


def test_a_task_that_is_over_is_forgotten_and_one_that_could_not_be_asked_for_is_not(
        instructions: Instructions) -> None:
    for message in [*jobs("1", "2"), Instruction("kill_task", "1"), Instruction("finish_task", "9")]:
        instructions.hear(message)
    told = instructions.wait()
    assert told == Told("2")
    instructions.take_back(told)
    assert instructions.wait() == told


def test_a_waiting_pilot_wakes_by_message_by_the_end_and_when_nobody_can_tell(instructions: Instructions) -> None:
    answers: List[Any] = []

    def wait() -> threading.Thread:
        thread = threading.Thread(target=lambda: answers.append(instructions.wait()), daemon=True)
        thread.start()
        return thread

    instructions._linked(1)
    thread = wait()
    instructions.hear(Instruction("get_job", "7"))
    thread.join(60)
    thread = wait()
    instructions._is_gone("no library")
    thread.join(60)
    assert answers == [Told("7"), None]
    instructions._gone = ""
    instructions._linked(1)
    thread = wait()
    instructions.hear(Instruction("finish_task", ""))
    thread.join(60)
    assert answers[2:] == [None] and instructions._ctx.shutdown.reason is not None


def test_a_broker_that_comes_back_is_waited_for_again(instructions: Instructions) -> None:
    instructions._down_since = time.monotonic() - 10_000
    assert instructions.wait() is None
    instructions._linked(1)
    instructions._linked(0)  # lost just now: the patience begins anew
    assert not instructions._is_alone(time.monotonic())
