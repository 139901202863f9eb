"""One HTTP(S) exchange with the server: session, TLS, identity, time-outs, and what a failure means for the request.

Proxies come from the environment as usual (``https_proxy``, ``http_proxy``, ``all_proxy``, ``no_proxy``); ``.netrc`` is
never read. The transport never sleeps and, with one exception, never repeats: a request that dies on a kept-alive
connection before any byte of the answer is sent again at once on a new one, for such a connection may have been closed
by the server long ago (KeepAliveTimeout 600 s against heartbeats every 1800 s).
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple, Union

import requests
import urllib3

from pilot.panda import connection
from pilot.panda.address import HostChooser
from pilot.panda.credentials import Credentials
from pilot.panda.errors import TransportError

__all__ = ["Params", "Reply", "Transport", "TransportError", "excerpt"]

logger = logging.getLogger(__name__)

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""Largest answer that is read: a bulk of jobs with thousands of files stays far below."""

Params = Sequence[tuple[str, str]]


class Reply(NamedTuple):
    """The server's answer: HTTP status and body text. The Content-Type means nothing and is not kept."""

    status: int
    text: str


class _Auth(requests.auth.AuthBase):
    """Adds the identity headers; its presence also keeps requests away from ``.netrc``."""

    def __init__(self, headers: dict[str, str]) -> None:
        self._headers = headers

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers.update(self._headers)
        return request


class _ThreadState(threading.local):
    """Session and machine of one thread; ``identity`` is what the session's connections were opened with."""

    session: requests.Session | None = None
    identity: tuple[object, ...] = ()
    chooser: HostChooser | None = None


class Transport:
    """Talks to one base URL; thread-safe: each thread has a session of its own.

    Args:
        base_url: as made by ``address.base_url``.
        credentials: looked at again before every request: the proxy or token may be replaced while the pilot runs.
        user_agent: e.g. ``pilot/2.13.0.1 (Python 3.11.7; Linux x86_64)``.
        connect_timeout: s for connecting and for the TLS handshake.
        read_timeout: s of silence; ``connect_timeout + read_timeout`` bounds the whole exchange.
        verify_tls: False accepts any server certificate: for test servers only.
        clock_limit: s between this node's clock and the server's before the log says so, once.
    """

    clock_offset: float | None = None
    """s that this node's clock is ahead of the server's (its header ``Date``); None before the first answer."""

    def __init__(
        self,
        base_url: str,
        *,
        credentials: Credentials,
        user_agent: str,
        connect_timeout: float = 20,
        read_timeout: float = 120,
        verify_tls: bool = True,
        clock_limit: float = 60,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._credentials = credentials
        self._user_agent = user_agent
        self._timeout = (connect_timeout, read_timeout)
        self._verify_tls = verify_tls
        self._clock_limit = clock_limit
        if not verify_tls:
            # Once in our log, instead of a Python warning on stderr for every connection.
            logger.warning("the certificate of %s is not verified (server.verify_tls)", self.base_url)
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        self._ipv4 = False
        self._local = _ThreadState()
        self._lock = threading.Lock()
        self._in_flight: set[connection.Exchange] = set()

    def force_ipv4(self, on: bool) -> None:
        """Use IPv4 only (queue parameter ``internet_protocol_version``), from the next request of each thread on."""
        self._ipv4 = on

    def break_off(self, reason: str) -> None:
        """End all requests in flight at once with a TransportError that carries ``reason``; later ones may begin."""
        with self._lock:
            exchanges = list(self._in_flight)
        for exchange in exchanges:
            exchange.break_off(reason)

    def close(self) -> None:
        """Close the connections of the calling thread; those of other threads go with their threads."""
        self._drop_session()

    def get(self, path: str, params: Params = ()) -> Reply:
        """Send a GET; raises TransportError. A GET carries no Content-Type: legacy would parse the empty body."""
        return self._exchange("GET", path, params, None, {})

    def post(self, path: str, body: bytes, content_type: str, *, gzipped: bool = False) -> Reply:
        """Send a POST; raises TransportError.

        ``content_type`` must be bare (``application/json``): the server compares the whole header. ``gzipped`` says
        that ``body`` is; a wrong word about it kills a process of the server.
        """
        headers = {"Content-Type": content_type}
        if gzipped:
            headers["Content-Encoding"] = "gzip"
        return self._exchange("POST", path, (), body, headers)

    def _exchange(self, method: str, path: str, params: Params, body: bytes | None, headers: dict[str, str]) -> Reply:
        for last in (False, True):
            exchange = connection.begin(self._ipv4)
            chooser = self._chooser()
            url = chooser.url(self._ipv4) + path
            started = time.monotonic()
            try:
                reply = self._once(exchange, method, url, params, body, headers)
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, TransportError) as exc:
                self._drop_session()
                if not last and _died_on_kept_connection(exchange, exc):
                    logger.debug("%s %s: the kept connection was closed, sent again on a new one", method, url)
                    continue
                chooser.failed()
                raise _transport_error(f"{method} {url}", exchange, exc, self._timeout) from exc
            chooser.succeeded()
            logger.debug(
                "%s %s: HTTP %d, %d characters, %.3f s",
                method,
                url,
                reply.status,
                len(reply.text),
                time.monotonic() - started,
            )
            return reply
        raise AssertionError("unreachable")

    def _once(
        self,
        exchange: connection.Exchange,
        method: str,
        url: str,
        params: Params,
        body: bytes | None,
        headers: dict[str, str],
    ) -> Reply:
        limit = sum(self._timeout)
        timer = threading.Timer(limit, exchange.break_off, (f"no complete answer within {limit:g} s",))
        timer.daemon = True
        with self._lock:
            self._in_flight.add(exchange)
        try:
            timer.start()
        except RuntimeError as exc:
            # no thread can be had (a fork bomb in the slot): better an update without this bound
            logger.debug("no bound on the whole exchange: %s", exc)
        try:
            with self._session().request(
                method,
                url,
                params=list(params),
                data=body,
                headers=headers,
                timeout=self._timeout,
                stream=True,
                allow_redirects=False,
                auth=_Auth(self._credentials.headers(url)),
                verify=self._verify(),
                cert=self._client_certificate(),
            ) as response:
                if self.clock_offset is None:
                    self._compare_clocks(response.headers.get("Date", ""))
                raw = _read_all(response)
                framed = "Content-Length" in response.headers or "Transfer-Encoding" in response.headers
        finally:
            timer.cancel()
            with self._lock:
                self._in_flight.discard(exchange)
        if exchange.broken_off and not framed:
            # Without Content-Length or chunks the end of the connection is the end of the answer: it may be cut.
            raise TransportError(exchange.broken_off)
        return _decoded(response.status_code, raw)

    def _compare_clocks(self, date: str) -> None:
        """Keep how far this node's clock is off; a wrong one makes proxies and tokens look expired."""
        from email.utils import parsedate_to_datetime

        try:
            said = parsedate_to_datetime(date).timestamp()
        except (TypeError, ValueError, IndexError, OverflowError, OSError):  # none, or none that can be read
            return
        self.clock_offset = offset = time.time() - said - 0.5  # the header has whole seconds
        if abs(offset) > self._clock_limit:
            logger.warning(
                "this node's clock is %.0f s %s the PanDA server's: proxies and tokens may seem to have expired, or not"
                " to be valid yet; start chronyd or ntpd here", abs(offset), "ahead of" if offset > 0 else "behind")

    def _verify(self) -> Union[bool, str]:
        return (self._credentials.ca_path() or True) if self._verify_tls else False

    def _client_certificate(self) -> tuple[str, str] | None:
        proxy = self._credentials.client_certificate()
        return (proxy, proxy) if proxy else None

    def _session(self) -> requests.Session:
        identity = (*self._credentials.fingerprint(), self._ipv4)
        if self._local.session is not None and self._local.identity != identity:
            # Connections live with the identity that they were opened with: a renewed proxy needs new ones.
            self._drop_session()
        if self._local.session is None:
            session = requests.Session()
            session.mount("http://", connection.Adapter(pool_connections=2, pool_maxsize=1))
            session.mount("https://", connection.Adapter(pool_connections=2, pool_maxsize=1))
            session.headers.clear()
            session.headers.update(
                {"User-Agent": self._user_agent, "Accept": "application/json", "Accept-Encoding": "gzip, deflate"}
            )
            self._local.session, self._local.identity = session, identity
        return self._local.session

    def _chooser(self) -> HostChooser:
        if self._local.chooser is None:
            self._local.chooser = HostChooser(self.base_url)
        return self._local.chooser

    def _drop_session(self) -> None:
        session, self._local.session = self._local.session, None
        if session is not None:
            session.close()


def _read_all(response: requests.Response) -> bytes:
    """Return the decoded body; refuses one that is too large or shorter than announced."""
    chunks: list[bytes] = []
    size = 0
    for chunk in response.iter_content(65536):
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_ANSWER_BYTES:
            raise TransportError(f"the answer is larger than {MAX_ANSWER_BYTES} bytes, reading stopped")
    announced = response.headers.get("Content-Length", "")
    if announced.isdigit() and response.raw.tell() < int(announced):
        raise TransportError(f"the answer ended after {response.raw.tell()} of {announced} bytes")
    return b"".join(chunks)


def _decoded(status: int, raw: bytes) -> Reply:
    if 300 <= status < 400:
        # A portal or balancer answered, not the server.
        raise TransportError(
            f"HTTP {status}, a redirection that the server never sends", maybe_processed=False, status=status
        )
    try:
        return Reply(status, raw.decode("utf-8"))
    except UnicodeDecodeError:
        if status != 200:
            return Reply(status, raw.decode("utf-8", "replace"))
        raise TransportError(
            f"HTTP {status}, the answer is not UTF-8: {excerpt(raw.decode('latin-1'))}", status=status
        ) from None


def excerpt(text: str) -> str:
    """Return the first 100 characters of an answer on one line, secrets masked, for logs and diagnoses."""
    from pilot.util.redact import redact

    return redact(" ".join(text[:100].split())) if text.strip() else "(empty)"


def _died_on_kept_connection(exchange: connection.Exchange, exc: Exception) -> bool:
    if exchange.fresh or exchange.broken_off or isinstance(exc, (TransportError, requests.Timeout)):
        return False
    # ConnectionError comes before any answer byte; a break inside the body is ChunkedEncodingError.
    return isinstance(exc, requests.ConnectionError) and not isinstance(exc, requests.exceptions.ChunkedEncodingError)


def _transport_error(
    what: str, exchange: connection.Exchange, exc: Exception, timeout: tuple[float, float]
) -> TransportError:
    if isinstance(exc, TransportError) and not exchange.broken_off:
        return TransportError(f"{what}: {exc.detail}", maybe_processed=exc.maybe_processed, status=exc.status)
    processed = exchange.sent and not _refused_by_tls(exc)
    return TransportError(f"{what}: {exchange.broken_off or _reason(exc, timeout)}", maybe_processed=processed)


def _refused_by_tls(exc: BaseException | None) -> bool:
    """True for a TLS alert from the server: with TLS 1.3 a refused client certificate shows only when reading."""
    seen = 0
    while exc is not None and seen < 10:
        if isinstance(exc, ssl.SSLError):
            return "ALERT" in (exc.reason or "").upper()
        inner = exc.args[0] if exc.args and isinstance(exc.args[0], BaseException) else getattr(exc, "reason", None)
        exc = inner if isinstance(inner, BaseException) else (exc.__cause__ or exc.__context__)
        seen += 1
    return False


def _reason(exc: Exception, timeout: tuple[float, float]) -> str:
    """Return one line that says what went wrong and what to look at."""
    if isinstance(exc, requests.exceptions.ConnectTimeout):
        return f"no connection within {timeout[0]:g} s (server.connect_timeout)"
    if isinstance(exc, requests.exceptions.ReadTimeout):
        return f"no answer within {timeout[1]:g} s (server.read_timeout)"
    text = " ".join(str(exc).split())
    # requests nests the real cause at the end: "...Max retries exceeded with url: ... (Caused by X)".
    cause = text.rpartition("(Caused by ")[2].rstrip(")") if "(Caused by " in text else text
    if "[Errno " in cause:  # what the operating system says is clearer than how three libraries wrap it
        cause = cause[cause.index("[Errno ") :].partition("] ")[2].rstrip("')\"")
    if isinstance(exc, requests.exceptions.SSLError):
        return f"TLS failed, check the CA directory and the proxy: {cause[:300]}"
    return cause[:300] or type(exc).__name__
