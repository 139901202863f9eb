"""A helper that dies like a client library with a fault (copytool ``debug``)."""

from __future__ import annotations

import signal
import threading
from typing import Mapping

from pilot.copytool.worker.main import Call, Operation


def load() -> dict[str, Operation]:
    """There is nothing to import."""
    return {"crash": _crash}


def _crash(_call: Call) -> Mapping[str, object]:
    signal.pthread_kill(threading.get_ident(), signal.SIGSEGV)  # this thread, so that no answer leaves before
    return {}
