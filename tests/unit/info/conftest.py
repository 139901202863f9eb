"""A real HTTP server with bad manners, and the examples of the information service document."""

from __future__ import annotations

import json
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable

import pytest

Answer = Callable[[BaseHTTPRequestHandler], None]


class Site:
    """One local web server; ``answers[path]`` is a list of behaviours, the last one is repeated."""

    def __init__(self, tls: Any = None) -> None:
        self.answers: dict[str, list[Answer]] = {}
        self.hits: list[str] = []
        self.agents: list[str] = []
        self.release = threading.Event()
        self.ca = ""
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                site.hits.append(self.path)
                site.agents.append(self.headers.get("User-Agent", ""))
                queue = site.answers.get(self.path) or [site.text("no such page", 404)]
                behaviour = queue.pop(0) if len(queue) > 1 else queue[0]
                self.close_connection = True
                behaviour(self)

            def log_message(self, *args: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass

        self._server = Quiet(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def on(self, path: str, *answers: Answer) -> str:
        """Set what ``path`` answers; returns its URL."""
        self.answers[path] = list(answers)
        return self.url + path

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()

    @staticmethod
    def text(content: str | bytes, status: int = 200) -> Answer:
        def answer(handler: BaseHTTPRequestHandler) -> None:
            body = content.encode() if isinstance(content, str) else content
            handler.send_response(status)
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body)

        return answer

    @classmethod
    def json(cls, value: object) -> Answer:
        return cls.text(json.dumps(value))

    @staticmethod
    def reset(handler: BaseHTTPRequestHandler) -> None:
        """Cut the connection with RST."""
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.rfile.close()
        handler.wfile.close()
        handler.connection.close()

    @staticmethod
    def truncated(handler: BaseHTTPRequestHandler) -> None:
        """Announce more than is sent."""
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b'{"nickname": ')

    def hang(self, handler: BaseHTTPRequestHandler) -> None:
        """Never answer."""
        self.release.wait()

    def drip(self, handler: BaseHTTPRequestHandler) -> None:
        """Send a byte now and then, for ever: no single read takes long."""
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        while not self.release.wait(0.05):
            handler.wfile.write(b" ")
            handler.wfile.flush()


@pytest.fixture
def site() -> Any:
    server = Site()
    yield server
    server.close()


@pytest.fixture
def tls_site(tmp_path: Path) -> Any:
    """The same over TLS; ``tls_site.ca`` is the file of its self-signed certificate."""
    pytest.importorskip("cryptography")
    import datetime
    import ipaddress
    import ssl

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.timezone.utc)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    day = datetime.timedelta(days=1)
    builder = builder.not_valid_before(now - day).not_valid_after(now + day)
    builder = builder.add_extension(names, critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    # Python 3.13 checks strictly: a CA says what its key is for, and which key it is
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    builder = builder.add_extension(usage, critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    pem = tmp_path / "ca.pem"
    pem.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    private = tmp_path / "key.pem"
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, private)
    server = Site(context)
    server.ca = str(pem)
    yield server
    server.close()


@pytest.fixture(scope="session")
def closed_port() -> Any:
    """A port on which nobody listens (bound, so nobody else gets it)."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


GRID_QUEUE: dict[str, Any] = {
    "acopytools": {
        "default": ["rucio"],
        "pl": ["rucio"],
        "pr": ["rucio", "xrdcp"],
        "pw": ["rucio", "gfalcopy"],
        "read_lan": ["rucio", "xrdcp"],
        "write_lan": ["rucio", "gfalcopy"],
    },
    "acopytools_schemas": {
        "read_lan": {"gfal": ["davs", "srm"], "default": ["root"]},
        "write_lan": {"gfal": ["davs"]},
    },
    "allow_lan": True,
    "allow_wan": False,
    "appdir": "",
    "aprotocols": {},
    "astorages": {
        "pl": ["EXAMPLE-T2_DATADISK"],
        "pr": ["EXAMPLE-T2_DATADISK", "EXAMPLE-T2_SCRATCHDISK"],
        "pw": ["EXAMPLE-T2_DATADISK"],
        "read_lan": ["EXAMPLE-T2_DATADISK", "EXAMPLE-T2_SCRATCHDISK"],
        "read_lan_analysis": ["EXAMPLE-T2_DATADISK", "EXAMPLE-T2_SCRATCHDISK"],
        "write_lan": ["EXAMPLE-T2_DATADISK", "EXAMPLE-T1_DATADISK"],
        "write_lan_analysis": ["EXAMPLE-T2_SCRATCHDISK"],
    },
    "atlas_site": "EXAMPLE-T2",
    "catchall": "nopenfiles=2 remoteio_test=true",
    "container_options": "-B /cvmfs,${workdir},/etc/grid-security --contain",
    "container_type": "apptainer:pilot;docker:wrapper",
    "copytools": {"gfalcopy": {"setup": ""}, "rucio": {"setup": ""}, "xrdcp": {"setup": ""}},
    "corecount": 8,
    "cmtconfig": "",
    "direct_access_lan": True,
    "direct_access_wan": False,
    "environ": "FRONTIER_LOG_LEVEL=warning",
    "gstat": "EXAMPLE-T2",
    "id": 4711,
    "is_cvmfs": True,
    "maxinputsize": 60000,
    "maxrss": 32000,
    "maxtime": 345600,
    "maxwdir": 120000,
    "memkillgrace": 100,
    "nickname": "EXAMPLE-T2_UCORE",
    "panda_resource": "EXAMPLE-T2_UCORE",
    "params": {
        "allow_altstageout": True,
        "internet_protocol_version": "IPv6",
        "pilot_maxwdir_grace": 20,
        "pilot_rss_grace": 100,
        "pilot_walltime_grace": 5,
    },
    "pledgedcpu": 0,
    "resource_type": "GRID",
    "siteid": "EXAMPLE-T2_UCORE",
    "state": "ACTIVE",
    "status": "online",
    "timefloor": 120,
    "type": "unified",
    "use_pcache": False,
    "zip_time_gap": 7200,
}

LOCAL_QUEUE: dict[str, Any] = {
    "acopytools": {name: ["mv"] for name in ("default", "pl", "pr", "pw", "read_lan", "write_lan")},
    "astorages": {},
    "atlas_site": "LOCAL",
    "catchall": "",
    "container_options": "",
    "container_type": "",
    "copytools": {"mv": {"setup": ""}},
    "corecount": 1,
    "environ": "",
    "is_cvmfs": False,
    "maxinputsize": -1,
    "maxrss": 2000,
    "maxtime": 86400,
    "maxwdir": 20000,
    "nickname": "LOCAL_TEST",
    "panda_resource": "LOCAL_TEST",
    "params": {},
    "resource_type": "GRID",
    "state": "ACTIVE",
    "status": "online",
    "timefloor": 0,
    "type": "production",
}

HPC_QUEUE: dict[str, Any] = {
    "acopytools": {"default": ["rucio"], "pl": ["rucio"], "es_events": ["objectstore"]},
    "astorages": {"es_events": ["EXAMPLE-T1_ES"], "pl": ["EXAMPLE-T1_DATADISK"]},
    "atlas_site": "EXAMPLE-HPC",
    "catchall": "HPC_HPC,apptainer_options='-B /cvmfs,/scratch --contain'",
    "container_options": "",
    "container_type": "apptainer:pilot",
    "copytools": {"rucio": {"setup": ""}},
    "corecount": 128,
    "maxinputsize": -1,
    "maxrss": 256000,
    "maxtime": 172800,
    "maxwdir": 2000000,
    "nickname": "EXAMPLE-HPC_MCORE",
    "panda_resource": "EXAMPLE-HPC_MCORE",
    "params": {"job_maxwalltime": True, "pilot_walltime_grace": 2},
    "pledgedcpu": -1,
    "resource_type": "hpc",
    "state": "ACTIVE",
    "status": "online",
    "timefloor": 0,
    "type": "production",
    "zip_time_gap": 0,
}

_DAVS = {"endpoint": "davs://se.example.org:443", "flavour": "WEBDAV", "id": 91, "path": "/atlas/datadisk/rucio/"}
_ROOT = {"endpoint": "root://se.example.org:1094/", "flavour": "XROOTD", "id": 92, "path": "/atlas/datadisk/rucio/"}

ENDPOINTS: dict[str, Any] = {
    "EXAMPLE-T2_DATADISK": {
        "arprotocols": {"read_lan": [_ROOT, _DAVS], "read_wan": [_DAVS], "write_lan": [_DAVS, _ROOT]},
        "id": 301,
        "is_deterministic": True,
        "name": "EXAMPLE-T2_DATADISK",
        "resource": {"bucket_id": None, "endpoint": "se.example.org"},
        "rprotocols": {"91": {**_DAVS, "settings": {}}},
        "site": "EXAMPLE-T2",
        "state": "ACTIVE",
        "token": "ATLASDATADISK",
        "type": "DATADISK",
        "some_other_cric_field": "ignored",
    },
    "EXAMPLE-T1_ES": {
        "arprotocols": {"w": [{"endpoint": "s3://s3.example.net:443/", "flavour": "AWS-S3", "id": 175, "path": "/es"}]},
        "id": 412,
        "is_deterministic": False,
        "name": "EXAMPLE-T1_ES",
        "resource": {"bucket_id": 9041},
        "rprotocols": {
            "175": {"settings": {"access_key": "Access_Name", "is_secure": "True", "secret_key": "Secret_Name"}}
        },
        "site": "EXAMPLE-T1",
        "state": "ACTIVE",
        "token": "",
        "type": "OS_ES",
    },
}


@pytest.fixture
def grid_queue() -> dict[str, Any]:
    return json.loads(json.dumps(GRID_QUEUE))


@pytest.fixture
def local_queue() -> dict[str, Any]:
    return json.loads(json.dumps(LOCAL_QUEUE))


@pytest.fixture
def hpc_queue() -> dict[str, Any]:
    return json.loads(json.dumps(HPC_QUEUE))


@pytest.fixture
def endpoints() -> dict[str, Any]:
    return json.loads(json.dumps(ENDPOINTS))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    path.mkdir()
    return path
