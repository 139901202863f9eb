"""How bytes get to the server: connections that tell what happened to them, and that can be broken off from outside.

requests and urllib3 hide three things that the pilot must know: whether a connection was fresh or kept alive, whether
anything of a request has left, and the socket, so that a deadline covers the whole exchange and not each read of it.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import SSLError
from urllib3.util.ssl_ import create_urllib3_context, resolve_cert_reqs

_local = threading.local()


class Exchange:
    """What is known of the request that this thread has in flight. Only ``break_off`` is called by other threads."""

    def __init__(self, ipv4: bool) -> None:
        self.ipv4 = ipv4
        self.fresh = False
        """The connection was opened for this request."""
        self.sent = False
        """At least one byte of the request may have left."""
        self.broken_off = ""
        """Why the exchange was ended from outside."""
        self._socket: socket.socket | None = None

    def watch(self, sock: socket.socket | None) -> None:
        """Remember the socket in use; one that comes after the break-off is shut at once."""
        self._socket = sock
        if self.broken_off:
            self._shut()

    def break_off(self, reason: str) -> None:
        """End the exchange: a blocked read or write of the owning thread returns at once with an error."""
        self.broken_off = self.broken_off or reason
        self._shut()

    def _shut(self) -> None:
        sock = self._socket
        if sock is not None:
            try:
                # Not SSLSocket.shutdown(): that would take the TLS object away from the thread that is reading.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
            except OSError:
                pass  # Closed already: then nobody is blocked on it.


def begin(ipv4: bool) -> Exchange:
    """Start the book-keeping of this thread's next request."""
    exchange = Exchange(ipv4)
    _local.exchange = exchange
    return exchange


class _Told:
    """Mixin of the connection classes: reports to the exchange of the calling thread, forces IPv4 when it says so."""

    _dns_host: Any

    def _new_conn(self) -> socket.socket:
        exchange: Exchange = _local.exchange
        exchange.fresh = True
        name = self._dns_host
        if exchange.ipv4:
            # Only the address looked up changes; the name stays for TLS, so it is restored below.
            self._dns_host = _ipv4_address(name)
        try:
            sock: socket.socket = super()._new_conn()  # type: ignore[misc]
        finally:
            self._dns_host = name
        exchange.watch(sock)
        return sock

    def putrequest(self, *args: Any, **kwargs: Any) -> None:
        if getattr(self, "sock", None) is not None:
            _local.exchange.watch(self.sock)  # type: ignore[attr-defined]
        super().putrequest(*args, **kwargs)  # type: ignore[misc]

    def send(self, data: Any) -> None:
        if getattr(self, "sock", None) is None:
            self.connect()  # type: ignore[attr-defined]
        _local.exchange.watch(self.sock)  # type: ignore[attr-defined]
        _local.exchange.sent = True
        super().send(data)  # type: ignore[misc]


def _ipv4_address(name: str) -> str:
    try:
        return str(socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])
    except socket.gaierror:
        return name  # urllib3 gives the proper error for it.


class _Connection(_Told, HTTPConnection):
    pass


class _TlsConnection(_Told, HTTPSConnection):
    def connect(self) -> None:
        if self.ssl_context is None:
            files = (self.ca_certs, self.ca_cert_dir, self.cert_file, self.key_file)
            self.ssl_context = _shared_context(resolve_cert_reqs(self.cert_reqs), *files)
            self.ca_certs = self.ca_cert_dir = self.cert_file = self.key_file = None  # not to be loaded once more
        super().connect()


_contexts: dict[tuple[object, ...], ssl.SSLContext] = {}
_contexts_lock = threading.Lock()


def _shared_context(
    cert_reqs: Any, ca_file: str | None, ca_directory: str | None, cert: str | None, key: str | None
) -> ssl.SSLContext:
    """Return the TLS context of all threads and connections with this identity.

    A CA file of the usual size costs 15 ms of CPU and 1 MB: once, and not for each thread and each reconnection.
    """
    identity = (cert_reqs, *((name, _version(name)) for name in (ca_file, ca_directory, cert, key)))
    with _contexts_lock:
        if identity not in _contexts:
            context = _new_context(cert_reqs, ca_file, ca_directory, cert, key)
            _contexts.clear()  # the one before belongs to a proxy that has been replaced
            _contexts[identity] = context
        return _contexts[identity]


def _version(path: str | None) -> object:
    """Return a value that changes when the file (or directory) does."""
    try:
        state = os.stat(path or "")
    except OSError:
        return None
    return state.st_ino, state.st_size, state.st_mtime_ns


def _new_context(
    cert_reqs: Any, ca_file: str | None, ca_directory: str | None, cert: str | None, key: str | None
) -> ssl.SSLContext:
    context = create_urllib3_context(cert_reqs=cert_reqs)
    # Strict RFC 5280 checks (default from Python 3.13 on) refuse grid CAs whose certificates lack an authority
    # key identifier or the like; curl and the grid's own tools take them. The chain is verified all the same.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    try:
        if ca_file or ca_directory:
            context.load_verify_locations(ca_file, ca_directory)
        elif cert_reqs != ssl.CERT_NONE:
            context.load_default_certs()
        if cert:
            context.load_cert_chain(cert, key, password="")  # an encrypted key is an error: nobody is there to be asked
    except OSError as exc:
        raise SSLError(exc) from exc
    return context


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


_POOLS = {"http": _Pool, "https": _TlsPool}


class Adapter(HTTPAdapter):
    """The requests adapter that uses these connections; no retries of its own."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> PoolManager:
        manager: PoolManager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager
