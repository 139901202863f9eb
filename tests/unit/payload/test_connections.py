"""The tracer's file is read whatever is in it, and compared with what a queue allows."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from pilot.common.errorcodes import format_diagnosis
from pilot.payload.connections import (
    TRACER_LOG,
    Connection,
    allow_list,
    offenders_text,
    read_connections,
)


def line(text: str) -> str:
    return f"2026-01-31 12:00:00.123456 : INFO     {text}\n"


def write(directory: Path, *texts: str) -> Path:
    (directory / TRACER_LOG).write_text("".join(map(line, texts)))
    return directory


def test_each_address_is_there_once_in_a_fixed_order(tmp_path: Path) -> None:
    write(tmp_path, "connect: 188.185.85.104:443  cmd: python3", "connect: 2001:db8::1:1094  cmd: xrdcp",
          "connect: 10.0.0.7:3128  cmd: curl", "connect: 188.185.85.104:443  cmd: python3",
          "connect: ::ffff:10.0.0.8:80  cmd: wget", "evecve: exe=curl  no PANDA/LD_PRELOAD",
          "evecve: exe=curl  no PANDA/LD_PRELOAD", "execve: exe=./static  no PANDA/LD_PRELOAD")
    found = read_connections(tmp_path)
    assert [str(item) for item in found.addresses] == [
        "10.0.0.7:3128 (curl)", "10.0.0.8:80 (wget)", "188.185.85.104:443 (python3)", "[2001:db8::1]:1094 (xrdcp)"]
    assert found.untraced == ["./static", "curl"]
    assert found.summary() == ("10.0.0.7:3128, 10.0.0.8:80, 188.185.85.104:443, [2001:db8::1]:1094; "
                               "started without tracer: ./static, curl")
    assert found.summary(limit=1).startswith("10.0.0.7:3128 and 3 more;")


@pytest.mark.parametrize("text", [
    "connect: 999.1.1.1:80", "connect: 1.2.3.4:99999", "connect: 1.2.3.4:123456", "connect: :80", "connect: host:80",
    "connect: 1.2.3.4", "reconnect: 1.2.3.4:80", "connect:1.2.3.4:80", "",
])
def test_what_is_no_connection_is_none(tmp_path: Path, text: str) -> None:
    found = read_connections(write(tmp_path, text))
    assert found.addresses == [] and found
    assert found.summary() == "none that can be read"


def test_no_file_an_empty_one_or_something_else_is_nothing(tmp_path: Path) -> None:
    assert not read_connections(tmp_path)
    (tmp_path / TRACER_LOG).touch()
    assert not read_connections(tmp_path)
    (tmp_path / TRACER_LOG).unlink()
    os.mkfifo(tmp_path / TRACER_LOG)
    assert not read_connections(tmp_path)
    (tmp_path / TRACER_LOG).unlink()
    (tmp_path / TRACER_LOG).symlink_to("/etc/passwd")
    assert not read_connections(tmp_path)


@pytest.mark.parametrize("seed", range(5))
def test_garbage_between_the_lines_hides_nothing(tmp_path: Path, seed: int) -> None:
    noise = random.Random(seed).randbytes
    good = line("connect: 188.185.85.104:443  cmd: py\xffthon").encode("latin-1")
    (tmp_path / TRACER_LOG).write_bytes(noise(9_000_000) + b"\n" + good + noise(100) + b"\n" + noise(5_000_000))
    assert any(item[:2] == ("188.185.85.104", 443) for item in read_connections(tmp_path).addresses)


def test_lines_at_the_edges_of_blocks_are_found(tmp_path: Path) -> None:
    texts = [f"connect: 10.{n // 65536}.{n // 256 % 256}.{n % 256}:80  cmd: {'x' * (n % 37 + 1)}" for n in range(9000)]
    (tmp_path / TRACER_LOG).write_text("".join(map(line, (text for text in texts for _ in range(10)))))
    assert len(read_connections(tmp_path).addresses) == 9000


def test_a_gigabyte_is_read_at_both_ends_and_said_so(tmp_path: Path) -> None:
    path = tmp_path / TRACER_LOG
    with open(path, "wb") as stream:
        stream.write(line("connect: 10.0.0.1:80  cmd: a").encode())
        stream.seek(1 << 30)
        stream.write(b"\n" + line("connect: 10.0.0.2:80  cmd: b").encode())
    found = read_connections(tmp_path)
    assert [item.host for item in found.addresses] == ["10.0.0.1", "10.0.0.2"]
    assert found.unread > 0 and "in the middle of pandatracerlog.txt not read" in found.summary()


def test_a_scan_of_all_ports_is_bounded(tmp_path: Path) -> None:
    with open(tmp_path / TRACER_LOG, "w") as stream:
        stream.writelines(line(f"connect: 10.0.{n // 60000}.1:{n % 60000}  cmd: nmap") for n in range(400_000))
    assert 20_000 <= len(read_connections(tmp_path).addresses) < 200_000


@pytest.mark.parametrize(("allowed", "host", "port", "expected"), [
    ("10.0.0.0/8", "10.1.2.3", 80, True), ("10.0.0.0/8", "11.1.2.3", 80, False),
    ("10.0.0.0/8:443", "10.1.2.3", 80, False), ("10.0.0.0/8:443", "10.1.2.3", 443, True),
    ("188.185.85.104", "188.185.85.104", 1, True), (":3128", "8.8.8.8", 3128, True), (":3128", "8.8.8.8", 3129, False),
    ("*", "2001:db8::1", 1, True), ("", "8.8.8.8", 80, False), ([], "8.8.8.8", 80, False), ("", "127.0.0.1", 80, True),
    ("", "::1", 80, True), ("2001:db8::/32", "2001:db8::7", 80, True), ("2001:db8::/32", "10.0.0.1", 80, False),
    ("[2001:db8::1]:1094", "2001:db8::1", 1094, True), ("[2001:db8::1]:1094", "2001:db8::1", 80, False),
    (["10.0.0.0/8", ":443"], "8.8.8.8", 443, True), ("10.0.0.1/8, 1.1.1.1;:53", "10.9.9.9", 1, True),
    ("server.example.org", "10.0.0.1", 80, False), (7, "10.0.0.1", 80, False),
])
def test_allow_lists(allowed: object, host: str, port: int, expected: bool) -> None:
    found = allow_list(allowed)
    assert found is not None and found.allows(Connection(host, port)) is expected


def test_without_a_list_nothing_is_judged_and_words_that_are_no_address_are_named() -> None:
    assert allow_list(None) is None and allow_list(False) is None
    found = allow_list("server.example.org:443 10.0.0.0/8 1.2.3.4:x 1.2.3.4:70000")
    assert found is not None and found.unusable == ("server.example.org:443", "1.2.3.4:x", "1.2.3.4:70000")


def test_the_list_of_offenders_fits_into_a_diagnosis() -> None:
    offenders = [Connection(f"10.0.0.{n}", 443, "python3") for n in range(200)]
    text = format_diagnosis(1387, offenders_text(offenders))
    assert len(text) <= 256 and text.startswith("Outbound connection not allowed: 10.0.0.0:443 (python3), ")
    shown = text.count(":443")
    assert text.endswith(f" and {200 - shown} more")
    assert offenders_text(offenders[:1]) == "10.0.0.0:443 (python3)"
