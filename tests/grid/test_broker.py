"""Instructions by a message broker: the listener and whole pilots against a real ActiveMQ."""

from __future__ import annotations

import json
import logging
import queue
import socket
import threading
from typing import Any, Iterator, List, Optional, Tuple

import pytest
import requests

from pilot.panda import broker
from pilot.panda.broker import QUEUE, TOPIC, BrokerListener, Instruction
from pilot.settings import default_settings
from tests.grid.conftest import required
from tests.grid.gate import Deaf, gate
from tests.grid.testbed.activemq import HOSTS, PASSWORD, USER, ActiveMQ
from tests.grid.testbed.service import MissingService, free_port
from tests.integration.harness import PATIENCE, Farm, Pilot

TASK = "4711"


def needs_library() -> None:
    try:
        import stomp  # noqa: F401
    except ImportError:
        raise MissingService("the Python package stomp.py is not installed here: 'make venv' installs it") from None


@pytest.fixture(autouse=True)
def library() -> None:
    required(needs_library)


class Ear:
    """A listener with what it hears; it ends with the test."""

    def __init__(self, port: int, topic: bool = True, password: str = PASSWORD) -> None:
        self.heard: queue.SimpleQueue[Instruction] = queue.SimpleQueue()
        self.links: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.gone: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.logins: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.password = password
        section = default_settings().message_broker
        values = {**section.__dict__, "url": "broker.test", "receiver_port": port}
        self.listener = BrokerListener(
            type(section)(**values), topic=topic, login=self.login, hear=self.heard.put, linked=self.links.put,
            gone=self.gone.put, retry=(0.01, 0.05))
        self.listener.start()

    def login(self) -> Tuple[str, str]:
        self.logins.put(self.password)
        return USER, self.password

    def wait_links(self, number: int) -> None:
        while self.links.get(timeout=PATIENCE) != number:
            pass


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> List[str]:
    """The addresses behind the alias ``broker.test``; change the list."""
    found = list(HOSTS[:1])
    real = socket.getaddrinfo

    def look_up(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        if host != "broker.test":
            return real(host, port, *rest, **more)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return found


@pytest.fixture
def ears(hosts: List[str]) -> Iterator[Any]:
    made: List[Ear] = []

    def make(port: int, **how: Any) -> Ear:
        made.append(Ear(port, **how))
        return made[-1]

    yield make
    for ear in made:
        ear.listener.close()
    for thread in threading.enumerate():
        if thread.name.startswith("broker"):
            thread.join(PATIENCE)
            assert not thread.is_alive(), thread


@pytest.mark.parametrize("topic", [True, False])
def test_an_instruction_is_heard(activemq: ActiveMQ, ears: Any, topic: bool) -> None:
    ear = ears(activemq.port, topic=topic)
    ear.wait_links(1)
    activemq.send(TOPIC if topic else QUEUE, json.dumps({"msg_type": "get_job", "taskid": TASK}))
    assert ear.heard.get(timeout=PATIENCE) == Instruction("get_job", TASK)


def test_every_address_behind_the_alias_is_listened_to(activemq: ActiveMQ, ears: Any, hosts: List[str]) -> None:
    hosts[:] = HOSTS
    ear = ears(activemq.port)
    ear.wait_links(2)
    activemq.send(TOPIC, '{"msg_type": "finish_task"}')
    assert [ear.heard.get(timeout=PATIENCE) for _ in HOSTS] == [Instruction("finish_task", "")] * 2


def test_garbled_messages_are_told_and_ignored(activemq: ActiveMQ, ears: Any, caplog: pytest.LogCaptureFixture) -> None:
    ear = ears(activemq.port, topic=False)
    ear.wait_links(1)
    bodies = ["", "}{", "[1]", '"get_job"', "{}", '{"msg_type": "get_job", "taskid": "1; rm -rf"}', "\x00\x00",
              '{"msg_type": "get_job", "taskid": true}', '{"msg_type": {}}', "[" * 100_000, '{"msg_type": "stop"}']
    for body in bodies:
        activemq.send(QUEUE, body)
    activemq.send(QUEUE, '{"msg_type": "kill_task", "taskid": 12}')
    assert ear.heard.get(timeout=PATIENCE) == Instruction("kill_task", "12")
    told = [record.getMessage() for record in caplog.records if "ignored" in record.getMessage()]
    assert len(told) == len(bodies) and all(len(line) < 400 for line in told)


def test_bytes_that_are_no_text_do_not_break_the_connection(activemq: ActiveMQ, ears: Any) -> None:
    ear = ears(activemq.port, topic=False)
    ear.wait_links(1)
    client = activemq.client()
    client.send(QUEUE, b"\xff\xfe\x00{", content_type="application/octet-stream")
    client.disconnect()
    activemq.send(QUEUE, '{"msg_type": "get_job"}')
    assert ear.heard.get(timeout=PATIENCE) == Instruction("get_job", "")
    assert ear.links.empty()


def test_a_frame_that_never_ends_is_not_collected(
        activemq: ActiveMQ, ears: Any, caplog: pytest.LogCaptureFixture) -> None:
    ear = ears(activemq.port, topic=False)
    ear.wait_links(1)
    activemq.send(QUEUE, "x" * (broker._LARGEST_FRAME + 100_000))
    ear.wait_links(0)
    ear.wait_links(1)
    activemq.send(QUEUE, '{"msg_type": "get_job", "taskid": 5}')
    assert ear.heard.get(timeout=PATIENCE).task == "5"
    assert "a frame of more than" in caplog.text


def test_a_flood_is_heard_in_its_order(activemq: ActiveMQ, ears: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: List[float] = []
    monkeypatch.setattr(broker, "_PER_SECOND", 50)
    ear = ears(activemq.port, topic=False)
    wait = ear.listener.stopping.wait
    monkeypatch.setattr(ear.listener.stopping, "wait", lambda limit=None: pauses.append(limit) or wait(0))
    ear.wait_links(1)
    activemq.send(QUEUE, '{"msg_type": "get_job", "taskid": 1}', count=300)
    for _ in range(300):
        assert ear.heard.get(timeout=PATIENCE).task == "1"
    assert pauses and max(pauses) <= 1


def test_a_wrong_password_is_told_without_it_and_asked_for_again(
        activemq: ActiveMQ, ears: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    ear = ears(activemq.port, password="a-wrong-password-4321")
    for _ in range(2):
        assert ear.logins.get(timeout=PATIENCE) == "a-wrong-password-4321"
    ear.password = PASSWORD
    ear.wait_links(1)
    assert "User name [pilot] or password is invalid" in caplog.text
    assert "a-wrong-password-4321" not in caplog.text and PASSWORD not in caplog.text


def test_a_lost_broker_is_called_again(activemq: ActiveMQ, ears: Any) -> None:
    with gate((HOSTS[0], activemq.port)) as door:
        ear = ears(door.port)
        ear.wait_links(1)
        door.cut()
        ear.wait_links(0)
        door.restore()
        ear.wait_links(1)
        activemq.send(TOPIC, '{"msg_type": "get_job", "taskid": 9}')
        assert ear.heard.get(timeout=PATIENCE).task == "9"


def test_a_deaf_broker_and_a_closed_port_hold_nobody_up(
        ears: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(broker, "_ANSWER_SECONDS", 0.1)
    deaf = Deaf()
    first, second = ears(deaf.port), ears(free_port())
    for ear in (first, second):
        for _ in range(3):
            ear.logins.get(timeout=PATIENCE)
        ear.listener.close()
        assert ear.heard.empty() and ear.gone.empty()
    assert "no answer in" in caplog.text
    deaf.close()


# --- whole pilots -----------------------------------------------------------------------------------------------------


def store_login(farm: Farm, password: Optional[str] = PASSWORD) -> None:
    for key, value in (("MB_USERNAME", USER), ("MB_PASSWORD", password)):
        if value is not None:
            answer = requests.post(f"{farm.server.url}/api/v1/creds/set_user_secrets", timeout=PATIENCE,
                                   json={"key": key, "value": value}).json()
            assert answer["success"], answer


def start(farm: Farm, port: int, *options: str, patience: float = PATIENCE) -> Pilot:
    return farm.start_pilot("--subscribe-to-msgsvc", "-v", "1", *options, settings={
        "message_broker.url": HOSTS[0], "message_broker.receiver_port": port, "message_broker.patience": patience})


def say(activemq: ActiveMQ, kind: str, task: int, destination: str = TOPIC) -> None:
    activemq.send(destination, json.dumps({"msg_type": kind, "taskid": str(task)}))


def requests_for_jobs(farm: Farm) -> List[Tuple[Any, Any]]:
    return [(call.params.get("task_id"), call.params.get("via_topic")) for call in farm.server.requests
            if call.operation == "acquire_jobs"]


@pytest.mark.parametrize("same_user", [True, False])
def test_a_job_of_the_task_that_a_message_names(activemq: ActiveMQ, farm: Farm, same_user: bool) -> None:
    store_login(farm)
    other, wanted = farm.submit_job(taskID=11), farm.submit_job(taskID=12)
    pilot = start(farm, activemq.port, "--allow-same-user", str(same_user))
    pilot.wait_output(f"listening to {TOPIC if same_user else QUEUE}")
    assert requests_for_jobs(farm) == []  # nothing is asked for before a message comes
    say(activemq, "kill_task", 99)  # nobody's here
    say(activemq, "get_job", 12, TOPIC if same_user else QUEUE)
    assert pilot.wait() == 0
    assert farm.final(wanted)["state"] == "finished" and not farm.server.job(other)["final"]
    assert requests_for_jobs(farm)[0] == (12, True if same_user else None)
    assert PASSWORD not in pilot.output and PASSWORD not in pilot.log


def test_kill_task_ends_the_job_and_the_pilot_at_once(activemq: ActiveMQ, farm: Farm) -> None:
    store_login(farm)
    farm.set_queue(timefloor=60)
    place = farm.gate("payload")
    job, later = farm.submit_job(place.shell(), taskID=12), farm.submit_job(taskID=12)
    pilot = start(farm, activemq.port)
    pilot.wait_output("listening to")
    say(activemq, "get_job", 12)
    place.reached()
    say(activemq, "get_job", 12)
    say(activemq, "kill_task", 13)
    say(activemq, "kill_task", 12)
    assert pilot.wait() == 0
    final = farm.final(job)
    assert (final["state"], final["pilotErrorCode"]) == ("failed", 1144)
    assert "the message broker has told to kill task 12" in final["pilotErrorDiag"]
    assert not farm.server.job(later)["final"]


def test_finish_task_lets_the_job_end_and_takes_no_other(activemq: ActiveMQ, farm: Farm) -> None:
    store_login(farm)
    farm.set_queue(timefloor=60)
    place = farm.gate("payload")
    job, later = farm.submit_job(place.shell(), taskID=12), farm.submit_job(taskID=14)
    pilot = start(farm, activemq.port)
    pilot.wait_output("listening to")
    say(activemq, "get_job", 12)
    place.reached()
    say(activemq, "get_job", 14)
    say(activemq, "finish_task", 12)
    pilot.wait_output("the message broker has told to finish task 12")
    place.open()
    assert pilot.wait() == 0
    assert farm.final(job)["state"] == "finished" and not farm.server.job(later)["final"]


def test_a_pilot_that_waits_for_long_is_not_stuck(activemq: ActiveMQ, farm: Farm) -> None:
    store_login(farm)
    job = farm.submit_job(taskID=12)
    settings = {"monitor.step_time": 1, "pilot.thread_check": 1, "pilot.cpu_check": 1,
                "message_broker.url": HOSTS[0], "message_broker.receiver_port": activemq.port}
    pilot = farm.start_pilot("--subscribe-to-msgsvc", "-v", "1", settings=settings)
    pilot.wait_output("listening to")
    pilot.wait_lines("the pilot itself: CPU time", 4)  # so often the watchdog has looked, a second apart
    say(activemq, "get_job", 12)
    assert pilot.wait() == 0
    assert farm.final(job)["state"] == "finished" and "stuck" not in pilot.output


def test_a_waiting_pilot_ends_by_message_and_by_signal(activemq: ActiveMQ, farm: Farm) -> None:
    store_login(farm)
    by_message = start(farm, activemq.port)
    by_message.wait_output("listening to")
    activemq.send(TOPIC, '{"msg_type": "finish_task"}')
    assert by_message.wait() == 0
    by_signal = start(farm, activemq.port)
    by_signal.wait_output("listening to")
    by_signal.send("SIGTERM")
    assert by_signal.wait() == 143
    assert requests_for_jobs(farm) == []


def test_without_a_broker_jobs_are_asked_for_all_the_same(farm: Farm) -> None:
    store_login(farm)
    job = farm.submit_job(taskID=12)
    pilot = start(farm, free_port(), patience=0.1)
    assert pilot.wait() == 0
    assert farm.final(job)["state"] == "finished" and requests_for_jobs(farm)[0] == (None, None)
    assert "jobs are asked for without instructions until one does" in pilot.output


def test_without_a_login_jobs_are_asked_for_all_the_same(activemq: ActiveMQ, farm: Farm) -> None:
    store_login(farm, password=None)
    job = farm.submit_job()
    pilot = start(farm, activemq.port)
    assert pilot.wait() == 0
    assert farm.final(job)["state"] == "finished"
    assert "no user name and password from the PanDA server: it has no MB_PASSWORD" in pilot.output
