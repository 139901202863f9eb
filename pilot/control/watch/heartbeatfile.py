"""Keeps the pilot heartbeat file: who looks into the pilot's directory sees that it lives, and whether it has stood
still. Source: control and monitoring document 8."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from pilot.monitoring.checks import Keeper
from pilot.monitoring.pulse import Pulse
from pilot.util.copying import placed
from pilot.util.logs import touch_log

logger = logging.getLogger(__name__)


class HeartbeatFile(Keeper):
    """Writes the file, complete at any moment.

    Args:
        path: of the file.
        pulse: of the pilot.
        period: s between two of them.
    """

    name = "pilot_heartbeat"

    def __init__(self, path: Path, pulse: Pulse, period: float) -> None:
        self.path, self.period = path, period
        self._pulse = pulse
        self._failed = False

    def look(self) -> None:
        """Write it; a disk that refuses is worth one line.

        The log's time is renewed, too: the wrapper ends a pilot whose log has not changed for an hour, and one that
        waits for a message, or whose job the server has closed, is quiet.
        """
        self._pulse.beat()
        touch_log()
        try:
            with placed(self.path) as part:
                descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
                with os.fdopen(descriptor, "w", encoding="ascii") as stream:
                    json.dump(self._pulse.document(), stream)
            self._failed = False
        except OSError as exc:
            if not self._failed:
                logger.warning("the pilot heartbeat file %s cannot be written: %s", self.path, exc.strerror or exc)
            self._failed = True
