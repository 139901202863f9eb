"""What the server's answers mean: parsing of bodies, requests and answers as data, and the verdict on a report.

HTTP 200 is no success, the Content-Type is no guide, and one refusal has many spellings (server-api.md 1.3, 2, 4, 10).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Optional
from urllib.parse import parse_qsl

from pilot.panda.commands import split_words
from pilot.panda.errors import DialectMissing, ServerRefusal, TransportError
from pilot.panda.transport import Reply, excerpt

OK, TIMEOUT, NO_JOBS, FAILED, INVALID, ROLE, PERMISSION, KEY_MISSING, PROXY_ERROR = 0, 10, 20, 30, 50, 60, 70, 80, 90
"""StatusCode values (server-api.md 4)."""

PERMANENT_CODES = frozenset({INVALID, ROLE, PERMISSION, KEY_MISSING})


class Verdict(Enum):
    """What to do with a report after the server's answer (server-api.md 10)."""

    DELIVERED = "delivered"
    RETRY = "retry"
    """Send the same again later: StatusCode 10, HTTP 5xx, no or no readable answer."""
    RETRY_REDUCED = "retry reduced"
    """StatusCode 30: again later; from the second one in a row on, ``messages.reduced(message)``."""
    DROP_FIELD = "drop field"
    """The server does not take the optional field ``drop_field``. PandaServer does this itself and sends again."""
    REFUSED = "refused"
    """Role, certificate or token: keep it, try again slowly, they may be renewed."""
    INVALID = "invalid"
    """Our fault: log, keep, do not repeat."""


@dataclass(frozen=True)
class JobRequest:
    """A request for work; empty texts and None are not sent. Units: MB, MHz, s (server-api.md 5.1)."""

    site_name: str
    computing_element: str = ""
    prod_source_label: str = ""
    disk_space: Optional[int] = None
    memory: Optional[int] = None
    cpu: Optional[float] = None
    node: str = ""
    working_group: str = ""
    country_group: str = ""
    allow_other_country: bool = False
    job_type: str = ""
    prod_user_id: str = ""
    task_id: Optional[int] = None
    via_topic: bool = False
    resource_type: str = ""
    harvester_id: str = ""
    worker_id: str = ""
    remaining_time: Optional[int] = None
    n_jobs: int = 1

    def message(self) -> dict[str, object]:
        """Return the legacy names and values of what is known."""
        values: dict[str, object] = {
            "siteName": self.site_name,
            "computingElement": self.computing_element,
            "prodSourceLabel": self.prod_source_label,
            "diskSpace": self.disk_space,
            "mem": self.memory,
            "cpu": self.cpu,
            "node": self.node,
            "workingGroup": self.working_group,
            "countryGroup": self.country_group,
            "allowOtherCountry": "True" if self.allow_other_country else None,
            "jobType": self.job_type,
            "prodUserID": self.prod_user_id,
            "taskID": self.task_id,
            "viaTopic": self.via_topic or None,
            "resourceType": self.resource_type,
            "harvester_id": self.harvester_id,
            "worker_id": self.worker_id,
            "remaining_time": self.remaining_time,
            "nJobs": self.n_jobs if self.n_jobs > 1 else None,
        }
        return {name: value for name, value in values.items() if value is not None and value != ""}


@dataclass(frozen=True)
class JobAnswer:
    """Answer to a request for work. ``permanent``: asking again with this identity or request is useless."""

    status_code: int
    jobs: tuple[Mapping[str, object], ...] = field(default=(), repr=False)
    text: str = ""
    permanent: bool = False


@dataclass(frozen=True)
class UpdateAnswer:
    """Answer to a heartbeat or final report.

    ``words`` are the commands to obey: empty in the answer to a final report, where a command is no instruction.
    ``pilot_secrets`` is a JSON text.
    """

    verdict: Verdict
    command: str = ""
    words: tuple[str, ...] = ()
    pilot_secrets: str = field(default="", repr=False)
    text: str = ""
    drop_field: str = ""
    status_code: Optional[int] = None


@dataclass(frozen=True)
class EventUpdateAnswer:
    """Answer to an update of event ranges.

    ``unknown``: v1 servers up to 1.0.x end this call with 500 after the data base was updated (recorded), so whether it
    was stored must be looked up; do not send it again blindly. ``returns``: per item True, False, or None (skipped).
    """

    unknown: bool
    returns: tuple[Optional[bool], ...] = ()
    commands: Mapping[str, Optional[str]] = field(default_factory=dict)


# --- bodies ----------------------------------------------------------------------------------------------------------


def parse_json(text: str) -> object:
    """Return the JSON value of ``text``; raises ValueError. NaN and infinities are no JSON."""

    def refuse(constant: str) -> object:
        raise ValueError(f"{constant} is no JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


_URL_ENCODED = re.compile(r"StatusCode=-?\d+(&|$)")


def parse_legacy(text: str) -> dict[str, object] | None:
    """Return the dictionary of a legacy answer, JSON, else URL-encoded (blank values kept); None for other texts."""
    text = text.strip()
    if text.startswith("{"):
        try:
            value = parse_json(text)
        except ValueError:
            return None
        return value if isinstance(value, dict) else None
    if _URL_ENCODED.match(text):
        return dict(parse_qsl(text, keep_blank_values=True))
    return None


def status_code_of(values: Mapping[str, object]) -> int | None:
    """Return the StatusCode, sent as int or text, None when absent or no number."""
    try:
        return int(str(values["StatusCode"]))
    except (KeyError, ValueError):
        return None


def integer_of(value: object, what: str) -> int:
    """Return the integer, sent as a number or a text; raises TransportError."""
    try:
        return int(str(value))
    except ValueError:
        raise TransportError(f"{what}: a number was expected: {excerpt(str(value))}") from None


def unreadable(reply: Reply, what: str) -> TransportError:
    """Return the error for an answer that nobody can read."""
    return TransportError(f"{what}: HTTP {reply.status}, unreadable answer: {excerpt(reply.text)}", status=reply.status)


def secrets_of(value: object) -> dict[str, str]:
    """Return the dictionary of secrets, sent as an object or as a JSON text of one; raises TransportError."""
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except ValueError:
            value = None
    if not isinstance(value, dict):
        raise TransportError("get_user_secrets: the answer holds no dictionary")
    return {str(key): str(item) for key, item in value.items()}


def event_answer(values: object) -> EventUpdateAnswer:
    """Return the answer to an update of event ranges; ``Returns`` and ``Command(s)`` are objects or JSON texts."""
    mapping = values if isinstance(values, dict) else {}
    returns = _object_of(mapping.get("Returns", mapping.get("returns")))
    commands = _object_of(mapping.get("Command", mapping.get("Commands")))
    if not isinstance(returns, list):
        raise TransportError("update of event ranges: the answer holds no list of results")
    results = tuple(item if isinstance(item, bool) else None for item in returns)
    pairs = commands.items() if isinstance(commands, dict) else ()
    return EventUpdateAnswer(False, results, {str(key): item if isinstance(item, str) else None for key, item in pairs})


def _object_of(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value)
    except ValueError:
        return None


# --- refusals --------------------------------------------------------------------------------------------------------

_ROLE_TEXTS = (
    "production or pilot role required",
    "production or pilot role is required",
    "no production/pilot role in VOMS FQANs",
)
_IDENTITY_TEXTS = (
    "SSL secure connection is required",
    "Token authentication failed",
    "is banned",
    "failed to retrieve DN",
)
_REJECTED_NAME = re.compile(r"unexpected keyword argument '(\w+)'|Type error: '(\w+)'")
_PATH_TROUBLE = re.compile(r"values to unpack|index out of range|list index|unparsable|invalid path")


def is_role_text(text: str) -> bool:
    """True for the refusals that a proxy with only Role=pilot gets from v1 (server-api.md 11)."""
    return any(known in text for known in _ROLE_TEXTS)


def is_identity_text(text: str) -> bool:
    """True when the server does not accept who the pilot is: role, certificate, or token."""
    return is_role_text(text) or any(known in text for known in _IDENTITY_TEXTS)


def rejected_name(text: str) -> str:
    """Return the argument that the server complains of (unknown name or wrong type), "" when it does not."""
    found = _REJECTED_NAME.search(text)
    return (found.group(1) or found.group(2)) if found else ""


def check_dialect(reply: Reply, what: str) -> None:
    """Raise DialectMissing when the answer says that this API, or this call of it, is not there."""
    missing = (
        reply.status == 404
        or (reply.status == 403 and "is forbidden" in reply.text)
        or (reply.status == 500 and bool(_PATH_TROUBLE.search(reply.text)))
    )
    if missing:
        raise DialectMissing(f"{what}: HTTP {reply.status}: {excerpt(reply.text)}", status=reply.status)


def check_http(reply: Reply, what: str) -> None:
    """Raise for every HTTP status but 200: DialectMissing, ServerRefusal (401, 403) or TransportError."""
    check_dialect(reply, what)
    if reply.status in (401, 403):
        raise ServerRefusal(f"{what}: HTTP {reply.status}: {excerpt(reply.text)}", status_code=ROLE)
    if reply.status != 200:
        # 503 and 4xx come from a gate before the application; 500, 502 and 504 may come after it did its work.
        processed = reply.status in (500, 502, 504)
        raise TransportError(
            f"{what}: HTTP {reply.status}: {excerpt(reply.text)}", maybe_processed=processed, status=reply.status
        )


# --- verdicts --------------------------------------------------------------------------------------------------------


def judge(
    status_code: int | None, text: str, *, final: bool, command: object = None, secrets: object = "", rejected: str = ""
) -> UpdateAnswer:
    """Return the verdict on one update.

    Args:
        status_code: StatusCode, None when the answer had none.
        text: the server's message, or the unparsed body.
        final: the update was a final report.
        command: the ``command`` field as it came.
        secrets: ``pilotSecrets`` as it came.
        rejected: legacy name of a field that the server complained of.
    """
    if status_code == OK:
        word = command if isinstance(command, str) else ""
        # A final report is delivered whatever the command says: `tobekilled` answers a killed job's own report and one
        # repeated after the adder, `alreadydone` one before it (recorded).
        words = () if final else split_words(word)
        return UpdateAnswer(Verdict.DELIVERED, word, words, secrets if isinstance(secrets, str) else "", text, "", OK)
    return UpdateAnswer(
        _failure_verdict(status_code, text, rejected), text=text, drop_field=rejected, status_code=status_code
    )


def _failure_verdict(status_code: int | None, text: str, rejected: str) -> Verdict:
    if rejected:
        return Verdict.DROP_FIELD
    if status_code == INVALID or "Invalid job status" in text or "missing a required argument" in text:
        return Verdict.INVALID
    if status_code in (ROLE, PERMISSION) or is_identity_text(text):
        return Verdict.REFUSED
    return Verdict.RETRY_REDUCED if status_code == FAILED else Verdict.RETRY
