"""The web page in a real browser: jobs, states, heartbeats, the final report and the log can be seen."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import tarfile
from html import unescape
from pathlib import Path
from typing import Callable, List

import pytest
from sandbox_client import Client, send

from sandbox import Sandbox

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run", "--window-size=1300,1000"]


@pytest.fixture
def browse(tmp_path: Path) -> Callable[..., str]:
    """Load a page in Chromium; its DOM after the scripts have run."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.fail("this test looks at the page in a browser: apt-get install chromium")
    count: List[int] = []

    def load(url: str, *options: str) -> str:
        count.append(1)
        profile = tmp_path / f"profile-{len(count)}"
        done = subprocess.run([program, *FLAGS, f"--user-data-dir={profile}", *options, url], timeout=120,
                              capture_output=True, check=True)
        return unescape(done.stdout.decode())

    return load


def finished_job(box: Sandbox, client: Client, directory: Path) -> int:
    job = box.submit({"logFile": "log.tgz", "outFiles": "log.tgz", "jobPars": "<script>alert(1)</script>"})
    client.take()
    client.update(job, "starting")
    client.update(job, "running", n_events=17, stdout="the tail of the payload")
    path = directory / "log.tgz"
    with tarfile.open(path, "w:gz") as tar:
        content = b"what the pilot did, line by line"
        member = tarfile.TarInfo("tarball_PandaJob/pilotlog.txt")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    report = json.dumps({"log.tgz": {"guid": "G", "fsize": 9, "adler32": "00000001", "surl": f"file://localhost{path}"}})
    client.update(job, "finished", job_output_report=report, pilot_timing="1|2|3|4|5", pilot_log="an extract")
    box.run_adder()
    return job


def test_jobs_and_their_states(box: Sandbox, client: Client, browse: Callable[..., str], tmp_path: Path) -> None:
    done = finished_job(box, client, tmp_path)
    broken = box.submit({})
    client.take()
    client.update(broken, "failed", pilot_error_code=1305, pilot_error_diag="Failed to execute payload")
    waiting = box.submit({})
    picture = tmp_path / "page.png"
    dom = browse(box.url, "--dump-dom")
    for job, state in ((done, "finished"), (waiting, "activated")):
        assert re.search(rf'href="/sandbox/job/{job}">{job}</a></td><td><span class="s {state}">{state}<', dom)
    assert "1305 Failed to execute payload" in dom
    browse(f"{box.url}/sandbox/", f"--screenshot={picture}")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_one_job(box: Sandbox, client: Client, browse: Callable[..., str], tmp_path: Path) -> None:
    job = finished_job(box, client, tmp_path)
    box.server.requests.clear()
    dom = browse(f"{box.url}/sandbox/job/{job}", "--dump-dom")
    history = re.search(r'<table id="history">.*?</table>', dom, re.S)
    assert history is not None
    assert re.findall(r'class="s (\w+)"', history.group()) == [
        "activated", "sent", "starting", "running", "holding", "finished"]
    for text in ("Heartbeats (3)", "nEvents=17", '"pilotTiming": "1|2|3|4|5"', "an extract", "the tail of the payload",
                 "what the pilot did, line by line", '"adler32": "00000001"'):
        assert text in dom
    assert box.requests == [], "looking at the page is not recorded as a pilot's request"


def test_the_page_follows_the_job(box: Sandbox, client: Client, browse: Callable[..., str]) -> None:
    """The script fetches the page again: virtual time lets its timer fire."""
    job = box.submit({})
    seen: List[str] = []
    original = box.core.job

    def look(job_id: int) -> dict[str, object]:
        view = original(job_id)
        seen.append(view["state"])
        if len(seen) == 1:
            box.set_state(job_id, "transferring")
        return view

    box.core.job = look  # type: ignore[method-assign]
    dom = browse(f"{box.url}/sandbox/job/{job}", "--dump-dom", "--virtual-time-budget=10000")
    assert seen[0] == "activated" and len(seen) > 1
    assert 'class="s transferring">transferring' in dom


def test_hostile_fields_are_escaped(box: Sandbox, client: Client, tmp_path: Path) -> None:
    job = finished_job(box, client, tmp_path)
    client.update(box.submit({}), "running")
    page = send(box.port, "GET", f"/sandbox/job/{job}", {}).text
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page


def test_a_foreign_page_cannot_change_anything(box: Sandbox) -> None:
    job = box.submit({})
    answer = send(box.port, "POST", f"/sandbox/api/jobs/{job}/kill", {"Content-Type": "text/plain"}, b"{}")
    assert (answer.status, box.job(job)["state"]) == (415, "activated")
    answer = send(box.port, "POST", f"/sandbox/api/jobs/{job}/kill", {"Content-Type": "application/json"}, b"{}")
    assert (answer.json, box.job(job)["state"]) == ({"done": True}, "closed")


def test_unknown_pages(box: Sandbox) -> None:
    for path in ("/sandbox/job/1", "/sandbox/job/x", "/sandbox/none", "/sandbox/api/none", "/sandbox/api/jobs/1"):
        assert send(box.port, "GET", path, {}).status == 404, path
