"""Views of the PilotDB of a job of 24 h: its size, and what --status and the page of the job cost."""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, List

from figures import Table
from rig import ROOT

DAY, FILES = 86400, 300


def measure(table: Table, runs: int) -> None:
    """In this process, without the start of Python."""
    sys.path.insert(0, str(ROOT))
    from pilot.report.html import job_page
    from pilot.report.status import status_document, status_text
    from pilot.store.pilotdb import PilotDB

    table.title(f"views of a job of 24 h: a sample per minute, {FILES} files")
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "pilot.db"
        largest = _live(path)
        view = PilotDB(path, read_only=True)
        (job,) = view.jobs()
        page = job_page(view, job)
        table.add("largest size of the PilotDB with its log", [largest / 1e6], "MB", target=2)
        table.add("opening it to look", _times(lambda: PilotDB(path, read_only=True).close(), runs))
        table.add("--status", _times(lambda: status_text(view, True), runs))
        table.add("--status --json", _times(lambda: json.dumps(status_document(view, True)), runs))
        table.add("the page", _times(lambda: job_page(view, job), runs), target=1.0)
        table.add("size of the page", [len(page.encode()) / 1e6], "MB", target=0.3)
        view.close()


def _times(call: Callable[[], Any], runs: int) -> List[float]:
    found = []
    for _ in range(runs):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return [statistics.median(found)]


def _live(path: Path) -> int:
    """Write what a day writes; returns the largest size in bytes on the way."""
    from pilot.store.pilotdb import PilotDB
    from pilot.store.viewrows import Limit, Sample

    now = [1_760_000_000.0]
    store = PilotDB(path, lambda: now[0])
    store.begin("token", "2.13", "node")
    store.add_job("7", 1, "token", now[0], "{}" * 5000, "transform.py")
    store.add_transition("7", "accepted", "stagein")
    for number in range(FILES):
        store.add_transfer("7", f"file{number}.root", "stage-in", tool="rucio", seconds=number / 10, size=10**9,
                           status="DONE", transfer_id=f"7.1.in.file{number}.root.1", trace={"filename": "x" * 800})
    store.mark_traces_sent([entry.id for entry in store.open_traces(FILES)])
    store.add_transition("7", "staged_in", "payload")
    store.set_limit("7", Limit("memory", 4e9, "bytes", "maxrss of the queue x 2"))
    largest = 0
    for number in range(DAY // 60):
        now[0] += 60
        store.add_sample("7", Sample(now[0], number * 55.0, 7.5, 10**9 + number * 10**6, 20, 9 * 10**8, 10**6,
                                     number * 10**8, number * 10**7, number * 10**7))
        store.set_status("monitor", f"look {number}")
        if number % 30 == 0:
            store.mark_delivered(store.put_message("7", {"stdout": "x" * 3000}, final=False, state="running"))
            largest = max(largest, sum(os.path.getsize(file) for file in path.parent.iterdir()))
    store.close()
    return largest
