"""Where records go: a file, logstash (HTTP or TCP), Loki, fluentd, Google Cloud Logging.

A sink sends a batch or raises ``SinkError``. It may block for its time-out; it lives in the stream's own thread.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Optional

from pilot.payload.realtime.records import Record

if TYPE_CHECKING:
    import requests

    from pilot.payload.realtime.plan import Plan

logger = logging.getLogger(__name__)

TIMEOUT = 5.0
"""s for a connection and for each answer."""


class SinkError(Exception):
    """A batch was not taken; ``lost`` = it never will be."""

    def __init__(self, text: str, *, lost: bool = False) -> None:
        super().__init__(text)
        self.lost = lost


class Sink:
    """Base of the sinks."""

    period: Optional[float] = None
    """s between two batches, where the server wants it seldom; None = with each look at the files."""

    @property
    def place(self) -> str:
        """Where the records go, for people; no credentials in it."""
        raise NotImplementedError

    def send(self, records: Sequence[Record]) -> None:
        """Send a batch.

        Raises:
            SinkError: it was not taken.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Close connections."""


def make_sink(plan: Plan) -> Sink:
    """Return the sink for the plan's server.

    Raises:
        SinkError: unknown type, or a library that is not installed; the text says what to do.
    """
    kind = plan.server.type.lower()
    if kind == "file":
        return FileSink(plan.server.host)
    if kind == "logstash":
        return _Http(plan) if plan.server.protocol in ("http", "https") else JsonLines(plan)
    if kind == "loki":
        return Loki(plan)
    if kind == "fluent":
        from pilot.payload.realtime.fluent import Fluent

        return Fluent(plan.server.host.strip("[]"), plan.server.port, plan.name)
    if kind == "google-cloud-logging":
        return GoogleCloud(plan.name)
    raise SinkError(f"unknown type of log server {kind!r}; known: file, fluent, google-cloud-logging, logstash, loki")


class FileSink(Sink):
    """Appends JSON lines to a file of the site."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._handle = -1

    @property
    def place(self) -> str:
        """The path."""
        return self._path

    def send(self, records: Sequence[Record]) -> None:
        """Append; one write per batch, so that pilots of a node may share the file."""
        try:
            if self._handle < 0:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
                self._handle = os.open(self._path, flags, 0o644)
            data = memoryview("".join(f"{record.text}\n" for record in records).encode())
            while data:
                data = data[os.write(self._handle, data):]
        except OSError as exc:
            raise SinkError(f"{self._path}: {exc.strerror}") from exc

    def close(self) -> None:
        """Close the file."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


class _Http(Sink):
    """Logstash's HTTP input: a JSON array per batch, with login and password where the job brought them."""

    def __init__(self, plan: Plan) -> None:
        server = plan.server
        tls = plan.tls or server.protocol == "https"
        self.url = f"{'https' if tls else 'http'}://{server.host}:{server.port}"
        self._verify = plan.verify
        self._login = (plan.login, plan.password) if plan.login and tls else None
        if plan.login and not tls:
            logger.warning("job %s: %s is no TLS: the credentials for the log server are not sent", plan.job_id,
                           self.url)
        self._session: Optional[requests.Session] = None

    @property
    def place(self) -> str:
        """The URL."""
        return self.url

    def send(self, records: Sequence[Record]) -> None:
        """POST the batch."""
        self.post(f"[{','.join(record.text for record in records)}]")

    def post(self, body: str) -> int:
        """POST a JSON text; returns the status, 2xx.

        Raises:
            SinkError: no answer, or another status.
        """
        import requests

        if self._session is None:
            self._session = requests.Session()
            self._session.auth = self._login or _no_login
        try:
            with self._session.post(
                    self.url, data=body.encode(), headers={"Content-Type": "application/json"}, timeout=TIMEOUT,
                    verify=self._verify, allow_redirects=False, stream=True) as answer:
                status = answer.status_code
        except (requests.RequestException, OSError, ValueError) as exc:
            raise SinkError(f"{self.url}: {_short(exc)}") from exc
        if not 200 <= status < 300:
            # a request that is wrong stays wrong; with 401 and 403 the site may put the account right
            raise SinkError(f"{self.url}: HTTP status {status}",
                            lost=400 <= status < 500 and status not in (401, 403, 408, 429))
        return status

    def close(self) -> None:
        """Close the connection."""
        if self._session is not None:
            self._session.close()


def _no_login(request: Any) -> Any:
    """Keep requests from looking into ~/.netrc for a login."""
    return request


class Loki(_Http):
    """Loki's push interface; settings by the environment: LOKI_URL, LOKI_PERIOD, LOKI_LABELKEYS, LOKI_VERBOSE."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        environ = plan.environ
        self.url = environ.get("LOKI_URL") or f"{plan.server.protocol}://{plan.server.host}:{plan.server.port}" \
            "/loki/api/v1/push"
        self._login = None
        self.period = _number(environ.get("LOKI_PERIOD", ""), 30.0)
        self._keys = _label_keys(environ.get("LOKI_LABELKEYS", ""))
        self._verbose = environ.get("LOKI_VERBOSE", "").lower() not in ("", "0", "false", "no")
        self._labels = {"namespace": "usdf-panda", "app": plan.name, "env": "production"}
        self._last = 0

    def send(self, records: Sequence[Record]) -> None:
        """POST the batch, one stream per set of labels; only 204 is success."""
        streams: dict[tuple[tuple[str, str], ...], list[list[str]]] = {}
        for record in records:
            extra = {key: str(record.fields[key]) for key in self._keys if key in record.fields}
            self._last = max(record.when, self._last + 1)  # Loki sorts by time: the order of the lines is kept
            labels = tuple({**self._labels, **extra}.items())
            streams.setdefault(labels, []).append([str(self._last), record.text])
        status = self.post(json.dumps({"streams": [
            {"stream": dict(labels), "values": values} for labels, values in streams.items()]}))
        if status != 204:
            raise SinkError(f"{self.url}: HTTP status {status}, wanted 204")
        if self._verbose:
            logger.info("%d lines went to %s", len(records), self.url)


def _label_keys(text: str) -> list[str]:
    try:
        found = json.loads(text) if text else []
    except ValueError:
        found = None
    if not isinstance(found, list):
        logger.warning("LOKI_LABELKEYS=%s is no JSON list: no labels beside the usual ones", text[:100])
        return []
    return [str(item) for item in found]


def _number(text: str, default: float) -> float:
    try:
        return max(0.1, float(text)) if text else default
    except ValueError:
        logger.warning("LOKI_PERIOD=%s is no number of seconds, using %g", text[:20], default)
        return default


class JsonLines(Sink):
    """JSON lines over TCP (``tcp``), or TLS over TCP (``tls``): logstash's tcp input with codec json_lines."""

    def __init__(self, plan: Plan) -> None:
        self._server, self._verify = plan.server, plan.verify
        if plan.server.protocol not in ("tcp", "tls"):
            raise SinkError(f"logstash: unknown protocol {plan.server.protocol!r}; known: http, https, tcp, tls")
        self._socket: Optional[socket.socket] = None

    @property
    def place(self) -> str:
        """The address."""
        return f"{self._server.protocol}://{self._server.host}:{self._server.port}"

    def send(self, records: Sequence[Record]) -> None:
        """Write the batch; a connection that the server has closed meanwhile is made anew."""
        data = "".join(f"{record.text}\n" for record in records).encode()
        try:
            if self._socket is not None and _is_closed(self._socket):
                self._drop()
            if self._socket is None:
                self._socket = self._connect()
            send_within(self._socket, data)
        except OSError as exc:
            self._drop()
            raise SinkError(f"{self.place}: {_short(exc)}") from exc

    def _connect(self) -> socket.socket:
        host = self._server.host.strip("[]")
        plain = socket.create_connection((host, self._server.port), TIMEOUT)
        if self._server.protocol == "tcp":
            return plain
        import ssl

        context = ssl.create_default_context()
        if isinstance(self._verify, str):
            place = {"capath": self._verify} if os.path.isdir(self._verify) else {"cafile": self._verify}
            context.load_verify_locations(**place)
        if self._verify is False:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            return context.wrap_socket(plain, server_hostname=host)
        except OSError:
            plain.close()
            raise

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def close(self) -> None:
        """Close the connection, once the other side has read to the end."""
        if self._socket is not None:
            let_read(self._socket)
        self._drop()


def let_read(connection: socket.socket, seconds: float = 1.0) -> None:
    """Say that nothing more comes, and read what is there until the other side closes, at most ``seconds``.

    Closing with something unread (a TLS server sends session tickets) is a reset, and takes away what the other side
    has not read yet.
    """
    limit = time.monotonic() + seconds
    try:
        connection.shutdown(socket.SHUT_WR)
        raw = socket.socket(fileno=os.dup(connection.fileno()))  # below TLS: nobody looks at what it says
    except OSError:
        return
    with raw:
        try:
            while (left := limit - time.monotonic()) > 0:
                raw.settimeout(left)
                if not raw.recv(65536):
                    return
        except OSError:
            return


def send_within(connection: socket.socket, data: bytes, seconds: float = TIMEOUT) -> None:
    """Write everything within ``seconds``; raises OSError (a time-out is one)."""
    limit, rest = time.monotonic() + seconds, memoryview(data)
    while rest:
        left = limit - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        connection.settimeout(left)
        rest = rest[connection.send(rest):]


def _is_closed(connection: socket.socket) -> bool:
    """True when the other side has said that it is gone."""
    import select

    poll = select.poll()
    poll.register(connection, select.POLLIN | select.POLLRDHUP)
    return any(events & (select.POLLRDHUP | select.POLLHUP | select.POLLERR) for _, events in poll.poll(0))


class GoogleCloud(Sink):
    """Google Cloud Logging through its client library, with the library's own way to find credentials."""

    def __init__(self, name: str) -> None:
        try:
            from google.cloud import logging as library
        except ImportError as exc:
            raise SinkError("google-cloud-logging is not installed for the pilot's Python: "
                            "pip install google-cloud-logging") from exc
        self._name = name
        try:
            self._logger: Any = library.Client().logger(name)
        except Exception as exc:
            raise SinkError(f"google-cloud-logging: {_short(exc)}") from exc

    @property
    def place(self) -> str:
        """The name of the log."""
        return f"Google Cloud Logging, log {self._name}"

    def send(self, records: Sequence[Record]) -> None:
        """Write the batch in one call."""
        try:
            batch = self._logger.batch()
            for record in records:
                batch.log_struct(dict(record.fields))
            batch.commit(timeout=TIMEOUT)
        except Exception as exc:
            raise SinkError(f"google-cloud-logging: {_short(exc)}") from exc


def _short(exc: BaseException) -> str:
    """Return what an exception says, in one line of bearable length."""
    return " ".join(f"{type(exc).__name__}: {exc}".split())[:300]
