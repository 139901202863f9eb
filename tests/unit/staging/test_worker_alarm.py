"""The clock of a helper process: in their order, not when taken back, one that fails costs no other."""

from __future__ import annotations

import threading
from typing import List

from pilot.copytool.worker.alarm import Clock

PATIENCE = 20.0
SOON = 0.02
"""Seconds."""


def test_alarms_go_off_in_the_order_in_which_they_are_due() -> None:
    clock, done, order = Clock(), threading.Event(), []  # type: ignore[var-annotated]
    clock.after(SOON * 3, lambda: (order.append("late"), done.set()))
    clock.after(SOON, lambda: order.append("early"))
    clock.after(0.0, lambda: order.append("now"))
    assert done.wait(PATIENCE)
    assert order == ["now", "early", "late"]


def test_one_that_is_taken_back_does_nothing() -> None:
    clock, done, order = Clock(), threading.Event(), []  # type: ignore[var-annotated]
    alarm = clock.after(SOON, lambda: order.append("taken back"))
    alarm.cancel()
    alarm.cancel()
    clock.after(SOON * 2, done.set)
    assert done.wait(PATIENCE)
    assert order == []


def test_one_that_fails_costs_no_other() -> None:
    clock, done = Clock(), threading.Event()
    clock.after(0.0, lambda: 1 // 0)
    clock.after(SOON, done.set)
    assert done.wait(PATIENCE)


def test_a_clock_with_nothing_to_do_waits_for_the_next() -> None:
    clock, first, second = Clock(), threading.Event(), threading.Event()
    clock.after(0.0, first.set)
    assert first.wait(PATIENCE)
    clock.after(0.0, second.set)
    assert second.wait(PATIENCE)


def test_one_thread_serves_all_and_many_that_were_taken_back_leave_nothing() -> None:
    clock, done = Clock(), threading.Event()
    before = threading.active_count()
    names: List[str] = []
    for _ in range(1000):
        clock.after(SOON, lambda: names.append("taken back")).cancel()
    assert threading.active_count() <= before + 1
    clock.after(SOON * 2, done.set)
    assert done.wait(PATIENCE)
    assert (names, clock._alarms) == ([], [])
