"""OutputFiles.xml for Nordugrid, letter by letter."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from pilot.info.filespec import FileSpec
from pilot.info.job import Job
from pilot.staging.outputfiles import output_files_text, write_output_files


def spec(name: str, **fields: object) -> FileSpec:
    return FileSpec(name, filetype="output", guid="6A1B2C3D-0000-4000-8000-000000000001", filesize=987654,
                    checksum={"adler32": "1a2b3c4d"}, dataset="data.HITS", **fields)  # type: ignore[arg-type]


def test_the_text() -> None:
    assert output_files_text([spec("HITS.1.root", turl="srm://host:8443/p?SFN=/a&b=<1>")], 0) == (
        '<?xml version="1.0" ?>\n'
        "<outfiles>\n"
        "   <file>\n"
        "      <filename>HITS.1.root</filename>\n"
        "      <lfn>HITS.1.root</lfn>\n"
        "      <guid>6A1B2C3D-0000-4000-8000-000000000001</guid>\n"
        "      <size>987654</size>\n"
        "      <ad32>1a2b3c4d</ad32>\n"
        "      <date>1970-01-01 00:00:00</date>\n"
        "      <dataset>data.HITS</dataset>\n"
        "      <surl>srm://host:8443/p?SFN=/a&amp;b=&lt;1&gt;</surl>\n"
        "   </file>\n"
        "</outfiles>\n")


def test_no_files_and_names_that_xml_cannot_write() -> None:
    assert output_files_text([], 0) == '<?xml version="1.0" ?>\n<outfiles>\n</outfiles>\n'
    root = ElementTree.fromstring(output_files_text([spec("a\x01\udc80]]>é")], 0).encode())
    assert [node.text for node in root.iter("lfn")] == ["a?]]>é"]


def test_only_what_was_stored_is_listed(tmp_path: Path) -> None:
    job = Job("7", outdata=[spec("a", status="transferred"), spec("b", status="failed"), spec("c")],
              logdata=[spec("log.tgz", status="transferred")])
    write_output_files(job, tmp_path)
    root = ElementTree.parse(tmp_path / "OutputFiles.xml").getroot()
    assert [node.text for node in root.iter("lfn")] == ["a", "log.tgz"]
    assert [path.name for path in tmp_path.iterdir()] == ["OutputFiles.xml"]


def test_a_directory_that_is_gone_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_output_files(Job("7"), tmp_path / "gone")
    assert "OutputFiles.xml could not be written" in caplog.text
