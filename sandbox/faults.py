"""Fault injection: what goes wrong, for which operation, how often.

Faults are tried in the order in which they were added; the first one that fits a request is used up by one.

  before the request is processed (the server never sees it), unless ``after_processing``:
    http_<code>  reset  close_before_answer  delay  garbage  not_utf8  html  empty  body  status_<code>  hang
  always after it was processed (the answer suffers):
    truncate  wrong_type  drip  strings  urlencoded  command  processed_then_reset  processed_then_close
"""

from __future__ import annotations

import fnmatch
import threading
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Mapping, Optional, Union

from sandbox.fields import words
from sandbox.state import NO_ROLE
from sandbox.wire import Reply

PLAIN_KINDS = frozenset(words(
    "reset close_before_answer delay garbage not_utf8 html empty body hang truncate wrong_type drip strings urlencoded "
    "command processed_then_reset processed_then_close"))
AFTER = frozenset(words(
    "truncate wrong_type drip strings urlencoded command processed_then_reset processed_then_close"))

GARBAGE = b"\x16\x03\x01<<{{ not an answer \x00\x01\x02 }}"
NOT_UTF8 = b'{"StatusCode": 0, "command": "\xff\xfe\xfa"}'
HTML = b"<html><head><title>502 Proxy Error</title></head><body><h1>Proxy Error</h1></body></html>"

When = Union[Callable[[Mapping[str, Any]], bool], Mapping[str, Any], None]


@dataclass
class Fault:
    """One planned fault. times: how often (None: for ever); seconds: of a delay, or pause between bytes of a drip."""

    operation: str
    kind: str
    times: Optional[int] = 1
    seconds: float = 0.05
    when: When = None
    after_processing: bool = False
    text: str = ""
    hits: int = 0

    def __post_init__(self) -> None:
        prefix, _, number = self.kind.rpartition("_")
        if self.kind not in PLAIN_KINDS and not (prefix in ("http", "status") and number.isdigit()):
            raise ValueError(f"unknown kind of fault: {self.kind}")
        self.after_processing = self.after_processing or self.kind in AFTER

    @property
    def number(self) -> int:
        """The code in http_<code> and status_<code>, else 0."""
        tail = self.kind.rpartition("_")[2]
        return int(tail) if tail.isdigit() else 0

    def fits(self, operation: str, name: str, params: Mapping[str, Any]) -> bool:
        """True when this fault is for that request."""
        if self.times is not None and self.hits >= self.times:
            return False
        if not (fnmatch.fnmatch(operation, self.operation) or fnmatch.fnmatch(name, self.operation)):
            return False
        if self.when is None:
            return True
        if callable(self.when):
            return bool(self.when(params))
        return all(str(params.get(key)) == str(value) for key, value in self.when.items())

    def public(self) -> Dict[str, Any]:
        """As a JSON object."""
        when = self.when if isinstance(self.when, Mapping) else ("<callable>" if self.when else None)
        return {**self.__dict__, "when": when}


@dataclass
class Faults:
    """The list of planned faults; thread safe. ``hits`` counts all that were used."""

    planned: List[Fault] = field(default_factory=list)
    hits: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, operation: str = "*", kind: str = "http_500", times: Optional[int] = 1, seconds: float = 0.05,
            when: When = None, after_processing: bool = False, text: str = "") -> Fault:
        """Plan a fault; returns it, its ``hits`` tell whether it was used."""
        fault = Fault(operation, kind, times, seconds, when, after_processing, text)
        with self._lock:
            self.planned.append(fault)
        return fault

    def clear(self) -> None:
        """Forget all planned faults."""
        with self._lock:
            self.planned.clear()

    def take(self, operation: str, name: str, params: Mapping[str, Any]) -> Optional[Fault]:
        """The fault for this request, counted."""
        if not self.planned:
            return None
        with self._lock:
            for fault in self.planned:
                if fault.fits(operation, name, params):
                    fault.hits += 1
                    self.hits += 1
                    return fault
        return None


def replacement(fault: Fault, dialect: str, json_wanted: bool, operation: str) -> Optional[Reply]:
    """The answer that takes the place of the real one, None when the fault keeps the real one."""
    if fault.kind.startswith("http_"):
        return Reply(fault.text or f"injected fault: HTTP {fault.number}", status=fault.number)
    if fault.kind.startswith("status_"):
        acquire = operation == "acquire_jobs"
        return _v1_status(fault.number, acquire, json_wanted) if dialect == "v1" else (
            _legacy_status(fault.number, acquire, json_wanted))
    if fault.kind == "body":
        return Reply(fault.text)
    return None


def _v1_status(code: int, acquire: bool, json_wanted: bool) -> Reply:
    """A StatusCode as v1 tells it: in ``data``, with success true for an update (recorded), or by the message alone."""
    data: Optional[Dict[str, Any]] = {"StatusCode": code}
    success = code != 50
    message = {10: "Timed out", 20: "No jobs in PanDA", 50: "Invalid job status"}.get(code, "Database error")
    if acquire or code in (60, 70):
        success, data = False, None
    if code == 60:
        message = NO_ROLE if acquire else "production or pilot role required"
    return Reply({"success": success, "message": message, "data": data}, "json" if json_wanted else "repr")


def _legacy_status(code: int, acquire: bool, json_wanted: bool) -> Reply:
    dialog = {10: "database timeout", 20: "no jobs in PanDA"}.get(code) if acquire else None
    dialog = NO_ROLE if code == 60 else dialog
    payload = {"StatusCode": code, **({"errorDialog": dialog} if dialog and json_wanted else {})}
    return Reply(payload, "json" if json_wanted else "urlencoded",
                 content_type="application/json" if json_wanted else "text/plain")


def raw_replacement(fault: Fault) -> Optional[bytes]:
    """The bytes that take the place of the answer's body (HTTP 200), None when the fault keeps it."""
    return {"garbage": GARBAGE, "not_utf8": NOT_UTF8, "html": HTML, "empty": b""}.get(fault.kind)


def distort(fault: Fault, reply: Reply) -> Reply:
    """The real answer, changed."""
    if fault.kind == "strings":
        return Reply(_texts(reply.payload), reply.form, reply.status, reply.content_type)
    if fault.kind == "urlencoded" and isinstance(reply.payload, dict):
        inner = reply.payload.get("data") if isinstance(reply.payload.get("data"), dict) else reply.payload
        return Reply(inner, "urlencoded")
    if fault.kind == "wrong_type":
        return Reply(reply.payload, reply.form, reply.status, fault.text or "application/octet-stream")
    if fault.kind == "command" and isinstance(reply.payload, dict):
        payload = dict(reply.payload)
        inner = payload.get("data") if "data" in payload else payload
        if isinstance(inner, dict):
            changed = {**inner, "command": fault.text or "tobekilled"}
            payload = {**payload, "data": changed} if "data" in payload else changed
        return Reply(payload, reply.form, reply.status, reply.content_type)
    return reply


def _texts(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _texts(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_texts(item) for item in value]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    return value
