"""Storage descriptions are downloaded when they are first needed, and that may be after the pilot was told to end."""

from __future__ import annotations

import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Iterator

import pytest
from harness import Farm


@pytest.fixture
def storage(farm: Farm, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """(URL of the storage descriptions, directory behind the endpoint TEST_RSE, which the queue writes to)."""
    place, pages = tmp_path / "rse", tmp_path / "pages"
    place.mkdir()
    pages.mkdir()
    protocols = {"write_lan": [{"endpoint": "file://", "path": str(place)}]}
    endpoint = {"name": "TEST_RSE", "state": "ACTIVE", "is_deterministic": True, "arprotocols": protocols}
    (pages / "ddm.json").write_text(json.dumps({"TEST_RSE": endpoint}))
    farm.set_queue(astorages={"write_lan": ["TEST_RSE"]})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(pages)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/ddm.json", place
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("end", ["SIGTERM", "time limit"])
def test_the_log_finds_its_storage_after_the_pilot_was_told_to_end(
    farm: Farm, storage: tuple[str, Path], end: str
) -> None:
    url, place = storage
    gate = farm.gate("payload")
    job = farm.submit_job(gate.shell())
    lifetime = ["-l", "10", "--pod"] if end == "time limit" else []
    pilot = farm.start_pilot("--storagedata-url", url, *lifetime, files=False)
    gate.reached()
    if end == "SIGTERM":
        pilot.send("SIGTERM")
    assert pilot.wait() == (143 if end == "SIGTERM" else 0)
    final = farm.final(job)
    assert final["pilotErrorCode"] == (1201 if end == "SIGTERM" else 1213)
    (entry,) = json.loads(final["xml"]).values()
    assert entry["surl"].startswith(f"file://{place}"), "the log has a place in the storage"
    assert "no storage URL" not in pilot.output
