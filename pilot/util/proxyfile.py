"""Reads proxy files (PEM): how long certificates and VOMS attributes live, and whether key and chain belong together.

In this process, with a small DER reader of our own: no command of the middleware has to be there. Sources: RFC 5280
(4.1), RFC 5755 (attribute certificate), the VOMS attribute certificate profile.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple, Optional

from pilot.util.checksum import open_regular

_LIMIT = 1 << 20
"""Bytes of a proxy file that are read."""
_DEPTH = 24
_SEQUENCE, _SET, _OID, _OCTETS, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0x31, 0x06, 0x04, 0x17, 0x18
_EXTENSIONS = 0xA3
_VOMS = bytes.fromhex("2b06010401be45646405")
"""OID 1.3.6.1.4.1.8005.100.100.5: a sequence of attribute certificates."""
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)
_KEY = re.compile(rb"-----BEGIN (?:RSA |EC |)PRIVATE KEY-----")


class ProxyUnreadable(ValueError):
    """The file cannot be read, or is no proxy; the text says why, and holds nothing of its content."""


class ProxyFacts(NamedTuple):
    """What a proxy file says; times in s since 1970."""

    begins: float
    """When the last of its certificates becomes valid."""
    ends: float
    """When the first of its certificates ends."""
    voms_ends: Optional[float]
    """When its VOMS attributes end; None = it has none."""
    attributes: tuple[str, ...]
    """FQANs: ``/atlas/Role=production/Capability=NULL``."""
    has_key: bool


class _Item(NamedTuple):
    tag: int
    content: bytes


def read_proxy(path: str | Path) -> ProxyFacts:
    """Return what a proxy file says.

    Raises:
        ProxyUnreadable: no such file, or not the certificates of a proxy.
    """
    try:
        with open(open_regular(path), "rb") as stream:
            content = stream.read(_LIMIT)
    except OSError as exc:
        raise ProxyUnreadable(exc.strerror or str(exc)) from exc
    return parse_proxy(content)


def parse_proxy(content: bytes) -> ProxyFacts:
    """Return what the PEM text of a proxy says.

    Raises:
        ProxyUnreadable: not the certificates of a proxy.
    """
    from base64 import b64decode

    try:
        certificates = [b64decode(b"".join(body.split()), validate=True) for body in _CERTIFICATE.findall(content)]
        if not certificates:
            raise ProxyUnreadable("no certificate in it")
        spans: list[tuple[float, float]] = []
        voms_ends: Optional[float] = None
        attributes: tuple[str, ...] = ()
        for raw in certificates:
            begin, end, extension = _certificate(raw)
            spans.append((begin, end))
            if extension and voms_ends is None:  # that of the last delegation counts
                voms_ends, attributes = _voms(extension)
    except ProxyUnreadable:
        raise
    except (ValueError, IndexError, OverflowError, StopIteration) as exc:
        raise ProxyUnreadable(f"a certificate in it is broken ({type(exc).__name__})") from exc
    return ProxyFacts(max(begin for begin, _ in spans), min(end for _, end in spans), voms_ends, attributes,
                      _KEY.search(content) is not None)


def check_pair_and_chain(path: str | Path) -> str:
    """Return why a proxy file cannot work although its times are good; '' when nothing is wrong.

    The private key must be that of the first certificate. Where the package ``cryptography`` is installed each
    certificate must also be signed by the next one.
    """
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(os.fspath(path), password=lambda: b"")
    except (ssl.SSLError, OSError, ValueError) as exc:
        return f"its private key and certificate do not fit together ({getattr(exc, 'reason', '') or exc})"
    try:
        from cryptography import x509
    except ImportError:
        return ""
    from cryptography.exceptions import InvalidSignature

    with open(open_regular(path), "rb") as stream:
        blocks = [match.group(0) for match in _CERTIFICATE.finditer(stream.read(_LIMIT))]
    try:
        chain = [x509.load_pem_x509_certificate(block) for block in blocks]
        for number, (below, above) in enumerate(zip(chain, chain[1:]), 1):
            try:
                below.verify_directly_issued_by(above)
            except (InvalidSignature, ValueError, TypeError):
                return f"its certificate {number} is not signed by the one that follows"
    except (ValueError, AttributeError):  # what this cryptography does not know it does not judge
        return ""
    return ""


def _certificate(raw: bytes) -> tuple[float, float, bytes]:
    """Return begin, end, and the VOMS extension (empty: none) of a certificate in DER."""
    outer = _only(raw, _SEQUENCE)
    inner = next(_items(outer))
    if inner.tag != _SEQUENCE:
        raise ValueError("no certificate")
    begin = end = None
    extension = b""
    for item in _items(inner.content):
        if item.tag == _SEQUENCE and begin is None:
            times = _times(item.content)
            if times is not None:
                begin, end = times
        elif item.tag == _EXTENSIONS:
            for entry in _items(_only(item.content, _SEQUENCE)):
                parts = list(_items(entry.content))
                if parts and parts[0] == _Item(_OID, _VOMS) and parts[-1].tag == _OCTETS:
                    extension = parts[-1].content
    if begin is None or end is None:
        raise ValueError("no validity")
    return begin, end, extension


def _voms(extension: bytes) -> tuple[Optional[float], tuple[str, ...]]:
    """Return the end and the FQANs of the attribute certificates in the extension."""
    ends: list[float] = []
    names: list[str] = []

    def look(content: bytes, depth: int) -> None:
        times = _times(content)
        if times is not None:
            ends.append(times[1])
            return
        for item in _items(content):
            if item.tag == _OCTETS and item.content.startswith(b"/") and len(item.content) < 256:
                names.append(item.content.decode("utf-8", "replace"))
            elif item.tag & 0x20 and depth < _DEPTH:
                look(item.content, depth + 1)

    look(extension, 0)
    return (min(ends) if ends else None), tuple(dict.fromkeys(names))


def _times(content: bytes) -> Optional[tuple[float, float]]:
    """Return (begin, end) when the content is a Validity, else None."""
    if not content or content[0] not in (_UTC_TIME, _GENERALIZED_TIME):
        return None
    items = list(_items(content))
    if len(items) != 2 or any(item.tag not in (_UTC_TIME, _GENERALIZED_TIME) for item in items):
        return None
    return _time(items[0]), _time(items[1])


def _time(item: _Item) -> float:
    text = item.content.decode("ascii")
    if item.tag == _UTC_TIME:  # RFC 5280: 50 and more is 19xx
        text = ("19" if text[:2] >= "50" else "20") + text
    moment = datetime.strptime(text.partition(".")[0].rstrip("Z")[:14], "%Y%m%d%H%M%S")
    return moment.replace(tzinfo=timezone.utc).timestamp()


def _only(content: bytes, tag: int) -> bytes:
    item = next(_items(content))
    if item.tag != tag:
        raise ValueError(f"tag {item.tag:#x} where {tag:#x} belongs")
    return item.content


def _items(content: bytes) -> Iterator[_Item]:
    """Yield the elements of a constructed value; DER has definite lengths only."""
    position = 0
    while position < len(content):
        tag, length = content[position], content[position + 1]
        position += 2
        if length & 0x80:
            size = length & 0x7F
            if not 0 < size <= 4:
                raise ValueError("length")
            length = int.from_bytes(content[position:position + size], "big")
            position += size
        if position + length > len(content):
            raise ValueError("shorter than it says")
        yield _Item(tag, content[position:position + length])
        position += length
