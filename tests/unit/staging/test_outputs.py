"""Which outputs there are after the payload."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from pilot.common.exception import PilotException
from pilot.staging.outputs import prepare_outputs


def names(site: Any) -> list[str]:
    prepare_outputs(site.job, site.context())
    return [spec.lfn for spec in site.job.outdata]


def failure(site: Any) -> PilotException:
    with pytest.raises(PilotException) as caught:
        prepare_outputs(site.job, site.context())
    return caught.value


def test_a_declared_output_gets_size_and_a_new_guid(site: Any) -> None:
    spec = site.output("out.root", b"12345")
    assert names(site) == ["out.root"]
    assert spec.filesize == 5
    assert re.fullmatch(r"[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}", spec.guid)


def test_a_guid_of_the_job_report_stays(site: Any) -> None:
    spec = site.output("out.root", guid="from-report")
    names(site)
    assert spec.guid == "from-report"


def test_guids_of_the_report_are_for_every_file_that_is_stored(site: Any) -> None:
    known = "6A1B2C3D-0000-4000-8000-00000000000{}".format
    site.job.reported_guids = {"a": known(1), "out_1": known(2), "p._1": known(3), "other": known(4)}
    for name in ("out_1", "out_2", "p._1"):
        (site.workdir / name).write_text(name)
    site.output("a", guid="7A1B2C3D-0000-4000-8000-000000000001")
    site.output("regex|out_.*", None)
    site.output("p", None)
    names(site)
    guids = {spec.lfn: spec.guid for spec in site.job.outdata}
    assert [guids[name] for name in ("a", "out_1", "p._1")] == [known(1), known(2), known(3)]
    assert guids["out_2"] not in site.job.reported_guids.values() and guids["out_2"].isupper()


def test_all_missing_outputs_are_named(site: Any) -> None:
    site.output("there")
    site.output("gone1", None)
    site.output("gone2", None)
    site.output("empty", b"")
    error = failure(site)
    assert error.code == 1165
    assert "gone1" in error.detail and "gone2" in error.detail and "there" not in error.detail


def test_an_empty_output_is_an_error(site: Any) -> None:
    site.output("empty", b"")
    assert failure(site).code == 1191


def test_outputs_that_may_be_missing_leave_the_list(site: Any) -> None:
    site.output("kept")
    site.output("gone", None, may_be_missing=True)
    site.output("hist.root", None)
    site.output("empty", b"", may_be_missing=True)
    site.job.allownooutput = frozenset({"hist.root"})
    assert names(site) == ["kept"]


def test_allownooutput_is_a_set_of_names_not_a_text(site: Any) -> None:
    site.output("hist", None)
    site.job.allownooutput = frozenset({"hist.root"})
    assert failure(site).code == 1165


def test_a_pattern_takes_all_files_that_match_and_none_of_the_pilot(site: Any) -> None:
    site.input("out_in.root")
    (site.workdir / "out_in.root").write_text("input")
    for name in ("out_2.root", "out_1.root", "other.txt", "payload.stdout"):
        (site.workdir / name).write_text(name)
    (site.workdir / "out_dir.root").mkdir()
    site.output(r"regex|out_.*\.root$|stdout|PoolFile", None, scope="user.x", dataset="ds", ddmendpoint="DISK")
    assert names(site) == ["out_1.root", "out_2.root"]
    first = site.job.outdata[0]
    assert (first.scope, first.dataset, first.ddmendpoint, first.filesize) == ("user.x", "ds", "DISK", 10)
    assert first.guid != site.job.outdata[1].guid


def test_a_pattern_without_a_file_is_a_missing_output(site: Any) -> None:
    site.output(r"regex|out_.*", None)
    assert failure(site).code == 1165


def test_a_pattern_that_is_none_is_a_bad_name(site: Any) -> None:
    (site.workdir / "x").write_text("x")
    site.output("regex|(", None)
    error = failure(site)
    assert (error.code, "no regular expression" in error.detail) == (1371, True)


def test_steps_of_a_hyper_parameter_job_replace_the_declared_output(site: Any) -> None:
    site.job.is_hpo = True
    site.output("metrics.tgz", None)
    for name in ("metrics.tgz_0", "metrics.tgz_10", "metrics.tgz_2", "metrics.tgz_x", "xmetrics.tgz_1"):
        (site.workdir / name).write_text(name)
    assert names(site) == ["metrics.tgz_0", "metrics.tgz_2", "metrics.tgz_10"]


def test_extra_outputs_are_stored_as_well(site: Any) -> None:
    site.output("x.root")
    (site.workdir / "x.root._1").write_text("one more")
    (site.workdir / "x.root_1").write_text("not extra outside of HPO")
    assert names(site) == ["x.root", "x.root._1"]


def test_extra_outputs_stand_for_an_absent_one(site: Any) -> None:
    site.output("x.root", None)
    (site.workdir / "x.root._1").write_text("part")
    assert names(site) == ["x.root._1"]


def test_a_link_out_of_the_work_directory_is_refused(site: Any, tmp_path: Path) -> None:
    (tmp_path / "x509up_u0").write_text("proxy")
    site.output("out.root", None)
    (site.workdir / "out.root").symlink_to(tmp_path / "x509up_u0")
    error = failure(site)
    assert error.code == 1165
    assert "a link out of the work directory" in error.detail


def test_a_link_within_the_work_directory_is_an_output(site: Any) -> None:
    (site.workdir / "sub").mkdir()
    (site.workdir / "sub/real").write_text("real")
    site.output("out.root", None)
    (site.workdir / "out.root").symlink_to("sub/real")
    assert names(site) == ["out.root"]
    assert site.job.outdata[0].filesize == 4


def test_directories_pipes_and_dangling_links_are_no_outputs(site: Any) -> None:
    (site.workdir / "directory").mkdir()
    os.mkfifo(site.workdir / "pipe")
    (site.workdir / "dangling").symlink_to("nowhere")
    for name in ("directory", "pipe", "dangling"):
        site.output(name, None)
    detail = failure(site).detail
    for text in ("directory (a directory)", "pipe (no regular file)", "dangling (a dangling link)"):
        assert text in detail


@pytest.mark.parametrize("name", ["../up", "a/b", "ümläut.root", "two\nlines"])
def test_a_name_that_cannot_be_stored_is_1371(site: Any, name: str) -> None:
    site.output(name, None)
    assert failure(site).code == 1371


def test_outputs_that_are_stored_already_are_left_alone(site: Any) -> None:
    spec = site.output("done.root", None, status="transferred")
    assert names(site) == ["done.root"]
    assert spec.guid == ""


def test_a_work_directory_that_is_gone_means_missing_outputs(site: Any) -> None:
    site.output("x", None)
    site.workdir.rmdir()
    assert failure(site).code == 1165
