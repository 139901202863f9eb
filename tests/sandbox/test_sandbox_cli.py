"""python3 -m sandbox: serve in a process of its own, and the commands that talk to it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator

import pytest
from sandbox_client import send

ROOT = Path(__file__).resolve().parents[2]


def run(*args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "sandbox", *args], cwd=ROOT, check=check, timeout=60,
                          capture_output=True, text=True)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    (tmp_path / "queues").mkdir()
    (tmp_path / "queues" / "MY_QUEUE.all.json").write_text(json.dumps({"nickname": "MY_QUEUE"}))
    process = subprocess.Popen(
        [sys.executable, "-m", "sandbox", "serve", "--port", "0", "--db", str(tmp_path / "s.db"), "--first-id", "42",
         "--queues", str(tmp_path / "queues"), "--trf", str(tmp_path), "--adder-delay", "0"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("listening on http://127.0.0.1:")
    try:
        yield process, line.split()[-1]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def call(url: str, method: str, path: str, data: Any = None) -> Any:
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    return send(int(url.rpartition(":")[2]), method, path, headers, json.dumps(data).encode() if data else b"").json


def test_commands(server: Any, tmp_path: Path) -> None:
    _, url = server
    file = tmp_path / "job.json"
    file.write_text(json.dumps([{"transformation": "echo", "jobPars": "hello"}, {"transformation": "true"}]))
    assert run("submit", str(file), "--url", url).stdout.split() == ["42", "43"]
    taken = call(url, "POST", "/api/v1/pilot/acquire_jobs", {"site_name": "MY_QUEUE"})["data"]["jobs"][0]
    assert (taken["PandaID"], taken["jobPars"]) == (42, "hello")
    assert run("command", "42", "ls -l", "--url", url).stdout == "done\n"
    run("debug", "42", "--url", url)
    update = {"job_id": 42, "job_status": "running"}
    assert call(url, "POST", "/api/v1/pilot/update_job", update)["data"]["command"] == "debug,ls -l"
    run("fault", "update_job", "status_30", "--when", "job_id=42", "--url", url)
    assert call(url, "POST", "/api/v1/pilot/update_job", update)["data"] == {"StatusCode": 30}
    assert json.loads(run("fault", "--url", url).stdout)[0]["hits"] == 1
    assert json.loads(run("fault", "--clear", "--url", url).stdout) == []
    run("kill", "43", "--url", url)
    lines = run("list", "--url", url).stdout.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["43", "closed"], ["42", "running"]]
    assert json.loads(run("show", "42", "--url", url).stdout)["command"] == "ls -l"
    assert [r["operation"] for r in json.loads(run("requests", "--url", url).stdout)] == [
        "acquire_jobs", "update_job", "update_job"]
    assert call(url, "GET", "/cache/schedconfig/MY_QUEUE.all.json") == {"nickname": "MY_QUEUE"}
    file.write_text(json.dumps({"nickname": "OTHER"}))
    run("queue", "OTHER", str(file), "--url", url)
    assert call(url, "GET", "/cache/schedconfig/OTHER.all.json") == {"nickname": "OTHER"}
    assert json.loads(run("clock", "7300", "--url", url).stdout) == [42]
    assert json.loads(run("adder", "--url", url).stdout) == []


def test_mistakes_are_told(server: Any, tmp_path: Path) -> None:
    _, url = server
    assert run("kill", "7", "--url", url, check=False).stdout == "no such active job\n"
    assert run("show", "7", "--url", url, check=False).returncode == 1
    result = run("fault", "update_job", "explode", "--url", url, check=False)
    assert (result.returncode, "unknown kind of fault: explode" in result.stderr) == (1, True)
    assert "refused" in run("list", "--url", "http://127.0.0.1:1", check=False).stderr


def test_sigterm_ends_it_while_a_request_hangs(server: Any) -> None:
    process, url = server
    run("fault", "is_alive", "hang", "--url", url)
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as sock:
        sock.sendall(b"GET /server/panda/isAlive HTTP/1.1\r\nHost: x\r\n\r\n")
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(30) == 0
