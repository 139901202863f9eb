"""Fetch one document by URL or path: bounded in time and size, and it can be interrupted.

The reading happens in a daemon thread, because neither a hung file system (CVMFS, NFS) nor a name server nor a web
server that sends one byte per second obeys a time-out. When the time is up the thread is left behind; it does no harm,
and a path that still hangs is not touched again.
"""

from __future__ import annotations

import time
from functools import partial
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Callable, Mapping, Optional, Protocol, Tuple, Union

from pilot.common.exception import CommunicationFailure

if TYPE_CHECKING:
    import requests

    from pilot.util.cancel import CancelToken

DEFAULT_TIMEOUT = 20.0
_MAX_BYTES = 128 * 1024 * 1024
_CHUNK = 64 * 1024
_RETRY_STATUS = frozenset({408, 425, 429})

Certificate = Optional[Union[str, Tuple[str, str]]]

_hanging: dict[str, Thread] = {}
_hanging_lock = Lock()


class FetchError(CommunicationFailure):
    """A document could not be fetched.

    Attributes:
        url: what was asked for.
        reason: why not, one line.
        transient: True when the same request may succeed a little later (time-out, reset, HTTP 5xx); False for what
            will not go away by itself (no such file, HTTP 404, connection refused, unknown host, bad certificate).
        timed_out: True when the time was used up.
        unreachable: True when nobody listens (connection refused, unknown host, no route): final, unless it is a server
            that one has to wait for.
        status: HTTP status, None without an HTTP answer.
    """

    def __init__(
        self,
        url: str,
        reason: str,
        *,
        transient: bool = False,
        timed_out: bool = False,
        unreachable: bool = False,
        status: int | None = None,
    ) -> None:
        super().__init__(f"{url}: {reason}")
        self.url = url
        self.reason = reason
        self.transient = transient
        self.timed_out = timed_out
        self.unreachable = unreachable
        self.status = status


class Fetcher(Protocol):
    """What the information service needs to read a source; ``fetch`` with its credentials bound is one."""

    def __call__(self, url: str, *, timeout: float, token: CancelToken | None) -> bytes:
        """Return the document behind ``url``; raises FetchError."""


def fetch(
    url: str,
    *,
    timeout: float = DEFAULT_TIMEOUT,
    headers: Mapping[str, str] | None = None,
    session: requests.Session | None = None,
    verify: bool | str = True,
    cert: Certificate = None,
    token: CancelToken | None = None,
    max_bytes: int = _MAX_BYTES,
) -> bytes:
    """Return the content of ``url``.

    Args:
        url: ``http://``, ``https://``, ``file://`` or a path (anything without ``://``).
        timeout: s for the whole fetch, name look-up and body included.
        headers: HTTP headers, e.g. the pilot's User-Agent.
        session: session to use; it must not be used by others until the call is over, nor at all after a time-out.
        verify: True, False, or a CA file or directory.
        cert: client certificate (proxy file, or certificate and key).
        token: cancels the wait.
        max_bytes: a longer document is refused.

    Raises:
        FetchError: it could not be fetched; ``transient`` says whether a retry makes sense.
        CancelledError: ``token`` was cancelled.
    """
    if url.startswith(("http://", "https://")):
        import requests as _requests  # 0.07 s of CPU: only for those who really fetch over HTTP; and not in the thread

        get = (session or _requests).get
        work = partial(_read_http, url, get, timeout, dict(headers or {}), verify, cert, max_bytes)
    elif "://" in url and not url.startswith("file://"):
        raise FetchError(url, "unknown URL scheme, expected http, https, file or a path")
    else:
        work = partial(_read_file, url, local_path(url), max_bytes)
    return _bounded(url, work, timeout, token)


def is_local(url: str) -> bool:
    """Return True when ``url`` is a path or a ``file://`` URL."""
    return url.startswith("file://") or "://" not in url


def local_path(url: str) -> str:
    """Return the path of a ``file://`` URL (percent escapes decoded), or ``url`` itself when it is a path."""
    if not url.startswith("file://"):
        return url
    from urllib.parse import unquote, urlsplit

    return unquote(urlsplit(url).path)


def _bounded(url: str, work: Callable[[], bytes], timeout: float, token: CancelToken | None) -> bytes:
    """Run ``work`` in a thread for at most ``timeout`` s."""
    with _hanging_lock:
        if url in _hanging:
            if _hanging[url].is_alive():
                raise FetchError(url, "still hanging since an earlier time-out", transient=True, timed_out=True)
            del _hanging[url]
    wake = Event()
    content: list[bytes] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            content.append(work())
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread, which raises it
            errors.append(error)
        finally:
            wake.set()

    thread = Thread(target=run, name=f"fetch {url[:60]}", daemon=True)
    if token is not None:
        token.check()
        token.on_cancel(wake.set)
    try:
        thread.start()
        wake.wait(timeout)
    finally:
        if token is not None:
            token.forget(wake.set)
    if content:
        return content[0]
    if errors:
        raise errors[0]
    if is_local(url):
        with _hanging_lock:
            _hanging[url] = thread
    if token is not None:
        token.check()
    raise FetchError(url, f"no complete answer within {timeout:.0f} s", transient=True, timed_out=True)


def _read_file(url: str, path: str, max_bytes: int) -> bytes:
    try:
        with open(path, "rb") as stream:
            content = stream.read(max_bytes + 1)
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
        raise FetchError(url, reason) from None
    if len(content) > max_bytes:
        raise FetchError(url, f"longer than the limit of {max_bytes} bytes")
    return content


def _read_http(
    url: str,
    get: Callable[..., requests.Response],
    timeout: float,
    headers: dict[str, str],
    verify: bool | str,
    cert: Certificate,
    max_bytes: int,
) -> bytes:
    import requests as _requests

    end = time.monotonic() + timeout
    try:
        with get(url, timeout=timeout, headers=headers, verify=verify, cert=cert, stream=True, auth=no_netrc,
                 hooks={"response": partial(_check_redirection, url)}) as response:
            if response.status_code != 200:
                status = response.status_code
                reason = f"HTTP {status} {response.reason or ''}".rstrip()
                raise FetchError(url, reason, transient=status >= 500 or status in _RETRY_STATUS, status=status)
            parts: list[bytes] = []
            size = 0
            for part in response.iter_content(_CHUNK):
                parts.append(part)
                size += len(part)
                if size > max_bytes:
                    raise FetchError(url, f"longer than the limit of {max_bytes} bytes")
                if time.monotonic() > end:  # the caller has left; the thread must not go on for hours
                    break
            _check_complete(url, response)
    except _requests.exceptions.Timeout:
        raise FetchError(url, f"no answer within {timeout:.0f} s", transient=True, timed_out=True) from None
    except (_requests.exceptions.RequestException, OSError, ValueError) as error:
        raise _http_error(url, error) from None
    return b"".join(parts)


def no_netrc(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Add nothing; its presence keeps requests from looking for credentials in ``.netrc``."""
    return request


def _check_redirection(url: str, response: requests.Response, **_kwargs: object) -> None:
    """Refuse to be sent from a verified server to one that anybody may play; called before it is obeyed."""
    from urllib.parse import urljoin

    target = urljoin(response.url, response.headers.get("Location", "")) if response.is_redirect else ""
    if target and response.url.startswith("https://") and not target.lower().startswith("https://"):
        response.close()
        raise FetchError(url, f"redirected from https to {target.split('?')[0][:200]}, which is refused")


def _check_complete(url: str, response: requests.Response) -> None:
    """Raise when the body is shorter than announced; requests itself would take it for complete (urllib3 1.x)."""
    announced = response.headers.get("Content-Length", "")
    received = response.raw.tell()
    if announced.isdigit() and received < int(announced):
        raise FetchError(url, f"only {received} of {announced} bytes arrived", transient=True)


def _http_error(url: str, error: Exception) -> FetchError:
    """Translate an exception of the HTTP library to one line and a judgement."""
    import ssl

    chain: list[BaseException] = []
    pending: list[BaseException] = [error]
    while pending:
        item = pending.pop()
        if item not in chain:
            chain.append(item)
            pending += [arg for arg in (*item.args, item.__cause__, item.__context__, getattr(item, "reason", None))
                        if isinstance(arg, BaseException)]
    text = " ".join(f"{type(item).__name__} {item}" for item in chain)
    if "ReadTimeout" in text:  # in the middle of the body requests calls it a ConnectionError
        return FetchError(url, "no further data arrived in time", transient=True, timed_out=True)
    if any(isinstance(item, ConnectionRefusedError) for item in chain) or "Connection refused" in text:
        return FetchError(url, "connection refused", unreachable=True)
    if "NameResolution" in text or "gaierror" in text or "Name or service not known" in text:
        return FetchError(url, "host name cannot be resolved", unreachable=True)
    if "SSLError" in text or "CERTIFICATE_VERIFY_FAILED" in text:
        reason = next((item for item in chain if isinstance(item, ssl.SSLError)), error)
        return FetchError(url, f"TLS failure ({_one_line(reason)})")
    if "No route to host" in text or "Network is unreachable" in text:
        return FetchError(url, "no route to host", unreachable=True)
    if any(isinstance(item, (ConnectionError, EOFError)) for item in chain) or "Incomplete" in text:
        return FetchError(url, "connection broken", transient=True)
    if "RemoteDisconnected" in text or "Connection aborted" in text or "reset" in text:
        return FetchError(url, "connection broken", transient=True)
    return FetchError(url, _one_line(error))


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]
