"""Outputs and log: stored, and described as the server wants it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pilot.common.exception import PilotException
from pilot.info.storage import StorageData
from pilot.staging.stageout import stage_out
from pilot.util.cancel import CancelToken
from tests.unit.staging.conftest import adler32


def disk_at(name: str, path: str) -> StorageData:
    """An endpoint on a mounted file system."""
    protocol = {"endpoint": "file://localhost", "path": path, "flavour": "POSIX", "id": 7}
    return StorageData.from_raw(name, {"id": 1, "is_deterministic": True, "arprotocols": {"write_lan": [protocol]}})


def store(site: Any, context: Any, *, log: bool = False) -> None:
    stage_out(site.job, site.job.outdata, context, CancelToken(), log=log)


def failure(site: Any, context: Any) -> PilotException:
    with pytest.raises(PilotException) as caught:
        store(site, context)
    return caught.value


def test_an_output_moves_to_the_pilot_directory_and_is_described(site: Any) -> None:
    spec = site.output("out.root", b"result", ddmendpoint="")
    store(site, site.context())
    assert (site.home / "out.root").read_bytes() == b"result"
    assert not (site.workdir / "out.root").exists()
    assert spec.status == "transferred"
    assert (spec.filesize, spec.checksum) == (6, {"adler32": adler32(b"result")})
    assert spec.turl == spec.surl == f"file://localhost{site.home}/out.root"
    assert spec.ddmendpoint == ""
    line = f"out.root file://localhost{site.home}/out.root:checksumtype=adler32:checksumvalue={adler32(b'result')}\n"
    assert (site.home / "output.list").read_text() == line


def test_the_endpoint_of_the_job_stays_when_the_queue_has_no_storages(site: Any) -> None:
    spec = site.output("out.root", ddmendpoint="SOME_DISK")
    store(site, site.context())
    assert spec.ddmendpoint == "SOME_DISK"


def test_a_copied_output_stays_in_the_work_directory(site: Any) -> None:
    site.output("out.root", b"result")
    store(site, site.context(site.with_mv(copy_out="cp")))
    assert (site.workdir / "out.root").read_bytes() == (site.home / "out.root").read_bytes() == b"result"


def test_md5_is_sent_when_the_settings_say_so(site: Any) -> None:
    spec = site.output("out.root", b"hello")
    store(site, site.context(file__checksum_type="md5"))
    assert spec.checksum == {"md5": "5d41402abc4b2a76b9719d911017c592"}


def test_output_dir_takes_the_file_and_the_surl_says_so(site: Any, tmp_path: Path) -> None:
    spec = site.output("out.root")
    store(site, site.context(options={"output_dir": str(tmp_path / "results")}))
    assert (tmp_path / "results/out.root").read_bytes() == b"output"
    assert spec.surl == f"file://localhost{tmp_path}/results/out.root"
    assert not (site.home / "output.list").exists()


def test_output_list_grows_and_a_second_delivery_replaces_its_line(site: Any) -> None:
    site.output("a")
    store(site, site.context())
    site.job.outdata = []
    site.output("b")
    site.output("a", b"again")
    store(site, site.context())
    lines = (site.home / "output.list").read_text().splitlines()
    assert sorted(line.split()[0] for line in lines) == ["a", "b"]
    assert (site.home / "a").read_bytes() == b"again"


def test_one_missing_output_keeps_all_of_them(site: Any) -> None:
    site.output("good")
    missing = site.output("missing", None)
    error = failure(site, site.context())
    assert (error.code, missing.status_code) == (1165, 1165)
    assert "output pfn file/directory does not exist" in error.detail
    assert not (site.home / "good").exists()


def test_an_empty_output_keeps_all_of_them(site: Any) -> None:
    site.output("good")
    site.output("empty", b"")
    error = failure(site, site.context())
    assert error.code == 1191
    assert not (site.home / "good").exists()


def test_the_same_file_at_the_destination_is_success(site: Any) -> None:
    spec = site.output("out.root", b"same")
    (site.home / "out.root").write_bytes(b"same")
    store(site, site.context())
    assert spec.status == "transferred"
    assert not (site.workdir / "out.root").exists()


def test_a_file_of_somebody_else_at_the_destination_is_kept(site: Any) -> None:
    site.output("queuedata.json", b"evil")
    (site.home / "queuedata.json").write_bytes(b"ours")
    error = failure(site, site.context())
    assert error.code == 1221
    assert (site.home / "queuedata.json").read_bytes() == b"ours"
    assert (site.workdir / "queuedata.json").exists()


def test_an_output_cannot_be_called_output_list(site: Any) -> None:
    site.output("output.list")
    assert failure(site, site.context()).code == 1371


def test_output_dir_is_overwritten(site: Any, tmp_path: Path) -> None:
    site.output("out.root", b"new")
    (tmp_path / "out.root").write_bytes(b"from the last attempt")
    store(site, site.context(options={"output_dir": str(tmp_path)}))
    assert (tmp_path / "out.root").read_bytes() == b"new"


def test_final_destination_uses_the_storage_layout(site: Any, tmp_path: Path) -> None:
    prefix = str(tmp_path / "rucio")
    spec = site.output("x.root", b"stored", scope="user.jdoe")
    context = site.context(
        {"catchall": "mv_final_destination", "astorages": {"write_lan": ["LOCAL_DISK"], "read_lan": ["LOCAL_DISK"]}}
    )
    context.storage = lambda _names: {"LOCAL_DISK": disk_at("LOCAL_DISK", prefix)}
    store(site, context)
    assert (tmp_path / "rucio/user/jdoe/7f/01/x.root").read_bytes() == b"stored"
    assert spec.turl == f"file://localhost{prefix}/user/jdoe/7f/01/x.root"
    assert (spec.ddmendpoint, spec.protocol_id) == ("LOCAL_DISK", 7)


def test_final_destination_never_overwrites(site: Any, tmp_path: Path) -> None:
    place = tmp_path / "user/jdoe/7f/01"
    place.mkdir(parents=True)
    (place / "x.root").write_bytes(b"precious")
    site.output("x.root", b"other", scope="user.jdoe")
    context = site.context({"catchall": "mv_final_destination", "astorages": {"w": ["D"], "read_lan": ["D"]}})
    context.storage = lambda _names: {"D": disk_at("D", str(tmp_path))}
    assert failure(site, context).code == 1221
    assert (place / "x.root").read_bytes() == b"precious"


def test_an_arc_queue_with_storages_names_the_storage_url_but_leaves_the_file_for_arc(site: Any) -> None:
    spec = site.output("x.root", scope="user.jdoe")
    context = site.context({"astorages": {"write_lan": ["LOCAL_DISK"], "read_lan": ["LOCAL_DISK"]}})
    context.storage = lambda _names: {"LOCAL_DISK": disk_at("LOCAL_DISK", "/data/rucio")}
    store(site, context)
    assert spec.surl == "file://localhost/data/rucio/user/jdoe/7f/01/x.root"
    assert (site.home / "x.root").exists()
    line = (site.home / "output.list").read_text()
    assert line.startswith("x.root file://localhost/data/rucio/user/jdoe/7f/01/x.root:checksumtype=adler32:")


def test_a_queue_with_storages_but_no_endpoint_data_still_stores_locally(site: Any) -> None:
    spec = site.output("x.root")
    store(site, site.context({"astorages": {"write_lan": ["GONE"]}}))
    assert spec.surl == f"file://localhost{site.home}/x.root"


def test_without_storages_the_endpoint_data_are_never_asked_for(site: Any) -> None:
    context = site.context()

    def storage(_names: list[str]) -> dict[str, StorageData]:
        raise AssertionError("asked for endpoint data")

    context.storage = storage
    site.output("x.root", ddmendpoint="ANY")
    store(site, context)


def test_no_storages_and_no_local_tool_is_no_storage(site: Any) -> None:
    site.output("x.root")
    error = failure(site, site.context({"acopytools": {"default": ["rucio"]}, "copytools": {"rucio": {}}}))
    assert error.code == 1133
    assert "activity=write_lan (write_lan,pw,w)" in error.detail


def test_a_second_pass_goes_to_the_alternative_endpoint(site: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way of a directory")
    spec = site.output("x.root", scope="user.jdoe")
    site.job.altstageout = True
    context = site.context(
        {"catchall": "mv_final_destination", "astorages": {"write_lan": ["ONE", "TWO"], "read_lan": ["ONE", "TWO"]}}
    )
    disks = {"ONE": disk_at("ONE", f"{tmp_path}/file/x"), "TWO": disk_at("TWO", f"{tmp_path}/two")}
    context.storage = lambda _names: disks
    store(site, context)
    assert (spec.status, spec.ddmendpoint, spec.is_altstaged) == ("transferred", "TWO", True)
    assert (tmp_path / "two/user/jdoe/7f/01/x.root").exists()
    assert [(record.endpoint, record.code) for record in site.records] == [("ONE", 1199), ("TWO", 0)]


def test_the_queue_can_forbid_the_second_pass(site: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way of a directory")
    spec = site.output("x.root")
    site.job.altstageout = True
    context = site.context(
        {
            "catchall": "mv_final_destination",
            "params": {"allow_altstageout": False},
            "astorages": {"write_lan": ["ONE", "TWO"], "read_lan": ["ONE", "TWO"]},
        }
    )
    context.storage = lambda names: {name: disk_at(name, f"{tmp_path}/file/x") for name in names}
    assert failure(site, context).code == 1199
    assert spec.ddmendpoint == "ONE"


def test_a_link_inside_the_work_directory_is_stored_as_the_file(site: Any) -> None:
    (site.workdir / "sub").mkdir()
    (site.workdir / "sub/real").write_bytes(b"linked")
    site.output("out.root", None)
    (site.workdir / "out.root").symlink_to("sub/real")
    store(site, site.context())
    assert (site.home / "out.root").read_bytes() == b"linked"
    assert not (site.home / "out.root").is_symlink()


def test_nothing_is_done_twice(site: Any) -> None:
    site.output("out.root")
    store(site, site.context())
    before = os.stat(site.home / "out.root").st_mtime_ns
    store(site, site.context())
    assert os.stat(site.home / "out.root").st_mtime_ns == before
    assert len(site.records) == 1
