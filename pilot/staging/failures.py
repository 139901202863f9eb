"""What went wrong in a group of transfers, in the order of time, and which of it the job reports.

```
 tool 1   a.root 1171 at SE1, 1331 at SE2      b.root 1324
 tool 2   cannot be loaded 1342
 tool 3   a.root 1331                           b.root arrives --> its failures no longer count
 report   1171: what happened to a.root, every reason in its order
```
"""

from __future__ import annotations

import re
from copy import copy
from threading import Lock
from typing import NamedTuple, Optional, Sequence

from pilot.common.exception import PilotException, StageInFailure, StageOutFailure
from pilot.copytool.base import Direction
from pilot.info.filespec import FileSpec

_NAMED = re.compile(r"(.*) \[([^][]*)\]", re.DOTALL)


class _Event(NamedTuple):
    """One failure; ``spec`` None = of a tool as a whole."""

    spec: Optional[FileSpec]
    failure: PilotException
    round: int
    """Number of the tool."""


class Failures:
    """The failures of one group; thread-safe."""

    def __init__(self, direction: Direction) -> None:
        self._inward = direction is Direction.IN
        self._lock = Lock()
        self._events: list[_Event] = []
        self._round = 0

    def next_tool(self) -> None:
        """What comes now comes from the next tool."""
        self._round += 1

    def add(self, failure: PilotException, spec: Optional[FileSpec] = None) -> None:
        """Note a failure of one file, or of a tool as a whole; the first one of a file gives its ``status_code``."""
        with self._lock:
            self._events.append(_Event(spec, failure, self._round))
            if spec is not None:
                spec.status = "failed"
                spec.status_code = next(event.failure.code for event in self._events if event.spec is spec)

    def forget(self, spec: FileSpec) -> None:
        """The file was moved after all."""
        with self._lock:
            self._events = [event for event in self._events if event.spec is not spec]

    def has(self, code: int) -> bool:
        """True when a failure that still counts has this code."""
        with self._lock:
            return any(event.failure.code == code for event in self._events)

    def of(self, spec: FileSpec) -> Optional[PilotException]:
        """Return what kept a file: its own first failure, else the first one of a tool."""
        with self._lock:
            mine = [event.failure for event in self._events if event.spec is spec]
            common = [event.failure for event in self._events if event.spec is None]
        return next(iter(mine or common), None)

    def cause(self, files: Sequence[FileSpec], tools: Sequence[str]) -> PilotException:
        """Make the error of the group (data management document 3.1).

        A refused login comes first, then a wrong queue configuration, else the first failure in time gives the code; a
        tool whose library is missing gives way to what the others found out. The text has every reason of the file
        that it is about.

        Args:
            files: all files of the group.
            tools: that were tried.
        """
        kind = StageInFailure if self._inward else StageOutFailure
        place = {id(spec): number for number, spec in enumerate(files)}
        with self._lock:  # files fail side by side: their order in the job makes the choice the same each time
            events = sorted(self._events, key=lambda event: (event.round, place.get(id(event.spec), -1)))
        if not events:
            return kind("no copytool is defined", code=1323)
        chosen = next((event for event in events if event.failure.code != 1342), events[0])
        code = chosen.failure.code
        for words, special in (
            ("Cannot authenticate", 1338 if self._inward else 1383),
            ("bad queue configuration", 1341),
        ):
            found = next((event for event in events if words in event.failure.detail), None)
            if found is not None:
                chosen, code = found, special
                break
        about = chosen.spec or next((event.spec for event in events if event.spec is not None), None)
        story = [chosen, *(event for event in events if event.spec is None or event.spec is about)]
        failed = sum(spec.status == "failed" for spec in files)
        more = f"; {failed} of {len(files)} files failed" if len(files) > 1 else ""
        text = "; then: ".join(_told_once([event.failure.detail for event in story]))
        return kind(f"{text}{more}:failed to transfer files using copytools={list(tools)}", code=code)


def named(failure: PilotException, transfer_id: str) -> PilotException:
    """Return the failure with the transfer id behind its text: the job's diagnosis can be joined with the transfer."""
    twin = copy(failure)  # one failure may stand for several files
    twin.detail = f"{failure.detail} [{transfer_id}]"
    return twin


def _told_once(texts: Sequence[str]) -> list[str]:
    """Join equal reasons of several attempts: the text once, behind it the transfer ids."""
    names: dict[str, list[str]] = {}
    for text in texts:
        found = _NAMED.fullmatch(text)
        reason, name = found.groups() if found else (text, "")
        known = names.setdefault(reason, [])
        if name and name not in known:
            known.append(name)
    return [f"{reason} [{', '.join(ids)}]" if ids else reason for reason, ids in names.items()]
