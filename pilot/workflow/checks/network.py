"""Names, the PanDA server in both dialects, the clock, the doors of the queue's storages. All bounded."""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple, Optional, Union
from urllib.parse import urlsplit

from pilot.common.exception import PilotException
from pilot.panda.errors import DialectMissing, TransportError
from pilot.workflow.checks.base import Finding, Scene, fail, ok, skip, span, warn
from pilot.workflow.checks.parallel import side_by_side

_SLOW_NAME = 2.0
"""s that a look-up of a name may take before it is worth a word."""
_SOON = 7 * 86400.0
_PORTS = {"root": 1094, "roots": 1094, "xroot": 1094, "davs": 443, "https": 443, "dav": 80, "http": 80, "srm": 8443,
          "gsiftp": 2811, "s3": 443, "s3s": 443, "s3+rucio": 443, "gs": 443}
_TLS = ("davs", "https", "s3s", "gs")
_PROXIES = ("https_proxy", "http_proxy", "all_proxy", "HTTPS_PROXY")
_UNREACHABLE = 1137


# --- the server -------------------------------------------------------------------------------------------------------


def server(scene: Scene) -> Iterator[Finding]:
    """Both dialects, TLS, and the clock against the server's ``Date``."""
    from pilot.panda.api_v1 import ApiV1
    from pilot.panda.legacy import Legacy
    from pilot.panda.server import user_agent
    from pilot.panda.transport import Transport
    from pilot.version import PILOT_VERSION

    settings = scene.settings.server
    transport = Transport(
        scene.server_url, credentials=scene.credentials, user_agent=user_agent(PILOT_VERSION),
        connect_timeout=min(settings.connect_timeout, scene.limit * 0.35),
        read_timeout=min(settings.read_timeout, scene.limit * 0.35), verify_tls=settings.verify_tls)
    spoken: list[str] = []
    absent: list[str] = []
    dialects: tuple[tuple[str, Union[ApiV1, Legacy]], ...] = (
        ("v1", ApiV1(transport, gzip=False)), ("legacy", Legacy(transport, form=False)))
    cure = "look at --url and -p, at the firewall, and at the server"
    for name, dialect in dialects:
        began = time.monotonic()
        try:
            alive = dialect.is_alive()
        except DialectMissing:
            absent.append(name)
            continue
        except TransportError as exc:
            yield fail("PanDA server", 1318, exc.detail, cure)
            yield skip("clock", "the server has not told the time")
            return
        except PilotException as exc:
            absent.append(f"{name} ({exc.detail[:80]})")
            continue
        (spoken if alive else absent).append(f"{name} in {time.monotonic() - began:.3f} s" if alive else name)
    yield _dialects(scene, spoken, absent, cure)
    yield _clock(scene, transport.clock_offset)


def _dialects(scene: Scene, spoken: Sequence[str], absent: Sequence[str], cure: str) -> Finding:
    name, pinned = "PanDA server", scene.settings.server.api
    found = f"{scene.server_url} answers: {', '.join(spoken)}" + (f"; not {', '.join(absent)}" if absent else "")
    if not spoken:
        return fail(name, 1318, f"{scene.server_url} gives no proper answer: neither v1 nor legacy", cure)
    if pinned != "auto" and not any(word.startswith(pinned) for word in spoken):
        return fail(name, 1318, f"{found}; setting server.api asks for {pinned}", "set server.api to auto")
    left = _certificate_life(scene)
    if left is not None:
        found += f"; its certificate ends in {span(left)}"
        if left < _SOON:
            return warn(name, found, "tell those who run the server")
    return ok(name, found)


def _certificate_life(scene: Scene) -> Optional[float]:
    """Return how long the server's certificate is valid (s), None when that is not known."""
    parts = urlsplit(scene.server_url)
    if parts.scheme != "https" or not scene.settings.server.verify_tls or not parts.hostname:
        return None
    try:
        with socket.create_connection((parts.hostname, parts.port or 443), scene.limit * 0.2) as plain, \
                _context(scene).wrap_socket(plain, server_hostname=parts.hostname) as secure:
            certificate = secure.getpeercert() or {}
        return ssl.cert_time_to_seconds(str(certificate["notAfter"])) - scene.now()
    except (OSError, ValueError, KeyError):
        return None


def _context(scene: Scene) -> ssl.SSLContext:
    place = scene.credentials.ca_path()
    context = ssl.create_default_context(
        cafile=place if place and os.path.isfile(place) else None, capath=place if os.path.isdir(place) else None)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # as for the PanDA server: grid CAs
    if not scene.settings.server.verify_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _clock(scene: Scene, offset: Optional[float]) -> Finding:
    if offset is None:
        return skip("clock", "the server has not told the time")
    most = scene.settings.limits.clock_offset
    found = "agrees with the server's" if abs(offset) < 2 else (
        f"{span(abs(offset))} {'ahead of' if offset > 0 else 'behind'} the server's")
    if abs(offset) > most:
        return warn("clock", found, "start chronyd or ntpd on this node: proxies and tokens seem to have expired, or "
                                    "not to be valid yet")
    return ok("clock", found)


# --- names ------------------------------------------------------------------------------------------------------------


class _Address(NamedTuple):
    """What the resolver says of a name."""

    name: str
    seconds: float
    kinds: str = ""
    trouble: str = ""


def names(scene: Scene) -> Iterator[Finding]:
    """The names of server and storages: found, how fast, IPv4 or IPv6."""
    host = urlsplit(scene.server_url).hostname or ""
    doors = [door.host for endpoint in _endpoints(scene).values() for door in endpoint]
    wanted = [name for name in dict.fromkeys([host, *doors]) if name]
    answers = side_by_side([partial(_look_up, name) for name in wanted], scene.limit * 0.6, scene.token)
    found = [answer or _Address(name, scene.limit * 0.6, trouble="no answer") for name, answer in zip(wanted, answers)]
    bad = [address for address in found if address.trouble]
    slow = [address for address in found if not address.trouble and address.seconds > _SLOW_NAME]
    cure = "look at /etc/resolv.conf and at the name servers in it"
    if bad:
        text = "; ".join(f"{address.name}: {address.trouble}" for address in bad)
        behind_proxy = any(scene.environ.get(name) for name in _PROXIES)
        yield fail("DNS", 1318, text, cure) if bad[0].name == host and not behind_proxy else warn("DNS", text, cure)
    elif slow:
        yield warn("DNS", "; ".join(f"{address.name} took {address.seconds:.1f} s" for address in slow), cure)
    else:
        last = max(found, key=lambda address: address.seconds)
        yield ok("DNS", f"{len(found)} name{'s' if len(found) > 1 else ''} found, {found[0].name}: {found[0].kinds}; "
                        f"slowest {last.seconds:.3f} s")


def _look_up(name: str) -> _Address:
    began = time.monotonic()
    try:
        answers = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        return _Address(name, time.monotonic() - began, trouble=getattr(exc, "strerror", "") or str(exc))
    families = {answer[0] for answer in answers}
    kinds = [text for family, text in ((socket.AF_INET, "IPv4"), (socket.AF_INET6, "IPv6")) if family in families]
    return _Address(name, time.monotonic() - began, "+".join(kinds))


# --- storages ---------------------------------------------------------------------------------------------------------


class _Door(NamedTuple):
    """One way into an endpoint; ``path`` for file systems, which have no host."""

    scheme: str
    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}" if self.host else f"file://{self.path}"


def storages(scene: Scene) -> Iterator[Finding]:
    """TCP (and TLS, where the protocol begins with it) to each door of the endpoints in the queue's astorages."""
    queue = scene.queue() if scene.options.queue else None
    if queue is None:
        yield skip("storage", "the queue is not known")
        return
    wanted = list(dict.fromkeys(name for endpoints in queue.astorages.values() for name in endpoints))
    if not wanted:
        yield skip("storage", f"queue {queue.name} names no endpoints (astorages)")
        return
    endpoints = _endpoints(scene)
    doors = list(dict.fromkeys(door for found in endpoints.values() for door in found))
    results = side_by_side([partial(_knock, scene, door) for door in doors], scene.limit * 0.5, scene.token)
    answers = {door: result or (False, "no answer") for door, result in zip(doors, results)}
    for name in wanted:
        if not endpoints.get(name):
            yield warn(f"storage {name}", "its description is not to be had, or has no protocols",
                       "look at the endpoint in CRIC, and at --storagedata-url")
            continue
        yield _of_endpoint(name, endpoints[name], answers)


def _of_endpoint(name: str, doors: Sequence[_Door], answers: dict[_Door, tuple[bool, str]]) -> Finding:
    found = ", ".join(f"{door}: {answers[door][1]}" for door in doors)
    good = sum(answers[door][0] for door in doors)
    cure = "look at the firewall for outgoing connections of this node, and at the storage's doors"
    if good == len(doors):
        return ok(f"storage {name}", found)
    if good:
        return warn(f"storage {name}", found, cure)
    return fail(f"storage {name}", _UNREACHABLE, found, cure)


def _endpoints(scene: Scene) -> dict[str, list[_Door]]:
    """Return endpoint -> its doors, for all that the queue's astorages name; empty when nothing is known."""
    queue = scene.queue() if scene.options.queue else None
    if queue is None or scene.info is None:
        return {}
    wanted = list(dict.fromkeys(name for endpoints in queue.astorages.values() for name in endpoints))
    if not wanted:
        return {}
    try:
        found = scene.info.storage(wanted, strict=False)
    except PilotException:
        return {}
    return {name: list(dict.fromkeys(door for protocols in data.arprotocols.values() for protocol in protocols
                                     if (door := _door(protocol["endpoint"], protocol["path"])) is not None))
            for name, data in found.items()}


def _door(endpoint: str, path: str) -> Optional[_Door]:
    text = endpoint if "://" in endpoint else f"file://{endpoint}"
    try:
        parts = urlsplit(text)
        scheme, host, port = parts.scheme.lower(), parts.hostname or "", parts.port
    except ValueError:
        return None
    if scheme == "file" or not host:
        return _Door("file", "", 0, (parts.path + path) or "/")
    return _Door(scheme, host, port or _PORTS.get(scheme, 443))


def _knock(scene: Scene, door: _Door) -> tuple[bool, str]:
    """Return whether a door opens, and what was seen."""
    if not door.host:
        return (True, "is there") if os.path.isdir(door.path) else (False, "no such directory")
    began = time.monotonic()
    try:
        with socket.create_connection((door.host, door.port), scene.limit * 0.4) as plain:
            said = f"{time.monotonic() - began:.3f} s"
            if door.scheme in _TLS or (door.scheme == "s3" and door.port == 443):
                with _context(scene).wrap_socket(plain, server_hostname=door.host) as secure:
                    said = f"{secure.version()} {time.monotonic() - began:.3f} s"
    except ssl.SSLError as exc:
        return False, f"TLS fails ({getattr(exc, 'verify_message', '') or exc.reason or exc})"
    except (OSError, UnicodeError) as exc:
        return False, getattr(exc, "strerror", "") or str(exc) or "time-out"
    return True, said
