"""The watch over copies: those that stand still are broken off, those that do not even let go are left behind."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from pilot.common.exception import PilotException
from pilot.copytool.base import Direction, Transfer, TransferResult
from pilot.staging import crew
from pilot.util.cancel import CancelledError, CancelToken

DONE = TransferResult(1)


def orders(*names: str) -> list[Transfer]:
    return [Transfer(Direction.IN, name, Path(name)) for name in names]


def one_by_one(move: Any) -> Any:
    """Make the mover of batches out of one for single files."""

    def move_batch(batch: Any, token: CancelToken, progress: Any, done: Any) -> None:
        for transfer in batch:
            done(transfer, move(transfer, token, progress))

    return move_batch


def run(move: Any, names: tuple[str, ...], stall: float, token: CancelToken, parallel: int = 2) -> dict[str, Any]:
    outcomes: dict[str, Any] = {}

    def settle(transfer: Transfer, outcome: Any, _seconds: float, _began: float) -> None:
        assert transfer.lfn not in outcomes, "an order is settled once"
        outcomes[transfer.lfn] = outcome

    rule = crew.StallRule(lambda _batch: stall, 1151, lambda transfer: f"{transfer.lfn} stands still")
    crew.Crew([(order,) for order in orders(*names)], one_by_one(move), settle, rule, token).run(parallel)
    return outcomes


def obedient(transfer: Transfer, token: CancelToken, _progress: Any) -> TransferResult | PilotException:
    """A copy that hangs where ``hang`` is in its name, and looks at its token."""
    if "hang" not in transfer.lfn:
        return DONE
    token.wait(30)
    return CancelledError(token.reason, code=token.code)


def test_a_copy_that_stands_still_is_broken_off_and_the_others_are_done() -> None:
    outcomes = run(obedient, ("a", "hang", "b", "c"), 0.1, CancelToken())
    assert {name: outcomes[name] for name in "abc"} == dict.fromkeys("abc", DONE)
    error = outcomes["hang"]
    assert (error.code, error.state, error.detail) == (1151, "CP_TIMEOUT", "hang stands still")
    assert error.remains, "half of it may lie at the destination: the next attempt may replace that"


def test_a_copy_that_does_not_let_go_is_left_behind_and_what_waits_is_not_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(crew, "LET_GO", 0.1)
    free, begun, gone = threading.Event(), [], threading.Event()

    def stubborn(transfer: Transfer, _token: CancelToken, _progress: Any) -> TransferResult:
        begun.append(transfer.lfn)
        if "hang" in transfer.lfn:
            free.wait(30)
            gone.set()
        return DONE

    outcomes = run(stubborn, ("a", "hang", "later"), 0.1, CancelToken(), parallel=1)
    assert begun == ["a", "hang"]
    assert outcomes["a"] == DONE
    assert (outcomes["hang"].code, outcomes["later"].code) == (1151, 1151)
    assert "left behind" in outcomes["hang"].detail
    assert outcomes["later"].detail.startswith("later was not tried: hang stands still")
    free.set()
    assert gone.wait(30)
    assert outcomes["hang"].code == 1151, "the late result is thrown away"


def test_a_slow_copy_that_moves_is_left_alone() -> None:
    rounds = 5

    def slow(_transfer: Transfer, token: CancelToken, progress: Any) -> TransferResult | PilotException:
        for _ in range(rounds):
            if token.wait(0.1):
                return CancelledError(token.reason, code=token.code)
            progress(1)
        return DONE

    assert run(slow, ("a",), 0.4, CancelToken()) == {"a": DONE}


@pytest.mark.parametrize("stall", [float("inf"), 3600.0])
def test_a_cancelled_group_does_not_wait_for_a_copy_that_hangs(monkeypatch: pytest.MonkeyPatch, stall: float) -> None:
    monkeypatch.setattr(crew, "LET_GO", 0.1)
    free, token = threading.Event(), CancelToken()

    def stubborn(_transfer: Transfer, _token: CancelToken, _progress: Any) -> TransferResult:
        token.cancel(1144, "the server sent tobekilled")
        free.wait(30)
        return DONE

    outcomes = run(stubborn, ("a", "b"), stall, token, parallel=1)
    assert list(outcomes) == ["a"]
    assert outcomes["a"].detail.startswith("the server sent tobekilled; ")
    free.set()


def test_a_finished_copy_is_forgotten_by_the_group() -> None:
    token = CancelToken()
    run(obedient, ("a", "b", "c"), 60, token)
    assert token._callbacks == []


def test_an_exception_of_settle_reaches_the_caller() -> None:
    def settle(_transfer: Transfer, _outcome: Any, _seconds: float, _began: float) -> None:
        raise ValueError("no book-keeping")

    rule = crew.StallRule(lambda _transfer: 60, 1151, lambda transfer: transfer.lfn)
    with pytest.raises(ValueError, match="no book-keeping"):
        crew.Crew([orders("a", "b", "c")], one_by_one(obedient), settle, rule, CancelToken()).run(2)


@pytest.mark.parametrize("allowed", [0, 1])
def test_a_limit_of_threads_leaves_fewer_hands(monkeypatch: pytest.MonkeyPatch, allowed: int) -> None:
    started = []

    class Limited(threading.Thread):
        def start(self) -> None:
            if len(started) >= allowed:
                raise RuntimeError("can't start new thread")
            started.append(self)
            super().start()

    monkeypatch.setattr(crew, "Thread", Limited)
    assert run(obedient, ("a", "b", "c"), 60, CancelToken(), parallel=4) == dict.fromkeys("abc", DONE)
    assert len(started) == allowed


def test_what_failed_is_tried_otherwise_after_the_others() -> None:
    tried: list[tuple[str, str]] = []

    def move(transfer: Transfer, _token: CancelToken, _progress: Any) -> TransferResult | PilotException:
        tried.append((transfer.lfn, transfer.url))
        return DONE if transfer.lfn == "b" or transfer.url == "second" else PilotException("no")

    def settle(transfer: Transfer, outcome: Any, _seconds: float, _began: float) -> Transfer | None:
        return Transfer(Direction.IN, transfer.lfn, Path("x"), url="second") if outcome is not DONE else None

    rule = crew.StallRule(lambda _batch: 60, 1151, lambda transfer: transfer.lfn)
    batches = [(order,) for order in orders("a", "b")]
    crew.Crew(batches, one_by_one(move), settle, rule, CancelToken()).run(1)
    assert tried == [("a", ""), ("b", ""), ("a", "second")]


def test_a_batch_that_hangs_keeps_what_was_done_before() -> None:
    outcomes: dict[str, Any] = {}

    def move(batch: Any, token: CancelToken, _progress: Any, done: Any) -> None:
        done(batch[0], DONE)
        token.wait(30)
        for transfer in batch[1:]:
            done(transfer, CancelledError(token.reason, code=token.code))

    def settle(transfer: Transfer, outcome: Any, _seconds: float, _began: float) -> None:
        outcomes[transfer.lfn] = outcome

    rule = crew.StallRule(lambda _batch: 0.1, 1151, lambda transfer: f"{transfer.lfn} stands still")
    crew.Crew([orders("a", "b", "c")], move, settle, rule, CancelToken()).run(1)
    assert outcomes["a"] == DONE
    assert {outcomes[name].code for name in "bc"} == {1151}
    assert outcomes["b"].detail == "b stands still"


def test_long_copies_tell_how_far_they_have_come_and_short_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "SHOW_AFTER", 0.05)
    monkeypatch.setattr(crew, "SHOW_EVERY", 0.02)
    shown: list[list[Any]] = []
    enough, token = threading.Event(), CancelToken()

    def move(transfer: Transfer, _token: CancelToken, progress: Any) -> TransferResult:
        if transfer.lfn == "long":
            progress(30)
            progress(12)
            assert enough.wait(60)
        return DONE

    def show(copies: Any) -> None:
        shown.append(list(copies))
        if len(shown) == 3:
            enough.set()

    rule = crew.StallRule(lambda _batch: float("inf"), 1151, lambda transfer: transfer.lfn)
    files = [(Transfer(Direction.OUT, name, Path(name), size=100),) for name in ("long", "short", "brief")]
    crew.Crew(files, one_by_one(move), lambda *_outcome: None, rule, token, show).run(2)
    assert [(copy.lfn, copy.direction, copy.bytes, copy.total) for copy in shown[0]] == [("long", "stage-out", 42, 100)]
    assert len(shown) >= 4 and shown[-1] == [], "the end is told, too"


def test_nothing_is_shown_of_copies_that_are_over_at_once() -> None:
    shown: list[Any] = []
    rule = crew.StallRule(lambda _batch: 60.0, 1151, lambda transfer: transfer.lfn)
    crew.Crew([(order,) for order in orders("a", "b", "c")], one_by_one(lambda *_args: DONE), lambda *_outcome: None,
              rule, CancelToken(), shown.append).run(2)
    assert shown == []
