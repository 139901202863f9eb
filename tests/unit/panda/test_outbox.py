"""The outbox against a real server: stored first, repeated until acknowledged, commands obeyed, nothing lost."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pilot.panda.commands import Commands
from pilot.panda.credentials import Credentials
from pilot.panda.outbox import FileReporter, Outbox
from pilot.panda.server import PandaServer, user_agent
from pilot.settings import default_settings
from pilot.store.pilotdb import PilotDB
from sandbox import Sandbox

SETTINGS = default_settings(**{"server.retry_base": 0.02, "server.retry_max": 0.1, "server.read_timeout": 5.0})


@pytest.fixture
def panda() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


class Rig:
    """An outbox with its store, and the commands that came back."""

    def __init__(self, sandbox: Sandbox, directory: Path, dialect: str = "v1") -> None:
        self.store = PilotDB(directory / "pilot.db")
        self.commands: list[tuple[str, Commands]] = []
        self.commanded = threading.Event()
        server = PandaServer(sandbox.url, SETTINGS, credentials=Credentials(environ={}), user_agent=user_agent("2"),
                             dialect=dialect)
        self.outbox = Outbox(self.store, server, SETTINGS, self._command)

    def _command(self, job_id: str, commands: Commands) -> None:
        self.commands.append((job_id, commands))
        self.commanded.set()

    def job(self, sandbox: Sandbox) -> str:
        job_id = str(sandbox.submit({"transformation": "true", "logFile": "", "outFiles": ""}))
        sandbox.set_state(int(job_id), "sent")
        self.store.add_job(job_id, 1, "token", 0.0, "{}", "true")
        return job_id


@pytest.fixture(params=["v1", "legacy"])
def rig(request: pytest.FixtureRequest, panda: Sandbox, tmp_path: Path) -> Iterator[Rig]:
    made = Rig(panda, tmp_path, request.param)
    made.outbox.start()
    yield made
    made.outbox.close()


def message(job_id: str, state: str, **fields: Any) -> dict[str, object]:
    return {"jobId": int(job_id), "state": state, "attemptNr": 1, **fields}


def test_a_final_report_is_delivered_and_marked(rig: Rig, panda: Sandbox) -> None:
    job_id = rig.job(panda)
    rig.outbox.post(job_id, message(job_id, "finished", pilotErrorCode=0, transExitCode=0), final=True)
    assert rig.outbox.drain(30) == 0
    assert panda.job(int(job_id))["finals"] == 1
    assert rig.store.unacknowledged() == 0


def test_reports_wait_out_an_outage(rig: Rig, panda: Sandbox) -> None:
    job_id = rig.job(panda)
    panda.down()
    rig.outbox.post(job_id, message(job_id, "running"), final=False)
    rig.outbox.post(job_id, message(job_id, "finished"), final=True)
    assert rig.outbox.drain(0.3) == 1
    assert rig.store.undelivered()[0].attempts >= 1, "it was tried, and the failure noted"
    panda.up()
    assert rig.outbox.drain(30) == 0
    assert panda.job(int(job_id))["finals"] == 1


@pytest.mark.parametrize("kind", ["http_500", "http_503", "reset", "truncate", "garbage", "html", "empty", "not_utf8",
                                  "status_10", "status_30", "processed_then_reset"])
def test_bad_answers_are_tried_again(rig: Rig, panda: Sandbox, kind: str) -> None:
    job_id = rig.job(panda)
    panda.faults.add(operation="update_job", kind=kind, times=2)
    rig.outbox.post(job_id, message(job_id, "finished", jobMetrics="a=1"), final=True)
    assert rig.outbox.drain(30) == 0
    assert panda.job(int(job_id))["finals"] == 1
    assert len([request for request in panda.requests if request.operation == "update_job"]) >= 2


def test_after_the_second_database_refusal_the_optional_fields_stay_away(rig: Rig, panda: Sandbox) -> None:
    job_id = rig.job(panda)
    panda.faults.add(operation="update_job", kind="status_30", times=2)
    rig.outbox.post(job_id, message(job_id, "finished", jobMetrics="a=1", pilotErrorCode=0), final=True)
    assert rig.outbox.drain(30) == 0
    final = panda.job(int(job_id))["final"]
    assert final["jobMetrics"] is None and final["pilotErrorCode"] == 0


def test_several_jobs_share_a_request_after_an_outage(rig: Rig, panda: Sandbox) -> None:
    ids = [rig.job(panda) for _ in range(3)]
    panda.down()
    for job_id in ids:
        rig.outbox.post(job_id, message(job_id, "finished"), final=True)
    assert rig.outbox.drain(0.2) == 3
    panda.up()
    assert rig.outbox.drain(30) == 0
    assert [panda.job(int(job_id))["finals"] for job_id in ids] == [1, 1, 1]
    assert any(request.operation == "update_jobs_bulk" for request in panda.requests)


def test_commands_come_from_heartbeats_and_not_from_final_reports(rig: Rig, panda: Sandbox) -> None:
    job_id = rig.job(panda)
    rig.outbox.post(job_id, message(job_id, "running"), final=False)
    panda.wait(lambda: panda.job(int(job_id))["state"] == "running")
    panda.kill(int(job_id))
    assert rig.commanded.wait(30)
    rig.commanded.clear()
    rig.outbox.post(job_id, message(job_id, "running"), final=False)
    assert rig.commanded.wait(30)
    assert rig.commands[-1][0] == job_id and rig.commands[-1][1].kill
    seen = len(rig.commands)
    rig.outbox.post(job_id, message(job_id, "failed", pilotErrorCode=1144), final=True)
    assert rig.outbox.drain(30) == 0, "tobekilled in the answer to a final report means delivered"
    assert len(rig.commands) == seen


def test_what_an_earlier_process_left_goes_out_first(panda: Sandbox, tmp_path: Path) -> None:
    first = Rig(panda, tmp_path)
    job_id = first.job(panda)
    first.store.put_message(job_id, message(job_id, "finished"), final=True, state="finished")
    first.store.close()  # an owner has its database for itself
    second = Rig(panda, tmp_path)
    second.outbox.start()
    assert second.outbox.drain(30) == 0
    assert panda.job(int(job_id))["finals"] == 1
    second.outbox.close()


def test_a_stuck_server_does_not_hold_up_a_final_report(panda: Sandbox, tmp_path: Path) -> None:
    rig = Rig(panda, tmp_path)
    job_id = rig.job(panda)
    panda.faults.add(operation="update_job", kind="hang", times=1)
    rig.outbox.start()
    rig.outbox.post(job_id, message(job_id, "running"), final=False)
    panda.wait(lambda: any(request.operation == "update_job" for request in panda.requests))
    rig.outbox.post(job_id, message(job_id, "finished"), final=True)
    panda.wait(lambda: panda.job(int(job_id))["finals"] == 1)  # by the second lane, while the first still hangs
    rig.outbox.close()


def test_without_server_updates_each_message_replaces_the_file(tmp_path: Path) -> None:
    store = PilotDB(tmp_path / "pilot.db")
    path = tmp_path / "heartbeat.json"
    reporter = FileReporter(store, path)
    for state in ("starting", "running", "finished"):
        reporter.post("7", message("7", state), final=state == "finished")
        assert json.loads(path.read_text())["state"] == state
    assert reporter.drain(0) == 0 and store.unacknowledged() == 0
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".heartbeat")] == []


def test_a_report_that_cannot_be_written_counts_as_undelivered(tmp_path: Path) -> None:
    store = PilotDB(tmp_path / "pilot.db")
    reporter = FileReporter(store, tmp_path / "missing" / "heartbeat.json")
    reporter.post("7", message("7", "finished"), final=True)
    assert reporter.drain(0) == 1 and store.unacknowledged() == 1
