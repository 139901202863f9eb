"""The two ways in which a call to the server ends without an answer that can be used."""

from __future__ import annotations

from pilot.common.exception import CommunicationFailure


class TransportError(CommunicationFailure):
    """No usable answer: connection, TLS, time-out, HTTP 5xx, or a body that nobody can read. Trying again may help.

    ``maybe_processed`` is False when the request cannot have had an effect; after a getJob with True a job may
    have been given out (server-api.md 5.4). ``status`` is the HTTP status, 0 without one.
    """

    def __init__(self, *details: object, maybe_processed: bool = True, status: int = 0) -> None:
        super().__init__(*details)
        self.maybe_processed = maybe_processed
        self.status = status


class ServerRefusal(CommunicationFailure):
    """The server answered, and said no.

    ``permanent`` tells that asking again with the same identity is useless; ``status_code`` is that of server-api.md 4
    (0 when the answer carried none).
    """

    def __init__(self, *details: object, status_code: int = 0, permanent: bool = True) -> None:
        super().__init__(*details)
        self.status_code = status_code
        self.permanent = permanent


class DialectMissing(Exception):
    """The server does not have this dialect, or this call of it; never leaves the room.

    ``status`` is the HTTP status; a 500 (a path that the server could not parse) is the weakest sign.
    """

    def __init__(self, text: str, *, status: int) -> None:
        super().__init__(text)
        self.status = status
