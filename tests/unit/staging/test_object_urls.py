"""URLs of object stores: taken apart, made, shown."""

from __future__ import annotations

import pytest

from pilot.copytool.base import FilePlace, ToolConfig
from pilot.copytool.gs import GsTool
from pilot.copytool.objects import ObjectTool, is_signed, shown
from pilot.copytool.s3 import S3Tool, parse_url
from pilot.info.storage import StorageData
from pilot.util.helper import HelperPool


@pytest.mark.parametrize(
    ("url", "how", "place"),
    [
        ("s3://host:443//bucket//a//b c%20#x?y", {}, ("https://host:443", "bucket", "a/b c%20#x?y")),
        ("s3://s3.cern.ch/bucket/key", {"secure": False}, ("http://s3.cern.ch", "bucket", "key")),
        ("s3+rucio://host.org:80/bucket/key", {}, ("https://host.org:80", "bucket", "key")),
        ("https://host.org/bucket/key", {"secure": False}, ("https://host.org", "bucket", "key")),
        ("s3://bucket/a/key", {}, ("", "bucket", "a/key")),
        ("s3://my.bucket/key", {"endpoint": "https://host"}, ("https://host", "my.bucket", "key")),
    ],
)
def test_a_url_names_store_bucket_and_key(url: str, how: dict[str, object], place: tuple[str, ...]) -> None:
    assert tuple(parse_url(url, **how)) == place  # type: ignore[arg-type]


@pytest.mark.parametrize("url", ["", "bucket/key", "s3://bucket", "s3://host:80/bucket", "s3:///bucket/key"])
def test_a_url_without_bucket_or_key_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="names no object"):
        parse_url(url)


@pytest.mark.parametrize(
    "query", ["X-Amz-Algorithm=a&X-Amz-Signature=abc", "AWSAccessKeyId=a&Signature=b", "X-Goog-Signature=abc"]
)
def test_a_signature_is_never_shown(query: str) -> None:
    assert is_signed(f"https://host/bucket/key?{query}")
    assert shown(f"https://host/bucket/key?{query}") == "https://host/bucket/key"


def test_a_question_mark_alone_is_part_of_the_name() -> None:
    assert shown("https://host/bucket/key?x=1") == "https://host/bucket/key?x=1"


class Installed(HelperPool):
    """As if the libraries were here."""

    def missing(self, *_args: object) -> str:
        return ""


@pytest.mark.parametrize(
    ("kind", "row", "url"),
    [
        (S3Tool, {"type": "OS_ES"}, "s3://host:443/bucket/es/QUEUE/out.4711/x.root"),
        (S3Tool, {"type": "OS_ES", "is_deterministic": True}, None),
        (S3Tool, {"type": "DATADISK"}, None),
        (GsTool, {"type": "DATADISK"}, "s3://host:443/bucket/es/QUEUE/out.4711/x.root"),
        (GsTool, {"is_deterministic": True}, None),
    ],
)
def test_objects_lie_by_queue_and_dataset(kind: type[ObjectTool], row: dict[str, object], url: str | None) -> None:
    tool = kind(ToolConfig(helpers=Installed(), queue="QUEUE", job_id="4711"))
    place = FilePlace("x.root", "scope", "out.#{pandaid}", "scope/ab/cd/x.root", 7)
    assert tool.destination_url(place, StorageData.from_raw("R", row), "s3://host:443/", "/bucket/es/") == url
