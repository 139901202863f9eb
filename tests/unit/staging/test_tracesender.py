"""The sender of traces: at once when idle, together what has piled up, patient with servers, never in anybody's way."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any, Callable, Iterator, Optional

import pytest

from pilot.staging.tracesender import BATCH, REFUSED, UNREACHABLE, Answer, TraceSender, deliver_waiting
from pilot.store.pilotdb import DATABASE_NAME, PilotDB
from pilot.util.hostnames import UNKNOWN, HostNames

PATIENCE = 60.0
TAKEN, BROKEN, REFUSAL, SILENCE = Answer(201, "Created"), Answer(500, "oops"), Answer(400, "bad"), Answer(0, "no route")


class Server:
    """Answers by a rule; remembers the files of each request."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.rule: Callable[[list[str]], Answer] = lambda _names: TAKEN
        self.requests: list[list[str]] = []
        self.bodies: list[list[dict[str, Any]]] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, body: bytes) -> Answer:
        traces = json.loads(body)
        names = [str(trace["filename"]) for trace in traces]
        with self._changed:
            self.requests.append(names)
            self.bodies.append(traces)
            answer = self.rule(names)
            self._changed.notify_all()
        assert self.gate.wait(PATIENCE)
        return answer

    def wait(self, condition: Callable[[], bool]) -> None:
        """Block until the condition holds, looked at after each request."""
        with self._changed:
            assert self._changed.wait_for(condition, PATIENCE), self.requests


class Rig:
    """A store, a server, and a sender that gives up waiting for names at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.directory = path.parent
        self.store = PilotDB(path)
        self.server = Server()
        self.senders: list[TraceSender] = []

    def start(self, hosts: Optional[HostNames] = None, **options: Any) -> TraceSender:
        found = hosts or HostNames(PATIENCE, lambda name: (f"{name}.example.org", "10.0.0.5"))
        sender = TraceSender(self.store, self.server, retry_base=0.01, retry_max=0.02, hosts=found, **options)
        self.senders.append(sender)
        return sender

    def add(self, *names: str, job: str = "7") -> None:
        for name in names:
            trace = {"filename": name, "hostname": "wn1", "ip": "0.0.0.0"}  # noqa: S104
            self.store.add_transfer(job, name, "stage-in", status="DONE", transfer_id=f"id-{name}", trace=trace)
        self.store.flush()

    def end(self, sender: TraceSender) -> None:
        """Block until the sender says that it has nothing more to do."""
        over = threading.Event()
        sender.begin_end(over.set)
        assert over.wait(PATIENCE)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path / DATABASE_NAME)
    yield made
    made.server.gate.set()
    for sender in made.senders:
        sender.close()
    made.store.close()


def test_a_trace_leaves_at_once_with_the_nodes_full_name(rig: Rig) -> None:
    sender = rig.start()
    rig.add("a")
    sender.wake()
    rig.server.wait(lambda: rig.server.requests == [["a"]])
    assert (rig.server.bodies[0][0]["hostname"], rig.server.bodies[0][0]["ip"]) == ("wn1.example.org", "10.0.0.5")
    rig.end(sender)
    assert rig.store.waiting_traces() == 0


def test_what_has_piled_up_leaves_together(rig: Rig) -> None:
    rig.server.gate.clear()
    sender = rig.start()
    rig.add("a")
    sender.wake()
    rig.server.wait(lambda: len(rig.server.requests) == 1)
    for name in "bcd":
        rig.add(name)
        sender.wake()
    rig.server.gate.set()
    rig.server.wait(lambda: rig.server.requests == [["a"], ["b", "c", "d"]])


def test_a_request_has_a_bounded_number_of_traces(rig: Rig) -> None:
    rig.add(*(f"f{number}" for number in range(BATCH + 1)))
    rig.end(rig.start())
    assert [len(names) for names in rig.server.requests] == [BATCH, 1]


@pytest.mark.parametrize("trouble", [BROKEN, SILENCE, Answer(302, ""), Answer(429, "slow down")])
def test_trouble_of_the_server_is_outlasted(rig: Rig, trouble: Answer) -> None:
    rig.server.rule = lambda _names: TAKEN if len(rig.server.requests) > 5 else trouble
    rig.add("a", "b")
    sender = rig.start()
    sender.wake()
    rig.server.wait(lambda: len(rig.server.requests) >= 6)
    rig.end(sender)
    assert rig.store.waiting_traces() == 0
    assert sorted(name for names in rig.server.requests[5:] for name in names) == ["a", "b"], "nothing goes twice"


def test_a_trace_that_breaks_the_server_does_not_hold_up_the_others(rig: Rig) -> None:
    rig.server.rule = lambda names: BROKEN if "evil" in names else TAKEN
    rig.add("evil", "a", "b")
    sender = rig.start()
    sender.wake()
    rig.server.wait(lambda: ["a"] in rig.server.requests and ["b"] in rig.server.requests)
    rig.end(sender)
    assert [entry.trace["filename"] for entry in rig.store.open_traces(10)] == ["evil"]


def test_a_refused_trace_is_dropped_and_only_that(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.server.rule = lambda names: REFUSAL if "evil" in names else TAKEN
    rig.add("a", "evil", "b")
    rig.end(rig.start())
    assert rig.store.waiting_traces() == 0
    assert rig.server.requests == [["a", "evil", "b"], ["a"], ["evil"], ["b"]]
    assert "refuses the trace of id-evil, which is dropped: HTTP 400: bad" in caplog.text


def test_the_end_does_not_wait_for_a_server_that_is_away(rig: Rig) -> None:
    rig.server.rule = lambda _names: SILENCE
    rig.add("a")
    sender = rig.start()
    rig.end(sender)
    assert rig.store.waiting_traces() == 1


def test_a_closed_sender_leaves_the_store_alone(rig: Rig) -> None:
    rig.server.gate.clear()
    sender = rig.start()
    rig.add("a")
    sender.wake()
    rig.server.wait(lambda: len(rig.server.requests) == 1)
    broken_off = []
    sender._break_off = lambda: broken_off.append(True)  # type: ignore[assignment]
    sender.close()
    rig.store.close()
    rig.server.gate.set()
    assert broken_off == [True]
    over = threading.Event()
    sender.begin_end(over.set)
    assert over.is_set(), "nobody waits for a closed sender"
    rig.store = PilotDB(rig.path)
    assert rig.store.waiting_traces() == 1


def test_errors_are_told_per_job_and_forgiven_when_the_traces_get_away(rig: Rig) -> None:
    (rig.directory / "seven").mkdir()
    note = rig.directory / "seven" / "rucio_trace_error.txt"
    sender = rig.start(error_file="rucio_trace_error.txt")
    for trouble, code in ((BROKEN, REFUSED), (SILENCE, UNREACHABLE)):
        rig.server.rule = lambda _names, trouble=trouble: trouble  # type: ignore[misc]
        rig.add(f"a{code}")
        sender.wake("7", rig.directory / "seven")
        rig.end(sender)
        assert (sender.error("7"), note.read_text()) == (code, f"{code}\n")
    assert sender.error("8") == 0
    rig.server.rule = lambda _names: TAKEN
    rig.end(sender)
    assert sender.error("7") == 0 and not note.exists()


def test_a_payload_cannot_turn_the_error_file_against_others(rig: Rig) -> None:
    victim = rig.directory / "victim"
    victim.write_text("untouched")
    (rig.directory / "rucio_trace_error.txt").symlink_to(victim)
    rig.server.rule = lambda _names: BROKEN
    rig.add("a")
    sender = rig.start(error_file="rucio_trace_error.txt")
    sender.wake("7", rig.directory)
    rig.end(sender)
    assert victim.read_text() == "untouched"


def test_a_fault_of_the_sender_ends_it_and_nothing_else(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    def broken(_names: list[str]) -> Answer:
        raise RuntimeError("a fault")

    rig.server.rule = broken
    rig.add("a")
    rig.end(rig.start())
    assert "internal error: no more traces are sent" in caplog.text
    assert rig.store.waiting_traces() == 1


def test_a_resolver_that_drops_queries_delays_no_end(rig: Rig) -> None:
    never = threading.Event()

    def resolve(_name: str) -> tuple[str, str]:
        never.wait(PATIENCE)
        raise OSError("no answer")

    sender = rig.start(hosts=HostNames(PATIENCE, resolve))
    rig.add("a")
    sender.wake()
    rig.end(sender)
    never.set()
    assert (rig.server.bodies[0][0]["hostname"], rig.server.bodies[0][0]["ip"]) == UNKNOWN


def test_a_name_that_is_not_known_is_asked_for_once(rig: Rig) -> None:
    asked = []

    def resolve(name: str) -> tuple[str, str]:
        asked.append(name)
        raise OSError("unknown host")

    hosts = HostNames(PATIENCE, resolve)
    assert [hosts.get("wn1"), hosts.get("wn1")] == [UNKNOWN, UNKNOWN]
    assert asked == ["wn1"]


@pytest.mark.parametrize(("rule", "sent", "left"), [
    (lambda _names: TAKEN, 3, 0),
    (lambda _names: SILENCE, 0, 3),
    (lambda _names: BROKEN, 0, 3),
    (lambda names: REFUSAL if "evil" in names else TAKEN, 2, 0),
])
def test_recovery_delivers_what_the_server_takes_and_then_stops(
    rig: Rig, rule: Callable[[list[str]], Answer], sent: int, left: int
) -> None:
    rig.server.rule = rule
    rig.add("a", "evil", "b")
    hosts = HostNames(PATIENCE, lambda name: (name, "10.0.0.5"))
    done, waiting, problem = deliver_waiting(rig.store, rig.server, hosts)
    assert (done, waiting, bool(problem)) == (sent, left, left > 0)
