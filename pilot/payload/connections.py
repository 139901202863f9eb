"""Which addresses did the payload connect to? Reads what the tracer of worker-node scripts has written.

``pandatracerlog.txt`` comes from a library (LD_PRELOAD) that runGen and runAthena put before user code; UTC, one line
per call, loopback and port 53 left out, IPv6 without brackets (payload document 16)::

    2026-01-31 12:00:00.123456 : INFO     connect: 188.185.85.104:443  cmd: python3
    2026-01-31 12:00:00.123456 : WARNING  evecve: exe=curl  no PANDA/LD_PRELOAD

Where the queue has ``allowed_connections`` in its ``params``, every other address fails the job. Only addresses are
known, so names of hosts cannot be allowed.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Union

from pilot.payload.textfiles import open_regular, printable

logger = logging.getLogger(__name__)

TRACER_LOG = "pandatracerlog.txt"
PARAMETER = "allowed_connections"

_READ_LIMIT = 256 << 20
"""Bytes that are looked at (some 50 MB/s); of a larger file one half of it at each end."""
GLANCE = 8 << 20
"""The same where nothing depends on it."""
_CHUNK = 4 << 20
_OVERLAP = 512
_DISTINCT = 20_000
"""Addresses (and programs) that are kept; who has more of them is scanning."""

_CONNECT = re.compile(rb"\bconnect: ([0-9A-Fa-f:.]{2,45}):([0-9]{1,5})(?![0-9.:])(?:[ \t]+cmd: ([^\s]{1,64}))?")
_EXEC = re.compile(rb"\be[vx]ecve: exe=([^\s]{1,128})")

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]
Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]


class Connection(NamedTuple):
    """An address that something has connected to."""

    host: str
    port: int
    command: str = ""

    def __str__(self) -> str:
        where = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        return f"{where} ({self.command})" if self.command else where


@dataclass(frozen=True)
class Connections:
    """What the tracer has seen, each address and each program once."""

    addresses: Sequence[Connection] = ()
    untraced: Sequence[str] = ()
    """Programs that were started without the tracer."""
    unread: int = 0
    """Bytes that were not looked at."""
    size: int = 0

    def __bool__(self) -> bool:
        return self.size > 0

    def summary(self, limit: int = 10) -> str:
        """Return the addresses, without their programs, and what else is to be known."""
        words = [_listed([str(item._replace(command="")) for item in self.addresses], limit) or "none that can be read"]
        if self.untraced:
            words.append(f"started without tracer: {_listed(list(self.untraced), 5)}")
        if self.unread:
            words.append(f"{self.unread} B in the middle of {TRACER_LOG} not read")
        return "; ".join(words)


class Entry(NamedTuple):
    """One entry of the allow-list; None = any."""

    network: Network | None
    port: int | None


@dataclass(frozen=True)
class AllowList:
    """Networks, addresses and ports that a queue permits; loopback always."""

    entries: Sequence[Entry] = ()
    unusable: Sequence[str] = field(default=())
    """Words of the list that are neither."""

    def allows(self, connection: Connection) -> bool:
        """True when the connection is permitted."""
        address = _address(connection.host)
        if address is None:
            return False
        return address.is_loopback or any(
            (entry.port is None or entry.port == connection.port)
            and (entry.network is None or (entry.network.version == address.version and address in entry.network))
            for entry in self.entries)


def allow_list(value: object) -> AllowList | None:
    """Return the list from a queue's ``params.allowed_connections``, None when there is none: nothing is judged.

    A list, or a text with blanks or commas between: ``10.0.0.0/8``, ``188.185.85.104:443``, ``2001:db8::/32``,
    ``[2001:db8::1]:1094``, ``:3128`` (that port anywhere), ``*`` (all). An empty one allows nothing.
    """
    if value is None or isinstance(value, bool):
        return None
    items = value if isinstance(value, (list, tuple)) else re.split(r"[\s,;]+", str(value))
    entries, unusable = [], []
    for item in (str(item).strip() for item in items):
        entry = _entry(item)
        if entry is not None:
            entries.append(entry)
        elif item:
            unusable.append(item)
    return AllowList(tuple(entries), tuple(unusable))


def _entry(text: str) -> Entry | None:
    if text == "*":
        return Entry(None, None)
    host, port = text, ""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest[1:] if rest.startswith(":") else rest
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if port and not (port.isascii() and port.isdecimal() and int(port) < 65536):
        return None
    if host in ("", "*"):
        return Entry(None, int(port)) if port else None
    try:
        return Entry(ipaddress.ip_network(host, strict=False), int(port) if port else None)
    except ValueError:
        return None


def read_connections(workdir: Path, limit: int = _READ_LIMIT) -> Connections:
    """Return what the tracer's file in ``workdir`` says; false when there is none, or nothing in it."""
    handle = open_regular(workdir / TRACER_LOG)
    if handle is None:
        return Connections()
    addresses: set[tuple[bytes, bytes, bytes]] = set()
    programs: set[bytes] = set()
    try:
        size = os.fstat(handle).st_size
        spans = [(0, size)] if size <= limit else [(0, limit // 2), (size - limit // 2, size)]
        for first, end in spans:
            begin = first
            while begin < end and len(addresses) < _DISTINCT and len(programs) < _DISTINCT:
                block = os.pread(handle, min(_CHUNK, end - begin), begin)
                if not block:
                    break
                last = begin + len(block) >= end
                cut = len(block) if last else max(block.rfind(b"\n") + 1, len(block) - _OVERLAP)
                addresses.update(_CONNECT.findall(block, 0, cut))
                programs.update(_EXEC.findall(block, 0, cut))
                begin += cut
    except OSError as error:
        logger.warning("%s could not be read to its end: %s", TRACER_LOG, error.strerror)
        size = max(1, len(addresses))
    finally:
        os.close(handle)
    return Connections(_readable(addresses), sorted(printable(name) for name in programs), max(0, size - limit), size)


def _readable(raw: set[tuple[bytes, bytes, bytes]]) -> list[Connection]:
    """Return valid addresses in their order, each with the first of its programs."""
    found: dict[tuple[int, int, int], Connection] = {}
    for host, port, command in sorted(raw):
        address = _address(host.decode("ascii"))
        if address is not None and int(port) < 65536:
            key = (address.version, int(address), int(port))
            found.setdefault(key, Connection(str(address), int(port), printable(command)))
    return [found[key] for key in sorted(found)]


def _address(host: str) -> Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _listed(items: Sequence[str], limit: int) -> str:
    more = len(items) - limit
    return ", ".join(items[:limit]) + (f" and {more} more" if more > 0 else "")


def offenders_text(offenders: Sequence[Connection], room: int = 190) -> str:
    """Return as many of the addresses as ``room`` characters hold, and how many there are beside."""
    shown: list[str] = []
    for item in map(str, offenders):
        if len(", ".join([*shown, item])) > room - 15 and shown:
            break
        shown.append(item)
    return _listed([*shown, *([""] * (len(offenders) - len(shown)))], len(shown))
