"""Fault injection: each kind does to a client what its name says, as often as planned."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any

import pytest
from sandbox_client import Client, send

from sandbox import Sandbox

V1_OK = {"success": True, "message": "", "data": {"StatusCode": 0, "command": "NULL"}}


@pytest.fixture
def job(box: Sandbox, client: Client) -> int:
    box.submit({})
    return client.take()


def heartbeat(client: Client, job: int) -> Any:
    return client.v1_raw("pilot/update_job", {"job_id": job, "job_status": "running", "n_events": 1})


@pytest.mark.parametrize(("kind", "status", "body"), [
    ("http_500", 500, b"injected fault: HTTP 500"), ("http_403", 403, b"injected fault: HTTP 403"),
    ("http_503", 503, b"injected fault: HTTP 503"), ("empty", 200, b""),
])
def test_replaced_answers(box: Sandbox, client: Client, job: int, kind: str, status: int, body: bytes) -> None:
    fault = box.faults.add("update_job", kind, times=2)
    for _ in range(2):
        answer = heartbeat(client, job)
        assert (answer.status, answer.body) == (status, body)
    assert heartbeat(client, job).json == V1_OK
    assert (fault.hits, box.faults.hits, len(box.job(job)["updates"])) == (2, 2, 1)


def test_answers_that_cannot_be_parsed(box: Sandbox, client: Client, job: int) -> None:
    for kind in ("garbage", "not_utf8", "html"):
        box.faults.add("update_job", kind)
        answer = heartbeat(client, job)
        assert answer.status == 200
        with pytest.raises(ValueError):
            json.loads(answer.body)


@pytest.mark.parametrize(("kind", "problem", "processed"), [
    ("reset", ConnectionResetError, False), ("close_before_answer", http.client.RemoteDisconnected, False),
    ("processed_then_reset", ConnectionResetError, True),
    ("processed_then_close", http.client.RemoteDisconnected, True),
    ("truncate", http.client.IncompleteRead, True),
])
def test_broken_connections(box: Sandbox, client: Client, job: int, kind: str, problem: Any, processed: bool) -> None:
    box.faults.add("update_job", kind)
    with pytest.raises(problem):
        heartbeat(client, job)
    assert bool(box.job(job)["updates"]) is processed
    assert heartbeat(client, job).json == V1_OK


def test_a_delay_longer_than_the_client_waits(box: Sandbox, client: Client, job: int) -> None:
    box.faults.add("update_job", "hang")
    with pytest.raises(socket.timeout):
        send(box.port, "POST", "/api/v1/pilot/update_job", {"Content-Type": "application/json"}, b"{}", timeout=0.2)
    box.faults.add("update_job", "delay", seconds=0.01)
    assert heartbeat(client, job).json == V1_OK


def test_drip_and_wrong_type_keep_the_body(box: Sandbox, client: Client, job: int) -> None:
    box.faults.add("update_job", "drip", seconds=0)
    box.faults.add("update_job", "wrong_type")
    assert heartbeat(client, job).json == V1_OK
    answer = heartbeat(client, job)
    assert (answer.json, answer.headers["Content-Type"]) == (V1_OK, "application/octet-stream")


def test_status_codes_in_both_dialects(box: Sandbox, client: Client, job: int) -> None:
    for code in (10, 30):
        box.faults.add("update_job", f"status_{code}", times=3)
        data = heartbeat(client, job).json
        assert (data["success"], data["data"]) == (True, {"StatusCode": code})
        assert client.legacy("updateJob", jobId=job, state="running") == {"StatusCode": code}
        assert client.legacy_raw("updateJob", f"jobId={job}&state=running".encode()).text == f"StatusCode={code}"
    box.faults.add("acquire_jobs", "status_10")
    assert client.v1("pilot/acquire_jobs", site_name="TEST_QUEUE") == {
        "success": False, "message": "Timed out", "data": None}
    box.faults.add("acquire_jobs", "status_60", times=2)
    role = "no production/pilot role in VOMS FQANs or non pilot owner"
    assert client.v1("pilot/acquire_jobs", site_name="TEST_QUEUE")["message"] == role
    assert client.legacy("getJob", siteName="TEST_QUEUE") == {"StatusCode": 60, "errorDialog": role}
    assert box.job(job)["updates"] == []


def test_numbers_as_strings_and_url_encoded_answers(box: Sandbox, client: Client, job: int) -> None:
    box.faults.add("updateJob", "strings")
    box.faults.add("updateJob", "urlencoded")
    assert client.legacy("updateJob", jobId=job, state="running") == {"StatusCode": "0", "command": "NULL"}
    answer = client.legacy_raw("updateJob", f"jobId={job}&state=running".encode(), Accept="application/json")
    assert answer.text == "StatusCode=0&command=NULL"


def test_a_command_in_the_answer(box: Sandbox, client: Client, job: int) -> None:
    box.faults.add("update_job", "command", text="tobekilled", times=2)
    assert heartbeat(client, job).json["data"]["command"] == "tobekilled"
    assert client.legacy("updateJob", jobId=job, state="running")["command"] == "tobekilled"


def test_only_some_requests(box: Sandbox, client: Client, job: int) -> None:
    box.faults.add("update_job", "http_500", times=None, when=lambda params: params.get("job_status") == "finished")
    box.faults.add("*", "http_502", times=None, when={"state": "failed"})
    assert heartbeat(client, job).status == 200
    assert client.v1_raw("pilot/update_job", {"job_id": job, "job_status": "finished"}).status == 500
    assert client.legacy_raw("updateJob", f"jobId={job}&state=failed".encode()).status == 502
    box.faults.clear()
    assert client.v1_raw("pilot/update_job", {"job_id": job, "job_status": "finished"}).status == 200


def test_after_processing_the_update_is_stored(box: Sandbox, client: Client, job: int) -> None:
    box.faults.add("update_job", "http_500", after_processing=True)
    assert heartbeat(client, job).status == 500
    assert box.job(job)["fields"] == {"nEvents": 1}
    assert [r.fault for r in box.requests][-1] == "http_500"


def test_faults_of_files(box: Sandbox) -> None:
    box.faults.add("queuedata", "html")
    path = "/cache/schedconfig/TEST_QUEUE.all.json"
    assert send(box.port, "GET", path, {}).body.startswith(b"<html>")
    assert send(box.port, "GET", path, {}).json["nickname"] == "TEST_QUEUE"


def test_unknown_kind_is_refused(box: Sandbox) -> None:
    with pytest.raises(ValueError, match="unknown kind"):
        box.faults.add("update_job", "explode")


def test_down_and_up(box: Sandbox, client: Client, job: int) -> None:
    kept = http.client.HTTPConnection("127.0.0.1", box.port, timeout=30)
    kept.request("GET", "/server/panda/isAlive")
    assert kept.getresponse().read() == b"alive=yes"
    box.down()
    with pytest.raises(ConnectionRefusedError):
        heartbeat(client, job)
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        kept.request("GET", "/server/panda/isAlive")
        kept.getresponse()
    kept.close()
    box.up()
    assert heartbeat(client, job).json == V1_OK


def test_down_does_not_wait_for_a_hanging_request(box: Sandbox, client: Client) -> None:
    box.faults.add("is_alive", "hang")
    with socket.create_connection(("127.0.0.1", box.port)) as sock:
        sock.sendall(b"GET /server/panda/isAlive HTTP/1.1\r\nHost: x\r\n\r\n")
        box.wait(lambda: box.faults.hits == 1)
        box.down()
        assert sock.recv(10) == b""


def test_wait_tells_what_happened_when_it_gives_up(box: Sandbox, client: Client) -> None:
    client.v1("pilot/acquire_jobs", site_name="TEST_QUEUE")
    with pytest.raises(TimeoutError, match="acquire_jobs"):
        box.wait(lambda: False, timeout=0.05)
