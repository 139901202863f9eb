"""Where the Rucio server's traces end. Without a broker each trace costs the server 0.8 s."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List

from tests.grid.testbed.service import BrokenService, Service, free_port, listens

PROGRAM = Path(__file__).resolve().parent / "programs" / "stomp_broker.py"
WAIT = 20.0
"""Seconds until a trace that was sent must have arrived."""


class Stomp(Service):
    """Every trace is a line of ``messages``."""

    name = "stomp"

    def __init__(self, directory: Path, bound: bool = True) -> None:
        super().__init__(directory, bound)
        self.port = 0
        self.messages = directory / "messages.jsonl"

    def describe(self) -> Dict[str, str]:
        """The address, and the file with what arrived."""
        return {"broker": f"127.0.0.1:{self.port}", "messages": str(self.messages)}

    def _start(self) -> None:
        self.port = free_port()
        self.messages.touch()
        log = self.directory / "stomp.log"
        process = self.launch([sys.executable, str(PROGRAM), str(self.port), str(self.messages)], log)
        self.wait_until(lambda: listens(self.port), process, log)

    def received(self) -> List[Dict[str, Any]]:
        """All that has arrived so far, oldest first."""
        lines = self.messages.read_text(encoding="utf-8").split("\n")[:-1]
        return [json.loads(line) for line in lines]

    def wait_for(self, wanted: Callable[[Dict[str, Any]], bool], count: int = 1) -> List[Dict[str, Any]]:
        """The messages that ``wanted`` is true for, as soon as there are ``count`` of them."""
        end = time.monotonic() + WAIT
        while True:
            found = [message for message in self.received() if wanted(message)]
            if len(found) >= count:
                return found
            if time.monotonic() > end:
                fields = ("eventType", "filename", "clientState", "stateReason")
                last = ["; ".join(str(item.get(field)) for field in fields) for item in self.received()[-5:]]
                raise BrokenService(f"after {WAIT:.0f} s {len(found)} of {count} messages; the last of all: {last}")
            time.sleep(0.05)
