"""Timers: in order, replaceable, cancellable; the clock is given."""

from __future__ import annotations

from pilot.control.timers import Timers


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_timers_run_in_the_order_of_their_time() -> None:
    clock, ran = Clock(), []
    timers = Timers(clock)
    timers.after(2, "b", lambda: ran.append("b"))
    timers.after(1, "a", lambda: ran.append("a"))
    assert timers.next_in() == 1
    clock.now = 3
    timers.run_due()
    assert ran == ["a", "b"] and timers.next_in() is None


def test_a_timer_that_is_not_due_waits() -> None:
    clock, ran = Clock(), []
    timers = Timers(clock)
    timers.after(1, "a", lambda: ran.append("a"))
    clock.now = 0.5
    timers.run_due()
    assert not ran and timers.next_in() == 0.5


def test_setting_a_name_again_replaces_the_timer() -> None:
    clock, ran = Clock(), []
    timers = Timers(clock)
    timers.after(1, "a", lambda: ran.append("old"))
    timers.after(5, "a", lambda: ran.append("new"))
    clock.now = 2
    timers.run_due()
    assert not ran
    clock.now = 5
    timers.run_due()
    assert ran == ["new"]


def test_cancelled_timers_do_not_run() -> None:
    clock, ran = Clock(), []
    timers = Timers(clock)
    for name in ("7:heartbeat", "7:sample", "8:heartbeat"):
        timers.after(1, name, lambda name=name: ran.append(name))  # type: ignore[misc]
    timers.cancel_prefix("7:")
    timers.cancel("unknown")
    clock.now = 1
    timers.run_due()
    assert ran == ["8:heartbeat"]


def test_an_action_may_set_its_own_timer_again() -> None:
    clock, ran = Clock(), []
    timers = Timers(clock)

    def again() -> None:
        ran.append(clock.now)
        timers.after(10, "a", again)

    timers.after(10, "a", again)
    for clock.now in (10.0, 20.0, 25.0):
        timers.run_due()
    assert ran == [10.0, 20.0]
