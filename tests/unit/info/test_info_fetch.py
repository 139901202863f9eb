from __future__ import annotations

import io
import os
import subprocess
import sys
import threading

import pytest
import requests

from pilot.util.cancel import CancelledError, CancelToken
from pilot.util.fetch import FetchError, _check_redirection, fetch


def failure(url, **kwargs):
    with pytest.raises(FetchError) as caught:
        fetch(url, **kwargs)
    return caught.value


def test_file_by_path_and_by_url(tmp_path):
    path = tmp_path / "a b%c"
    path.write_bytes(b"content")
    assert fetch(str(path)) == b"content"
    assert fetch(f"file://{tmp_path}/a%20b%25c") == b"content"


def test_file_that_cannot_be_read(tmp_path):
    error = failure(str(tmp_path / "none"))
    assert (error.reason, error.transient) == ("no such file", False)
    assert not failure(str(tmp_path)).transient
    assert "unknown URL scheme" in failure("gopher://x/y").reason


def test_http(site):
    url = site.on("/x", site.text(b"\x00binary"))
    assert fetch(url, headers={"User-Agent": "pilot/2.13"}) == b"\x00binary"
    assert site.agents == ["pilot/2.13"]


@pytest.mark.parametrize(("status", "transient"), [(404, False), (403, False), (500, True), (503, True), (429, True)])
def test_http_status(site, status, transient):
    error = failure(site.on("/x", site.text("<html>sorry</html>", status)))
    assert error.status == status
    assert error.transient is transient
    assert error.reason.startswith(f"HTTP {status}")


def test_connection_refused_does_not_go_away(closed_port):
    error = failure(f"http://127.0.0.1:{closed_port}/x")
    assert (error.reason, error.transient) == ("connection refused", False)


def test_unknown_host_does_not_go_away():
    error = failure("http://no-such-host.invalid/x")
    assert error.transient is False
    assert error.reason == "host name cannot be resolved"


def test_reset_may_go_away(site):
    error = failure(site.on("/x", site.reset))
    assert error.transient
    assert "broken" in error.reason


@pytest.mark.filterwarnings("ignore:Unverified HTTPS")
def test_https_is_verified(tls_site):
    url = tls_site.on("/x", tls_site.text("secret"))
    error = failure(url)
    assert error.reason.startswith("TLS failure")
    assert not error.transient
    assert fetch(url, verify=tls_site.ca) == b"secret"
    assert fetch(url, verify=False) == b"secret"


def test_truncated_body_is_no_success(site):
    assert failure(site.on("/x", site.truncated)).transient


def test_server_that_never_answers(site):
    error = failure(site.on("/x", site.hang), timeout=0.2)
    assert error.timed_out and error.transient


def test_server_that_sends_a_byte_now_and_then(site):
    error = failure(site.on("/x", site.drip), timeout=0.3)
    assert error.timed_out and error.transient


def test_too_long(site, tmp_path):
    assert "limit of 10 bytes" in failure(site.on("/x", site.text("x" * 11)), max_bytes=10).reason
    (tmp_path / "x").write_text("x" * 11)
    assert "limit of 10 bytes" in failure(str(tmp_path / "x"), max_bytes=10).reason
    assert len(fetch(str(tmp_path / "x"), max_bytes=11)) == 11


def test_hung_file_system_is_left_alone_after_the_time_out(tmp_path):
    pipe = tmp_path / "hung"
    os.mkfifo(pipe)
    assert failure(str(pipe), timeout=0.1).timed_out
    threads = threading.active_count()
    error = failure(str(pipe), timeout=60)
    assert "still hanging" in error.reason
    assert threading.active_count() == threads
    with open(pipe, "wb"):  # let the reader go
        pass


def test_path_is_read_again_once_it_no_longer_hangs(tmp_path):
    pipe = tmp_path / "hung"
    os.mkfifo(pipe)
    assert failure(str(pipe), timeout=0.1).timed_out
    reader = next(thread for thread in threading.enumerate() if str(pipe)[:40] in thread.name)
    with open(pipe, "wb"):
        pass
    reader.join()
    pipe.unlink()
    pipe.write_text("back")
    assert fetch(str(pipe)) == b"back"


def test_cancel_interrupts_a_fetch(site):
    token = CancelToken()
    hung = site.hang

    def cancel_then_hang(handler):
        token.cancel(1201, "SIGTERM")
        hung(handler)

    with pytest.raises(CancelledError) as caught:
        fetch(site.on("/x", cancel_then_hang), timeout=100, token=token)
    assert caught.value.code == 1201


def test_a_local_file_needs_no_http_library(tmp_path):
    (tmp_path / "x").write_text("1")
    code = (
        "import sys; import pilot.info.infoservice; from pilot.util.fetch import fetch; fetch(sys.argv[1]);"
        "sys.exit('requests' in sys.modules or 'urllib3' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")], check=False).returncode == 0


@pytest.mark.parametrize(("here", "location", "good"), [
    ("https://a.example/x", "https://b.example/y", True), ("https://a.example/x", "/y", True),
    ("https://a.example/x", "//b.example/y", True), ("http://a.example/x", "http://b.example/y", True),
    ("http://a.example/x", "https://b.example/y", True), ("https://a.example/x", "http://a.example/x", False),
    ("https://a.example/x", "HTTP://a.example/x", False), ("https://a.example/x", "ftp://a.example/x", False)])
def test_no_redirection_leaves_tls(here: str, location: str, good: bool) -> None:
    answer = requests.Response()
    answer.url, answer.status_code, answer.headers["Location"], answer.raw = here, 302, location, io.BytesIO()
    if good:
        _check_redirection(here, answer)
    else:
        with pytest.raises(FetchError, match="redirected from https"):
            _check_redirection(here, answer)
