"""The server's rules about jobs: states, attempts, batch ids, limits of columns and of time, the adder."""

from __future__ import annotations

import json
from typing import Any, Dict, Optional

import pytest
from sandbox_client import JANE, ROBOT, Client

from sandbox import Sandbox, rules

LOG = "log.job.log.tgz"


def started(box: Sandbox, client: Client, **definition: Any) -> int:
    """A job in state sent with one log file."""
    box.submit({"logFile": LOG, "outFiles": LOG, **definition})
    return client.take()


def report(*lfns: str) -> str:
    return json.dumps({lfn: {"guid": "G", "fsize": 1, "adler32": "00000001"} for lfn in lfns})


# (old state, how it got there, asked) -> (state afterwards, command)
STATE_TABLE = [
    ("sent", "pilot", "starting", "starting", "NULL"),
    ("sent", "pilot", "running", "running", "NULL"),
    ("sent", "pilot", "finished", "holding", "NULL"),
    ("sent", "pilot", "failed", "holding", "NULL"),
    ("starting", "pilot", "running", "running", "NULL"),
    ("running", "pilot", "starting", "running", "NULL"),
    ("running", "pilot", "running", "running", "NULL"),
    ("running", "pilot", "holding", "holding", "NULL"),
    ("running", "pilot", "transferring", "transferring", "NULL"),
    ("running", "pilot", "finished", "holding", "NULL"),
    ("holding", "pilot", "holding", "holding", "NULL"),
    ("holding", "pilot", "running", "holding", "NULL"),
    ("holding", "pilot", "starting", "holding", "NULL"),
    ("holding", "pilot", "transferring", "holding", "NULL"),
    ("holding", "pilot", "finished", "holding", "NULL"),
    ("holding", "final", "finished", "holding", "alreadydone"),
    ("holding", "final", "failed", "holding", "alreadydone"),
    ("holding", "final", "running", "holding", "NULL"),
    ("transferring", "pilot", "running", "transferring", "NULL"),
    ("transferring", "pilot", "finished", "holding", "NULL"),
    ("transferring", "daemon", "finished", "transferring", "alreadydone"),
    ("transferring", "daemon", "running", "transferring", "NULL"),
    ("merging", "daemon", "running", "merging", "NULL"),
    ("merging", "daemon", "finished", "merging", "NULL"),
    ("failed", "active", "running", "failed", "alreadydone"),
    ("failed", "active", "holding", "failed", "alreadydone"),
    ("finished", "archived", "running", "finished", "tobekilled"),
    ("finished", "archived", "finished", "finished", "tobekilled"),
    ("failed", "archived", "failed", "failed", "tobekilled"),
    ("cancelled", "archived", "failed", "cancelled", "tobekilled"),
    ("closed", "archived", "running", "closed", "tobekilled"),
]


@pytest.mark.parametrize(("old", "way", "asked", "new", "command"), STATE_TABLE)
def test_state_table(box: Sandbox, client: Client, old: str, way: str, asked: str, new: str, command: str) -> None:
    job = started(box, client)
    if way == "final":
        client.update(job, "finished", job_output_report=report(LOG))
    elif way == "pilot" and old != "sent":
        client.update(job, old)
    elif way in ("daemon", "archived"):
        box.set_state(job, old)
    elif way == "active":
        box.set_state(job, old, archived=False)
    assert box.job(job)["state"] == old
    assert client.update(job, asked) == {"StatusCode": 0, "command": command}
    assert box.job(job)["state"] == new


def test_repeated_final_message_is_stored_once(box: Sandbox, client: Client) -> None:
    job = started(box, client)
    client.update(job, "finished", job_output_report=report(LOG))
    client.update(job, "failed", pilot_error_code=1305)
    view = box.job(job)
    assert (view["finals"], view["final"]["state"]) == (1, "finished")
    assert [update["_stored"] for update in view["updates"]] == [True, False]
    box.run_adder()
    assert box.job(job)["state"] == "finished"


def test_unknown_job_and_wrong_attempt_are_to_be_killed(box: Sandbox, client: Client) -> None:
    job = started(box, client, attemptNr=3)
    assert client.v1("pilot/update_job", job_id=1, job_status="running")["data"]["command"] == "tobekilled"
    assert client.update(job, "finished")["command"] == "tobekilled"
    assert client.legacy("updateJob", jobId=job, state="running", attemptNr=3)["command"] == "NULL"
    assert client.legacy("updateJob", jobId=job, state="running", attemptNr=2)["command"] == "tobekilled"


def test_running_sets_the_start_and_keeps_fields(box: Sandbox, client: Client) -> None:
    job = started(box, client)
    client.update(job, "running", n_events=7, start_time="2026-11-20 10:00:00", job_metrics="x=1")
    client.update(job, "running", n_events=8)
    view = box.job(job)
    assert view["fields"] == {"nEvents": 8, "startTime": "2026-11-20 10:00:00", "jobMetrics": "x=1"}
    assert [state for _, state in view["history"]] == ["activated", "sent", "running"]
    assert [update["nEvents"] for update in view["updates"]] == [7, 8]


@pytest.mark.parametrize(("first", "second", "clash"), [
    ("slurm-aaa", "slurm-bbb", True), ("slurm-aaa", "slurm-aaa", False), ("slurm-aaa", "123.0", False),
    ("12345.0", "slurm-bbb", False), ("12345.0", "67890.0", False), ("7", "8", True),
])
def test_batch_id_guard(box: Sandbox, client: Client, first: str, second: str, clash: bool) -> None:
    job = started(box, client)
    client.update(job, "running", batch_id=first)
    assert client.update(job, "running", batch_id=second, n_events=5)["StatusCode"] == (30 if clash else 0)
    assert ("nEvents" in box.job(job)["fields"]) is not clash


def test_batch_id_of_a_repeated_final_message_does_not_matter(box: Sandbox, client: Client) -> None:
    job = started(box, client)
    client.update(job, "finished", batch_id="slurm-aaa", job_output_report=report(LOG))
    assert client.update(job, "finished", batch_id="slurm-bbb")["command"] == "alreadydone"


@pytest.mark.parametrize(("field", "value", "code"), [
    ("cpu_consumption_unit", "x" * 129, 30), ("cpu_consumption_unit", "x" * 128, 0), ("pilot_timing", "1" * 101, 30),
    ("scheduler_id", "x" * 129, 30), ("max_rss", 10**10, 30), ("max_rss", 10**10 - 1, 0), ("n_events", 10**10, 30),
    ("cpu_consumption_time", 10**9 + 1, 30), ("cpu_consumption_time", 10**9, 0), ("pilot_error_code", 10**7, 30),
    ("mean_core_count", 10**6, 30), ("max_pss", float("nan"), 30), ("pilot_error_diag", "x" * 900, 0),
    ("pilot_error_diag", "é" * 300, 30), ("job_metrics", "x" * 501, 0), ("tot_rbytes", 10**14, 0),
])
def test_column_limits(box: Sandbox, client: Client, field: str, value: Any, code: int) -> None:
    job = started(box, client)
    assert client.update(job, "running", **{field: value})["StatusCode"] == code
    assert box.job(job)["state"] == ("sent" if code else "running")


def test_what_the_server_cuts(box: Sandbox, client: Client) -> None:
    job = started(box, client)
    client.update(job, "running", node="n" * 200, pilot_error_diag="d" * 600, stdout="s" * 3000)
    fields = box.job(job)["fields"]
    assert [len(fields[name]) for name in ("node", "pilotErrorDiag", "stdout")] == [128, 500, 3000]
    client.legacy("updateJob", jobId=job, state="running", attemptNr=1, stdout="s" * 3000)
    assert len(box.job(job)["fields"]["stdout"]) == 2048


def test_metadata_is_stored_once_and_not_for_failed(box: Sandbox, client: Client) -> None:
    job = started(box, client)
    client.update(job, "running", meta_data="first")
    client.update(job, "finished", meta_data="second")
    assert box.job(job)["metaData"] == "first"
    other = started(box, client)
    client.update(other, "failed", meta_data="lost")
    assert box.job(other)["metaData"] is None


def test_metadata_of_an_unknown_job(client: Client) -> None:
    assert client.v1("pilot/update_job", job_id=5, job_status="running", meta_data="x") == {
        "success": True, "message": "Failed to add meta_data",
        "data": {"StatusCode": 30, "ErrorDiag": "Failed to add meta_data"}}
    assert client.legacy("updateJob", jobId=5, state="running", metaData="x") == {"StatusCode": 0}


@pytest.mark.parametrize(("state", "xml", "extra", "end", "diag"), [
    ("finished", report("out", LOG), {}, "finished", ""),
    ("finished", None, {}, "failed", "Could not get GUID/LFN/MD5/FSIZE/SURL from pilot JSON"),
    ("finished", "<xml/>", {}, "failed", "Could not get GUID/LFN/MD5/FSIZE/SURL from pilot JSON"),
    ("finished", "[]", {}, "failed", "Could not get GUID/LFN/MD5/FSIZE/SURL from pilot JSON"),
    ("finished", json.dumps({"out": {"guid": "G", "fsize": 1}}), {}, "failed",
     "Could not get GUID/LFN/MD5/FSIZE/SURL from pilot JSON"),
    ("finished", report(LOG), {}, "failed", "expected output out is missing in pilot JSON"),
    ("finished", report(LOG), {"allowNoOutput": "out"}, "finished", ""),
    ("finished", report(LOG), {"eventService": "True"}, "finished", ""),
    ("finished", report("out", LOG, "core.1"), {}, "failed", "pilot produced core.1 inconsistently with jobdef"),
    ("finished", report("out", "out._1", LOG), {}, "finished", ""),
    ("finished", report("out7", LOG), {"outFiles": rf"regex|out\d,{LOG}"}, "finished", ""),
    ("finished", json.dumps({**json.loads(report("out", LOG)), "in": {"guid": "G"}}), {"inFiles": "in"}, "finished",
     ""),
    ("failed", None, {}, "failed", ""),
])
def test_adder(box: Sandbox, client: Client, state: str, xml: Optional[str], extra: Dict[str, Any], end: str,
               diag: str) -> None:
    job = started(box, client, **{"outFiles": f"out,{LOG}", **extra})
    client.update(job, state, **({"job_output_report": xml} if xml is not None else {}))
    assert box.job(job)["state"] == "holding"
    assert box.run_adder() == [job]
    assert (box.job(job)["state"], box.job(job)["errors"].get("ddmErrorDiag", "")) == (end, diag)


def test_a_job_without_files_needs_no_report(box: Sandbox, client: Client) -> None:
    job = started(box, client, outFiles="", logFile="")
    client.update(job, "finished")
    box.run_adder()
    assert box.job(job)["state"] == "finished"


def test_adder_runs_by_itself_after_a_delay() -> None:
    with Sandbox(adder_delay=0.01) as box:
        job = started(box, Client(box))
        Client(box).update(job, "finished", job_output_report=report(LOG))
        assert box.wait(lambda: box.job(job)["state"] == "finished")


def test_kill_of_a_running_job(box: Sandbox, client: Client) -> None:
    job = started(box, client)
    client.update(job, "running")
    box.debug(job)
    box.kill(job)
    assert client.update(job, "running")["command"] == "debug,tobekilled"
    assert client.update(job, "failed", pilot_error_code=1144)["command"] == "debug,tobekilled"
    box.run_adder()
    assert (box.job(job)["state"], box.job(job)["commands"]) == ("cancelled", ["tobekilled"])


def test_pilot_closed(box: Sandbox, client: Client) -> None:
    job = started(box, client)
    client.update(job, "failed", job_sub_status="pilot_closed")
    box.run_adder()
    assert box.job(job)["state"] == "closed"


def test_commands_stay_set_until_changed(box: Sandbox, client: Client) -> None:
    job = started(box, client)
    box.command(job, "ls -l")
    assert [client.update(job, "running")["command"] for _ in range(2)] == ["ls -l", "ls -l"]
    box.command(job, "softkill")
    assert client.update(job, "running")["command"] == "softkill"


@pytest.mark.parametrize(("definition", "state", "limit", "code"), [
    ({}, "sent", 1800, 102), ({}, "starting", 7200, 100), ({}, "running", 7200, 100),
    ({"currentPriority": 900}, "holding", 3 * 3600, 103), ({"currentPriority": 100}, "holding", 48 * 3600, 103),
    ({"prodSourceLabel": "user"}, "transferring", 7200, 104),
])
def test_time_limits(
    box: Sandbox, client: Client, definition: Dict[str, Any], state: str, limit: int, code: int
) -> None:
    box.submit(definition)
    taken = client.v1("pilot/acquire_jobs", site_name="TEST_QUEUE", prod_source_label="unified")
    job = taken["data"]["jobs"][0]["PandaID"]
    if state != "sent":
        client.update(job, state)
    box.advance_clock(limit - 600)
    assert box.expire() == []
    box.advance_clock(601)
    assert box.expire() == [job]
    assert (box.job(job)["state"], box.job(job)["errors"]["jobDispatcherErrorCode"]) == ("failed", code)
    assert client.update(job, "running")["command"] == "tobekilled"


def test_time_limit_with_a_diagnosis_and_on_a_paused_queue(box: Sandbox, client: Client) -> None:
    job = started(box, client)
    client.update(job, "running", pilot_error_diag="trouble")
    box.core.queues["TEST_QUEUE"]["status"] = "paused"
    box.advance_clock(7300)
    assert box.expire() == []
    box.core.queues["TEST_QUEUE"]["status"] = "online"
    assert box.expire(archive=False) == [job]
    assert box.job(job)["errors"]["jobDispatcherErrorCode"] == 101
    assert client.update(job, "running")["command"] == "alreadydone"


@pytest.mark.parametrize(("asked", "given"), [
    ({}, {"managed", "test", "install"}), ({"prod_source_label": "managed"}, {"managed", "test", "install"}),
    ({"prod_source_label": "user"}, {"user", "panda", "install"}),
    ({"prod_source_label": "unified"}, {"user", "panda", "install", "managed", "test"}),
    ({"prod_source_label": "test", "computing_element": "TEST_QUEUE"}, {"install", "test"}),
    ({"prod_source_label": "ptest"}, {"ptest"}), ({"prod_source_label": "rc_test2"}, set()),
])
def test_labels_asked_and_given(box: Sandbox, client: Client, asked: Dict[str, Any], given: set[str]) -> None:
    for label in ("user", "panda", "install", "managed", "test", "ptest"):
        box.submit({"prodSourceLabel": label})
    reply = client.v1("pilot/acquire_jobs", site_name="TEST_QUEUE", n_jobs=10, **asked)
    assert {job["prodSourceLabel"] for job in (reply["data"] or {"jobs": []})["jobs"]} == given


def test_selection_by_resources_and_priority(box: Sandbox, client: Client) -> None:
    box.submit({"minRamCount": 4000})
    box.submit({"maxDiskCount": 9000})
    box.submit({"maxWalltime": 7200})
    urgent = box.submit({"currentPriority": 2000})
    asked = {"site_name": "TEST_QUEUE", "memory": 2000, "disk_space": 5000, "remaining_time": 3600, "n_jobs": 9}
    assert [job["PandaID"] for job in client.v1("pilot/acquire_jobs", **asked)["data"]["jobs"]] == [urgent]
    assert len(client.v1("pilot/acquire_jobs", site_name="TEST_QUEUE", n_jobs=9)["data"]["jobs"]) == 3


def test_a_user_gets_own_jobs_only() -> None:
    with Sandbox(auth="cert") as box:
        box.submit({"prodSourceLabel": "user", "prodUserID": ROBOT})
        mine = box.submit({"prodSourceLabel": "user", "prodUserID": JANE + "/CN=proxy"})
        job = Client(box, JANE).legacy("getJob", siteName="TEST_QUEUE", prodSourceLabel="user")
        assert job["PandaID"] == mine
        assert Client(box, JANE).legacy("getJob", siteName="TEST_QUEUE", prodSourceLabel="user")["StatusCode"] == 20


def test_defaults_fill_every_field_and_raw_adds_none(box: Sandbox, client: Client) -> None:
    job = box.submit({"transformation": "x", "inFiles": "a,b", "outFiles": "o1,o2"})
    full = client.v1("pilot/acquire_jobs", site_name="TEST_QUEUE")["data"]["jobs"][0]
    assert (full["GUID"], full["scopeOut"], full["PandaID"]) == ("NULL,NULL", "test,test", job)
    assert full["outFiles"].split(",")[:2] == ["o1", "o2"] and full["outFiles"].split(",")[2] == full["logFile"]
    assert [len(full[key].split(",")) for key in ("realDatasets", "fileDestinationSE")] == [3, 3]
    key = box.submit({"PandaID": "abc", "attemptNr": None, "jobPars": {"a": [1]}}, raw=True)
    raw = client.v1("pilot/acquire_jobs", site_name="TEST_QUEUE")["data"]["jobs"][0]
    assert raw == {"StatusCode": 0, "PandaID": "abc", "attemptNr": None, "jobPars": {"a": [1]}}
    assert box.job(key)["state"] == "sent"


def test_jobs_survive_in_a_file(tmp_path: Any) -> None:
    with Sandbox(tmp_path / "s.db") as box:
        job = started(box, Client(box))
        box.creds.token_keys["pilot"] = "very-secret-key"
        Client(box).v1("creds/set_user_secrets", key="K", value="very-secret-value")
    with Sandbox(tmp_path / "s.db") as box:
        assert box.job(job)["state"] == "sent"
        assert box.submit({}) == job + 1
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"very-secret" not in stored


def test_batch_id_rule_by_itself() -> None:
    assert not rules.batch_ids_clash(None, "x")
    assert not rules.batch_ids_clash("x", None)
    assert rules.batch_ids_clash("a1", "b1")
