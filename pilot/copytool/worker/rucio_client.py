"""The Rucio client in a helper process: logins and connections, errors, operations on the catalogue.

```
 order ──► thread of its own ──► client from the pool (login, connection kept) ──► Rucio server
   └── cancelled: the order ends at once, the thread is left to its answer or time-out
```
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from contextlib import contextmanager
from queue import Empty, LifoQueue, SimpleQueue
from typing import Any, Callable, Iterator, Mapping, Optional, TypeVar

import requests
from rucio.client import Client
from rucio.common.config import config_get

from pilot.copytool.worker.main import Call, Refused
from pilot.util.x509 import valid_until

T = TypeVar("T")
ATTEMPTS = 3
CONNECT_TIMEOUT = 10.0
"""Seconds for a connection to the server."""
TIMEOUT = 60.0
"""Seconds that the server may be silent when the order does not say."""

logger = logging.getLogger("rucio-helper")


# --- clients ---------------------------------------------------------------------------------------------------------


class PilotClient(Client):  # type: ignore[misc]
    """A client that keeps quiet about itself (the library sends no traces for user agents that begin like this)."""

    AUTH_RETRIES = 1
    REQUEST_RETRIES = 0  # beyond it the library forgets why it could not connect

    def __init__(self, timeout: float) -> None:
        super().__init__(timeout=(CONNECT_TIMEOUT, timeout), user_agent="pilot", logger=logger)
        self.request_retries = 0  # whatever rucio.cfg says

    def server_scopes(self) -> Any:
        """All scopes, from the server."""
        return super().list_scopes()

    def server_attributes(self, rse: str) -> Any:
        """Attributes of an RSE, from the server."""
        return super().list_rse_attributes(rse)


class Clients:
    """Clients that are logged in; each is used by one thread at a time and keeps its connection for the next one."""

    def __init__(self) -> None:
        self._idle: LifoQueue[PilotClient] = LifoQueue()

    @contextmanager
    def one(self, timeout: float = TIMEOUT) -> Iterator[PilotClient]:
        """Lend a client; ``timeout``: seconds that the server may be silent."""
        try:
            client = self._idle.get_nowait()
        except Empty:
            client = PilotClient(timeout)
        client.timeout = (CONNECT_TIMEOUT, timeout)
        yield client
        self._idle.put(client)  # not after an error: its connection may be in the middle of an answer


CLIENTS = Clients()


# --- errors ----------------------------------------------------------------------------------------------------------


def refused(exc: BaseException) -> Refused:
    """Say what went wrong, and whether it was the login."""
    if isinstance(exc, Refused):
        return exc
    name = type(exc).__name__
    text = f"{name}: {_plain(exc)}"
    proxy = _proxy_problem()
    if name in ("CannotAuthenticate", "AccessDenied", "MissingClientParameter", "NoAuthInformation") and not proxy:
        return Refused(text, kind="login", exception=name)
    if proxy and (name in ("CannotAuthenticate", "MissingClientParameter", "TypeError", "SSLError") or "SSL" in text):
        return Refused(f"{proxy}: {text}", kind="proxy", exception=name)
    return Refused(text, exception=name, errno=int(getattr(exc, "errno", None) or 0))


def _plain(exc: BaseException) -> str:
    return " ".join(str(exc).split())


def _proxy_problem() -> str:
    """Return what is wrong with the proxy that the client logs in with; empty when nothing is, or none is used."""

    def configured(name: str) -> str:
        try:
            return str(config_get("client", name, raise_exception=False, default="") or "")
        except Exception:  # noqa: BLE001 - no configuration file at all
            return ""

    if (os.environ.get("RUCIO_AUTH_TYPE") or configured("auth_type")) != "x509_proxy":
        return ""
    path = os.path.expandvars(
        os.environ.get("RUCIO_CLIENT_PROXY")
        or configured("client_x509_proxy")
        or os.environ.get("X509_USER_PROXY")
        or f"/tmp/x509up_u{os.geteuid()}"
    )
    if not os.access(path, os.R_OK):
        return f"no X.509 proxy at {path}"
    end = valid_until(path)
    if end is None:
        return f"{path} holds no X.509 proxy"
    if end <= time.time():
        return f"the X.509 proxy {path} expired at {time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime(end))}"
    return ""


def _passes(exc: BaseException) -> bool:
    """True for what another attempt may heal: no connection, no answer in time, a server that cannot just now."""
    if isinstance(exc, requests.exceptions.SSLError):
        return False
    if isinstance(exc, (requests.exceptions.ConnectionError, requests.exceptions.Timeout)):
        return True
    if isinstance(exc, requests.exceptions.ChunkedEncodingError):
        return True
    healing = ("ServerConnectionException", "ResourceTemporaryUnavailable", "ServiceUnavailable", "DatabaseException")
    return type(exc).__name__ in healing or "http status code: 5" in str(exc)


# --- operations on the catalogue -------------------------------------------------------------------------------------


def ask(call: Call, question: Callable[[Any], T], attempts: int = ATTEMPTS) -> T:
    """Put a question to the server in a thread that is left behind when the order is broken off.

    Raises:
        Refused: the last attempt's error.
    """
    answer: SimpleQueue[tuple[Optional[T], Optional[Refused]]] = SimpleQueue()
    timeout = float(call.args.get("timeout") or TIMEOUT)

    def run() -> None:
        for attempt in range(1, attempts + 1):
            try:
                with CLIENTS.one(timeout) as client:
                    answer.put((question(client), None))
                return
            except BaseException as exc:  # noqa: BLE001 - goes to the pilot as text
                if call.cancelled or attempt == attempts or not _passes(exc):
                    answer.put((None, refused(exc)))
                    return
                logger.warning("attempt %d of %d: %s", attempt, attempts, _plain(exc))
            time.sleep(random.uniform(0.3, 1.0) * attempt)  # many pilots must not come back together

    def stop() -> None:
        answer.put((None, Refused("cancelled")))

    call.on_cancel(stop)
    threading.Thread(target=run, daemon=True).start()
    value, failure = answer.get()
    call.forget(stop)
    if failure is not None:
        raise failure
    return value  # type: ignore[return-value]


def ping(call: Call) -> Mapping[str, Any]:
    """Version of the server."""
    return {"version": ask(call, lambda client: client.ping()).get("version", "")}


_WANTED = ("rse", "type", "domain", "priority", "client_extract")


def list_replicas(call: Call) -> Mapping[str, Any]:
    """Look files up; the answer has only what the choice of a replica needs."""
    args = {name: call.args[name] for name in ("dids", "schemes", "client_location", "signature_lifetime")}
    if call.args.get("rse_expression"):
        args["rse_expression"] = call.args["rse_expression"]
    if call.args.get("ignore_availability") is not None:
        args["ignore_availability"] = call.args["ignore_availability"]
    rows = ask(call, lambda client: list(client.list_replicas(sort="geoip", **args)))
    return {"replicas": [_row(row) for row in rows if isinstance(row, dict)]}


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    facts = {name: row.get(name) for name in ("scope", "name", "bytes", "adler32", "md5")}
    pfns = row.get("pfns") or {}
    facts["pfns"] = {url: {name: entry.get(name) for name in _WANTED} for url, entry in pfns.items()}
    return facts


def declare_suspicious(call: Call) -> Mapping[str, Any]:
    """Tell of replicas with wrong content."""
    pfns, reason = list(call.args["pfns"]), str(call.args["reason"])
    return {"refused": ask(call, lambda client: client.declare_suspicious_file_replicas(pfns, reason))}


def declare_bad(call: Call) -> Mapping[str, Any]:
    """Tell of replicas that are lost."""
    pfns, reason = list(call.args["pfns"]), str(call.args["reason"])
    return {"refused": ask(call, lambda client: client.declare_bad_file_replicas(pfns, reason))}
