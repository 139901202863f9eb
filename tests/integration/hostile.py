"""Experiments with one bad hook, named by the environment: HOSTILE_HOOK raises or answers nonsense (HOSTILE_WAY)."""

from __future__ import annotations

import os
import sys
from typing import Any

from pilot.info.payloadtask import Moment, UtilityCommand
from pilot.user.generic import GenericExperiment

HOOK, WAY = os.environ.get("HOSTILE_HOOK", ""), os.environ.get("HOSTILE_WAY", "")


class Nonsense:
    """Fits nowhere, and even looking at it fails."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"do not ask me for {name}")

    def __iter__(self) -> Any:
        raise RuntimeError("no list")

    def __bool__(self) -> bool:
        raise RuntimeError("no truth")

    def __repr__(self) -> str:
        raise RuntimeError("no text")


def bad(self: Any, *args: Any, **kwargs: Any) -> Any:
    """A hook in the hands of an enemy."""
    if WAY == "raises":
        raise RuntimeError("a plug-in with a fault")
    if WAY == "exits":
        sys.exit(3)
    if WAY == "shy":
        raise Shy
    if WAY == "nonsense":
        return Nonsense()
    return {"list": [[None]], "number": 42, "nothing": None}[WAY]


class Shy(Exception):
    """An exception whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("not even this")


class Hostile(GenericExperiment):
    """Takes part in what a good experiment need not, so that more hooks are called."""

    name = "hostile"

    def uses_container(self, job: Any, queue: Any) -> bool:
        return HOOK == "contain"

    def contain(self, task: Any, command: Any) -> Any:
        return command

    def utility(self, moment: Any, task: Any, command: Any) -> Any:
        return [UtilityCommand("hello", "true")] if moment is Moment.BEFORE_PAYLOAD else []

    def verifies_setup(self, job: Any, queue: Any) -> bool:
        return False


for name in ([attribute for attribute in dir(GenericExperiment) if not attribute.startswith("_")
              and callable(getattr(GenericExperiment, attribute))] if HOOK == "all" else [HOOK]):
    if name:
        setattr(Hostile, name, bad)
