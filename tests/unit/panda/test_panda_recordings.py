"""Recorded answers of real servers, of both generations, are read as they were meant; what we send they would take."""

from __future__ import annotations

import json
from typing import Any, Callable

import pytest
from panda_wire import RECORDINGS, WireServer, recorded_answer, recording

from pilot.panda.commands import parse_commands
from pilot.panda.errors import ServerRefusal
from pilot.panda.server import JobRequest, PandaServer, Verdict

Make = Callable[..., WireServer]
Connect = Callable[..., PandaServer]

REQUEST = JobRequest(
    site_name="TEST_QUEUE",
    computing_element="TEST_QUEUE",
    prod_source_label="managed",
    disk_space=50000,
    memory=16000,
    cpu=2400.5,
    node="slot1@wn1",
    working_group="AP_X",
    job_type="managed",
    resource_type="MCORE",
    harvester_id="h",
    worker_id="4711",
    remaining_time=86400,
    task_id=30000001,
    n_jobs=1,
)
NAMES = sorted(f"{path.parent.name}/{path.stem}" for path in RECORDINGS.glob("*/*.json"))


def update(name: str) -> dict[str, object]:
    """A message of the same kind (final or not) as the recorded request."""
    body = recording(name)["request"]["body"]
    final = any(word in body for word in ('"finished"', '"failed"', "state=finished", "state=failed"))
    return {"jobId": 7000000003, "state": "finished" if final else "running", "attemptNr": 1, "jobMetrics": "a=1"}


@pytest.mark.parametrize("name", [n for n in NAMES if "acquire_jobs" in n or "-getJob" in n])
def test_every_recorded_answer_to_a_request_for_work_is_read(name: str, wire: Make, connect: Connect) -> None:
    body = recording(name)["response"]["body"]
    server = wire(recorded_answer(name))
    client = connect(server, "v1" if "/api/v1/" in recording(name)["request"]["url"] else "legacy")
    if recording(name)["response"]["status"] == 403:
        with pytest.raises(ServerRefusal, match="does not have the"):
            client.acquire_jobs(REQUEST)
        return
    if recording(name)["response"]["status"] == 500 and "keyword" not in body:
        with pytest.raises(Exception, match="HTTP 500") as caught:
            client.acquire_jobs(REQUEST)
        assert caught.value.maybe_processed is True
        return
    answer = client.acquire_jobs(REQUEST)
    wanted = body.count("PandaID") if "PandaID" in body else 0
    assert len(answer.jobs) == wanted
    assert all(int(str(job["PandaID"])) >= 7000000001 for job in answer.jobs)
    if not wanted:
        expected = {"No jobs": 20, "no jobs": 20, "=20": 20, "SSL secure": 60, "role": 60, "=60": 60}
        assert answer.status_code == next((code for text, code in expected.items() if text in body), 50), body
        assert answer.permanent is (answer.status_code != 20)


UPDATES = [n for n in NAMES if "update_job-" in n or "-updateJob-" in n]


@pytest.mark.parametrize("name", UPDATES)
def test_every_recorded_answer_to_an_update_gets_its_verdict(name: str, wire: Make, connect: Connect) -> None:
    body = recording(name)["response"]["body"]
    final = update(name)["state"] == "finished"
    answer = connect(wire(recorded_answer(name)), name.partition("/")[0]).update_job(update(name))
    if "reference" in name:
        return
    special = {
        "batchid-mismatch": Verdict.RETRY_REDUCED,
        "v1/085": Verdict.INVALID,
        "type-error": Verdict.INVALID,
        "no-role": Verdict.REFUSED,
        "insecure": Verdict.REFUSED,
        "missing-state": Verdict.RETRY,
        "unknown-argument": Verdict.INVALID,
        "extra-argument": Verdict.INVALID,
    }
    wanted = next((verdict for text, verdict in special.items() if text in name), Verdict.DELIVERED)
    assert answer.verdict is wanted, (name, body, answer)
    if wanted is Verdict.DELIVERED:
        command = next(
            (
                word
                for word in ("tobekilled", "alreadydone", "softkill", "debug,ls -l", "ls -l", "debug")
                if f'"{word}"' in body or f"={word}" in body
            ),
            "",
        )
        assert answer.command in (command, "NULL", "") and (answer.command == command or not command)
        assert answer.words == (() if final or not command else tuple(command.split(",")))


@pytest.mark.parametrize(
    ("name", "kill", "debug", "command"),
    [
        ("v1/049-update_job-running-command-debug", False, True, ""),
        ("v1/056-update_job-running-command-other", False, True, "ls -l"),
        ("v1/059-update_job-running-tobekilled", True, None, ""),
        ("v1/069-update_job-running-debug-and-command", False, True, "ls -l"),
        ("legacy/042-updateJob-running-debug", False, True, ""),
        ("legacy/044-updateJob-running-debug-command", False, True, "ls -l"),
        ("legacy/046-updateJob-running-tobekilled-form", True, None, ""),
        ("legacy/047-updateJob-running-tobekilled-json", True, None, ""),
    ],
)
def test_commands_are_found_nested_and_flat_in_both_dialects(
    name: str, kill: bool, debug: Any, command: str, wire: Make, connect: Connect
) -> None:
    answer = connect(wire(recorded_answer(name)), name.partition("/")[0]).update_job(update(name))
    commands = parse_commands(answer.command)
    assert (commands.kill, commands.debug, commands.debug_command) == (kill, debug, command)


def test_pilot_secrets_are_handed_over_and_not_shown(wire: Make, connect: Connect) -> None:
    answer = connect(wire(recorded_answer("v1/049-update_job-running-command-debug")), "v1").update_job(
        update("v1/049-update_job-running-command-debug")
    )
    assert answer.pilot_secrets == "{}"
    assert "pilot_secrets" not in repr(answer)


def test_bulk_answers_of_both_dialects_keep_their_order(wire: Make, connect: Connect) -> None:
    messages = [{"jobId": number, "state": "running", "attemptNr": 1} for number in (1, 2, 3)]
    server = wire(recorded_answer("v1/092-update_jobs_bulk"))
    answers = connect(server, "v1").update_jobs(messages)
    assert [a.command for a in answers] == ["NULL", "NULL", "tobekilled"]
    assert [item["job_id"] for item in server.sent[0].arguments["job_list"]] == [1, 2, 3]
    for name in ("legacy/074-updateJobsInBulk", "legacy/075-updateJobsInBulk-form"):
        server = wire(recorded_answer(name))
        answers = connect(server, "legacy").update_jobs(messages[:2])
        assert [a.verdict for a in answers] == [Verdict.DELIVERED] * 2
        assert len(server.sent) == 1 and server.sent[0].path == "/server/panda/updateJobsInBulk"
        assert [item["jobId"] for item in json.loads(server.sent[0].arguments["jobList"])] == [1, 2]


def test_job_states_are_the_same_in_both_dialects(wire: Make, connect: Connect) -> None:
    ids = ["7000000002", "7000000003"]
    server = wire(recorded_answer("v1/041-get_job_status-sent"))
    assert connect(server, "v1").job_status(ids) == dict.fromkeys(ids, ("sent", 1))
    assert server.sent[0].query == [("job_ids", i) for i in ids]
    assert connect(wire(recorded_answer("legacy/053-getStatus-after-finished")), "legacy").job_status(ids) == {
        ids[0]: ("holding", 1),
        ids[1]: ("transferring", 1),
    }
    assert connect(wire(recorded_answer("legacy/032-getStatus-notfound")), "legacy").job_status(["1"]) == {
        "1": ("not found", 0)
    }


@pytest.mark.parametrize(
    "name",
    [
        "v1/102-get_resource_types",
        "legacy/084-getResourceTypes-json",
        "legacy/085-getResourceTypes-form",
        "legacy/087-getResourceTypes-get",
    ],
)
def test_resource_types_come_out_alike_from_every_form(name: str, wire: Make, connect: Connect) -> None:
    types = connect(wire(recorded_answer(name)), name.partition("/")[0]).resource_types()
    assert [t["resource_name"] for t in types][:3] == ["SCORE", "SCORE_HIMEM", "MCORE"]
    assert types[0]["minrampercore"] is None and types[0]["maxrampercore"] == 2000


@pytest.mark.parametrize(
    ("name", "operation"),
    [
        ("v1/104-get_proxy", lambda c: c.get_proxy("production")),
        ("v1/105-get_key_pair", lambda c: c.get_key_pair("pub", "priv")),
        ("v1/106-get_access_token", lambda c: c.get_access_token("pilot", "k")),
        ("v1/107-get_token_key", lambda c: c.get_token_key("pilot")),
        ("v1/103-get_resource_types-insecure", lambda c: c.resource_types()),
        ("v1/095-update_worker_status-invalid", lambda c: c.update_worker_status("1", "h", "running")),
        ("legacy/088-getProxy", lambda c: c.get_proxy("production")),
        ("legacy/091-getKeyPair-form", lambda c: c.get_key_pair("pub", "priv")),
        ("legacy/092-get_access_token", lambda c: c.get_access_token("pilot", "k")),
        ("legacy/080-updateWorkerPilotStatus-invalid", lambda c: c.update_worker_status("1", "h", "running")),
        ("legacy/082-updateWorkerPilotStatus-no-role", lambda c: c.update_worker_status("1", "h", "started")),
        ("legacy/083-updateWorkerPilotStatus-extra-argument", lambda c: c.update_worker_status("1", "h", "started")),
    ],
)
def test_recorded_refusals_are_permanent(
    name: str, operation: Callable[[PandaServer], object], wire: Make, connect: Connect
) -> None:
    client = connect(wire(recorded_answer(name)), name.partition("/")[0])
    with pytest.raises(ServerRefusal) as caught:
        operation(client)
    assert caught.value.permanent and caught.value.code == 1318


def test_worker_status_node_and_alive_are_accepted(wire: Make, connect: Connect) -> None:
    server = wire(
        recorded_answer("v1/093-update_worker_status-started"),
        recorded_answer("v1/098-update_worker_node-again"),
        recorded_answer("v1/101-update_worker_node_gpu"),
        recorded_answer("v1/002-is_alive"),
    )
    client = connect(server, "v1")
    client.update_worker_status("4711", "h", "started", site="Q", node="slot1@wn1")
    assert (
        client.update_worker_node(
            {
                "site": "S",
                "host_name": "h",
                "cpu_model": "m",
                "clock_speed": 2400,
                "x": 1,
                "total_memory": 5.5,
                "n_logical_cpus": "8",
            }
        )
        == "Inserted new worker node."
    )
    assert (
        client.update_worker_node_gpu({"site": "S", "host_name": "h", "count": 2})
        == "Updated existing worker node GPU."
    )
    assert client.is_alive()
    assert "site" not in server.sent[0].arguments
    node = server.sent[1].arguments
    assert isinstance(node["clock_speed"], float) and node["n_logical_cpus"] == 8 and "x" not in node
    legacy = connect(
        wire(
            recorded_answer("legacy/076-updateWorkerPilotStatus-started-json"),
            recorded_answer("legacy/001-isAlive-get"),
        ),
        "legacy",
    )
    legacy.update_worker_status("4711", "h", "started", site="Q", node="n")
    assert legacy.is_alive()


def test_events_of_both_dialects(wire: Make, connect: Connect) -> None:
    ranges = [{"eventRangeID": "30000001-1-1-1-1", "eventStatus": "finished"}]
    v1 = connect(
        wire(
            recorded_answer("v1/110-acquire_event_ranges-none"),
            recorded_answer("v1/111-get_available_event_range_count"),
            recorded_answer("v1/112-update_event_ranges"),
        ),
        "v1",
    )
    assert v1.acquire_event_ranges("1", "1", "3") == []
    assert v1.event_range_count("1", "1", "3") == 0
    assert v1.update_event_ranges(ranges).unknown
    for name in ("legacy/096-updateEventRanges-form", "legacy/097-updateEventRanges-json"):
        answer = connect(wire(recorded_answer(name)), "legacy").update_event_ranges(ranges)
        assert (answer.unknown, answer.returns, dict(answer.commands)) == (False, (False,), {"1": "tobekilled"})
    for name in ("legacy/093-getEventRanges-form", "legacy/094-getEventRanges-json"):
        server = wire(recorded_answer(name))
        assert connect(server, "legacy").acquire_event_ranges("1", "2", "3", n_ranges=4) == []
        assert server.sent[0].arguments == {"pandaID": 1, "jobsetID": 2, "taskID": 3, "nRanges": 4}
    assert (
        connect(wire(recorded_answer("legacy/098-checkEventsAvailability")), "legacy").event_range_count("1", "1", "3")
        == 0
    )


# --- what we send ----------------------------------------------------------------------------------------------------


def signature(method: str) -> dict[str, set[str]]:
    """Argument names of the accepted recorded v1 calls of ``method``, with the type names of their values."""
    found: dict[str, set[str]] = {}
    for path in sorted((RECORDINGS / "v1").glob("*.json")):
        exchange = json.loads(path.read_text())
        accepted = (
            '"success": true' in exchange["response"]["body"] or "No jobs in PanDA" in exchange["response"]["body"]
        )
        if (
            accepted
            and exchange["request"]["url"].endswith(f"/{method}")
            and (exchange["request"]["body"] or "").startswith("{")
        ):
            for name, value in json.loads(exchange["request"]["body"]).items():
                found.setdefault(name, set()).add(type(value).__name__)
    return found


FULL = {
    "jobId": "7000000003",
    "state": "finished",
    "attemptNr": "1",
    "timestamp": "t",
    "siteName": "Q",
    "node": "n",
    "schedulerID": "s",
    "pilotID": "p",
    "batchID": 12345,
    "startTime": "2026-11-20 10:00:00",
    "endTime": "2026-11-20 10:00:00",
    "jobMetrics": "a=1",
    "xml": "{}",
    "metaData": "{}",
    "stdout": "x",
    "coreCount": 8.0,
    "meanCoreCount": 7.6,
    "nEvents": 50,
    "nInputFiles": 2,
    "cpuConsumptionTime": 3600.7,
    "cpuConversionFactor": 1.0,
    "cpuConsumptionUnit": "s+x",
    "cpu_architecture_level": "x86_64-v3",
    "maxRSS": 1.5,
    "avgPSS": 2,
    "totRCHAR": 3,
    "rateWBYTES": 4.2,
    "pilotTiming": "1|2",
    "pilotErrorCode": 0,
    "pilotErrorDiag": "",
    "exeErrorCode": 0,
    "exeErrorDiag": "",
    "transExitCode": 0,
    "pilotLog": "l",
    "jobSubStatus": "s",
    "workdir": "w",
    "nonsense": 1,
    "grid": "",
}


def test_v1_arguments_are_known_to_the_recorded_server_and_have_its_types(wire: Make, connect: Connect) -> None:
    known = signature("update_job")
    server = wire(recorded_answer("v1/072-update_job-finished"))
    connect(server, "v1").update_job(FULL)
    sent = server.sent[0]
    unrecorded = {"exe_error_diag", "pilot_error_diag"}
    assert set(sent.arguments) - unrecorded <= set(known)
    assert {name: type(value).__name__ for name, value in sent.arguments.items() if name in known} == {
        name: type(value).__name__
        for name, value in sent.arguments.items()
        if name in known and type(value).__name__ in known[name]
    }
    assert sent.arguments["mean_core_count"] == 8 and sent.arguments["batch_id"] == "12345"
    assert sent.headers["content-type"] == "application/json" and sent.headers["accept"] == "application/json"
    assert sent.headers["user-agent"] == "pilot/2.13 (Python 3; L x)"


def test_v1_job_request_has_the_recorded_names_and_types(wire: Make, connect: Connect) -> None:
    server = wire(recorded_answer("v1/009-acquire_jobs-none"))
    connect(server, "v1").acquire_jobs(REQUEST)
    known = {**signature("acquire_jobs"), "task_id": {"int"}}
    for name, value in server.sent[0].arguments.items():
        assert type(value).__name__ in known[name], name


def legacy_names(method: str) -> set[str]:
    """Argument names of the recorded legacy calls of ``method`` that ended with 200."""
    from urllib.parse import parse_qsl

    names: set[str] = set()
    for path in [*(RECORDINGS / "legacy").glob("*.json"), *(RECORDINGS / "reference-pilot").glob("*.json")]:
        exchange = json.loads(path.read_text())
        if exchange["request"]["url"].endswith(f"/{method}") and exchange["response"]["status"] == 200:
            body = exchange["request"]["body"]
            names |= set(json.loads(body) if body.startswith("{") else dict(parse_qsl(body, keep_blank_values=True)))
    return names


@pytest.mark.parametrize("encoding", ["json", "form"])
def test_legacy_arguments_are_known_to_the_recorded_server(encoding: str, wire: Make, connect: Connect) -> None:
    server = wire(recorded_answer("legacy/019-getJob-none-json"), recorded_answer("legacy/035-updateJob-running-json"))
    client = connect(server, "legacy", legacy_encoding=encoding)
    client.acquire_jobs(REQUEST)
    client.update_job(FULL)
    asked, updated = server.sent
    assert set(asked.arguments) <= legacy_names("getJob") | {"taskID"}
    assert set(updated.arguments) <= legacy_names("updateJob") | {"grid"}  # spec 6.2, not recorded
    gzipped = encoding == "json"
    for sent in server.sent:
        assert sent.headers["content-type"] == ("application/json" if gzipped else "application/x-www-form-urlencoded")
        assert (sent.raw[:2] == b"\x1f\x8b") is gzipped and (sent.headers.get("content-encoding") == "gzip") is gzipped
