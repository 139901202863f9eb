"""What the recordings do not show: binding, type checks, reply forms, bodies, identities, events, credentials."""

from __future__ import annotations

import gzip
import json
import socket
import urllib.parse
from typing import Any

import pytest
from sandbox_client import JANE, ROBOT, Client, send

from sandbox import Sandbox

OK = {"StatusCode": 0, "command": "NULL"}


@pytest.fixture
def job(box: Sandbox, client: Client) -> int:
    box.submit({})
    return client.take()


@pytest.mark.parametrize(("params", "message"), [
    ({"job_id": "1"}, "Type error: 'job_id' must be of type int, got str."),
    ({"mean_core_count": 1.5}, "Type error: 'mean_core_count' must be of type int, got float."),
    ({"start_time": 1.5}, "Type error: 'start_time' must be of type str, got float."),
    ({"timestamp": "x"}, "Argument error: got an unexpected keyword argument 'timestamp'"),
    ({"pilot_log": None}, "Type error: 'pilot_log' must be of type str, got NoneType."),
    ({"job_output_report": {}}, "Type error: 'job_output_report' must be of type str, got dict."),
])
def test_v1_update_is_strict(client: Client, job: int, params: Any, message: str) -> None:
    sent = {"job_id": job, "job_status": "running", **params}
    assert client.v1("pilot/update_job", **sent) == {"success": False, "message": message, "data": None}


def test_v1_takes_null_where_the_default_is_null_and_both_kinds_of_numbers(client: Client, job: int) -> None:
    assert client.update(job, "running", batch_id=None, avg_rss=1.5, max_rss=2, cpu_conversion_factor=1) == OK


def test_v1_text_for_a_number_of_two_types_is_a_server_error(client: Client, job: int) -> None:
    assert client.v1_raw("pilot/update_job", {"job_id": job, "job_status": "running", "max_rss": "5"}).status == 500


def test_v1_n_jobs_null_is_a_server_error(client: Client) -> None:
    assert client.v1_raw("pilot/acquire_jobs", {"site_name": "TEST_QUEUE", "n_jobs": None}).status == 500


def test_v1_get_casts(client: Client, job: int) -> None:
    assert client.v1_get("pilot/get_job_status", job_ids=[job])["data"][0]["status"] == "sent"
    reply = client.v1_get("event/get_available_event_range_count", job_id="x", jobset_id=1)
    assert reply["message"] == "Type error: 'job_id' with value 'x' could not be casted to type <class 'int'>."


@pytest.mark.parametrize(("accept", "content_type", "form"), [
    ("application/json", None, "json"), (None, "application/json", "json"), ("*/*", None, "repr"),
    ("application/json, text/plain", None, "repr"), (None, "application/json; charset=utf-8", "repr"),
])
def test_v1_reply_form(box: Sandbox, accept: Any, content_type: Any, form: str) -> None:
    headers = {name: value for name, value in (("Accept", accept), ("Content-Type", content_type)) if value}
    answer = send(box.port, "GET", "/api/v1/system/is_alive", headers)
    expected = {"success": True, "message": "", "data": None}
    assert answer.text == (json.dumps(expected) if form == "json" else repr(expected))
    assert answer.headers["Content-Type"] == "text/plain"


def test_api_latest_is_v1(box: Sandbox) -> None:
    assert send(box.port, "GET", "/api/latest/system/is_alive", {"Accept": "application/json"}).json["success"]


@pytest.mark.parametrize("path", ["/api/v1/pilot/update_job/", "/api/v1/update_job", "/server/panda/x/updateJob"])
def test_wrong_path_forms(box: Sandbox, path: str) -> None:
    answer = send(box.port, "POST", path, {})
    assert (answer.status, answer.text) == (403, "ERROR : method  is forbidden")


def test_dialects_can_be_switched_off() -> None:
    with Sandbox(v1=False) as old, Sandbox(legacy=False) as new:
        answer = send(old.port, "POST", "/api/v1/pilot/update_job", {"Content-Type": "application/json"}, b"{}")
        assert (answer.status, answer.text) == (403, "ERROR : method update_job is forbidden")
        answer = send(new.port, "POST", "/server/panda/updateJob", {})
        assert (answer.status, answer.text) == (403, "ERROR : method updateJob is forbidden")


def test_legacy_takes_two_missing_arguments_together(client: Client) -> None:
    answer = client.legacy_raw("updateJob", b"node=x")
    assert answer.text == "updateJob() missing 2 required positional arguments: 'jobId' and 'state'"


def test_an_older_server_refuses_newer_parameters(box: Sandbox, client: Client, job: int) -> None:
    box.unknown_parameters.update({"cpu_architecture_level", "remaining_time"})
    fields = {"state": "running", "cpu_architecture_level": "x86_64-v3"}
    assert client.legacy_raw("updateJob", urllib.parse.urlencode({"jobId": job, **fields}).encode()).text == (
        "updateJob() got an unexpected keyword argument 'cpu_architecture_level'")
    assert client.v1("pilot/acquire_jobs", site_name="TEST_QUEUE", remaining_time=1)["message"] == (
        "Argument error: got an unexpected keyword argument 'remaining_time'")
    assert client.update(job, "running") == OK
    assert client.legacy("updateJob", jobId=job, state="running") == OK
    assert client.legacy("getJob", siteName="TEST_QUEUE")["StatusCode"] == 20


@pytest.mark.parametrize("field", ["pilotLog", "metaData", "stdout"])
def test_legacy_null_is_a_server_error_for_some_fields(client: Client, job: int, field: str) -> None:
    body = gzip.compress(json.dumps({"jobId": job, "state": "running", field: None}).encode())
    assert client.legacy_raw("updateJob", body, Content_Type="application/json").status == 500
    assert client.legacy_gzip("updateJob", jobId=job, state="running", xml=None) == OK


def test_legacy_number_for_a_sliced_text_is_a_server_error(client: Client, job: int) -> None:
    body = gzip.compress(json.dumps({"jobId": job, "state": "running", "batchID": 12}).encode())
    assert client.legacy_raw("updateJob", body, Content_Type="application/json").status == 500


def test_legacy_odd_updates_are_swallowed(client: Client) -> None:
    assert client.legacy("updateJob", jobId="NULL", state="running") == {"StatusCode": 0}
    assert client.legacy("updateJob", jobId=1, state="x") == {"StatusCode": 0}


def test_legacy_numbers_may_be_text_and_epoch_times_are_ignored(box: Sandbox, client: Client, job: int) -> None:
    assert client.legacy("updateJob", jobId=job, state="running", attemptNr="1", startTime=17.5, nEvents="9",
                         pilotErrorCode="-1151") == OK
    assert box.job(job)["fields"] == {"nEvents": 9, "pilotErrorCode": 1151}


def test_multipart_form(client: Client, job: int) -> None:
    parts = "".join(f'--B\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
                    for name, value in (("jobId", job), ("state", "running")))
    answer = client.legacy_raw("updateJob", (parts + "--B--\r\n").encode(),
                               Content_Type="multipart/form-data; boundary=B")
    assert answer.text == "StatusCode=0&command=NULL"


def test_debug_secrets_in_the_url_encoded_answer(box: Sandbox, client: Client, job: int) -> None:
    box.debug(job)
    answer = client.legacy_raw("updateJob", urllib.parse.urlencode({"jobId": job, "state": "running"}).encode())
    assert answer.text == "StatusCode=0&command=debug&pilotSecrets=%7B%7D"


def test_workers_killed_are_counted(box: Sandbox, client: Client) -> None:
    client.legacy_raw("updateJob", b"{}", Content_Type="application/json")
    assert box.workers_killed == 1
    client.v1_raw("pilot/update_job", {}, **{"Content-Encoding": "gzip"})
    assert box.workers_killed == 2
    with socket.create_connection(("127.0.0.1", box.port)) as sock:
        sock.sendall(b"POST /server/panda/updateJob HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\njobId=1")
        sock.shutdown(socket.SHUT_WR)
        box.wait(lambda: box.workers_killed == 3)
    assert [r.operation for r in box.requests][-1] == "short_body"


def test_limited_proxy_and_roles() -> None:
    with Sandbox(auth="cert") as box:
        update = {"job_id": 1, "job_status": "running"}
        for dn, fqan, v1_text, legacy_code in (
            (ROBOT, "", "", 0),
            (ROBOT + "/CN=123456", "", "", 0),
            (ROBOT + "/CN=limited proxy", "", "SSL secure connection is required", 0),
            (JANE, "/atlas/Role=production", "", 0),
            (JANE, "/atlas/Role=pilot", "production or pilot role required", 0),
            (JANE, "/dune/Role=production", "", 0),
            (JANE, "", "production or pilot role required", 60),
            ("", "", "SSL secure connection is required", 60),
        ):
            client = Client(box, dn or None)
            if fqan:
                client.headers["X-Sandbox-FQAN"] = fqan
            assert client.v1("pilot/update_job", **update)["message"] == v1_text, (dn, fqan)
            assert client.legacy("updateJob", jobId=1, state="running")["StatusCode"] == legacy_code, (dn, fqan)


def test_token_mode() -> None:
    with Sandbox(auth="token") as box:
        client = Client(box)
        path, params = "pilot/update_job", {"job_id": 1, "job_status": "running"}
        assert client.v1(path, **params)["message"] == "SSL secure connection is required"
        client.headers = {"Authorization": "Bearer abc"}
        answer = client.v1_raw(path, params)
        assert (answer.status, answer.text) == (
            403, "ERROR : Token authentication failed. Origin is missing in the HTTP header")
        client.headers = {"Authorization": "Bearer abc", "Origin": "atlas.pilot"}
        assert client.v1(path, **params)["success"]
        box.auth.tokens["good"] = "Some Robot"
        assert client.v1_raw(path, params).status == 403
        client.headers["Authorization"] = "Bearer good"
        assert client.v1(path, **params)["message"] == "production or pilot role required"
        assert client.legacy("updateJob", jobId=1, state="running")["StatusCode"] == 0
        client.headers["Origin"] = "atlas:production"
        assert client.v1(path, **params)["success"]
        assert "good" not in json.dumps([r.public() for r in box.requests])


def test_banned_user() -> None:
    with Sandbox() as box:
        box.auth.banned["Robot Pilot"] = True
        answer = Client(box).v1_raw("pilot/acquire_jobs", {"site_name": "TEST_QUEUE"})
        assert (answer.status, answer.text) == (403, "ERROR : Robot Pilot is banned")


def test_credentials_that_are_there(box: Sandbox, client: Client) -> None:
    box.creds.flags["Robot Pilot"] = "pkt"
    box.creds.proxies["user"] = "-----BEGIN"
    box.creds.key_pairs["pub", "priv"] = ("A", "B")
    box.creds.access_tokens["pilot_server"] = "new-token"
    box.creds.token_keys["pilot_server"] = "right"
    assert client.v1_get("creds/get_proxy", role="user")["data"] == {"user_proxy": "-----BEGIN"}
    assert client.legacy("getProxy", role="user") == {"StatusCode": 0, "errorDialog": "", "userProxy": "-----BEGIN"}
    assert client.legacy("getProxy", role="other")["StatusCode"] == 90
    assert client.legacy("getKeyPair", publicKeyName="pub", privateKeyName="priv") == {
        "StatusCode": 0, "publicKey": "A", "privateKey": "B"}
    assert client.legacy("getKeyPair", publicKeyName="x", privateKeyName="priv")["StatusCode"] == 80
    token = {"client_name": "pilot_server", "token_key": "right"}
    assert client.v1_get("creds/get_access_token", **token)["data"] == {"user_proxy": "new-token"}
    assert client.legacy("get_access_token", **{**token, "token_key": "wrong"})["StatusCode"] == 50
    assert all("right" not in str(r.params) for r in box.requests)
    client.v1("creds/set_user_secrets", key="MB_USERNAME", value="u")
    assert json.loads(client.v1_get("creds/get_user_secrets", keys=["MB_USERNAME"])["data"]) == {"MB_USERNAME": "u"}
    assert client.legacy("get_user_secrets", keys="MB_USERNAME", get_json="True") == [True, {"MB_USERNAME": "u"}]


def ranges(job: int, number: int) -> list[dict[str, Any]]:
    return [{"eventRangeID": f"41-{job}-9-{i}-1", "startEvent": i, "lastEvent": i, "LFN": "E", "GUID": "G",
             "scope": "s"} for i in range(1, number + 1)]


def test_event_ranges(box: Sandbox, client: Client, job: int) -> None:
    given = ranges(job, 3)
    box.add_event_ranges(job, given)
    key = {"pandaID": job, "jobsetID": 1, "taskID": 41}
    assert client.legacy("checkEventsAvailability", **key)["nEventRanges"] == 3
    assert client.legacy("getEventRanges", **key, nRanges=2)["eventRanges"] == given[:2]
    taken = client.v1("event/acquire_event_ranges", job_id=job, jobset_id=1, task_id=41, n_ranges=9)
    assert taken["data"] == given[2:]
    message = [{"eventRangeID": given[0]["eventRangeID"], "eventStatus": "running"},
               {"eventRangeID": given[0]["eventRangeID"], "eventStatus": "finished"},
               {"eventRangeID": given[0]["eventRangeID"], "eventStatus": "finished"}]
    assert client.legacy("updateEventRanges", eventRanges=json.dumps(message)) == {
        "StatusCode": 0, "Returns": "[null, true, false]", "Command": json.dumps({str(job): None})}
    box.command(job, "softkill")
    zipped = [{"zipFile": {"lfn": "z"}, "eventRanges": [{**message[1], "eventRangeID": given[1]["eventRangeID"]}]}]
    assert client.legacy("updateEventRanges", eventRanges=json.dumps(zipped), version=1) == {
        "StatusCode": 0, "Returns": [True], "Command": {str(job): "softkill"}}
    answer = client.v1_raw("event/update_event_ranges", {"event_ranges": json.dumps(message[1:2])})
    assert answer.status == 500
    assert client.v1("event/update_event_ranges", event_ranges=message)["message"] == (
        "Type error: 'event_ranges' must be of type str, got list.")
    statuses = client.legacy("get_events_status", ids=json.dumps([{"task_id": 41, "panda_id": job}]))
    assert [entry["status"] for entry in statuses[str(job)].values()] == ["finished", "finished", "sent"]


def test_no_event_ranges_for_a_killed_job(box: Sandbox, client: Client, job: int) -> None:
    box.add_event_ranges(job, ranges(job, 1))
    client.update(job, "running")
    box.kill(job)
    assert client.legacy("getEventRanges", pandaID=job, jobsetID=1)["eventRanges"] == []


def test_files_and_queue_documents(tmp_path: Any) -> None:
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "runGen").write_text("#!/bin/sh\n")
    with Sandbox(trf_dir=tmp_path, queues={"Q": {"nickname": "Q"}}) as box:
        assert send(box.port, "GET", "/trf/user/runGen", {}).text == "#!/bin/sh\n"
        assert send(box.port, "GET", "/cache/trf/user/runGen", {}).status == 200
        assert send(box.port, "GET", "/trf/../../etc/passwd", {}).status == 404
        assert send(box.port, "GET", "/trf/user/none", {}).status == 404
        assert send(box.port, "GET", "/cache/schedconfig/Q.all.json", {}).json == {"nickname": "Q"}
        assert send(box.port, "GET", "/cache/schedconfig/R.all.json", {}).status == 404
        assert [r.operation for r in box.requests] == ["trf"] * 4 + ["queuedata"] * 2


def test_address_family_is_recorded() -> None:
    with Sandbox(host="::1") as box:
        send(box.port, "GET", "/server/panda/isAlive", {}, host="::1")
        assert (box.requests[0].family, box.url) == ("inet6", f"http://[::1]:{box.port}")
