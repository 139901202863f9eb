"""Keys of object stores: the PanDA server has them, asked for once per process and kept in memory only."""

from __future__ import annotations

import logging
from threading import Lock
from typing import TYPE_CHECKING, Optional

from pilot.panda.errors import ServerRefusal, TransportError

if TYPE_CHECKING:
    from pilot.panda.server import PandaServer

logger = logging.getLogger(__name__)

NO_KEYS = ("", "")


class KeyPairs:
    """The keys known so far; thread-safe. They are secrets: masked in every log, in no file and no command."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._known: dict[tuple[str, str, str], tuple[str, str]] = {}

    def get(self, server: Optional[PandaServer], public: str, private: str) -> tuple[str, str]:
        """Return (public key, private key) by their names; empty, with a warning, where the server gives none.

        A refusal is remembered; after a failure of the network the server is asked again next time.
        """
        if server is None or not public or not private:
            return NO_KEYS
        which = (server.base_url, public, private)
        with self._lock:  # others want the same keys: they wait for the one answer
            if which not in self._known:
                try:
                    self._known[which] = server.get_key_pair(public, private)
                except ServerRefusal as exc:
                    logger.warning("the server gives no keys %s/%s: %s", public, private, exc.detail)
                    self._known[which] = NO_KEYS
                except TransportError as exc:
                    logger.warning("no keys %s/%s: %s", public, private, exc.detail)
                    return NO_KEYS
            return self._known[which]
