"""Endpoints, protocols and paths: golden values and the table of the data management document."""

from __future__ import annotations

from typing import Any, Optional

import pytest

from pilot.common.exception import PilotException
from pilot.info.filespec import FileSpec
from pilot.info.storage import StorageData
from pilot.staging.destination import (
    build_url,
    choose_protocols,
    ddm_activities,
    deterministic_path,
    endpoint_url,
    prepare_destinations,
    prepare_inputddms,
)

ROOT = {"endpoint": "root://se:1094/", "path": "/pnfs/rucio/", "flavour": "XROOTD", "id": 7}
DAV = {"endpoint": "davs://se:443", "path": "/pnfs/rucio", "flavour": "WEBDAV", "id": 8}


def disk(**fields: Any) -> StorageData:
    return StorageData.from_raw(
        "DISK", {"is_deterministic": True, "arprotocols": {"write_lan": [ROOT, DAV], "write_wan": [DAV]}, **fields}
    )


@pytest.mark.parametrize(
    ("scope", "lfn", "path"),
    [
        ("user.jdoe", "x.root", "user/jdoe/7f/01/x.root"),
        ("user.jdoe", "up.root", "user/jdoe/99/63/up.root"),
        ("mc16_13TeV", "EVNT.1._000001.pool.root.1", "mc16_13TeV/6c/8f/EVNT.1._000001.pool.root.1"),
        ("group.phys-higgs", "a.b", "group/phys-higgs/26/41/a.b"),
    ],
)
def test_deterministic_paths(scope: str, lfn: str, path: str) -> None:
    assert deterministic_path(scope, lfn) == path


def test_a_scope_cannot_climb_out_of_the_path() -> None:
    assert ".." not in deterministic_path("../../etc", "x").split("/")
    assert not deterministic_path("/etc", "x").startswith("/")


@pytest.mark.parametrize(
    ("wanted", "nucleus", "primary", "alternative"),
    [
        ("", "", "A", "B"),
        ("", "B", "A", "C"),
        ("B", "", "B", "C"),
        ("C", "", "C", "A"),
        ("C", "A", "C", "B"),
        ("NUCLEUS", "", "A", "NUCLEUS"),
        ("NUCLEUS", "NUCLEUS", "A", None),
    ],
)
def test_destination_and_alternative(wanted: str, nucleus: str, primary: str, alternative: Optional[str]) -> None:
    spec = FileSpec("x", "output", ddmendpoint=wanted)
    prepare_destinations([spec], ["A", "B", "C"], ["write_lan"], nucleus=nucleus)
    assert (spec.ddmendpoint, spec.ddmendpoint_alt) == (primary, alternative)


def test_a_single_storage_has_no_alternative() -> None:
    spec = FileSpec("x", "output")
    prepare_destinations([spec], ["A"], ["write_lan"])
    assert (spec.ddmendpoint, spec.ddmendpoint_alt) == ("A", None)


def test_no_storages_is_an_error_unless_files_stay_local() -> None:
    spec = FileSpec("x", "output", ddmendpoint="ASKED")
    prepare_destinations([spec], [], ["write_lan"], local=True)
    assert (spec.ddmendpoint, spec.ddmendpoint_alt) == ("ASKED", None)
    with pytest.raises(PilotException) as caught:
        prepare_destinations([spec], [], ["pl", "w"])
    assert caught.value.code == 1133


def test_local_endpoints_count_as_lan() -> None:
    mine, other = FileSpec("a", ddmendpoint="A"), FileSpec("b", ddmendpoint="B")
    prepare_inputddms([mine, other], ["A"])
    assert ddm_activities("read", "A", mine.inputddms) == ["read_lan", "read_wan"]
    assert ddm_activities("read", "B", other.inputddms) == ["read_wan"]
    alone = FileSpec("c", ddmendpoint="C")
    prepare_inputddms([alone], [])
    assert alone.inputddms == ["C"]


def test_schemes_have_priority_over_the_order_of_protocols() -> None:
    assert [item["id"] for item in choose_protocols(disk(), ["write_lan"], ["davs", "root"])] == [8, 7]
    assert [item["id"] for item in choose_protocols(disk(), ["write_lan"], [])] == [7, 8]
    assert [item["id"] for item in choose_protocols(disk(), ["read_lan", "write_wan"], ["davs"])] == [8]


def test_no_protocol_left_is_told() -> None:
    with pytest.raises(PilotException) as caught:
        choose_protocols(disk(), ["write_lan"], ["gsiftp"])
    assert caught.value.code == 1313


def test_urls_get_a_slash_between_prefix_and_path() -> None:
    storage = disk()
    root, dav = choose_protocols(storage, ["write_lan"], [])
    assert build_url(storage, root, "user.jdoe", "x.root") == "root://se:1094//pnfs/rucio/user/jdoe/7f/01/x.root"
    assert build_url(storage, dav, "user.jdoe", "x.root") == "davs://se:443/pnfs/rucio/user/jdoe/7f/01/x.root"


def test_a_non_deterministic_endpoint_is_refused() -> None:
    storage = disk(is_deterministic=False)
    with pytest.raises(PilotException) as caught:
        build_url(storage, choose_protocols(storage, ["write_lan"], [])[0], "s", "x")
    assert caught.value.code == 1329


def test_an_unknown_endpoint_is_no_storage() -> None:
    with pytest.raises(PilotException) as caught:
        endpoint_url(FileSpec("x", ddmendpoint="GONE"), lambda _names: {}, [])
    assert caught.value.code == 1133
    assert "name=GONE" in caught.value.detail
