"""Several calls that may hang, side by side; those that do not return in time are left behind."""

from __future__ import annotations

import time
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Callable, Optional, TypeVar

from pilot.util.cancel import CancelToken

T = TypeVar("T")


def side_by_side(calls: Sequence[Callable[[], T]], seconds: float, token: CancelToken) -> list[Optional[T]]:
    """Return what each call returned, in order; None for one that raised, or had not returned after ``seconds``.

    A cancelled token ends the waiting.
    """
    answers: SimpleQueue[Optional[tuple[int, Optional[T]]]] = SimpleQueue()

    def run(number: int, call: Callable[[], T]) -> None:
        try:
            answers.put((number, call()))
        except Exception:  # noqa: BLE001 - a call that raises has no answer; calls tell what they expect themselves
            answers.put((number, None))

    def wake() -> None:
        answers.put(None)

    results: list[Optional[T]] = [None] * len(calls)
    waiting = len(calls)
    until = time.monotonic() + seconds
    token.on_cancel(wake)
    try:
        for number, call in enumerate(calls):
            Thread(target=run, args=(number, call), name="check-part", daemon=True).start()
        while waiting:
            answer = answers.get(timeout=max(0.0, until - time.monotonic()))
            if answer is None:
                break
            results[answer[0]] = answer[1]
            waiting -= 1
    except Empty:
        pass
    finally:
        token.forget(wake)
    return results
