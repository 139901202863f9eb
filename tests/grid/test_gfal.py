"""The copytool gfal, by library and by command, with real servers: root://, http://, davs://, and root:// with GSI."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterator, Type

import pytest

from pilot.util.helper import HelperPool
from tests.grid.adapters import SMALL, GfalHttp, GfalHttpCommand, GfalRoot, GfalRootCommand, XRootDAdapter, move
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
    refused,
)
from tests.grid.testbed.xrootd import GsiXRootD, XRootD
from tests.grid.webdoor import WebDoor

WAYS = {
    "root": (GfalRoot, "xrootd"),
    "http": (GfalHttp, "xrootd"),
    "davs": (GfalHttp, "xrootd_gsi"),
    "root-gsi": (GfalRoot, "xrootd_gsi"),
    "root-command": (GfalRootCommand, "xrootd"),
    "http-command": (GfalHttpCommand, "xrootd"),
    "davs-command": (GfalHttpCommand, "xrootd_gsi"),
}


@pytest.mark.parametrize("way", WAYS)
class TestGfal(Downloads, Uploads, InTheMaking, Permissions, Aborts, LostServer):
    """Each protocol, by library and by command."""

    @pytest.fixture
    def adapter(self, way: str, tmp_path: Path, helpers: HelperPool, request: pytest.FixtureRequest) -> XRootDAdapter:
        kind, storage = WAYS[way]
        return kind(tmp_path, helpers, request.getfixturevalue(storage))


@pytest.mark.parametrize("kind", [GfalRoot, GfalRootCommand])
class TestGfalWithProxies(Credentials):
    """The testbed's web door lets everybody in, so only root:// is tried."""

    @pytest.fixture
    def adapter(self, kind: Type[GfalRoot], tmp_path: Path, helpers: HelperPool, xrootd_gsi: GsiXRootD) -> GfalRoot:
        return kind(tmp_path, helpers, xrootd_gsi)


@pytest.mark.parametrize("way", [way for way in WAYS if not way.startswith("root")])
class TestGfalOverTheWeb(Races):
    """gfal2's plug-in for root:// removes what another one is writing: a race there has no winner."""

    @pytest.fixture
    def adapter(self, way: str, tmp_path: Path, helpers: HelperPool, request: pytest.FixtureRequest) -> XRootDAdapter:
        kind, storage = WAYS[way]
        return kind(tmp_path, helpers, request.getfixturevalue(storage))


@pytest.mark.parametrize("kind", [GfalRoot, GfalHttp, GfalRootCommand, GfalHttpCommand])
class TestGfalWithAServerOfItsOwn(KilledServer):
    """A server that is killed."""

    @pytest.fixture
    def adapter(self, kind: Type[XRootDAdapter], tmp_path: Path, helpers: HelperPool, own_xrootd: XRootD) -> Any:
        return kind(tmp_path, helpers, own_xrootd)


@pytest.mark.parametrize("kind", [GfalHttp, GfalHttpCommand], ids=["library", "command"])
class TestGfalWithTokens:
    """A web door that wants a bearer token."""

    @pytest.fixture
    def door(self) -> Iterator[WebDoor]:
        server = WebDoor({"first-token-of-the-pilot"})
        yield server
        server.close()

    @pytest.fixture
    def adapter(self, kind: Type[GfalHttp], tmp_path: Path, helpers: HelperPool, xrootd: XRootD) -> GfalHttp:
        return kind(tmp_path, helpers, xrootd)

    def test_a_token_in_the_environment_opens_the_door(self, adapter: GfalHttp, door: WebDoor) -> None:
        adapter.variables["BEARER_TOKEN"] = "first-token-of-the-pilot"
        move(adapter.tool(), adapter.upload("output", SMALL, url=f"{door.url}/dir/output"))
        assert door.files["/dir/output"] == SMALL
        assert move(adapter.tool(), adapter.download("output", SMALL, url=f"{door.url}/dir/output")).verified

    def test_a_token_file_is_read_anew_for_each_order(self, adapter: GfalHttp, door: WebDoor) -> None:
        file = adapter.workdir / "token"
        file.write_text("first-token-of-the-pilot\n")
        adapter.variables["BEARER_TOKEN_FILE"] = str(file)
        tool = adapter.tool()
        move(tool, adapter.upload("one", SMALL, url=f"{door.url}/one"))
        door.tokens = {"second-token-of-the-pilot"}
        refused(tool, adapter.upload("two", SMALL, url=f"{door.url}/two"), 1383)
        file.write_text("second-token-of-the-pilot\n")
        move(tool, adapter.upload("two", SMALL, url=f"{door.url}/two"))
        assert sorted(door.files) == ["/one", "/two"]

    def test_without_a_token_it_says_that_there_is_none(self, adapter: GfalHttp, door: WebDoor) -> None:
        error = refused(adapter.tool(), adapter.download("input", SMALL, url=f"{door.url}/input"), 1163)
        assert "no token" in error.detail

    def test_a_token_file_that_cannot_be_read_is_named(self, adapter: GfalHttp, door: WebDoor) -> None:
        adapter.variables["BEARER_TOKEN_FILE"] = str(adapter.workdir / "nothing")
        refused(adapter.tool(), adapter.download("input", SMALL, url=f"{door.url}/input"), 1163)

    def test_the_pilot_gives_its_name(self, adapter: GfalHttp, door: WebDoor) -> None:
        door.tokens = None
        move(adapter.tool(), adapter.upload("output", SMALL, url=f"{door.url}/output"))
        assert all("panda-pilot" in agent or "gfal2-util" in agent for agent in door.agents)

    def test_a_storage_without_checksums_is_told_apart_and_keeps_nothing(
        self, adapter: GfalHttp, door: WebDoor
    ) -> None:
        door.tokens, door.digests = None, False
        refused(adapter.tool(), adapter.upload("output", SMALL, url=f"{door.url}/output"), 1242)
        assert door.files == {}

    def test_odd_names_are_encoded_once(self, adapter: GfalHttp, door: WebDoor) -> None:
        door.tokens = None
        for name in ("a b", "100%", "x%20y", "c#", "plus+", "ü"):
            move(adapter.tool(), adapter.upload(name, SMALL, url=f"{door.url}/dir/{name}"))
            assert f"/dir/{name}" in door.files

    def test_a_signed_url_is_left_alone(self, adapter: GfalHttp, door: WebDoor) -> None:
        door.tokens = None
        door.files["/bucket/a%b?Signature=x%2Fy&Expires=1"] = SMALL  # what the door sees, decoded once
        url = f"{door.url}/bucket/a%25b?Signature=x%252Fy&Expires=1"
        assert move(adapter.tool(), adapter.download("a%b", SMALL, url=url)).verified
