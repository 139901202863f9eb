"""metadata.xml and AthSummary*: what releases without a job report leave."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pilot.payload.oldfiles import METADATA_XML_LIMIT, events_of_summary, read_metadata_xml
from pilot.util.safexml import UnsafeXML, walk_xml

XML = """<?xml version="1.0" encoding="UTF-8" standalone="no" ?>
<!DOCTYPE POOLFILECATALOG SYSTEM "InMemory">
<POOLFILECATALOG>
  <META name="fsize" type="string"/>
  <File ID="6A1B2C3D-0000-4000-8000-000000000001">
    <logical><lfn name="HITS.1.root"/></logical>
    <metadata att_name="events" att_value="40"/>
    <metadata att_name="size" att_value="1234"/>
  </File>
  <File ID="6A1B2C3D-0000-4000-8000-000000000002">
    <logical><lfn name="HITS.2.root"/></logical>
    <metadata att_name="events" att_value="2"/>
    <metadata att_name="events" att_value="many"/>
  </File>
</POOLFILECATALOG>
"""
BOMB = ('<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">'
        + "".join(f'<!ENTITY b{n} "{"&a;" * 10 if n == 0 else f"&b{n - 1};" * 10}">' for n in range(12))
        + "]><a>&b11;</a>")


def test_guids_and_events(tmp_path: Path) -> None:
    assert read_metadata_xml(tmp_path / "metadata.xml") is None
    (tmp_path / "metadata.xml").write_text(XML)
    found = read_metadata_xml(tmp_path / "metadata.xml")
    assert found is not None and found.text == XML
    assert found.nevents == 42
    assert found.guids == {"HITS.1.root": "6A1B2C3D-0000-4000-8000-000000000001",
                           "HITS.2.root": "6A1B2C3D-0000-4000-8000-000000000002"}


@pytest.mark.parametrize(("raw", "words"), [
    (XML[:200].encode(), "unclosed token"),
    (b"", "no element found"),
    (b"{}", "not well-formed"),
    (b"<a>" * 100 + b"</a>" * 100, "more than 64 elements inside each other"),
    (BOMB.encode(), "entities are refused"),
    (b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>', "entities are refused"),
    (b'<!DOCTYPE a [<!ENTITY % x SYSTEM "http://x.example/">%x;]><a/>', "entities are refused"),
    (b'<a b="' + b"x" * 70_000 + b'"/>', "attribute of more than"),
    (b'<?xml version="1.0" encoding="no-such"?><a/>', "unknown encoding"),
    (b'<?xml version="1.0" encoding="shift_jis"?><a/>', "encoding"),
    (b"<a>\xff\xfe</a>", "not well-formed"),
    (b" " * (METADATA_XML_LIMIT + 1), "longer than"),
])
def test_bad_xml_says_why(tmp_path: Path, raw: bytes, words: str) -> None:
    (tmp_path / "metadata.xml").write_bytes(raw)
    with pytest.raises(UnsafeXML, match=words) as caught:
        read_metadata_xml(tmp_path / "metadata.xml")
    assert "metadata.xml" in str(caught.value)


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "metadata.xml"
    os.mkfifo(path)
    assert read_metadata_xml(path) is None
    path.unlink()
    path.symlink_to("/etc/passwd")
    assert read_metadata_xml(path) is None


def test_elements_come_in_their_order() -> None:
    seen: list[str] = []
    walk_xml(b"<a><b/><c x='1'/></a>", lambda name, attributes: seen.append(f"<{name}{dict(attributes) or ''}"),
             lambda name: seen.append(f">{name}"))
    assert seen == ["<a", "<b", ">b", "<c{'x': '1'}", ">c", ">a"]


def test_events_are_those_of_the_oldest_summary(tmp_path: Path) -> None:
    assert events_of_summary(tmp_path) == (0, 0)
    assert events_of_summary(tmp_path / "gone") == (0, 0)
    for number, (name, text) in enumerate([
        ("AthenaSummary_2.txt", "noise\xff\nEvents Read: 70\nEvents Written:  60\nEvents Read: 9\n"),
        ("AthSummary.txt", "Events Read: 1\n"), ("OtherSummary", "Events Read: 2\n"),
    ]):
        (tmp_path / name).write_text(text, encoding="latin-1")
        os.utime(tmp_path / name, (1000 + number, 1000 + number))
    (tmp_path / "AthSummary.link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "AthSummary.fifo")
    (tmp_path / "AthSummary.dir").mkdir()
    assert events_of_summary(tmp_path) == (70, 60)


@pytest.mark.parametrize(("text", "wanted"), [
    (b"", (0, 0)), (b"Events Read: many", (0, 0)), (b"Events Read: " + b"9" * 100, (0, 0)), (b"\x00" * 5000, (0, 0)),
    (b"Events Written: 5", (0, 5)), (b"x" * 5000 + b"\n  Events Read: 5  \n", (5, 0)),
])
def test_summaries_in_any_form(tmp_path: Path, text: bytes, wanted: tuple[int, int]) -> None:
    (tmp_path / "AthSummary.txt").write_bytes(text)
    assert events_of_summary(tmp_path) == wanted
