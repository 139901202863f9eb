"""Which of the two dialects is spoken: found out once, without a probe, and never because of a bad network."""

from __future__ import annotations

import json
from typing import Callable

import pytest
from panda_wire import FORBIDDEN, WireServer, answer, close, legacy, v1

from pilot.panda.errors import ServerRefusal, TransportError
from pilot.panda.server import JobRequest, PandaServer, Verdict

Make = Callable[..., WireServer]
Connect = Callable[..., PandaServer]

REQUEST = JobRequest("Q", memory=1)
MESSAGE = {"jobId": 1, "state": "running", "attemptNr": 1, "cpu_architecture_level": "x86_64-v3", "jobMetrics": "a=1"}
NONE_V1 = v1(None, False, "No jobs in PanDA")
NONE_LEGACY = legacy(StatusCode=20, errorDialog="no jobs in PanDA")
ROLE = v1(None, False, "no production/pilot role in VOMS FQANs or non pilot owner")


def paths(server: WireServer) -> list[str]:
    return [sent.path.rpartition("/")[2] for sent in server.sent]


def test_v1_is_tried_first_and_remembered(wire: Make, connect: Connect) -> None:
    server = wire(NONE_V1)
    client = connect(server)
    assert client.dialect == "unknown"
    assert client.acquire_jobs(REQUEST).status_code == 20
    client.acquire_jobs(REQUEST)
    assert paths(server) == ["acquire_jobs", "acquire_jobs"] and client.dialect == "v1"


@pytest.mark.parametrize(
    "refusal",
    [
        FORBIDDEN,
        answer("<html>404</html>", 404),
        answer("not enough values to unpack (expected 4, got 3)", 500),
    ],
)
def test_a_server_without_v1_is_asked_in_legacy_and_remembered(refusal: bytes, wire: Make, connect: Connect) -> None:
    server = wire(refusal, NONE_LEGACY, NONE_LEGACY, legacy(StatusCode=0, command="NULL"))
    client = connect(server)
    assert [client.acquire_jobs(REQUEST).status_code for _ in range(2)] == [20, 20]
    assert client.update_job(MESSAGE).verdict is Verdict.DELIVERED
    assert paths(server) == ["acquire_jobs", "getJob", "getJob", "updateJob"] and client.dialect == "legacy"


def test_a_server_that_loses_legacy_is_asked_in_v1(wire: Make, connect: Connect) -> None:
    server = wire(FORBIDDEN, NONE_LEGACY, FORBIDDEN, NONE_V1, NONE_V1)
    client = connect(server)
    for _ in range(3):
        client.acquire_jobs(REQUEST)
    assert (
        paths(server) == ["acquire_jobs", "getJob", "getJob", "acquire_jobs", "acquire_jobs"] and client.dialect == "v1"
    )


@pytest.mark.parametrize(
    "trouble", [close, answer("boom", 500), answer("Service Unavailable", 503), answer("<html>", 200)]
)
def test_trouble_is_no_reason_to_switch(trouble: object, wire: Make, connect: Connect) -> None:
    server = wire(trouble, NONE_V1)
    client = connect(server)
    with pytest.raises(TransportError):
        client.acquire_jobs(REQUEST)
    client.acquire_jobs(REQUEST)
    assert paths(server) == ["acquire_jobs"] * 2


def test_a_server_that_spoke_v1_and_stumbles_over_something_is_not_left(wire: Make, connect: Connect) -> None:
    server = wire(NONE_V1, answer("list index out of range", 500), NONE_V1)
    client = connect(server)
    client.acquire_jobs(REQUEST)
    assert client.update_job(MESSAGE).verdict is Verdict.RETRY
    client.acquire_jobs(REQUEST)
    assert paths(server) == ["acquire_jobs", "update_job", "acquire_jobs"]


def test_a_missing_side_call_does_not_change_what_is_remembered(wire: Make, connect: Connect) -> None:
    server = wire(NONE_V1, FORBIDDEN, legacy(StatusCode=0, Returns=0, ResourceTypes=[]), NONE_V1)
    client = connect(server)
    client.acquire_jobs(REQUEST)
    assert client.resource_types() == []
    client.acquire_jobs(REQUEST)
    assert paths(server) == ["acquire_jobs", "get_resource_types", "getResourceTypes", "acquire_jobs"]


def test_a_server_with_neither_api_is_a_transport_error(wire: Make, connect: Connect) -> None:
    with pytest.raises(TransportError, match="neither API") as caught:
        connect(wire(answer("not here", 404))).acquire_jobs(REQUEST)
    assert not caught.value.maybe_processed


@pytest.mark.parametrize(("pinned", "method"), [("v1", "acquire_jobs"), ("legacy", "getJob")])
def test_a_pinned_dialect_is_never_left(pinned: str, method: str, wire: Make, connect: Connect) -> None:
    server = wire(FORBIDDEN)
    client = connect(server, pinned)
    with pytest.raises(ServerRefusal, match="pinned"):
        client.acquire_jobs(REQUEST)
    assert client.update_job(MESSAGE).verdict is Verdict.REFUSED
    assert paths(server)[0] == method and client.dialect == pinned


def test_the_setting_pins_too(wire: Make, connect: Connect) -> None:
    server = wire(NONE_LEGACY)
    connect(server, "", api="legacy").acquire_jobs(REQUEST)
    assert paths(server) == ["getJob"]


def test_a_role_that_v1_refuses_is_tried_in_legacy_and_kept_there_when_accepted(wire: Make, connect: Connect) -> None:
    server = wire(ROLE, NONE_LEGACY, NONE_LEGACY)
    client = connect(server)
    assert [client.acquire_jobs(REQUEST).status_code for _ in range(2)] == [20, 20]
    assert paths(server) == ["acquire_jobs", "getJob", "getJob"]


def test_a_role_that_both_refuse_is_refused(wire: Make, connect: Connect) -> None:
    answer_of = connect(
        wire(ROLE, legacy(StatusCode=60, errorDialog="no production/pilot role in VOMS FQANs or non pilot owner"))
    )
    result = answer_of.acquire_jobs(REQUEST)
    assert result.status_code == 60 and result.permanent and "production/pilot role" in result.text


def test_a_role_refused_by_a_new_server_is_asked_in_legacy_only_once(wire: Make, connect: Connect) -> None:
    server = wire(ROLE, FORBIDDEN, ROLE)
    client = connect(server)
    assert [client.acquire_jobs(REQUEST).status_code for _ in range(3)] == [60] * 3
    assert paths(server) == ["acquire_jobs", "getJob", "acquire_jobs", "acquire_jobs"]
    server = wire(v1(None, False, "production or pilot role required"), FORBIDDEN)
    assert connect(server).update_job(MESSAGE).verdict is Verdict.REFUSED


def test_a_token_failure_is_no_sign_of_a_missing_api(wire: Make, connect: Connect) -> None:
    server = wire(answer("ERROR : Token authentication failed. Signature has expired", 403))
    client = connect(server)
    result = client.acquire_jobs(REQUEST)
    assert result.permanent and "Signature has expired" in result.text and len(server.sent) == 1
    assert client.update_job(MESSAGE).verdict is Verdict.REFUSED


# --- fields that a server does not take -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialect", "refusal", "good"),
    [
        (
            "v1",
            v1(None, False, "Argument error: got an unexpected keyword argument 'cpu_architecture_level'"),
            v1({"StatusCode": 0}),
        ),
        (
            "v1",
            v1(None, False, "Type error: 'cpu_architecture_level' must be of type int, got str."),
            v1({"StatusCode": 0}),
        ),
        (
            "legacy",
            answer("updateJob() got an unexpected keyword argument 'cpu_architecture_level'", 500),
            legacy(StatusCode=0),
        ),
    ],
)
def test_an_optional_field_that_the_server_refuses_is_left_out_at_once_and_from_then_on(
    dialect: str, refusal: bytes, good: bytes, wire: Make, connect: Connect
) -> None:
    server = wire(refusal, good)
    client = connect(server, dialect)
    assert client.update_job(MESSAGE).verdict is Verdict.DELIVERED
    assert client.update_job(MESSAGE).verdict is Verdict.DELIVERED
    assert ["cpu_architecture_level" in sent.arguments for sent in server.sent] == [True, False, False]
    assert all("a=1" in sent.arguments.values() for sent in server.sent)


@pytest.mark.parametrize("name", ["job_id", "attempt_nr", "something_else"])
def test_a_field_that_cannot_be_left_out_makes_the_message_invalid(name: str, wire: Make, connect: Connect) -> None:
    server = wire(v1(None, False, f"Type error: '{name}' must be of type int, got str."))
    assert connect(server).update_job(MESSAGE).verdict is Verdict.INVALID
    assert len(server.sent) == 1


def test_a_job_request_drops_what_chooses_nothing_and_never_a_limit(wire: Make, connect: Connect) -> None:
    server = wire(answer("getJob() got an unexpected keyword argument 'harvester_id'", 500), NONE_LEGACY)
    client = connect(server, "legacy")
    assert client.acquire_jobs(JobRequest("Q", harvester_id="h")).status_code == 20
    assert "harvester_id" not in server.sent[1].arguments
    server = wire(v1(None, False, "Argument error: got an unexpected keyword argument 'memory'"))
    assert connect(server).acquire_jobs(REQUEST).permanent
    assert len(server.sent) == 1


def test_remaining_time_is_sent_in_v1_only(wire: Make, connect: Connect) -> None:
    request = JobRequest("Q", remaining_time=600)
    server = wire(FORBIDDEN, NONE_LEGACY)
    connect(server).acquire_jobs(request)
    assert server.sent[0].arguments == {"site_name": "Q", "remaining_time": 600}
    assert server.sent[1].arguments == {"siteName": "Q"}


# --- verdicts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "verdict"),
    [
        ({"StatusCode": 0}, 200, Verdict.DELIVERED),
        ({"StatusCode": "0", "command": None}, 200, Verdict.DELIVERED),
        ({"StatusCode": 0, "command": "tobekilled"}, 200, Verdict.DELIVERED),
        ({"StatusCode": 0, "command": "alreadydone"}, 200, Verdict.DELIVERED),
        ({"StatusCode": 10}, 200, Verdict.RETRY),
        ({"StatusCode": "30"}, 200, Verdict.RETRY_REDUCED),
        ({"StatusCode": 50}, 200, Verdict.INVALID),
        ({"StatusCode": 60}, 200, Verdict.REFUSED),
        ({"StatusCode": 70}, 200, Verdict.REFUSED),
        ({}, 200, Verdict.RETRY),
        ("Succeeded", 200, Verdict.RETRY),
        ("production or pilot role is required", 200, Verdict.REFUSED),
        ("failed to retrieve DN", 200, Verdict.REFUSED),
        ("x", 500, Verdict.RETRY),
        ("too big", 413, Verdict.RETRY_REDUCED),
        ("StatusCode=0&command=NULL", 200, Verdict.DELIVERED),
        ("StatusCode=abc", 200, Verdict.RETRY),
        ("ERROR : joe is banned", 403, Verdict.REFUSED),
    ],
)
def test_verdict_on_a_final_report_in_legacy(
    body: object, status: int, verdict: Verdict, wire: Make, connect: Connect
) -> None:
    text = body if isinstance(body, str) else json.dumps(body)
    result = connect(wire(answer(text, status)), "legacy").update_job({**MESSAGE, "state": "failed"})
    assert result.verdict is verdict and result.words == ()


@pytest.mark.parametrize(
    ("envelope", "verdict"),
    [
        ({"success": True, "message": "", "data": {"StatusCode": 0, "command": "tobekilled"}}, Verdict.DELIVERED),
        ({"success": True, "message": "Database error", "data": {"StatusCode": 30}}, Verdict.RETRY_REDUCED),
        ({"success": True, "message": "", "data": {"StatusCode": 10}}, Verdict.RETRY),
        ({"success": True, "message": "", "data": None}, Verdict.RETRY),
        ({"success": False, "message": "Timed out", "data": None}, Verdict.RETRY),
        ({"success": False, "message": "Failed to add meta_data", "data": {"StatusCode": 30}}, Verdict.RETRY_REDUCED),
        ({"success": False, "message": "", "data": {"StatusCode": 0}}, Verdict.RETRY),
        ({"success": False, "message": "Invalid job status: x", "data": {"StatusCode": 50}}, Verdict.INVALID),
        ({"success": False, "message": "SSL secure connection is required", "data": None}, Verdict.REFUSED),
    ],
)
def test_verdict_on_a_final_report_in_v1(envelope: object, verdict: Verdict, wire: Make, connect: Connect) -> None:
    result = connect(wire(answer(json.dumps(envelope))), "v1").update_job({**MESSAGE, "state": "finished"})
    assert result.verdict is verdict and result.words == ()


@pytest.mark.parametrize("data", [{}, {"data": None}])
def test_a_command_beside_data_is_heard_too(data: dict[str, object], wire: Make, connect: Connect) -> None:
    flat = {"success": True, "message": "", "StatusCode": 0, "command": "debug,tobekilled", **data}
    result = connect(wire(answer(json.dumps(flat))), "v1").update_job(MESSAGE)
    assert result.verdict is Verdict.DELIVERED and result.words == ("debug", "tobekilled")


# --- bulk -------------------------------------------------------------------------------------------------------------

MESSAGES = [{"jobId": number, "state": "running", "attemptNr": 1, "grid": "g"} for number in (1, 2)]
GOOD = {"success": True, "message": "", "data": {"StatusCode": 0, "command": "NULL"}}


def test_one_message_is_no_bulk(wire: Make, connect: Connect) -> None:
    server = wire(answer(json.dumps(GOOD)))
    assert len(connect(server).update_jobs(MESSAGES[:1])) == 1
    assert connect(server).update_jobs([]) == []
    assert paths(server) == ["update_job"]


@pytest.mark.parametrize(
    "refusal",
    [
        answer("updateJob() got an unexpected keyword argument 'grid'", 500),
        v1(None, False, "production or pilot role required"),
    ],
)
def test_a_bulk_that_fails_as_a_whole_is_sent_singly(refusal: bytes, wire: Make, connect: Connect) -> None:
    server = wire(refusal, answer(json.dumps(GOOD)))
    results = connect(server, "v1").update_jobs(MESSAGES)
    assert [result.verdict for result in results] == [Verdict.DELIVERED] * 2
    assert paths(server) == ["update_jobs_bulk", "update_job", "update_job"]


@pytest.mark.parametrize("odd", [legacy(StatusCode=0, command="NULL"), answer("<html>what?</html>"), FORBIDDEN,
                                 answer("too large", 413)])
def test_a_server_that_cannot_do_bulk_gets_its_updates_singly(odd: bytes, wire: Make, connect: Connect) -> None:
    """A control tower, or an older server, that has updateJob but not updateJobsInBulk must not lose the reports."""
    server = wire(FORBIDDEN, NONE_LEGACY, odd, *([FORBIDDEN] if odd == FORBIDDEN else []),
                  legacy(StatusCode=0, command="NULL"))
    client = connect(server)
    client.acquire_jobs(REQUEST)
    assert [result.verdict for result in client.update_jobs(MESSAGES)] == [Verdict.DELIVERED] * 2
    assert paths(server)[-2:] == ["updateJob", "updateJob"] and client.dialect == "legacy"


def test_a_gate_that_is_closed_leaves_a_bulk_for_later(wire: Make, connect: Connect) -> None:
    server = wire(answer("busy", 503))
    assert [r.verdict for r in connect(server, "v1").update_jobs(MESSAGES)] == [Verdict.RETRY] * 2
    assert len(server.sent) == 1


def test_a_bad_entry_of_a_bulk_is_repaired_alone(wire: Make, connect: Connect) -> None:
    bad = {"success": False, "message": "Argument error: got an unexpected keyword argument 'grid'", "data": None}
    server = wire(v1([GOOD, bad]), answer(json.dumps(bad)), answer(json.dumps(GOOD)))
    results = connect(server).update_jobs(MESSAGES)
    assert [result.verdict for result in results] == [Verdict.DELIVERED] * 2
    assert [sent.arguments.get("job_id") for sent in server.sent] == [None, 2, 2]


def test_an_unreachable_server_leaves_a_bulk_for_later(wire: Make, connect: Connect) -> None:
    server = wire(close)
    assert [r.verdict for r in connect(server).update_jobs(MESSAGES)] == [Verdict.RETRY] * 2
    assert len(server.sent) == 1
