"""Requests as they came in and answers before they are written down: what the dialects, the faults and HTTP share."""

from __future__ import annotations

import json
import urllib.parse
from dataclasses import dataclass, field
from email.message import MIMEPart
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any, Dict, List, Literal, Mapping, Optional

Form = Literal["json", "urlencoded", "repr", "text"]

# Parameters whose values are never kept, not even for assertions.
SECRET_PARAMS = frozenset({"token_key", "value", "token"})
SECRET_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization"})
HIDDEN = "********"


@dataclass(frozen=True)
class RawRequest:
    """One HTTP request with its whole body, undecoded."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes = b""
    tls: bool = False
    peercert: Optional[Mapping[str, Any]] = None
    family: str = "inet"


@dataclass
class Reply:
    """An answer. ``payload`` is rendered in ``form``; text replies have the text as payload."""

    payload: Any
    form: Form = "text"
    status: int = 200
    content_type: str = "text/plain"

    def render(self) -> bytes:
        """The body on the wire."""
        if self.form == "json":
            return json.dumps(self.payload).encode()
        if self.form == "urlencoded":
            return urllib.parse.urlencode({key: str(value) for key, value in self.payload.items()}).encode()
        if self.form == "repr":
            return repr(self.payload).encode()
        return str(self.payload).encode()


def error(status: int, text: str) -> Reply:
    """A plain text error as the server application writes it."""
    return Reply(text, status=status)


def forbidden(method: str) -> Reply:
    """The answer to a method that this server does not have."""
    return error(403, f"ERROR : method {method} is forbidden")


class BodyError(Exception):
    """The body cannot be read: HTTP 500. ``kills``: the real server would also have killed its worker process."""

    def __init__(self, text: str, kills: bool = False) -> None:
        super().__init__(text)
        self.kills = kills


@dataclass
class RecordedRequest:
    """One request as tests see it: headers and parameters without tokens, time in s since the epoch (real clock)."""

    path: str
    method: str
    params: Dict[str, Any]
    headers: Dict[str, str]
    time: float
    dialect: str
    operation: str
    name: str = ""
    family: str = "inet"
    dn: str = ""
    tls: bool = False
    status: Optional[int] = None
    fault: Optional[str] = None

    def public(self) -> Dict[str, Any]:
        """As a JSON object."""
        return dict(self.__dict__)


@dataclass
class Decoded:
    """A request that belongs to a method: canonical operation, name in the dialect, its parameters."""

    operation: str
    name: str
    params: Dict[str, Any] = field(default_factory=dict)
    failure: Optional[Reply] = None
    method: Any = None


def parse_query(query: str) -> Dict[str, Any]:
    """A query string or a form: blank values kept, a repeated key gives a list."""
    values: Dict[str, List[str]] = urllib.parse.parse_qs(query, keep_blank_values=True)
    return {key: items[0] if len(items) == 1 else items for key, items in values.items()}


def parse_form(content_type: str, body: bytes) -> Dict[str, Any]:
    """Form fields of a POST body, URL-encoded or multipart."""
    if content_type.startswith("multipart/"):
        message = BytesParser(policy=HTTP).parsebytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
        return {
            str(part.get_param("name", header="content-disposition")): _content(part)
            for part in message.iter_parts()
        }
    return parse_query(body.decode())


def _content(part: MIMEPart) -> str:
    content = part.get_content()
    return content if isinstance(content, str) else bytes(content).decode()


def redact(headers: Mapping[str, str], params: Mapping[str, Any]) -> tuple[Dict[str, str], Dict[str, Any]]:
    """Headers and parameters with tokens and secrets hidden."""
    return (
        {key: HIDDEN if key.lower() in SECRET_HEADERS else value for key, value in headers.items()},
        {key: HIDDEN if key in SECRET_PARAMS and value else value for key, value in params.items()},
    )
