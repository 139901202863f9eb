"""The outbox's end: nothing of it touches the store any more."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, List

from pilot.panda.outbox import Outbox
from pilot.settings import default_settings
from pilot.store.pilotdb import PilotDB


class HangingServer:
    """Answers nothing until it is released."""

    def __init__(self) -> None:
        self.asked, self.release = threading.Event(), threading.Event()

    def update_jobs(self, messages: Any) -> List[Any]:
        self.asked.set()
        assert self.release.wait(60)
        return []


def test_a_closed_outbox_leaves_the_store_alone_while_its_second_lane_waits(tmp_path: Path) -> None:
    store, server = PilotDB(tmp_path / "pilot.db"), HangingServer()
    outbox = Outbox(store, server, default_settings(), lambda job_id, commands: None)  # type: ignore[arg-type]
    before = set(threading.enumerate())
    outbox.start()
    outbox.post("1", {"state": "running"}, final=False)
    assert server.asked.wait(60)
    outbox.post("1", {"state": "finished"}, final=True)
    store.close()
    outbox.close()
    server.release.set()
    for thread in set(threading.enumerate()) - before:  # an exception in one of them fails this test
        thread.join(60)
        assert not thread.is_alive()
