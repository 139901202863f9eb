"""The copytool xrdcp, by library and by command, with a real XRootD server."""

from __future__ import annotations

from pathlib import Path
from typing import Type

import pytest

from pilot.util.helper import HelperPool
from tests.grid.adapters import SMALL, Xrdcp, XrdcpCommand, move
from tests.grid.conformance import (
    Aborts,
    Credentials,
    Downloads,
    InTheMaking,
    KilledServer,
    LostServer,
    Permissions,
    Races,
    Uploads,
)
from tests.grid.testbed.xrootd import GsiXRootD, XRootD

WAYS = [pytest.param(Xrdcp, id="library"), pytest.param(XrdcpCommand, id="command")]


@pytest.mark.parametrize("way", WAYS)
class TestXrdcp(Downloads, Uploads, InTheMaking, Races, Permissions, Aborts, LostServer):
    """root:// without authentication."""

    @pytest.fixture
    def adapter(self, way: Type[Xrdcp], tmp_path: Path, helpers: HelperPool, xrootd: XRootD) -> Xrdcp:
        return way(tmp_path, helpers, xrootd)


@pytest.mark.parametrize("way", WAYS)
class TestXrdcpWithAServerOfItsOwn(KilledServer):
    """A server that is killed."""

    @pytest.fixture
    def adapter(self, way: Type[Xrdcp], tmp_path: Path, helpers: HelperPool, own_xrootd: XRootD) -> Xrdcp:
        return way(tmp_path, helpers, own_xrootd)


@pytest.mark.parametrize("way", WAYS)
class TestXrdcpWithProxies(Credentials, Permissions):
    """root:// with GSI."""

    @pytest.fixture
    def adapter(self, way: Type[Xrdcp], tmp_path: Path, helpers: HelperPool, xrootd_gsi: GsiXRootD) -> Xrdcp:
        return way(tmp_path, helpers, xrootd_gsi)

    def test_a_file_goes_there_and_back(self, adapter: Xrdcp) -> None:
        move(adapter.tool(), adapter.upload("dir/file", SMALL))
        assert move(adapter.tool(), adapter.download("dir/file", SMALL)).verified

    def test_the_name_of_the_server_need_not_be_configured(self, adapter: Xrdcp) -> None:
        adapter.put("input", SMALL)
        environ = {name: value for name, value in adapter.environ().items() if name != "XrdSecGSISRVNAMES"}
        assert move(adapter.tool(environ=environ), adapter.download("input", SMALL)).verified
