"""Every recorded exchange with a real PanDA server, sent again to the sandbox: the same answers, byte by byte."""

from __future__ import annotations

import gzip
import hashlib
import json
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional
from urllib.parse import parse_qsl, urlsplit

import pytest
from sandbox_client import JANE, ROBOT, TRANSCRIPTS, Answer, send

from sandbox import Sandbox

FOLDERS = ("v1", "legacy", "reference-pilot")
NAMES = [f"{folder}/{path.stem}" for folder in FOLDERS for path in sorted((TRANSCRIPTS / folder).glob("*.json"))]

# Who sent it: the robot (production role by its DN), but for these. Plain http ports carry no identity.
PLAIN_PORTS = (25080, 25180)
NOBODY = {"v1/031"}
USER = {"v1/004", "v1/032", "v1/033", "v1/090", "v1/108",
        "legacy/024", "legacy/025", "legacy/071", "legacy/072", "legacy/082"}

# Recorded from the server of the other generation.
ON_NEW_SERVER = {"legacy/100", "legacy/101"}

# An exchange hands out the jobs that were submitted just before it; these were submitted earlier than that.
SUBMITTED_BEFORE = {"v1/012": "v1/013", "v1/014": "v1/015"}

# What happened to the server between two exchanges, other than by a recorded call.
BEFORE: Mapping[str, Callable[[Sandbox], Any]] = {
    "v1/078": lambda box: box.run_adder(),
    "legacy/045": lambda box: box.kill(7000000077),
    "legacy/061": lambda box: box.run_adder(),
}

ADDED_BY_DISPATCHER = ("StatusCode", "nSent", "credname", "myproxy", "secrets", "pilotSecrets")

# Checksum over names and contents of the recordings: a test must never be made to pass by editing them.
RECORDED = "5434f5513d4a8acf9cb77cb1b88a8e9bd389ca11a3a47be4963c53e67d8bf109"

# Exchanges that cannot be sent again, with the reason. None.
IMPOSSIBLE: Mapping[str, str] = {}


def number_of(name: str) -> str:
    """v1/031-acquire_jobs-no-certificate -> v1/031"""
    folder, _, stem = name.partition("/")
    return f"{folder}/{stem.replace('echo-', '').partition('-')[0]}"


def load(name: str) -> Dict[str, Any]:
    found: Dict[str, Any] = json.loads((TRANSCRIPTS / f"{name}.json").read_text())
    return found


def definitions(body: str) -> List[Dict[str, Any]]:
    """The jobs of a recorded answer, as a user would have submitted them."""
    if "PandaID" not in body:
        return []
    if body.startswith("{"):
        found = json.loads(body)
        jobs = (found.get("data") or found).get("jobs") or [found]
    else:
        fields = dict(parse_qsl(body, keep_blank_values=True))
        jobs = json.loads(fields["jobs"]) if "jobs" in fields else [
            {key: None if value == "None" else value for key, value in fields.items()}]
    return [{**{key: value for key, value in job.items() if key not in ADDED_BY_DISPATCHER},
             "computingSite": "TEST_QUEUE", "useSecrets": "secrets" in job} for job in jobs]


def identity(name: str, port: Optional[int]) -> Optional[str]:
    if port in PLAIN_PORTS or number_of(name) in NOBODY:
        return None
    return JANE if number_of(name) in USER else ROBOT


def replay(port: int, name: str) -> Answer:
    request = load(name)["request"]
    url = urlsplit(request["url"])
    headers = {key: value for key, value in request["headers"].items() if key not in ("Content-Length", "Connection")}
    dn = identity(name, url.port)
    if dn:
        headers["X-Sandbox-DN"] = dn
    body = (request["body"] or "").encode()
    if request.get("body_on_wire", "").startswith("gzip"):
        body = gzip.compress(body)
    return send(port, request["method"], url.path + (f"?{url.query}" if url.query else ""), headers, body)


def replay_folder(folder: str) -> Dict[str, Answer]:
    """All exchanges of a folder in their order: later ones depend on earlier ones."""
    answers = {}
    names = [name for name in NAMES if name.startswith(f"{folder}/")]
    by_number = {number_of(name): name for name in names}
    submitted: set[str] = set()
    with Sandbox(auth="recorded") as old, Sandbox(auth="recorded", legacy=False) as new:
        for name in names:
            for source in (SUBMITTED_BEFORE.get(number_of(name)), number_of(name)):
                if source and source not in submitted:
                    submitted.add(source)
                    for definition in definitions(load(by_number[source])["response"]["body"]):
                        old.submit(definition)
            BEFORE.get(number_of(name), lambda box: None)(old)
            answers[name] = replay(new.port if number_of(name) in ON_NEW_SERVER else old.port, name)
    return answers


@pytest.fixture(scope="module")
def answers() -> Iterator[Dict[str, Answer]]:
    yield {name: answer for folder in FOLDERS for name, answer in replay_folder(folder).items()}


def test_no_recorded_exchange_is_left_out() -> None:
    assert IMPOSSIBLE == {}
    assert len(NAMES) == sum(1 for _ in TRANSCRIPTS.glob("*/*.json")) == 217


def test_recordings_are_unchanged() -> None:
    digest = hashlib.sha256()
    for path in sorted(TRANSCRIPTS.rglob("*")):
        if path.is_file():
            digest.update(path.relative_to(TRANSCRIPTS).as_posix().encode() + b"\0" + path.read_bytes())
    assert digest.hexdigest() == RECORDED


@pytest.mark.parametrize("name", NAMES)
def test_answer_is_the_recorded_one(name: str, answers: Dict[str, Answer]) -> None:
    recorded, answer = load(name)["response"], answers[name]
    assert answer.status == recorded["status"], answer.text
    assert answer.text == recorded["body"]
    assert answer.reason == recorded["reason"]
    assert answer.headers["Content-Type"] == recorded["headers"]["Content-Type"]
    assert answer.headers["Transfer-Encoding"] == recorded["headers"]["Transfer-Encoding"]
