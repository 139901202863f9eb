"""Resource types of the PanDA server (SCORE, MCORE_HIMEM, ...) and the memory that each of them has per core.

Asked for once in the life of a pilot, in the background, when the first payload has run for some seconds: no job waits
for it, short jobs never ask. Source: server API document 8.5.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Callable, Optional

from pilot.common.exception import PilotException

logger = logging.getLogger(__name__)

PATIENCE = 180.0
"""s; the request's own time-outs end it before that."""
MOST_TYPES = 1000
_LONGEST_NAME = 56
"""Characters of a name in the server's tables."""
_LARGEST = 10**9
"""MB per core; a number beyond it is a mistake."""

PerCore = Mapping[str, Optional[int]]
"""Name -> MB per core; None or 0: the server sets no bound."""


class ResourceTypes:
    """The table, once it has come. Thread-safe."""

    def __init__(self, download: Optional[Callable[[], Iterable[Mapping[str, object]]]]) -> None:
        """Nothing is asked for yet.

        Args:
            download: asks the server (one request, which has its own time-outs); None: the pilot uses no server.
        """
        self._download = download
        self._lock = threading.Lock()
        self._asked, self._since = False, 0.0
        self._answered = threading.Event()
        self._per_core: Optional[PerCore] = None
        if download is None:
            self._asked = True
            self._answered.set()

    def ask(self) -> None:
        """Start the download unless it was started before; returns at once."""
        with self._lock:
            if self._asked:
                return
            self._asked, self._since = True, time.monotonic()
        try:
            threading.Thread(target=self._ask, name="resource-types", daemon=True).start()
        except RuntimeError as exc:  # no thread can be had (a fork bomb, a limit): the next one who asks tries again
            logger.debug("the resource types are not asked for now: %s", exc)
            with self._lock:
                self._asked = False

    @property
    def settled(self) -> bool:
        """True when nothing more will come, or has not come for so long that nobody can wait for it."""
        return self._answered.is_set() or (self._asked and time.monotonic() - self._since > PATIENCE)

    @property
    def per_core(self) -> Optional[PerCore]:
        """The table; None when there is none (yet)."""
        return self._per_core

    def wait(self, timeout: float) -> bool:
        """Block until it is settled, or ``timeout`` s; for tests and checks by hand."""
        return self._answered.wait(timeout)

    def _ask(self) -> None:
        assert self._download is not None
        try:
            self._per_core = read_table(self._download()) or None
            shown = [f"{name} {value or 'open'}" for name, value in list((self._per_core or {}).items())[:20]]
            logger.info("memory per core (MB) of the server's resource types: %s", ", ".join(shown) or "there are none")
        except PilotException as exc:
            logger.warning("the resource types could not be had from the server: %s; built-in values count", exc.detail)
        except Exception:
            logger.exception("the resource types could not be read; built-in values count")
        finally:
            self._answered.set()


def read_table(types: Iterable[Mapping[str, object]]) -> dict[str, Optional[int]]:
    """Return name -> maxrampercore (MB) of what the server sent; whatever is no resource type is left out."""
    table: dict[str, Optional[int]] = {}
    for item in types:
        name = item.get("resource_name")
        if isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME and len(table) < MOST_TYPES:
            table[name] = _megabytes(item.get("maxrampercore"))
    return table


def _megabytes(value: object) -> Optional[int]:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return int(number) if math.isfinite(number) and 0 < number <= _LARGEST else None
