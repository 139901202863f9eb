"""Real services for the tests of this directory (docs/grid-testbed.md); each starts when the first test asks for it.

A worker of pytest-xdist has its own set. Nothing outlives pytest: it stops them, and when it is killed the kernel does.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Callable, Iterator, TypeVar

import pytest

from pilot.util.helper import HelperPool
from tests.disks import small_disk  # noqa: F401 - a fixture
from tests.grid.testbed.activemq import ActiveMQ
from tests.grid.testbed.gcs import Gcs
from tests.grid.testbed.names import use_local_names
from tests.grid.testbed.pki import Pki
from tests.grid.testbed.rucio import Rucio
from tests.grid.testbed.s3 import S3
from tests.grid.testbed.service import MissingService
from tests.grid.testbed.testbed import Testbed, new_directory
from tests.grid.testbed.xrootd import GsiXRootD, XRootD
from tests.integration.harness import Farm

T = TypeVar("T")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this directory."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.grid)


@pytest.fixture(scope="session")
def testbed() -> Iterator[Testbed]:
    """All services; the fixtures below are its parts. Users xrootd and postgres can pass its directory."""
    directory = new_directory()
    use_local_names(directory)
    services = Testbed(directory)
    try:
        yield services
    finally:
        services.stop()
        shutil.rmtree(directory, ignore_errors=True)


def required(get: Callable[[], T]) -> T:
    """A service, or a skip that names what is missing; with PILOT_REQUIRE_SERVICES=1 a failure."""
    try:
        return get()
    except MissingService as missing:
        if os.environ.get("PILOT_REQUIRE_SERVICES") == "1":
            pytest.fail(f"PILOT_REQUIRE_SERVICES=1, and {missing}", pytrace=False)
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def pki(testbed: Testbed) -> Pki:
    """Certificate authority, host and user certificates, proxies."""
    return required(lambda: testbed.pki)


@pytest.fixture(scope="session")
def xrootd(testbed: Testbed) -> XRootD:
    """Storage without authentication: root:// and http://."""
    return required(lambda: testbed.xrootd)


@pytest.fixture(scope="session")
def xrootd_gsi(testbed: Testbed) -> GsiXRootD:
    """Storage with GSI: root:// and davs://; its ``env`` has the proxy."""
    return required(lambda: testbed.xrootd_gsi)


@pytest.fixture(scope="session")
def s3(testbed: Testbed) -> S3:
    """Object store."""
    return required(lambda: testbed.s3)


@pytest.fixture(scope="session")
def gcs(testbed: Testbed) -> Gcs:
    """Google Cloud Storage, imitated."""
    return required(lambda: testbed.gcs)


@pytest.fixture(scope="session")
def activemq(testbed: Testbed) -> ActiveMQ:
    """Message broker."""
    return required(lambda: testbed.activemq)


@pytest.fixture(scope="session")
def rucio(testbed: Testbed) -> Rucio:
    """Rucio server with storages TB_POSIX, TB_XROOTD, TB_GFAL, TB_HTTP, TB_DAVS, TB_GSI and TB_XGSI."""
    return required(lambda: testbed.rucio)


@pytest.fixture(scope="session")
def helpers() -> Iterator[HelperPool]:
    """Helper processes for client libraries."""
    pool = HelperPool()
    with pool.session():
        yield pool
    pool.close(at_once=True)


@pytest.fixture
def own_xrootd(xrootd: XRootD) -> Iterator[XRootD]:
    """Storage without authentication that this test alone uses, and may kill."""
    directory = new_directory()
    storage = XRootD(directory / "xrootd")
    try:
        storage.start()
        yield storage
    finally:
        storage.stop()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    """A sandbox and a node; nothing that a test has started is alive after it."""
    running = Farm(tmp_path)
    try:
        yield running
    finally:
        left = running.processes()
        running.close()
    assert not left, f"left behind: {left}"
