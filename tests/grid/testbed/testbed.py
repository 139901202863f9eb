"""The set of services: each starts when it is first asked for, after those that it needs; they end in reverse order."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Callable, Dict, List, Optional, TypeVar

from tests.grid.testbed.activemq import ActiveMQ
from tests.grid.testbed.gcs import Gcs
from tests.grid.testbed.pki import Pki
from tests.grid.testbed.postgres import Postgres
from tests.grid.testbed.rucio import Rucio
from tests.grid.testbed.s3 import S3
from tests.grid.testbed.service import BrokenService, Service
from tests.grid.testbed.stomp import Stomp
from tests.grid.testbed.xrootd import GsiXRootD, XRootD

S = TypeVar("S", bound=Service)
ATTEMPTS = 3
"""A port that was free may be taken before the service listens on it."""


PREFIX = "pilot-grid-"


def new_directory() -> Path:
    """A directory for services that end with this process, passable for all; removes those of killed processes."""
    place = Path(tempfile.gettempdir())
    for old in place.glob(f"{PREFIX}[0-9]*-*"):
        if not Path("/proc", old.name[len(PREFIX):].partition("-")[0]).exists():
            shutil.rmtree(old, ignore_errors=True)
    directory = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=place))
    directory.chmod(0o755)
    return directory


class Testbed:
    """Services in sub-directories of ``directory``, which users xrootd and postgres must be able to pass."""

    __test__ = False  # no class of tests, in spite of its name

    def __init__(self, directory: Path, bound: bool = True) -> None:
        self.directory = directory
        self.bound = bound
        self.running: List[Service] = []

    @property
    def pki(self) -> Pki:
        """Certificates and proxies."""
        return self._get("pki", lambda place: Pki(place, self.bound))

    @property
    def xrootd(self) -> XRootD:
        """Storage that anybody may use."""
        return self._get("xrootd", lambda place: XRootD(place, self.bound))

    @property
    def xrootd_gsi(self) -> GsiXRootD:
        """Storage that asks for a proxy."""
        pki = self.pki
        return self._get("xrootd_gsi", lambda place: GsiXRootD(place, pki, self.bound))

    @property
    def s3(self) -> S3:
        """Object store."""
        return self._get("s3", lambda place: S3(place, self.bound))

    @property
    def gcs(self) -> Gcs:
        """Google Cloud Storage."""
        return self._get("gcs", lambda place: Gcs(place, self.bound))

    @property
    def postgres(self) -> Postgres:
        """Database."""
        return self._get("postgres", lambda place: Postgres(place, self.bound))

    @property
    def stomp(self) -> Stomp:
        """Sink of traces."""
        return self._get("stomp", lambda place: Stomp(place, self.bound))

    @property
    def activemq(self) -> ActiveMQ:
        """Message broker."""
        return self._get("activemq", lambda place: ActiveMQ(place, self.bound))

    @property
    def rucio(self) -> Rucio:
        """Data management, on all of the above but the object stores."""
        needed = (self.postgres, self.stomp, self.pki, self.xrootd, self.xrootd_gsi)
        return self._get("rucio", lambda place: Rucio(place, *needed, self.bound))

    def start_all(self, names: Optional[List[str]] = None) -> None:
        """Start the services named, or every one."""
        for name in names or NAMES:
            getattr(self, name)  # the property starts it

    def stop(self) -> None:
        """Stop what was started, the last one first."""
        while self.running:
            self.running.pop().stop()

    @property
    def env(self) -> Dict[str, str]:
        """The variables of all the services that run."""
        return {name: value for service in self.running for name, value in service.env.items()}

    def _get(self, name: str, make: Callable[[Path], S]) -> S:
        for service in self.running:
            if service.name == name:
                return service  # type: ignore[return-value]
        for attempt in range(1, ATTEMPTS + 1):
            service = make(self.directory / name)
            try:
                service.start()
                break
            except BrokenService:
                if attempt == ATTEMPTS:
                    raise
        self.running.append(service)
        return service


NAMES = ("pki", "xrootd", "xrootd_gsi", "s3", "postgres", "stomp", "activemq", "rucio")
