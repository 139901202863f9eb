"""Where the server is: the base URL from options, and which machine behind the alias pandaserver.cern.ch to use."""

from __future__ import annotations

import logging
import random
import socket
from typing import Callable

logger = logging.getLogger(__name__)

CERN_ALIAS = "pandaserver.cern.ch"
"""The only host that is spread over its machines by the client (server-api.md 1.2)."""


def base_url(url: str, port: int, configured: str = "https://pandaserver.cern.ch:25443") -> str:
    """Return the base URL, without a slash at its end, from ``--url``, ``-p`` and the setting ``Pilot.pandaserver``.

    A missing scheme is https; a port in the URL wins over ``port``; a path is kept. An empty ``url`` means
    ``configured``, to which ``port`` is not applied (server-api.md 1.2, cli-config.md 2.4).
    """
    text = (url or configured).strip().rstrip("/")
    scheme, mark, rest = text.rpartition("://")
    host, slash, path = rest.partition("/")
    if url and port and not _has_port(host):
        host = f"{host}:{port}"
    return f"{scheme if mark else 'https'}://{host}{slash}{path}"


def _has_port(host: str) -> bool:
    return ":" in host.rpartition("]")[2] if "[" in host else ":" in host


def resolve_alias(ipv4: bool) -> list[str]:
    """Return the names of the machines behind the alias, by IPv4 and (unless ``ipv4``) IPv6; [] when look-ups fail."""
    family = socket.AF_INET if ipv4 else socket.AF_UNSPEC
    try:
        found = socket.getaddrinfo(CERN_ALIAS, 25443, family, socket.SOCK_STREAM)
    except OSError:
        return []
    names = set()
    for entry in found:
        try:
            names.add(socket.getnameinfo(entry[4], socket.NI_NAMEREQD)[0])
        except OSError:
            continue
    return sorted(names)


class HostChooser:
    """Chooses a machine behind the alias for one thread, stays with it, and leaves it after a failure.

    Staying keeps the connection alive; the reference draws anew for each call. Machines that failed are not drawn again
    until a call has succeeded or all have failed.
    """

    def __init__(self, url: str, resolve: Callable[[bool], list[str]] = resolve_alias) -> None:
        self._url = url
        self._resolve = resolve
        self._applies = CERN_ALIAS in url
        self._chosen = ""
        self._failed: set[str] = set()

    def url(self, ipv4: bool = False) -> str:
        """Return the base URL to use now; the alias itself when no machine is known."""
        if not self._applies:
            return self._url
        if not self._chosen:
            names = self._resolve(ipv4)
            fresh = [name for name in names if name not in self._failed]
            if names and not fresh:
                self._failed.clear()
                fresh = names
            self._chosen = random.choice(fresh) if fresh else CERN_ALIAS
        return self._url.replace(CERN_ALIAS, self._chosen)

    def failed(self) -> None:
        """The machine in use did not answer: take another one next time."""
        if self._chosen:
            logger.debug("server machine %s failed, another one is taken next time", self._chosen)
            self._failed.add(self._chosen)
        self._chosen = ""

    def succeeded(self) -> None:
        """The machine in use answered; earlier failures are forgiven."""
        self._failed.clear()
