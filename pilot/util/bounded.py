"""Runs a call that may hang (a dead mount, a silent server) so that the caller gets on all the same.

The call has a thread of its own. When its time is up, or the caller's work is cancelled, the thread is left behind:
it ends when the kernel or the library lets it go, and what it returns then is thrown away.
"""

from __future__ import annotations

from queue import Empty, SimpleQueue
from threading import Thread
from typing import Callable, Optional, TypeVar

from pilot.util.cancel import CancelToken
from pilot.util.logowner import owners

T = TypeVar("T")
_CANCELLED = object()


class TookTooLong(Exception):
    """The call has not returned in time."""


def bounded(call: Callable[[], T], seconds: float, token: CancelToken, name: str = "bounded") -> T:
    """Return what ``call`` returns, or raise what it raises.

    Args:
        call: runs in another thread.
        seconds: to wait for it.
        token: cancelled = it is not waited for any longer.
        name: of the thread.

    Raises:
        TookTooLong: the time is up.
        CancelledError: the token was cancelled.
    """
    answers: SimpleQueue[tuple[object, Optional[BaseException]]] = SimpleQueue()

    def run() -> None:
        try:
            answers.put((call(), None))
        except BaseException as exc:  # noqa: BLE001 - raised by the caller
            answers.put((None, exc))

    def wake() -> None:
        answers.put((_CANCELLED, None))

    token.on_cancel(wake)
    try:
        Thread(target=owners.for_the_same_job(run), name=name, daemon=True).start()
        value, problem = answers.get(timeout=seconds)
    except Empty:
        raise TookTooLong(f"no answer within {seconds:.0f} s") from None
    finally:
        token.forget(wake)
    if value is _CANCELLED:
        token.check()
    if problem is not None:
        raise problem
    return value  # type: ignore[return-value]
