"""The copytool objectstore: S3 with the server's keys by boto3, other storage through the Rucio client."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Mapping, Tuple

import pytest

from pilot.copytool.base import Direction, FilePlace, ToolConfig, Transfer
from pilot.copytool.objectstore import ObjectstoreTool
from pilot.info.storage import StorageData
from pilot.util.helper import HelperPool
from tests.grid.adapters import SMALL, S3Store, XRootDAdapter, checksums, move
from tests.grid.conformance import Downloads, Races, Uploads, leftovers, refused
from tests.grid.testbed.rucio import Rucio
from tests.grid.testbed.s3 import ACCESS_KEY, S3, SECRET_KEY


class EventStore(S3Store):
    """An endpoint of type OS_ES whose keys the PanDA server has."""

    tool_name = "objectstore"

    def environ(self) -> Dict[str, str]:
        return {name: value for name, value in super().environ().items() if not name.startswith("AWS")}

    def options(self) -> Mapping[str, object]:
        return {}

    def config(self, **changes: Any) -> Any:
        settings = {"access_key": "pub-name", "secret_key": "priv-name", "is_secure": "False"}
        row = {"name": "STORE", "type": "OS_ES", "rprotocols": {"7": {"settings": settings}}}
        data = {"STORE": StorageData.from_raw("STORE", row)}
        given = {"storage": lambda names: data, "key_pair": self.key_pair}
        return super().config(**{**given, **changes})

    def key_pair(self, public: str, private: str) -> Tuple[str, str]:
        assert (public, private) == ("pub-name", "priv-name")
        return ACCESS_KEY, SECRET_KEY

    def order(self, direction: Direction, name: str, **changes: Any) -> Transfer:
        return super().order(direction, name, **{"endpoint": "STORE", "protocol_id": 7, **changes})


class TestEventStore(Downloads, Uploads, Races):
    """s3:// with keys of the server."""

    # nobody sees an object before it is complete: see test_s3.py
    test_a_file_in_the_making_is_left_alone = None  # type: ignore[assignment]

    @pytest.fixture
    def adapter(self, tmp_path: Path, helpers: HelperPool, s3: S3) -> EventStore:
        return EventStore(tmp_path, helpers, s3)


def test_keys_may_come_from_the_sites_own_setup(tmp_path: Path, helpers: HelperPool, s3: S3) -> None:
    adapter = EventStore(tmp_path, helpers, s3)
    environ = {**adapter.environ(), "S3_ACCESS_KEY": ACCESS_KEY, "S3_SECRET_KEY": SECRET_KEY, "S3_IS_SECURE": "False"}
    tool = adapter.tool(environ=environ, storage=lambda names: {})
    move(tool, adapter.upload("output", SMALL))
    assert adapter.get("output") == SMALL


class ByUrl(XRootDAdapter):
    """Files of an RSE on XRootD, named by their URL."""

    tool_name = "objectstore"

    def __init__(self, workdir: Path, helpers: HelperPool, rucio: Rucio) -> None:
        super().__init__(workdir, helpers, rucio.storage)
        self.rucio = rucio
        self.base = f"/rucio{self.base}"

    def environ(self) -> Dict[str, str]:
        return {**super().environ(), **self.rucio.env}

    def order(self, direction: Direction, name: str, **changes: Any) -> Transfer:
        return super().order(direction, name, **{"endpoint": "TB_XROOTD", **changes})


def test_other_storage_is_reached_through_the_rucio_client(tmp_path: Path, helpers: HelperPool, rucio: Rucio) -> None:
    adapter = ByUrl(tmp_path, helpers, rucio)
    tool = adapter.tool()
    transfer = adapter.upload("dir/output.root", SMALL)
    result = move(tool, transfer)
    assert adapter.get("dir/output.root") == SMALL, "it lies where its URL says, not where Rucio would put it"
    assert (result.url, dict(result.checksum)) == (transfer.url, checksums(SMALL))
    transfer.local.unlink()
    inward = replace(transfer, direction=Direction.IN, size=len(SMALL), checksum=checksums(SMALL))
    assert move(tool, inward).verified
    assert transfer.local.read_bytes() == SMALL
    refused(tool, replace(inward, checksum=checksums(b"other")), 1171)
    assert leftovers(adapter, "output.root") == []


def test_only_objects_without_the_deterministic_layout_lie_under_their_own_name() -> None:
    tool = ObjectstoreTool(ToolConfig())
    place = FilePlace("x.root", "scope", "dataset", "scope/ab/cd/x.root", 7)

    def url(**row: object) -> object:
        return tool.destination_url(place, StorageData.from_raw("R", row), "s3://host:443/", "/bucket/es/")

    assert url(type="OS_ES") == "s3://host:443/bucket/es/x.root"
    assert url(type="OS_LOGS", is_deterministic=True) is None
    assert url(type="DATADISK") is None
