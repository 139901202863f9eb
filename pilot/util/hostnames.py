"""Full names and addresses of hosts, looked up in threads of their own: a resolver may drop queries for minutes."""

from __future__ import annotations

import socket
import time
from threading import Condition, Thread
from typing import Callable

UNKNOWN = ("unknown", "0.0.0.0")  # noqa: S104 - values of a report, nothing is bound to them


def look_up(name: str) -> tuple[str, str]:
    """Return the full name and the IPv4 address of a host; blocks as long as the resolver likes.

    Raises:
        OSError: it is not known.
    """
    full = socket.gethostbyaddr(name)[0]
    return full, socket.gethostbyname(full)


class HostNames:
    """Cache of look-ups; thread-safe.

    Args:
        patience: s that a caller waits for a name at most, counted from the first question for it.
        resolve: the look-up.
    """

    def __init__(self, patience: float, resolve: Callable[[str], tuple[str, str]] = look_up) -> None:
        self._patience = patience
        self._resolve = resolve
        self._changed = Condition()
        self._known: dict[str, tuple[str, str]] = {}
        self._asked: dict[str, float] = {}
        self._hurry = False

    def get(self, name: str) -> tuple[str, str]:
        """Return name and address; UNKNOWN when there is none, or none yet."""
        with self._changed:
            if name not in self._asked:
                self._asked[name] = time.monotonic()
                Thread(target=self._ask, args=(name,), name="host-name", daemon=True).start()
            left = self._asked[name] + self._patience - time.monotonic()
            self._changed.wait_for(lambda: name in self._known or self._hurry, max(0.0, left))
            return self._known.get(name, UNKNOWN)

    def hurry(self) -> None:
        """Wait no longer, neither now nor later."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()

    def _ask(self, name: str) -> None:
        try:
            found = self._resolve(name)
        except (OSError, UnicodeError):
            found = UNKNOWN
        with self._changed:
            self._known[name] = found
            self._changed.notify_all()
