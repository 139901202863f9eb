"""A bare HTTP client that sends exactly what it is told, and the calls of a pilot in both dialects."""

from __future__ import annotations

import gzip
import http.client
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, Optional
from urllib.parse import urlencode

from sandbox import Sandbox

TRANSCRIPTS = Path(__file__).resolve().parents[1] / "data" / "panda-server-transcripts"
ROBOT = "/DC=example/O=Test/OU=Users/CN=Robot Pilot"
JANE = "/DC=example/O=Test/OU=Users/CN=Jane Doe"


@dataclass
class Answer:
    """A whole HTTP answer."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def send(port: int, method: str, target: str, headers: Mapping[str, str], body: bytes = b"",
         host: str = "127.0.0.1", timeout: float = 30) -> Answer:
    """One request over a new connection."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.putrequest(method, target, skip_host="Host" in headers, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        if (body or method == "POST") and "Content-Length" not in headers:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body or None)
        response = connection.getresponse()
        return Answer(response.status, response.reason, dict(response.headers), response.read())
    finally:
        connection.close()


class Client:
    """The calls of a pilot in both dialects."""

    def __init__(self, box: Sandbox, dn: Optional[str] = None) -> None:
        self.box, self.headers = box, {"X-Sandbox-DN": dn} if dn else {}

    def v1(self, path: str, **params: Any) -> Any:
        """A v1 POST; the decoded envelope."""
        return self.v1_raw(path, params).json

    def v1_raw(self, path: str, params: Any, **headers: str) -> Answer:
        sent = {"Content-Type": "application/json", "Accept": "application/json", **self.headers, **headers}
        return send(self.box.port, "POST", f"/api/v1/{path}", sent, json.dumps(params).encode())

    def v1_get(self, path: str, **params: Any) -> Any:
        target = f"/api/v1/{path}?{urlencode(params, doseq=True)}"
        return send(self.box.port, "GET", target, {"Accept": "application/json", **self.headers}).json

    def legacy(self, name: str, **params: Any) -> Any:
        """A legacy call with a form and a JSON answer."""
        return self.legacy_raw(name, urlencode(params).encode(), Accept="application/json").json

    def legacy_raw(self, name: str, body: bytes, **headers: str) -> Answer:
        sent = {"Content-Type": "application/x-www-form-urlencoded", **self.headers}
        sent.update({key.replace("_", "-"): value for key, value in headers.items()})
        return send(self.box.port, "POST", f"/server/panda/{name}", sent, body)

    def legacy_gzip(self, name: str, **params: Any) -> Any:
        """A legacy call with compressed JSON and a JSON answer."""
        return self.legacy_raw(name, gzip.compress(json.dumps(params).encode()), Content_Type="application/json",
                               Accept="application/json").json

    def update(self, job_id: int, state: str, **fields: Any) -> Any:
        """A v1 job update; the data of the envelope."""
        return self.v1("pilot/update_job", job_id=job_id, job_status=state, attempt_nr=1, **fields)["data"]

    def take(self) -> int:
        """Take a job; its PandaID."""
        return int(self.v1("pilot/acquire_jobs", site_name="TEST_QUEUE")["data"]["jobs"][0]["PandaID"])
