"""The Rucio server on PostgreSQL, with six storages, two accounts, and a client for tests.

::

    http://127.0.0.1   userpass    ─┐                ┌─► postgres
    https://localhost  X509 proxy  ─┴─► gunicorn ────┴─► stomp (traces)

No daemon of Rucio runs: rules stay REPLICATING, counters stay 0, nothing is deleted. The pilot needs none of that.
"""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
from functools import partial
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import IO, Any, Callable, Dict, List, Optional, Tuple

from tests.grid.testbed import rucio_files as files
from tests.grid.testbed.packages import environment_of
from tests.grid.testbed.pki import USER_DN, Pki
from tests.grid.testbed.postgres import Postgres
from tests.grid.testbed.service import BrokenService, Service, free_port, tail
from tests.grid.testbed.stomp import Stomp
from tests.grid.testbed.xrootd import GsiXRootD, XRootD

PROGRAMS = Path(__file__).resolve().parent / "programs"
SCOPES = (("root", "mc23"), ("root", "data"), ("pilot", "user.pilot"))
SITE = "TESTBED"
_BUILD = """
from rucio.db.sqla.util import build_database, create_base_vo, create_root_account
build_database(); create_base_vo(); create_root_account()
"""


class RucioError(Exception):
    """A call failed; ``kind`` is the name of the client's exception."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


class Rucio(Service):
    """Server, storages and accounts; ``call`` is any method of the Rucio client."""

    name = "rucio"

    def __init__(self, directory: Path, postgres: Postgres, stomp: Stomp, pki: Pki, xrootd: XRootD, gsi: GsiXRootD,
                 bound: bool = True) -> None:
        super().__init__(directory, bound)
        self.postgres, self.stomp, self.pki = postgres, stomp, pki
        self.storage, self.gsi_storage = xrootd, gsi
        self.port = self.tls_port = 0
        self.posix = directory / "posix"
        self._clients: Dict[str, subprocess.Popen[str]] = {}

    # --- for clients --------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Server for user name and password."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def x509_url(self) -> str:
        """Server for X509 proxies."""
        return f"https://localhost:{self.tls_port}"

    @property
    def env(self) -> Dict[str, str]:
        """Account root, by user name and password."""
        return self.env_of("root")

    @property
    def pilot_env(self) -> Dict[str, str]:
        """Account pilot, by user name and password."""
        return self.env_of("pilot")

    @property
    def x509_env(self) -> Dict[str, str]:
        """Account pilot, by the VOMS proxy."""
        return self.env_of("x509")

    def env_of(self, client: str) -> Dict[str, str]:
        """Environment of the client ``root``, ``pilot`` or ``x509``; the proxy for GSI and davs is in each."""
        home = self.directory / f"client-{client}"
        return {**self.pki.env, "RUCIO_HOME": str(home), "RUCIO_CONFIG": str(home / "etc" / "rucio.cfg"),
                "RUCIO_ACCOUNT": "pilot" if client == "x509" else client,
                "RUCIO_URL": self.x509_url if client == "x509" else self.url}

    @property
    def rses(self) -> Dict[str, Tuple[str, str, int, str, str]]:
        """Scheme, host, port, prefix and protocol of each storage."""
        here, gsi = self.storage, self.gsi_storage
        return {
            "TB_POSIX": ("file", "localhost", 0, f"{self.posix}/", "posix"),
            "TB_XROOTD": ("root", here.host, here.port, "//rucio/", "xrootd"),
            "TB_GFAL": ("root", here.host, here.port, "//gfalrse/", "gfal"),
            "TB_HTTP": ("http", here.host, here.web_port, "/httprse/", "gfal"),
            "TB_DAVS": ("davs", gsi.host, gsi.web_port, "/davsrse/", "gfal"),
            "TB_GSI": ("root", gsi.host, gsi.port, "//gsirse/", "gfal"),
            "TB_XGSI": ("root", gsi.host, gsi.port, "//xgsirse/", "xrootd"),
        }

    def describe(self) -> Dict[str, str]:
        """Servers, accounts and storages."""
        places = {name: f"{scheme}://{host}{f':{port}' if port else ''}{prefix}"
                  for name, (scheme, host, port, prefix, _) in self.rses.items()}
        return {"server": f"{self.url} (root/ddmlab/secret, pilot/pilot/pilotpw)",
                "server, X509": f"{self.x509_url} (pilot)", **places}

    def call(self, method: str, *arguments: Any, client: str = "root", **keywords: Any) -> Any:
        """Call a method of Rucio's Client, ``upload``, or a ``download_...``; values are those that JSON knows."""
        process = self._clients.get(client) or self._open(client)
        pipes: Tuple[Optional[IO[str]], Optional[IO[str]]] = (process.stdin, process.stdout)
        assert pipes[0] and pipes[1]
        pipes[0].write(json.dumps([method, arguments, keywords]) + "\n")
        pipes[0].flush()
        line = pipes[1].readline()
        if not line:
            raise BrokenService(f"the Rucio client ended:\n{tail(self.directory / f'client-{client}.log')}")
        reply = json.loads(line)
        if "error" in reply:
            raise RucioError(reply["error"], reply["text"])
        return reply["result"]

    def upload(self, path: Path, rse: str, scope: str = "mc23", name: str = "", **more: Any) -> None:
        """Upload a file and register it; its name is that of the path unless given."""
        item = {"path": str(path), "rse": rse, "did_scope": scope, "did_name": name or path.name, "no_register": False,
                "register_after_upload": True, **more}
        self.call("upload", [item])

    def replicas(self, scope: str, name: str, **keywords: Any) -> List[Dict[str, Any]]:
        """What ``list_replicas`` says of a file or dataset."""
        found: List[Dict[str, Any]] = self.call("list_replicas", [{"scope": scope, "name": name}], **keywords)
        return found

    def traces(self, wanted: Callable[[Dict[str, Any]], bool], count: int = 1) -> List[Dict[str, Any]]:
        """The traces that ``wanted`` is true for, as soon as ``count`` of them have arrived."""
        return self.stomp.wait_for(lambda message: wanted(message), count)

    # --- start and stop -----------------------------------------------------------------------------------------------

    def _start(self) -> None:
        python = environment_of("rucio-server")
        self.port, self.tls_port = free_port(), free_port()
        self._write_files(python)
        env = {"RUCIO_HOME": str(self.directory), "PYTHONPATH": str(PROGRAMS)}
        filled = self.directory / "filled"
        if not filled.exists():
            self.postgres.sql("drop schema if exists rucio cascade")  # what an attempt that failed has left
            self.run([str(python), "-c", _BUILD], env)
        gunicorn = [str(python.parent / "gunicorn"), "-w", "1", "--threads", "8", "--no-control-socket"]
        for config, port, log in ((files.PLAIN, self.port, "server.log"), (files.TLS, self.tls_port, "server-tls.log")):
            where = ["-c", str(self.directory / config), "-b", f"127.0.0.1:{port}"]
            self.launch([*gunicorn, *where, "rucio_wsgi:application"], self.directory / "log" / log, env)
        for process, port, log in zip(self.processes, (self.port, self.tls_port), ("server.log", "server-tls.log")):
            self.wait_until(partial(self._answers, port), process, self.directory / "log" / log)
        if not filled.exists():
            self._populate()
            filled.touch()

    def _answers(self, port: int) -> bool:
        """Whether the server behind a port is up: gunicorn listens before it has loaded Rucio."""
        if port == self.port:
            connection = HTTPConnection("127.0.0.1", port, timeout=30)
        else:
            context = ssl.create_default_context(cafile=str(self.pki.ca))
            connection = HTTPSConnection("localhost", port, timeout=30, context=context)
        try:
            connection.request("GET", "/ping")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def _write_files(self, python: Path) -> None:
        """Write the configuration of server and clients."""
        here = self.directory
        for name in ("etc", "log", "posix"):
            (here / name).mkdir(exist_ok=True)
        environment = python.parent.parent
        shutil.copytree(environment / "rucio" / "etc" / "mail_templates", here / "etc" / "mail_templates",
                        dirs_exist_ok=True)
        packages = next(environment.glob("lib/python*/site-packages"))
        texts = {
            "etc/rucio.cfg": files.SERVER.format(here=here, database=self.postgres.url, dn=USER_DN,
                                                 stomp=self.stomp.port, endpoints=", ".join(files.ENDPOINTS.split())),
            "etc/alembic.ini": files.ALEMBIC.format(packages=packages, database=self.postgres.url),
            files.PLAIN: files.GUNICORN.format(here=here, name="server"),
            files.TLS: files.GUNICORN.format(here=here, name="server-tls") + files.GUNICORN_TLS.format(pki=self.pki),
        }
        logins = {
            "root": ("root", self.url, files.PASSWORD.format(user="ddmlab", password="secret")),
            "pilot": ("pilot", self.url, files.PASSWORD.format(user="pilot", password="pilotpw")),
            "x509": ("pilot", self.x509_url, files.PROXY.format(pki=self.pki)),
        }
        for client, (account, url, login) in logins.items():
            home = here / f"client-{client}"
            text = files.CLIENT.format(url=url, account=account, home=home, login=login)
            texts[f"client-{client}/etc/rucio.cfg"] = text
        for name, text in texts.items():
            (here / name).parent.mkdir(parents=True, exist_ok=True)
            (here / name).write_text(text, encoding="utf-8")

    def _populate(self) -> None:
        self.call("add_account", "pilot", "SERVICE", "pilot@localhost")
        self.call("add_identity", account="pilot", identity="pilot", authtype="USERPASS", password="pilotpw",
                  email="pilot@localhost", default=True)
        self.call("add_identity", account="pilot", identity=USER_DN, authtype="X509", email="pilot@localhost")
        # The generic policy lets only root and admins add replicas; the schema refuses the Python value True.
        self.call("add_account_attribute", "pilot", "admin", "true")
        for account, scope in SCOPES:
            self.call("add_scope", account, scope)
        for name, (scheme, host, port, prefix, protocol) in self.rses.items():
            self.call("add_rse", name, rse_type="DISK", deterministic=True)
            ranks = {"read": 1, "write": 1, "delete": 1}
            everywhere = {**ranks, "third_party_copy_read": 1, "third_party_copy_write": 1}
            self.call("add_protocol", name, {
                "scheme": scheme, "hostname": host, "port": port, "prefix": prefix,
                "impl": f"rucio.rse.protocols.{protocol}.Default", "domains": {"lan": ranks, "wan": everywhere}})
            self.call("add_rse_attribute", name, "site", SITE)
            for account in ("root", "pilot"):
                self.call("set_local_account_limit", account, name, 10**12)
        # HEAD of a prefix that is not there is an error over HTTP.
        self.storage.mkdir("/httprse")
        self.gsi_storage.mkdir("/davsrse")

    def _open(self, client: str) -> subprocess.Popen[str]:
        with open(self.directory / f"client-{client}.log", "ab") as log:
            command = [str(environment_of("rucio-server")), str(PROGRAMS / "rucio_client.py")]
            process = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                       stderr=log, cwd=self.directory, env={**os.environ, **self.env_of(client)})
        self._clients[client] = process
        return process

    def detach(self) -> None:
        """End the client processes: they stop when their input ends."""
        while self._clients:
            _, process = self._clients.popitem()
            process.communicate()

    def stop(self) -> None:
        """End clients, then servers."""
        self.detach()
        super().stop()
