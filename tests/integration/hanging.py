"""A plug-in experiment whose hook, named in HANGING_HOOK, never comes back; another one, named in DYING_HOOK, ends its
thread for good."""

from __future__ import annotations

import os
import threading
from typing import Any

from pilot.user.base import Experiment
from pilot.user.generic import GenericExperiment
from pilot.user.guard import hooks


class End(BaseException):
    """Nobody expects this one."""


class HangingExperiment(GenericExperiment):
    """Like generic, but for its hooks."""

    name = "hanging"

    def __init__(self) -> None:
        for name in hooks():
            if os.environ.get("HANGING_HOOK") == name:
                setattr(self, name, self._hang)
            elif os.environ.get("DYING_HOOK") == name:
                setattr(self, name, self._die)

    def sanity_check(self) -> tuple[int, str]:
        """Its own, so that it is asked like one that may hang."""
        return Experiment.sanity_check(self)

    def _hang(self, *_arguments: Any, **how: Any) -> Any:
        if how.get("final") is (os.environ.get("HANGING_FINAL") == "no"):
            return ""
        return threading.Event().wait()

    def _die(self, *_arguments: Any, **_more: Any) -> Any:
        raise End
