"""Inputs: found, verified, placed; the first cause is raised after all were tried."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pilot.common.exception import PilotException
from pilot.staging.stagein import stage_in
from pilot.util.cancel import CancelledError, CancelToken


def failure(site: Any, context: Any) -> PilotException:
    with pytest.raises(PilotException) as caught:
        stage_in(site.job, context, CancelToken())
    return caught.value


def test_a_linked_input_points_at_the_real_file_and_takes_no_space(site: Any) -> None:
    spec = site.input("in.root", b"data")
    stage_in(site.job, site.context(), CancelToken())
    assert os.readlink(site.workdir / "in.root") == str(site.home / "in.root")
    assert (site.workdir / "in.root").read_bytes() == b"data"
    assert (spec.status, spec.status_code, spec.checkinputsize) == ("transferred", 0, False)
    assert '<pfn filetype="ROOT_All" name="in.root"/>' in (site.workdir / "PoolFileCatalog.xml").read_text()


@pytest.mark.parametrize("kind", ["cp", "mv"])
def test_a_copied_or_moved_input_is_a_file_of_its_own(site: Any, kind: str) -> None:
    spec = site.input("in.root", b"data")
    stage_in(site.job, site.context(site.with_mv(copy_in=kind)), CancelToken())
    assert not (site.workdir / "in.root").is_symlink()
    assert (site.workdir / "in.root").read_bytes() == b"data"
    assert (site.home / "in.root").exists() == (kind == "cp")
    assert spec.checkinputsize is True


@pytest.mark.parametrize("kind", ["symlink", "cp", "mv"])
@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"filesize": 99}, 1099, "size mismatch for in.root: catalog=99 B local=4 B"),
        ({"checksum": {"adler32": "deadbeef"}}, 1171, "checksum (catalog)=deadbeef"),
        ({"checksum": {"md5": "0" * 31 + "1"}}, 1145, "checksum (local)="),
    ],
)
def test_a_wrong_input_fails_and_leaves_nothing_behind(
    site: Any, kind: str, fields: dict[str, Any], code: int, words: str
) -> None:
    spec = site.input("in.root", b"data", **fields)
    error = failure(site, site.context(site.with_mv(copy_in=kind)))
    assert error.code == code
    assert words in error.detail
    assert (spec.status, spec.status_code) == ("failed", code)
    assert os.listdir(site.workdir) == []
    assert (site.home / "in.root").read_bytes() == b"data"


def test_checksums_compare_without_case_and_leading_zeros(site: Any) -> None:
    site.input("in.root", b"hello", checksum={"adler32": "62C0215"})
    stage_in(site.job, site.context(), CancelToken())


def test_without_a_catalogue_checksum_the_size_is_verified_with_a_warning(
    site: Any, caplog: pytest.LogCaptureFixture
) -> None:
    spec = site.input("in.root", b"data", checksum={})
    stage_in(site.job, site.context(site.with_mv(copy_in="cp")), CancelToken())
    assert spec.status == "transferred"
    assert "no checksum known for input in.root" in caplog.text


def test_inputs_are_found_in_input_dir_then_pilot_home_then_launch_dir(site: Any, tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    site.input("a", b"given", where=given)
    (site.home / "a").write_bytes(b"other")
    site.input("b", b"home")
    (site.launch / "b").write_bytes(b"launch?")
    site.input("c", b"launch", where=site.launch)
    stage_in(site.job, site.context(options={"input_dir": str(given)}), CancelToken())
    assert [(site.workdir / name).read_bytes() for name in "abc"] == [b"given", b"home", b"launch"]


def test_a_missing_input_names_the_places_and_the_others_still_arrive(site: Any) -> None:
    site.input("good1")
    missing = site.input("missing")
    (site.home / "missing").unlink()
    site.input("good2")
    error = failure(site, site.context())
    assert error.code == 1331
    assert str(site.home / "missing") in error.detail and str(site.launch / "missing") in error.detail
    assert "1 of 3 files failed" in error.detail
    assert [spec.status for spec in site.job.indata] == ["transferred", "failed", "transferred"]
    assert missing.status_code == 1331
    assert not (site.workdir / "PoolFileCatalog.xml").exists()
    codes = {record.lfn: record.code for record in site.records}
    assert codes == {"good1": 0, "good2": 0, "missing": 1331}


def test_loops_of_links_and_directories_are_missing_inputs(site: Any) -> None:
    loop = site.input("loop")
    (site.home / "loop").unlink()
    (site.home / "loop").symlink_to("loop")
    directory = site.input("directory")
    (site.home / "directory").unlink()
    (site.home / "directory").mkdir()
    pipe = site.input("pipe")
    (site.home / "pipe").unlink()
    os.mkfifo(site.home / "pipe")
    assert failure(site, site.context()).code == 1331
    assert {loop.status_code, directory.status_code, pipe.status_code} == {1331}


@pytest.mark.parametrize("name", ["../evil", "/etc/hostname", "a/b", "..", "line\nend", "x" * 256])
def test_a_name_that_leaves_its_directory_is_refused(site: Any, name: str) -> None:
    spec = site.input("in.root")
    spec.lfn = name
    assert failure(site, site.context()).code == 1371
    assert os.listdir(site.workdir) == []


@pytest.mark.parametrize("name", ["with blank", "quote'\"", "ümläut", "$HOME", "-rf", "a;b&c", "x" * 255])
def test_odd_but_legal_names_arrive(site: Any, name: str) -> None:
    site.input(name, b"odd")
    stage_in(site.job, site.context(site.with_mv(copy_in="cp")), CancelToken())
    assert (site.workdir / name).read_bytes() == b"odd"


def test_too_much_input_for_the_queue_is_refused_before_the_first_copy(site: Any) -> None:
    site.input("in.root", b"data", filesize=2 * 1024 * 1024)
    error = failure(site, site.context({**site.with_mv(copy_in="cp"), "maxwdir": 1}))
    assert error.code == 1168
    assert "total file size=2097152 B > maxinputsize=1048576 B" in error.detail


def test_maxinputsize_minus_one_switches_the_size_check_off(site: Any) -> None:
    site.input("in.root", bytes(1024 * 1024 + 1))
    stage_in(site.job, site.context({**site.with_mv(copy_in="cp"), "maxwdir": 1, "maxinputsize": -1}), CancelToken())


def test_too_little_space_is_noticed_before_the_first_copy(site: Any) -> None:
    site.input("in.root", b"data", filesize=1 << 60)
    error = failure(site, site.context({**site.with_mv(copy_in="cp"), "maxwdir": 0}))
    assert error.code == 1098
    assert "not enough local space" in error.detail


def test_linked_inputs_need_no_space(site: Any) -> None:
    site.input("in.root", b"data")
    stage_in(site.job, site.context(limits__reserve_space=1 << 60), CancelToken())


def test_direct_access_on_a_queue_with_mv_is_a_wrong_configuration(site: Any) -> None:
    site.input("in.root", accessmode="direct", direct_access_lan=True)
    error = failure(site, site.context())
    assert error.code == 1341
    assert "mv does not support direct access" in error.detail


@pytest.mark.parametrize("name", ["dccp", "lcg-cp"])
def test_a_dead_tool_names_its_successor(site: Any, name: str) -> None:
    site.input("in.root")
    error = failure(site, site.context({"acopytools": {"default": [name]}}))
    assert error.code == 1323
    assert "no longer supported: use" in error.detail and "gfal" in error.detail


def test_a_tool_that_this_version_lacks_hands_over_to_the_next(site: Any) -> None:
    spec = site.input("in.root")
    stage_in(site.job, site.context({"acopytools": {"default": ["nosuchtool", "mv"]}}), CancelToken())
    assert spec.status == "transferred"


def test_the_next_tool_gets_only_what_is_left(site: Any) -> None:
    site.input("linked", b"1")
    site.input("bad", b"2", filesize=7)
    failure(site, site.context({"acopytools": {"default": ["ln", "cp"]}}))
    tried = sorted((record.tool, record.lfn) for record in site.records)
    assert tried == [("cp", "bad"), ("ln", "bad"), ("ln", "linked")]


def test_aliases_choose_the_kind_of_copy(site: Any) -> None:
    site.input("in.root")
    stage_in(site.job, site.context({"acopytools": {"default": ["cp"]}}), CancelToken())
    assert not (site.workdir / "in.root").is_symlink()


def test_an_unknown_kind_of_copy_is_a_wrong_configuration(site: Any) -> None:
    site.input("in.root")
    error = failure(site, site.context(site.with_mv(copy_in="rsync")))
    assert error.code == 1341
    assert "copy_in='rsync'" in error.detail


def test_a_cancelled_token_stops_everything_with_its_own_code(site: Any) -> None:
    site.input("in.root")
    token = CancelToken()
    token.cancel(1144, "killed by the server")
    with pytest.raises(CancelledError) as caught:
        stage_in(site.job, site.context(), token)
    assert caught.value.code == 1144


def test_files_that_need_no_transfer_are_only_catalogued(site: Any) -> None:
    spec = site.input("remote.root", status="remote_io", turl="root://se//a?x=1&y=2")
    (site.home / "remote.root").unlink()
    stage_in(site.job, site.context(), CancelToken())
    assert spec.status == "remote_io"
    assert 'name="root://se//a?x=1&amp;y=2"' in (site.workdir / "PoolFileCatalog.xml").read_text()


def test_many_inputs_arrive_side_by_side(site: Any) -> None:
    for number in range(100):
        site.input(f"in.{number}", str(number).encode() * 100)
    stage_in(site.job, site.context(site.with_mv(copy_in="cp")), CancelToken())
    assert all((site.workdir / f"in.{n}").read_bytes() == str(n).encode() * 100 for n in range(100))
    assert len(site.records) == 100


def test_inputs_of_the_final_destination_come_from_the_storage_layout(site: Any, tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    (storage / "user/jdoe/7f/01").mkdir(parents=True)
    site.input("x.root", b"stored", where=storage / "user/jdoe/7f/01", scope="user.jdoe")
    context = site.context({"catchall": "mv_final_destination"}, {"input_destination_dir": str(storage)})
    stage_in(site.job, context, CancelToken())
    assert (site.workdir / "x.root").read_bytes() == b"stored"


def test_a_job_without_inputs_has_no_catalogue(site: Any) -> None:
    stage_in(site.job, site.context(), CancelToken())
    assert os.listdir(site.workdir) == []
