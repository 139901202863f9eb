"""Proxy files: what is read of them, and that nothing odd in them does any harm. Real ones: tests/grid."""

from __future__ import annotations

import datetime
import os
import random
from pathlib import Path
from typing import Optional, Tuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID, ObjectIdentifier

from pilot.util.proxyfile import ProxyUnreadable, check_pair_and_chain, parse_proxy, read_proxy

NOW = datetime.datetime(2026, 11, 21, 12, 0, 0, tzinfo=datetime.timezone.utc)
HOUR = datetime.timedelta(hours=1)
VOMS = ObjectIdentifier("1.3.6.1.4.1.8005.100.100.5")
FQANS = ("/atlas/Role=production/Capability=NULL", "/atlas/Role=NULL/Capability=NULL")
Pair = Tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def der(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    size = len(content)
    if size < 128:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def attribute_certificate(ends: datetime.datetime) -> bytes:
    """The VOMS extension as RFC 5755 and the VOMS profile lay it out, without a real signature."""
    times = [der(0x18, moment.strftime("%Y%m%d%H%M%SZ").encode()) for moment in (NOW - HOUR, ends)]
    values = der(0x30, *(der(0x04, name.encode()) for name in FQANS))
    syntax = der(0x30, der(0xA0, der(0x86, b"atlas://voms.example.org:15000")), values)
    attribute = der(0x30, der(0x06, bytes.fromhex("2b06010401be45646404")), der(0x31, syntax))
    holder = der(0x30, der(0xA0, der(0x02, b"\x01")))
    info = der(0x30, der(0x02, b"\x01"), holder, der(0xA0, b""), der(0x30, b""), der(0x02, b"\x07"),
               der(0x30, *times), der(0x30, attribute))
    return der(0x30, der(0x30, der(0x30, info, der(0x30, b""), der(0x03, b"\x00sig"))))


def issue(name: str, issuer: Optional[Pair], ends: datetime.datetime, voms: Optional[datetime.datetime] = None,
          begins: datetime.datetime = NOW - HOUR) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (x509.CertificateBuilder().subject_name(subject).issuer_name(issuer[0].subject if issuer else subject)
               .public_key(key.public_key()).serial_number(x509.random_serial_number())
               .not_valid_before(begins).not_valid_after(ends))
    if voms is not None:
        builder = builder.add_extension(x509.UnrecognizedExtension(VOMS, attribute_certificate(voms)), False)
    return builder.sign(issuer[1] if issuer else key, hashes.SHA256()), key


def text_of(*pairs: Pair, key: bool = True) -> bytes:
    """Like a proxy file: first certificate, its key, the other certificates."""
    pem = serialization.Encoding.PEM
    parts = [pair[0].public_bytes(pem) for pair in pairs]
    if key:
        parts.insert(1, pairs[0][1].private_bytes(pem, serialization.PrivateFormat.TraditionalOpenSSL,
                                                  serialization.NoEncryption()))
    return b"".join(parts)


@pytest.fixture(scope="module")
def user() -> Pair:
    return issue("Jane Doe", None, NOW + 1000 * HOUR)


def test_the_shortest_life_of_the_chain_counts(user: Pair) -> None:
    long = issue("proxy", user, NOW + 2000 * HOUR, voms=NOW + 10 * HOUR)
    facts = parse_proxy(text_of(long, user))
    assert facts.ends == (NOW + 1000 * HOUR).timestamp()
    assert facts.begins == (NOW - HOUR).timestamp()
    assert facts.voms_ends == (NOW + 10 * HOUR).timestamp()
    assert facts.attributes == FQANS
    assert facts.has_key


def test_a_proxy_without_attributes_and_a_certificate_without_key(user: Pair) -> None:
    proxy = issue("proxy", user, NOW + HOUR)
    assert parse_proxy(text_of(proxy, user)).voms_ends is None
    assert not parse_proxy(text_of(proxy, user, key=False)).has_key


def test_attributes_of_the_last_delegation_count(user: Pair) -> None:
    first = issue("first", user, NOW + 20 * HOUR, voms=NOW + 20 * HOUR)
    second = issue("second", first, NOW + 10 * HOUR, voms=NOW + 5 * HOUR)
    plain = issue("third", first, NOW + 10 * HOUR)
    assert parse_proxy(text_of(second, first, user)).voms_ends == (NOW + 5 * HOUR).timestamp()
    assert parse_proxy(text_of(plain, first, user)).voms_ends == (NOW + 20 * HOUR).timestamp()


def test_years_of_both_kinds_of_time() -> None:
    early = datetime.datetime(1999, 12, 31, 23, 59, 59, tzinfo=datetime.timezone.utc)
    late = datetime.datetime(2051, 1, 1, tzinfo=datetime.timezone.utc)
    facts = parse_proxy(text_of(issue("old", None, late, begins=early)))
    assert (facts.begins, facts.ends) == (early.timestamp(), late.timestamp())


def test_key_and_chain(tmp_path: Path, user: Pair) -> None:
    proxy, other = issue("proxy", user, NOW + HOUR), issue("Jane Doe", None, NOW + HOUR)
    cases = {
        "good": (text_of(proxy, user), ""),
        "wrong key": (text_of((proxy[0], other[1]), user), "its private key and certificate do not fit together"),
        "no key": (text_of(proxy, user, key=False), "its private key and certificate do not fit together"),
        "wrong chain": (text_of(proxy, other), "its certificate 1 is not signed by the one that follows"),
    }
    for name, (content, words) in cases.items():
        (tmp_path / name).write_bytes(content)
        assert check_pair_and_chain(tmp_path / name).startswith(words) and (words or not check_pair_and_chain(
            tmp_path / name))


@pytest.mark.parametrize("content", [
    b"", b"garbage", b"<html></html>", b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
    b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    b"-----BEGIN CERTIFICATE-----\n????\n-----END CERTIFICATE-----\n",
    b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", b"\0" * 4096,
])
def test_what_is_no_proxy(content: bytes) -> None:
    with pytest.raises(ProxyUnreadable):
        parse_proxy(content)


def test_files_that_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "missing", Path("/dev/null")):
        with pytest.raises(ProxyUnreadable):
            read_proxy(path)


def test_damaged_bytes_are_refused_or_read_and_nothing_else(user: Pair) -> None:
    from base64 import b64encode

    raw = issue("proxy", user, NOW + HOUR, voms=NOW + HOUR)[0].public_bytes(serialization.Encoding.DER)
    rng = random.Random(5)
    for _ in range(3000):
        damaged = bytearray(raw)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(raw))] = rng.randrange(256)
        cut = bytes(damaged[:rng.randrange(1, len(raw) + 1)] if rng.random() < 0.3 else damaged)
        try:
            parse_proxy(b"-----BEGIN CERTIFICATE-----\n" + b64encode(cut) + b"\n-----END CERTIFICATE-----\n")
        except ProxyUnreadable:
            continue


def test_deep_nesting_ends() -> None:
    from base64 import b64encode

    inner = b""
    for _ in range(5000):
        inner = der(0x30, inner)
    extension = der(0x30, der(0x06, bytes.fromhex("2b06010401be45646405")), der(0x04, inner))
    times = der(0x30, *(der(0x17, b"260101000000Z") for _ in range(2)))
    raw = der(0x30, der(0x30, times, der(0xA3, der(0x30, extension))))
    facts = parse_proxy(b"-----BEGIN CERTIFICATE-----\n" + b64encode(raw) + b"\n-----END CERTIFICATE-----\n")
    assert facts.voms_ends is None
