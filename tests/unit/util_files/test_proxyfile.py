"""Proxy files: what is read of them, and that nothing odd in them does any harm. Real ones: tests/grid."""

from __future__ import annotations

import datetime
import os
import random
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from vomsproxies import FQANS, HOUR, NOW, Pair, der, issue, text_of

from pilot.util.proxyfile import ProxyUnreadable, check_pair_and_chain, parse_proxy, read_proxy


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
