"""Do remote inputs open? Real HTTP servers: good, refusing, silent, slow; a bounded number of tests at a time."""

from __future__ import annotations

import json
import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Iterator

import pytest

from pilot.common.exception import PilotException
from pilot.copytool.base import Replica
from pilot.info.filespec import FileSpec
from pilot.staging import remotefiles
from pilot.staging.remotefiles import verify_remote_files
from pilot.util.bounded import TookTooLong, bounded
from pilot.util.cancel import CancelledError, CancelToken
from tests.grid.gate import Deaf
from tests.unit.staging.conftest import planned

__all__ = ["planned"]


class Storage:
    """Serves whatever is asked for; names beginning with ``no`` are 404, ``empty`` has no bytes."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.inside = 0
        self.most = 0
        self.lock = threading.Condition()
        self.crowd = 0
        storage = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                storage.serve(self)

            def log_message(self, *_arguments: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        name = handler.path.rsplit("/", 1)[-1]
        with self.lock:
            self.asked.append(handler.path)
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.lock.notify_all()
            if self.crowd:
                self.lock.wait_for(lambda: self.most >= self.crowd, 20)
        content = b"" if name.startswith(("no", "empty")) else b"root"
        handler.send_response(404 if name.startswith("no") else 200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        with self.lock:
            self.inside -= 1
        handler.wfile.write(content)


@pytest.fixture
def storage() -> Iterator[Storage]:
    running = Storage()
    yield running
    running.server.shutdown()
    running.server.server_close()


@pytest.fixture
def deaf() -> Iterator[Deaf]:
    listener = Deaf()
    yield listener
    listener.close()


def remote(lfn: str, url: str) -> FileSpec:
    return FileSpec(lfn, status="remote_io", turl=url, ddmendpoint="HERE", scope="mc23")


def test_files_that_open_are_recorded_and_listed(planned: Any, storage: Storage) -> None:
    files = [remote("a", f"{storage.url}/a?sig=x&y=1"), remote("b", f"{storage.url}/empty")]
    verify_remote_files(files, {}, planned.plan(), CancelToken())
    assert sorted((r.lfn, r.state, r.text, r.code) for r in planned.records) == [
        ("a", "FOUND_ROOT", "direct_access", 0), ("b", "FOUND_ROOT", "direct_access", 0)]
    known = json.loads((planned.workdir / "remotefileverification_dictionary.json").read_text())
    assert sorted(known.values()) == [True, True]
    log = (planned.workdir / "remotefileslog.txt").read_text()
    assert "opened in" in log and "4 B read" in log
    assert "sig=x" not in log, "signatures are secrets"


def test_a_file_that_does_not_open_fails_the_job_with_its_name_place_and_reason(planned: Any, storage: Storage) -> None:
    bad, good = remote("bad", f"{storage.url}/nowhere"), remote("good", f"{storage.url}/a")
    with pytest.raises(PilotException) as caught:
        verify_remote_files([bad, good], {}, planned.plan(), CancelToken())
    assert caught.value.code == 1361
    assert caught.value.detail == "Remote file(s) could not be opened: [bad at HERE (HTTP 404 Not Found)]"
    assert (bad.status, bad.status_code, good.status) == ("failed", 1361, "remote_io")
    states = {record.lfn: (record.state, record.text, record.code) for record in planned.records}
    assert states["bad"] == ("FAILED_REMOTE_OPEN", "HTTP 404 Not Found", 1361)
    assert states["good"] == ("FOUND_ROOT", "direct_access", 0)
    known = json.loads((planned.workdir / "remotefileverification_dictionary.json").read_text())
    assert known == {f"{storage.url}/nowhere": False, f"{storage.url}/a": True}


def test_the_next_replica_is_opened_instead(planned: Any, storage: Storage) -> None:
    spec = remote("a", f"{storage.url}/nowhere")
    spare = {"a": [Replica(f"{storage.url}/nothing", "TWO", "lan"), Replica(f"{storage.url}/good", "THREE", "wan")]}
    verify_remote_files([spec], spare, planned.plan(), CancelToken())
    assert (spec.turl, spec.status) == (f"{storage.url}/good", "remote_io")
    assert (spec.ddmendpoint, spec.domain) == ("THREE", "wan")
    assert [(r.endpoint, r.state, r.attempt) for r in planned.records] == [
        ("HERE", "FAILED_REMOTE_OPEN", 1), ("TWO", "FAILED_REMOTE_OPEN", 2), ("THREE", "FOUND_ROOT", 3)]


def test_an_xcache_stands_before_the_next_replica_too(planned: Any, storage: Storage, monkeypatch: Any) -> None:
    monkeypatch.setenv("ALRB_XCACHE_PROXY", f"{storage.url}/cache/")
    spec = remote("a", f"{storage.url}/nowhere")
    ctx = planned.plan(environ=dict(os.environ))
    verify_remote_files([spec], {"a": [Replica("root://se//good", "TWO", "lan")]}, ctx, CancelToken())
    assert spec.turl == "${ALRB_XCACHE_PROXY}root://se//good"
    assert storage.asked[-1] == "/cache/root://se//good"


@pytest.mark.parametrize(("catchall", "most"), [("", 1), ("nopenfiles=3", 3)])
def test_as_many_at_a_time_as_the_queue_says(planned: Any, storage: Storage, catchall: str, most: int) -> None:
    storage.crowd = most
    files = [remote(f"f{number}", f"{storage.url}/{number}") for number in range(6)]
    verify_remote_files(files, {}, planned.plan(catchall=catchall), CancelToken())
    assert storage.most == most
    assert len(storage.asked) == 6


def test_a_silent_server_costs_its_time_out_and_no_other_file(
    planned: Any, storage: Storage, deaf: Deaf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remotefiles, "TIMEOUT", 0.2)
    files = [remote("silent", f"http://127.0.0.1:{deaf.port}/x"), remote("good", f"{storage.url}/a")]
    with pytest.raises(PilotException) as caught:
        verify_remote_files(files, {}, planned.plan(), CancelToken())
    assert caught.value.code == 1361
    assert "silent at HERE" in caught.value.detail
    assert [spec.status for spec in files] == ["failed", "remote_io"]


def test_a_cancellation_does_not_wait_for_a_silent_server(planned: Any, deaf: Deaf) -> None:
    token = CancelToken()
    spec = remote("silent", f"http://127.0.0.1:{deaf.port}/x")
    other = Replica("http://127.0.0.1:1/x", "TWO", "lan")

    def cancel() -> None:
        deaf.heard.wait(20)
        token.cancel(1201, "SIGTERM")

    threading.Thread(target=cancel, daemon=True).start()
    with pytest.raises(CancelledError):
        verify_remote_files([spec], {"silent": [other]}, planned.plan(), token)
    assert spec.ddmendpoint == "HERE", "no other replica was tried"


def test_a_refused_connection_and_a_missing_host_are_reasons(planned: Any) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        spec = remote("a", f"http://127.0.0.1:{closed.getsockname()[1]}/x")
        with pytest.raises(PilotException) as caught:
            verify_remote_files([spec], {}, planned.plan(), CancelToken())
    assert "refused" in caught.value.detail


@pytest.mark.parametrize("form", ["file://{}", "file://localhost{}", "file:{}", "{}"])
def test_files_of_mounted_storage_are_opened_as_files(planned: Any, tmp_path: Path, form: str) -> None:
    path = tmp_path / "localhost" / "a.root"
    path.parent.mkdir()
    path.write_bytes(b"root")
    verify_remote_files([remote("a", form.format(path))], {}, planned.plan(), CancelToken())
    with pytest.raises(PilotException) as caught:
        verify_remote_files([remote("b", form.format(tmp_path / "gone"))], {}, planned.plan(), CancelToken())
    assert "No such file" in caught.value.detail


def test_a_mount_that_hangs_is_not_waited_for(planned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remotefiles, "TIMEOUT", 0.2)
    os.mkfifo(tmp_path / "pipe")  # opening one blocks as a dead mount does
    with pytest.raises(PilotException) as caught:
        verify_remote_files([remote("a", f"file://{tmp_path}/pipe")], {}, planned.plan(), CancelToken())
    assert "no answer within" in caught.value.detail
    with open(tmp_path / "pipe", "wb"):
        pass  # lets the thread go


def test_what_nothing_here_can_open_is_not_judged(planned: Any) -> None:
    spec = remote("a", "dcap://se/x")
    verify_remote_files([spec], {}, planned.plan(), CancelToken())
    assert spec.status == "remote_io"
    assert [record.state for record in planned.records] == ["FOUND_ROOT"]
    assert json.loads((planned.workdir / "remotefileverification_dictionary.json").read_text()) == {}


def test_no_login_of_a_netrc_is_sent(planned: Any, storage: Storage, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    seen: list[Any] = []
    plain = storage.serve

    def serve(handler: BaseHTTPRequestHandler) -> None:
        seen.append(handler.headers.get("Authorization"))
        plain(handler)

    monkeypatch.setattr(storage, "serve", serve)
    verify_remote_files([remote("a", f"{storage.url}/a")], {}, planned.plan(), CancelToken())
    assert seen == [None]


# --- bounded calls ---------------------------------------------------------------------------------------------------
def test_a_bounded_call_gives_its_result_or_its_exception() -> None:
    assert bounded(lambda: 7, 20, CancelToken()) == 7
    with pytest.raises(ZeroDivisionError):
        bounded(lambda: 1 // 0, 20, CancelToken())


def test_a_bounded_call_that_hangs_is_left_behind() -> None:
    never = threading.Event()
    with pytest.raises(TookTooLong):
        bounded(never.wait, 0.05, CancelToken())
    token = CancelToken()
    token.cancel(1201, "SIGTERM")
    with pytest.raises(CancelledError):
        bounded(never.wait, 20, token)
    never.set()
