"""PoolFileCatalog.xml, letter by letter."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Callable

import pytest

from pilot.common.exception import PilotException
from pilot.info.filespec import FileSpec
from pilot.staging.catalog import catalog_text, read_catalog, write_catalog


def test_the_text_is_that_of_the_reference() -> None:
    spec = FileSpec("AOD.1._000001.pool.root.1", guid="4ACC5018-2EA3-B441-BC11-0C0992847FD1", status="transferred")
    assert catalog_text([spec]) == (
        '<?xml version="1.0" ?>\n'
        '<!DOCTYPE POOLFILECATALOG SYSTEM "InMemory">\n'
        "<POOLFILECATALOG>\n"
        '  <File ID="4ACC5018-2EA3-B441-BC11-0C0992847FD1">\n'
        "    <physical>\n"
        '      <pfn filetype="ROOT_All" name="AOD.1._000001.pool.root.1"/>\n'
        "    </physical>\n"
        "    <logical/>\n"
        "  </File>\n"
        "</POOLFILECATALOG>\n"
    )


def test_remote_files_stand_with_their_url_and_signatures_survive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALRB_XCACHE_PROXY", "root://cache//")
    files = [
        FileSpec("a.root", guid="1", status="remote_io", turl="https://se/p/a.root?X-Sig=%2F&e=<1>&q=\"'"),
        FileSpec("b.root", guid="2", status="remote_io", turl="${ALRB_XCACHE_PROXY}root://se//p/b.root"),
        FileSpec("c&<d>.root", guid="3", status="transferred", turl="root://se//p/c"),
    ]
    path = write_catalog(files, tmp_path)
    assert read_catalog(path) == {
        "a.root": ("https://se/p/a.root?X-Sig=%2F&e=<1>&q=\"'", "1"),
        "b.root": ("root://cache//root://se//p/b.root", "2"),
        "c&<d>.root": ("c&<d>.root", "3"),
    }


def test_two_files_with_one_guid_stay_two_files(tmp_path: Path) -> None:
    path = write_catalog([FileSpec("a", guid="same"), FileSpec("b", guid="same")], tmp_path)
    assert read_catalog(path) == {"a": ("a", "same"), "b": ("b", "same")}


def test_a_catalogue_that_is_none_is_bad_xml(tmp_path: Path) -> None:
    (tmp_path / "PoolFileCatalog.xml").write_text("<POOL")
    with pytest.raises(PilotException) as caught:
        read_catalog(tmp_path / "PoolFileCatalog.xml")
    assert caught.value.code == 1247


def test_a_directory_that_is_gone_is_a_file_handling_failure(tmp_path: Path) -> None:
    with pytest.raises(PilotException) as caught:
        write_catalog([FileSpec("a")], tmp_path / "gone")
    assert caught.value.code == 1303


@pytest.mark.parametrize("make", [
    lambda path: path.symlink_to("/etc/passwd"), os.mkfifo, lambda path: path.mkdir(),
    lambda path: path.write_text('<!DOCTYPE a [<!ENTITY a "aaaa">]><a>&a;</a>'),
    lambda path: path.write_bytes(b"<a>" * 1000), lambda path: path.write_bytes(b"\0" * 100),
])
def test_what_a_payload_put_there_is_refused(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "PoolFileCatalog.xml")
    with pytest.raises(PilotException) as caught:
        read_catalog(tmp_path / "PoolFileCatalog.xml")
    assert caught.value.code == 1247
    assert "PoolFileCatalog.xml" in caught.value.detail


def test_files_without_name_or_guid_are_no_reason_to_stop(tmp_path: Path) -> None:
    (tmp_path / "PoolFileCatalog.xml").write_text(
        '<C><File><physical><pfn name="a"/></physical></File><File ID="2"><physical><pfn/></physical></File></C>')
    assert read_catalog(tmp_path / "PoolFileCatalog.xml") == {"a": ("a", "")}
