"""Small log servers on real sockets: HTTP(S) with any status, TCP lines, one that accepts and never reads."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PATIENCE = 60.0


class Posted(NamedTuple):
    path: str
    body: Any
    login: str


class Inbox:
    """What a server got; tests block on it."""

    def __init__(self) -> None:
        self._items: list[Any] = []
        self._more = threading.Condition()

    def add(self, item: Any) -> None:
        with self._more:
            self._items.append(item)
            self._more.notify_all()

    def all(self) -> list[Any]:
        with self._more:
            return list(self._items)

    def wait(self, wanted: Any, timeout: float = PATIENCE) -> list[Any]:
        """Block until ``wanted(items)``."""
        with self._more:
            assert self._more.wait_for(lambda: wanted(self._items), timeout), self._items[-20:]
            return list(self._items)


class HttpLog:
    """An HTTP server; ``status`` is what it answers, a list is worked off first."""

    def __init__(self, status: int = 200, tls: Path | None = None) -> None:
        self.status, self.first = status, list[int]()
        self.inbox = Inbox()
        """Accepted requests."""
        self.attempts = Inbox()
        """Statuses of all requests."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = outer.first.pop(0) if outer.first else outer.status
                kind, _, word = self.headers.get("Authorization", "").partition(" ")
                login = base64.b64decode(word).decode() if kind == "Basic" else ""
                if 200 <= status < 300:
                    outer.inbox.add(Posted(self.path, json.loads(body), login))
                outer.attempts.add(status)
                self.send_response(status)  # last: the next batch comes after it, by another thread
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def records(self) -> list[dict[str, Any]]:
        """All records of accepted batches."""
        return [record for posted in self.inbox.all() for record in posted.body]

    def messages(self) -> list[str]:
        """Their texts."""
        return [record.get("message", "") for record in self.records()]

    def wait_message(self, text: str) -> None:
        """Block until a line with this text has come."""
        self.inbox.wait(lambda items: any(text in json.dumps(item.body) for item in items))

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class LineLog:
    """A TCP server that collects what it gets; with ``mute`` it accepts connections and reads nothing."""

    def __init__(self, *, mute: bool = False, tls: Path | None = None) -> None:
        self.lines, self.raw = Inbox(), b""
        self._mute = mute
        self._context = None
        if tls is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(tls)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.port = self._listener.getsockname()[1]
        self.connections = Inbox()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            self.connections.add(1)
            if not self._mute:
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            rest = b""
            while block := connection.recv(65536):
                self.raw += block
                *lines, rest = (rest + block).split(b"\n")
                for line in lines:
                    self.lines.add(line.decode("utf-8", "replace"))
        except OSError:
            return
        finally:
            self.connections.add(0)

    def drop(self) -> None:
        """Close all connections."""
        for connection in self._open:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            connection.close()
        self._open.clear()

    def close(self) -> None:
        self._listener.close()
        self.drop()


def make_pki(directory: Path) -> tuple[Path, Path]:
    """Return (file with certificate and key for 127.0.0.1, file of the CA)."""

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def issue(subject: str, issuer: str, key: Any, signer: Any, *extensions: tuple[x509.ExtensionType, bool]) -> Any:
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = (x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name(issuer))
                   .public_key(key.public_key()).serial_number(x509.random_serial_number())
                   .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
                   .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
                   .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False))
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(signer, hashes.SHA256())

    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(digital_signature=False, content_commitment=False, key_encipherment=False,
                          data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
                          encipher_only=False, decipher_only=False)
    ca = issue("log CA", "log CA", ca_key, ca_key, (x509.BasicConstraints(True, None), True), (usage, True))
    cert = issue("127.0.0.1", "log CA", key, ca_key, (x509.SubjectAlternativeName(
        [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False))
    server, authority = directory / "logserver.pem", directory / "logca.pem"
    server.write_bytes(cert.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    authority.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    return server, authority
