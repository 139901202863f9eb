"""An experiment whose middleware comes from ALRB, as that of issue 4 will be."""

from __future__ import annotations

from pilot.info.middleware import MiddlewareCommand, MiddlewareTask
from pilot.user.alrb import alrb_middleware_command
from pilot.user.generic import GenericExperiment


class AlrbExperiment(GenericExperiment):
    """Nothing but that differs."""

    name = "alrb"

    def middleware_command(self, task: MiddlewareTask) -> MiddlewareCommand:
        return alrb_middleware_command(task)
