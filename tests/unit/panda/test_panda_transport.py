"""The transport against servers that misbehave on real sockets: what is repeated and reported, and how it is judged."""

from __future__ import annotations

import json
import logging
import socket
import threading
from typing import Callable

import pytest
from panda_wire import FORBIDDEN, WireServer, answer, close, legacy, reset, v1

from pilot.panda.credentials import Credentials
from pilot.panda.errors import TransportError
from pilot.panda.server import JobRequest, PandaServer, Verdict
from pilot.panda.transport import Transport
from pilot.settings import default_settings

Make = Callable[..., WireServer]
Connect = Callable[..., PandaServer]

JOBS = v1({"StatusCode": 0, "jobs": [{"PandaID": 1}]})
DONE = v1({"StatusCode": 0, "command": "NULL"})
MESSAGE = {"jobId": 1, "state": "running", "attemptNr": 1}
REQUEST = JobRequest("Q")


def failure(client: PandaServer) -> TransportError:
    with pytest.raises(TransportError) as caught:
        client.acquire_jobs(REQUEST)
    return caught.value


# --- connections ------------------------------------------------------------------------------------------------------


def test_one_connection_serves_many_calls(wire: Make, connect: Connect) -> None:
    server = wire(DONE)
    client = connect(server)
    for _ in range(3):
        assert client.update_job(MESSAGE).verdict is Verdict.DELIVERED
    assert [sent.connection for sent in server.sent] == [1, 1, 1]


def test_a_connection_that_the_server_closed_meanwhile_costs_nothing(wire: Make, connect: Connect) -> None:
    server = wire(DONE)
    client = connect(server)
    client.update_job(MESSAGE)
    server.drop_connections()
    assert client.update_job(MESSAGE).verdict is Verdict.DELIVERED
    assert [sent.connection for sent in server.sent] == [1, 2]


@pytest.mark.parametrize("end", [close, reset])
def test_a_request_that_dies_on_a_kept_connection_is_sent_again_once(
    end: Callable[[socket.socket], None], wire: Make, connect: Connect
) -> None:
    server = wire(DONE, end, JOBS)
    client = connect(server)
    client.update_job(MESSAGE)
    assert client.acquire_jobs(REQUEST).status_code == 0
    assert [sent.connection for sent in server.sent] == [1, 1, 2]


@pytest.mark.parametrize("end", [close, reset])
def test_a_request_that_dies_on_a_new_connection_is_not_repeated(
    end: Callable[[socket.socket], None], wire: Make, connect: Connect
) -> None:
    server = wire(end, JOBS)
    error = failure(connect(server))
    assert error.maybe_processed and len(server.sent) == 1


def test_a_break_in_mid_answer_is_not_repeated_even_on_a_kept_connection(wire: Make, connect: Connect) -> None:
    def cut(sock: socket.socket) -> None:
        sock.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"success": tr')
        close(sock)

    server = wire(DONE, cut, JOBS)
    client = connect(server)
    client.update_job(MESSAGE)
    assert failure(client).maybe_processed and len(server.sent) == 2


def test_each_thread_has_a_connection_of_its_own(wire: Make, connect: Connect) -> None:
    server = wire(DONE)
    client = connect(server)
    threads = [threading.Thread(target=client.update_job, args=(MESSAGE,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sent.connection for sent in server.sent) == [1, 2, 3, 4]


# --- failures ---------------------------------------------------------------------------------------------------------


def test_connection_refused_cannot_have_taken_a_job(wire: Make, connect: Connect) -> None:
    server = wire(JOBS)
    server.__exit__()
    error = failure(connect(server))
    assert not error.maybe_processed and "refused" in str(error) and server.url in str(error)


def test_an_unknown_host_cannot_have_taken_a_job() -> None:
    client = PandaServer(
        "http://no-such-host.invalid:1", default_settings(), credentials=Credentials(environ={}), user_agent="u"
    )
    assert not failure(client).maybe_processed


def test_silence_ends_after_the_read_timeout_and_may_have_taken_a_job(wire: Make, connect: Connect) -> None:
    server = wire(lambda sock: None)
    error = failure(connect(server, read_timeout=0.2))
    assert error.maybe_processed and "0.2 s" in str(error)


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"HTTP/1.1 200 OK\r\nX-Slow: "])
def test_a_server_that_drips_is_given_up_at_the_overall_deadline(head: bytes, wire: Make, connect: Connect) -> None:
    stop = threading.Event()

    def drip(sock: socket.socket) -> None:
        sock.sendall(head)
        while not stop.wait(0.02):
            sock.sendall(b" ")

    error = failure(connect(wire(drip), connect_timeout=0.2, read_timeout=0.3))
    stop.set()
    assert "no complete answer within 0.5 s" in str(error) and error.maybe_processed


def test_a_request_in_flight_can_be_broken_off(wire: Make, connect: Connect) -> None:
    arrived = threading.Event()
    server = wire(lambda sock: arrived.set())
    client = connect(server)
    caught: list[TransportError] = []
    thread = threading.Thread(target=lambda: caught.append(failure(client)))
    thread.start()
    assert arrived.wait(10)
    client.break_off("the pilot must end")
    thread.join(10)
    assert "the pilot must end" in str(caught[0])


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (answer(""), "(empty)"),
        (answer("<html><h1>Proxy Error</h1></html>"), "Proxy Error"),
        (answer('{"success": true, "data": {"jobs"'), "unreadable"),
        (answer("[1, 2]"), "no answer of the PanDA server"),
        (answer('{"success": true, "message": "", "data": {"StatusCode": NaN}}'), "unreadable"),
        (answer("[" * 100000), "unreadable"),
        (answer(b'{"success": true, "message": "\xff\xfe"}'), "not UTF-8"),
        (answer('{"success": true, "message": "", "data": {}}'), "neither jobs nor a StatusCode"),
        (answer("x", 302), "redirection"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nConnection: close\r\n\r\n{}", None),
        (b"\x16\x03\x01 no http at all\r\n\r\n", None),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd", None),
    ],
)
def test_answers_that_nobody_can_read_are_transport_errors(
    reply: bytes, text: str, wire: Make, connect: Connect
) -> None:
    def play(sock: socket.socket) -> None:
        sock.sendall(reply)
        close(sock)

    error = failure(connect(wire(play), "v1"))
    assert not text or text in str(error)
    assert connect(wire(play), "v1").update_job(MESSAGE).verdict is Verdict.RETRY


@pytest.mark.parametrize(
    ("status", "processed"), [(500, True), (502, True), (503, False), (504, True), (429, False), (400, False)]
)
def test_http_errors_tell_whether_a_job_may_be_gone(status: int, processed: bool, wire: Make, connect: Connect) -> None:
    error = failure(connect(wire(answer("Oops", status))))
    assert (error.maybe_processed, error.status) == (processed, status) and "Oops" in str(error)


def test_the_content_type_of_an_answer_means_nothing(wire: Make, connect: Connect) -> None:
    body = json.dumps({"success": True, "message": "", "data": {"StatusCode": "0", "jobs": [{"PandaID": 5}]}})
    assert connect(wire(answer(body, content_type="image/png"))).acquire_jobs(REQUEST).jobs == ({"PandaID": 5},)


def test_an_endless_answer_is_refused(wire: Make, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pilot.panda.transport.MAX_ANSWER_BYTES", 100_000)
    assert "larger than" in str(failure(connect(wire(answer("x" * 300_000)))))


def test_an_excerpt_in_an_error_shows_no_secret(wire: Make, connect: Connect) -> None:
    error = failure(connect(wire(answer('{"userProxy": "-----BEGIN CERTIFICATE-----MIIBabcdef', 200)), "v1"))
    assert "MIIB" not in str(error)


# --- headers and bodies -----------------------------------------------------------------------------------------------


def test_a_get_has_no_content_type_and_large_bodies_are_gzipped_with_their_header(wire: Make, connect: Connect) -> None:
    server = wire(v1([]), DONE, DONE)
    client = connect(server, "v1")
    client.resource_types()
    client.update_job({**MESSAGE, "metaData": "m" * 5000})
    client.update_job(MESSAGE)
    get, large, small = server.sent
    assert get.method == "GET" and "content-type" not in get.headers and get.raw == b""
    assert (
        large.headers["content-encoding"] == "gzip"
        and len(large.raw) < 1000
        and large.arguments["meta_data"] == "m" * 5000
    )
    assert "content-encoding" not in small.headers and small.raw.startswith(b"{")


def test_gzip_of_v1_can_be_switched_off_and_that_of_legacy_json_never(wire: Make, connect: Connect) -> None:
    server = wire(DONE)
    connect(server, "v1", gzip=False).update_job({**MESSAGE, "metaData": "m" * 5000})
    assert "content-encoding" not in server.sent[0].headers
    server = wire(legacy(StatusCode=0))
    connect(server, "legacy", gzip=False).update_job(MESSAGE)
    assert server.sent[0].raw.startswith(b"\x1f\x8b")


def test_a_legacy_token_request_is_a_get_with_a_query(wire: Make, connect: Connect) -> None:
    server = wire(legacy(StatusCode=0, errorDialog="", userProxy="tok-abcdefgh"))
    assert connect(server, "legacy").get_access_token("pilot_server", "key-abcdef") == "tok-abcdefgh"
    sent = server.sent[0]
    assert sent.method == "GET" and "content-type" not in sent.headers
    assert sent.query == [("client_name", "pilot_server"), ("token_key", "key-abcdef")]


def test_netrc_is_never_read(wire: Make, connect: Connect, tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"  # type: ignore[operator]
    netrc.write_text("machine 127.0.0.1 login joe password swordfish\n")
    monkeypatch.setenv("NETRC", str(netrc))
    server = wire(DONE)
    connect(server).update_job(MESSAGE)
    assert "authorization" not in server.sent[0].headers


def test_the_proxy_environment_is_respected(wire: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = wire(DONE)
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    client = PandaServer(
        "http://panda.example:25080", default_settings(), credentials=Credentials(environ={}), user_agent="u"
    )
    assert client.update_job(MESSAGE).verdict is Verdict.DELIVERED
    assert proxy.sent[0].target == "http://panda.example:25080/api/v1/pilot/update_job"


def test_ipv4_can_be_forced_and_ipv6_literals_work(wire: Make, connect: Connect) -> None:
    four = wire(DONE)
    transport = Transport(f"http://localhost:{four.port}", credentials=Credentials(environ={}), user_agent="u")
    transport.force_ipv4(True)
    assert transport.get("/api/v1/system/is_alive").status == 200
    assert four.sent[0].headers["host"] == f"localhost:{four.port}"
    try:
        six = wire(DONE, host="::1")
    except OSError:
        pytest.skip("no IPv6 on this machine")
    assert connect(six).update_job(MESSAGE).verdict is Verdict.DELIVERED
    only_four = Transport(f"http://localhost:{six.port}", credentials=Credentials(environ={}), user_agent="u")
    only_four.force_ipv4(True)
    try:
        only_four.get("/")
    except TransportError:
        pass  # Unless somebody else happens to have the same port on IPv4.
    assert len(six.sent) == 1


def test_switching_to_ipv4_gives_up_the_kept_connection(wire: Make, connect: Connect) -> None:
    server = wire(DONE)
    client = connect(server)
    client.update_job(MESSAGE)
    client.force_ipv4(True)
    client.update_job(MESSAGE)
    assert [sent.connection for sent in server.sent] == [1, 2]


def test_nothing_of_a_query_is_logged(wire: Make, connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="pilot"):
        with pytest.raises(TransportError):
            connect(wire(answer("x", 500)), "v1").get_access_token("pilot_server", "topsecretkey")
        connect(wire(FORBIDDEN), "auto").update_job(MESSAGE)
    assert "topsecretkey" not in caplog.text


def test_a_redirection_is_never_followed(wire: Make, connect: Connect) -> None:
    elsewhere = wire(JOBS)
    head = f"HTTP/1.1 307 X\r\nLocation: {elsewhere.url}/\r\nContent-Length: 0\r\n\r\n"
    assert "redirection" in str(failure(connect(wire(head.encode()))))
    assert not elsewhere.sent


def test_a_cut_url_encoded_answer_is_not_taken_for_a_whole_one(wire: Make, connect: Connect) -> None:
    def cut(sock: socket.socket) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\nStatusCode=0&PandaID=70000000")
        close(sock)

    with pytest.raises(TransportError):
        connect(wire(cut), "legacy").acquire_jobs(REQUEST)


def test_forced_ipv4_looks_up_ipv4_only_and_keeps_the_name(wire: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    server = wire(DONE)
    asked: list[int] = []
    original = socket.getaddrinfo

    def dual_stack(host: str, port: object, family: int = 0, *args: int, **kwargs: int) -> object:
        if host != "dual.example":
            return original(host, port, family, *args, **kwargs)  # type: ignore[arg-type]
        asked.append(family)
        return original("127.0.0.1" if family == socket.AF_INET else "::1", port, 0, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", dual_stack)
    transport = Transport(f"http://dual.example:{server.port}", credentials=Credentials(environ={}), user_agent="u")
    transport.force_ipv4(True)
    assert transport.get("/x").status == 200
    assert asked == [socket.AF_INET] and server.sent[0].headers["host"] == f"dual.example:{server.port}"
