"""A transformation behind TLS that cannot be trusted, or is none, is not run: 1149 with the reason."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pilot.common.exception import PilotException
from pilot.payload.transform import get_transform
from pilot.util.cancel import CancelToken
from pilot.util.fetch import fetch

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command to make a certificate with")


class Script(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"#!/bin/bash\ntrue\n")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tls")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out",
                    "cert.pem", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
                   cwd=directory, check=True, capture_output=True)
    return directory


@pytest.fixture
def port(certificate: Path) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Script)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


class NoWait(CancelToken):
    """The pauses between the tries are not what is tested."""

    def wait(self, timeout: float | None = None) -> bool:
        return False


def download(url: str, workdir: Path, verify: bool | str) -> str:
    return get_transform(url, workdir, (url.rpartition("/")[0],), lambda where: fetch(where, verify=verify, timeout=20),
                         environ={}, token=NoWait())


def test_the_right_authority_is_trusted(port: int, tmp_path: Path, certificate: Path) -> None:
    assert download(f"https://localhost:{port}/run.sh", tmp_path, str(certificate / "cert.pem")) == "run.sh"
    assert (tmp_path / "run.sh").stat().st_mode & 0o111


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_an_unknown_authority_or_a_wrong_name_is_1149(port: int, tmp_path: Path, certificate: Path, host: str) -> None:
    verify: bool | str = True if host == "localhost" else str(certificate / "cert.pem")
    with pytest.raises(PilotException) as caught:
        download(f"https://{host}:{port}/run.sh", tmp_path, verify)
    assert caught.value.code == 1149
    assert "certificate" in caught.value.diagnosis.lower()
    assert not (tmp_path / "run.sh").exists()


def test_a_server_that_speaks_no_tls_is_1149(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        def answer() -> None:
            while True:
                try:
                    client, _ = door.accept()
                except OSError:
                    return
                client.recv(4096)
                client.sendall(b"HTTP/1.0 200 OK\r\n\r\n#!/bin/bash\n")
                client.close()

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(PilotException) as caught:
            download(f"https://127.0.0.1:{door.getsockname()[1]}/run.sh", tmp_path, True)
        door.shutdown(socket.SHUT_RDWR)
    assert caught.value.code == 1149
    assert "SSL" in caught.value.diagnosis or "TLS" in caught.value.diagnosis
    assert not (tmp_path / "run.sh").exists()
