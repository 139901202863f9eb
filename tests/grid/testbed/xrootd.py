"""XRootD storages: one that anybody may use (root:// and http://), one with GSI and HTTPS (root:// and davs://)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Dict, List

from tests.grid.testbed.pki import USER_DN, Pki
from tests.grid.testbed.service import Service, as_user, free_port, listens, needs, own

USER = "xrootd"


class XRootD(Service):
    """Anonymous storage; files are on disk below ``data``."""

    name = "xrootd"
    host = "127.0.0.1"
    web_scheme = "http"

    def __init__(self, directory: Path, bound: bool = True) -> None:
        super().__init__(directory, bound)
        self.data = directory / "data"
        self.port = 0
        self.web_port = 0

    @property
    def root_url(self) -> str:
        """``root://host:port``, without the double slash that a path begins with."""
        return f"root://{self.host}:{self.port}"

    @property
    def http_url(self) -> str:
        """``http://host:port``."""
        return f"{self.web_scheme}://{self.host}:{self.web_port}"

    def url(self, path: str) -> str:
        """The root:// URL of a path of the storage."""
        return f"{self.root_url}//{path.lstrip('/')}"

    def http(self, path: str) -> str:
        """The http:// (https:// with GSI) URL of a path of the storage."""
        return f"{self.http_url}/{path.lstrip('/')}"

    def path(self, path: str) -> Path:
        """Where a path of the storage is on disk."""
        return self.data / path.lstrip("/")

    def mkdir(self, path: str) -> Path:
        """Make a directory of the storage, as the storage's user."""
        target = self.path(path)
        for part in reversed([target, *target.parents]):
            if self.data in part.parents:
                own(part, USER)
        return target

    def put(self, path: str, content: bytes) -> Path:
        """Write a file straight into the storage, as the storage's user."""
        target = self.mkdir(str(Path(path).parent)) / Path(path).name
        target.write_bytes(content)
        if os.geteuid() == 0:
            shutil.chown(target, USER, USER)
        return target

    def describe(self) -> Dict[str, str]:
        """URLs and the directory."""
        return {"root": f"{self.root_url}//", self.web_scheme: f"{self.http_url}/", "files": str(self.data)}

    def _common(self) -> List[str]:
        return ["all.role server", f"xrd.port {self.port}", "xrd.network nodnr",
                f"all.adminpath {self.directory}/admin", f"all.pidpath {self.directory}/run",
                f"oss.localroot {self.data}", "all.export /", "xrootd.chksum max 32 adler32"]

    def _configuration(self) -> List[str]:
        allow = [f"xrd.allow host {peer}" for peer in ("127.0.0.1", "::1", "localhost")]
        web = ["if exec xrootd", f"  xrd.protocol http:{self.web_port} libXrdHttp.so", "  http.listingdeny no",
               "  http.desthttps no", "fi"]
        return [*self._common(), *allow, *web]

    def _start(self) -> None:
        server = needs("xrootd")
        needs("xrdcp")
        as_user(USER, [])
        for name in (".", "data", "admin", "run", "log"):
            own(self.directory / name, USER)
        self.port, self.web_port = self.port or free_port(), self.web_port or free_port()  # those of before, if any
        configuration = self.directory / "xrootd.cfg"
        configuration.write_text("\n".join([*self._configuration(), ""]), encoding="ascii")
        output = self.directory / "start.log"
        process = self.launch(as_user(USER, [server, "-n", "tb", "-c", str(configuration),
                                             "-l", str(self.directory / "log" / "xrootd.log")]), output)
        # The name given with -n becomes a directory; when the log cannot even be opened, the reason is on the output.
        log = self.directory / "log" / "tb" / "xrootd.log"
        self.wait_until(self._answers, process, output, log)

    def _answers(self) -> bool:
        if not (listens(self.port) and listens(self.web_port)):
            return False
        done = subprocess.run(["xrdfs", self.root_url, "query", "config", "version"], stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=30)
        return done.returncode == 0


class GsiXRootD(XRootD):
    """Storage that asks for a proxy of the testbed's user: always on root://, on https:// when the client sends one."""

    name = "xrootd_gsi"
    host = "localhost"
    web_scheme = "https"

    def __init__(self, directory: Path, pki: Pki, bound: bool = True) -> None:
        super().__init__(directory, bound)
        self.pki = pki

    @property
    def env(self) -> Dict[str, str]:
        """The proxy and the authority."""
        return self.pki.env

    @property
    def davs_url(self) -> str:
        """``davs://localhost:port``, as gfal2 and davix say for https://."""
        return f"davs://{self.host}:{self.web_port}"

    def davs(self, path: str) -> str:
        """The davs:// URL of a path of the storage."""
        return f"{self.davs_url}/{path.lstrip('/')}"

    def describe(self) -> Dict[str, str]:
        """URLs and the directory."""
        return {"root": f"{self.root_url}//", "davs": f"{self.davs_url}/", "files": str(self.data)}

    def _configuration(self) -> List[str]:
        here, authorities = self.directory, self.pki.certificates
        certificate, key, users = here / "hostcert.pem", here / "hostkey.pem", here / "grid-mapfile"
        for source, target, mode in ((self.pki.host_cert, certificate, 0o444), (self.pki.host_key, key, 0o400)):
            target.unlink(missing_ok=True)
            shutil.copyfile(source, target)
            target.chmod(mode)
            if os.geteuid() == 0:
                shutil.chown(target, USER, USER)
        users.write_text(f'"{USER_DN}" pilot\n', encoding="ascii")
        return [*self._common(), "xrootd.seclib libXrdSec.so",
                f"sec.protocol gsi -certdir:{authorities} -cert:{certificate} -key:{key} -gridmap:{users}"
                " -gmapopt:trymap -crl:ignore -vomsat:ignore -d:1",
                "sec.protbind * only gsi", "if exec xrootd",
                f"  xrd.protocol http:{self.web_port} libXrdHttp.so", f"  xrd.tls {certificate} {key}",
                f"  xrd.tlsca certdir {authorities}", f"  http.gridmap {users}", "  http.listingdeny no", "fi"]

    def _answers(self) -> bool:
        return listens(self.port) and listens(self.web_port)
