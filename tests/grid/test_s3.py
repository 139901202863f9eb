"""The copytool s3 with a real object store."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest

from pilot.common.exception import PilotException
from pilot.copytool.base import Transfer
from pilot.info.storage import StorageData
from pilot.util.cancel import CancelToken
from pilot.util.helper import HelperPool
from tests.grid.adapters import SMALL, S3Store, checksums, move
from tests.grid.conformance import (
    BIG,
    HALFWAY,
    PATIENCE,
    Aborts,
    Downloads,
    LostServer,
    Races,
    Running,
    Uploads,
    refused,
    until,
)
from tests.grid.gate import gate
from tests.grid.testbed.s3 import ACCESS_KEY, S3, SECRET_KEY


@pytest.fixture
def adapter(tmp_path: Path, helpers: HelperPool, s3: S3) -> S3Store:
    return S3Store(tmp_path, helpers, s3)


class TestS3(Downloads, Uploads, Races, Aborts, LostServer):
    """s3:// with keys from the environment."""

    @pytest.fixture
    def adapter(self, tmp_path: Path, helpers: HelperPool, s3: S3) -> S3Store:
        return S3Store(tmp_path, helpers, s3)

    def test_a_file_in_the_making_is_left_alone(self, adapter: S3Store) -> None:  # type: ignore[override]
        """Nobody sees an object before it is complete, so the faster one stores it, and the other finds it there."""
        content = os.urandom(BIG)
        first, second = adapter.upload("output", content), adapter.upload("output", content)
        with gate(adapter.server, "hold", HALFWAY, "up") as door:
            running = Running(adapter.tool(), replace(first, url=adapter.url_for("output", door.port)))
            assert door.reached.wait(PATIENCE)
            assert not move(adapter.tool(), second).existed
            before = adapter.identity("output")
            door.open()
            running.wait()
        assert running.result and running.result.existed, running.error
        assert (adapter.get("output"), adapter.identity("output")) == (content, before)
        assert adapter.parts("output") == 0


def metadata(adapter: S3Store, name: str) -> Dict[str, str]:
    """What is noted on an object."""
    found: Dict[str, str] = adapter.client.head_object(Bucket=adapter.bucket, Key=f"{adapter.base}/{name}")["Metadata"]
    return found


@pytest.mark.parametrize("size", [5, 24 << 20], ids=["single", "parts"])
def test_the_checksum_is_noted_on_the_object(adapter: S3Store, size: int) -> None:
    content = os.urandom(size)
    move(adapter.tool(), adapter.upload("output", content))
    assert metadata(adapter, "output") == checksums(content)
    assert move(adapter.tool(), adapter.upload("output", content)).existed


def test_an_object_in_parts_of_another_client_is_known_by_its_etag(adapter: S3Store) -> None:
    content = os.urandom(BIG)
    key = {"Bucket": adapter.bucket, "Key": f"{adapter.base}/output"}
    upload = adapter.client.create_multipart_upload(**key)["UploadId"]
    parts = []
    for number, start in enumerate(range(0, BIG, 16 << 20), 1):
        body = content[start : start + (16 << 20)]
        etag = adapter.client.upload_part(**key, UploadId=upload, PartNumber=number, Body=body)["ETag"]
        parts.append({"PartNumber": number, "ETag": etag})
    adapter.client.complete_multipart_upload(**key, UploadId=upload, MultipartUpload={"Parts": parts})
    assert move(adapter.tool(), adapter.upload("output", content)).existed
    refused(adapter.tool(), adapter.upload("output", content[::-1]), 1221)


@pytest.mark.parametrize("kind", ["adler32", "md5"])
def test_a_queue_may_ask_for_either_checksum(adapter: S3Store, kind: str) -> None:
    content = os.urandom(BIG)
    transfer = adapter.upload("output", content, size=BIG, checksum=checksums(content, kind))
    result = move(adapter.tool(checksum_type=kind), transfer)
    assert dict(result.checksum) == checksums(content, kind)
    wrong = adapter.upload("other", content, size=BIG, checksum=checksums(b"other", kind))
    refused(adapter.tool(checksum_type=kind), wrong, {"adler32": 1172, "md5": 1141}[kind])
    assert not adapter.exists("other")


def test_a_large_file_that_changes_while_it_is_sent_is_not_stored(adapter: S3Store) -> None:
    content = os.urandom(BIG)
    transfer = adapter.upload("output", content, size=BIG, checksum=checksums(content))
    transfer.local.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    refused(adapter.tool(), transfer, 1172)
    assert not adapter.exists("output")


def test_an_object_that_is_shorter_than_the_catalogue_says_is_refused(adapter: S3Store) -> None:
    adapter.put("input", SMALL)
    error = refused(adapter.tool(), adapter.download("input", size=BIG), 1099)
    assert f"{len(SMALL)} B" in error.detail and f"{BIG} B" in error.detail


def test_a_large_file_of_unknown_size_arrives_whole(adapter: S3Store) -> None:
    content = os.urandom((33 << 20) + 7)
    adapter.put("input", content)
    transfer = adapter.download("input", checksum=checksums(content))
    assert move(adapter.tool(), transfer).verified
    assert transfer.local.read_bytes() == content


def test_a_bucket_that_is_not_there_is_named(adapter: S3Store) -> None:
    url = adapter.url_for("file").replace(adapter.bucket, "nosuchbucket")
    refused(adapter.tool(), adapter.download("file", url=url), 1331, 1099)
    error = refused(adapter.tool(), adapter.upload("file", SMALL, url=url), 1137)
    assert "NoSuchBucket" in error.detail


def test_without_keys_it_says_so(adapter: S3Store) -> None:
    environ = {"PATH": os.environ["PATH"], "HOME": str(adapter.workdir), "AWS_EC2_METADATA_DISABLED": "true"}
    adapter.put("input", SMALL)
    refused(adapter.tool(environ=environ), adapter.download("input", SMALL), 1364)
    profile = {**environ, "PANDA_PILOT_AWS_PROFILE": "panda"}
    error = refused(adapter.tool(environ=profile), adapter.download("input", SMALL), 1364)
    assert "panda" in error.detail


def test_a_profile_may_hold_the_keys(adapter: S3Store) -> None:
    credentials = adapter.workdir / "credentials"
    credentials.write_text(f"[panda]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n")
    environ = {"PATH": os.environ["PATH"], "HOME": str(adapter.workdir), "PANDA_PILOT_AWS_PROFILE": "panda",
               "AWS_SHARED_CREDENTIALS_FILE": str(credentials)}
    adapter.put("input", SMALL)
    assert move(adapter.tool(environ=environ), adapter.download("input", SMALL)).verified


class KeyedStore:
    """A storage endpoint whose keys the PanDA server has."""

    def __init__(self, adapter: S3Store, kind: str = "OS_ES", secure: str = "False") -> None:
        settings = {"access_key": "pub-name", "secret_key": "priv-name", "is_secure": secure}
        row = {"name": "STORE", "type": kind, "rprotocols": {"7": {"settings": settings}}}
        self.data = {"STORE": StorageData.from_raw("STORE", row)}
        self.asked: List[Tuple[str, str]] = []
        self.environ = {"PATH": os.environ["PATH"], "HOME": str(adapter.workdir), "AWS_EC2_METADATA_DISABLED": "true"}

    def key_pair(self, public: str, private: str) -> Tuple[str, str]:
        self.asked.append((public, private))
        return ACCESS_KEY, SECRET_KEY

    def config(self) -> Dict[str, Any]:
        return {"storage": lambda names: self.data, "key_pair": self.key_pair, "environ": self.environ, "options": {}}


def test_keys_come_from_the_server_and_stay_out_of_sight(adapter: S3Store) -> None:
    store = KeyedStore(adapter)
    tool = adapter.tool(**store.config())
    for name in ("one", "two"):
        move(tool, adapter.upload(name, SMALL, endpoint="STORE", protocol_id=7))
    assert adapter.get("two") == SMALL
    assert store.asked == [("pub-name", "priv-name")], "they are asked for once"
    for process in Path("/proc").glob("[0-9]*"):
        try:
            stat = (process / "stat").read_text()
            visible = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue  # it has ended, or is not ours
        own = int(stat.rpartition(")")[2].split()[1]) == os.getpid()
        if own and b"pilot.copytool.worker" in visible:
            assert SECRET_KEY.encode() not in visible.replace(f"AWS_SECRET_ACCESS_KEY={SECRET_KEY}".encode(), b"")


def test_a_signed_url_needs_no_keys_and_is_never_shown(adapter: S3Store) -> None:
    store = KeyedStore(adapter)
    place = {"Bucket": adapter.bucket, "Key": f"{adapter.base}/file"}
    put = adapter.client.generate_presigned_url("put_object", Params=place)
    get = adapter.client.generate_presigned_url("get_object", Params=place)
    tool = adapter.tool(environ=store.environ)
    stored = move(tool, adapter.upload("file", SMALL, url=put))
    assert (stored.url, adapter.get("file")) == (put.partition("?")[0], SMALL)
    transfer = adapter.download("file", SMALL, url=get)
    assert move(tool, transfer).verified
    adapter.client.delete_object(**place)
    error = refused(tool, transfer, 1331)
    assert "Signature" not in error.detail and "Credential" not in error.detail


def test_loose_logs_are_stored_in_place_of_the_archive(adapter: S3Store) -> None:
    (adapter.local / "payload.stdout").write_text("hello\n")
    (adapter.local / "payload.stderr").symlink_to("/etc/hostname")
    (adapter.local / "memory_monitor_summary.json").write_text("{}")
    (adapter.workdir / "pilotlog.txt").write_text("the pilot's log\n")
    archive = adapter.workdir / "x.log.tgz"
    archive.write_bytes(b"archive")
    tool = adapter.tool(environ={**adapter.environ(), "PANDA_PILOT_COPY_OUT_EXTEND": "1"})
    for _attempt in range(2):  # logs of an earlier attempt are replaced
        result = move(tool, adapter.order_out("logs/x.log.tgz", archive))
    assert not adapter.exists("logs/x.log.tgz") and not adapter.exists("logs/payload.stderr")
    assert adapter.get("logs/payload.stdout") == b"hello\n"
    assert adapter.get("logs/pilotlog.txt") == b"the pilot's log\n"
    assert adapter.get("logs/memory_monitor_summary.json") == b"{}"
    assert (result.size, dict(result.checksum)) == (7, checksums(b"archive"))
    assert result.log_url == f"{adapter.store.endpoint}/{adapter.bucket}/{adapter.base}/logs/pilotlog.txt"


def test_parts_of_a_cancelled_upload_are_given_back(adapter: S3Store) -> None:
    with gate(adapter.server, "hold", 17 << 20, "up") as door:
        transfer = adapter.upload("output", os.urandom(48 << 20), url=adapter.url_for("output", door.port))
        running = Running(adapter.tool(), transfer)
        assert door.reached.wait(PATIENCE)
        assert adapter.parts("output") == 1
        running.cancel()
    until(lambda: adapter.parts("output") == 0, "the store has forgotten the parts")


def test_many_small_files_share_the_helper(adapter: S3Store, helpers: HelperPool) -> None:
    tool, token = adapter.tool(), CancelToken()
    names = [f"file{number}" for number in range(60)]
    failures: List[BaseException] = []

    def store(some: List[Transfer]) -> None:
        try:
            for transfer in some:
                move(tool, transfer, token)
        except PilotException as exc:
            failures.append(exc)

    orders = [adapter.upload(name, name.encode()) for name in names]
    threads = [threading.Thread(target=store, args=(orders[start::3],)) for start in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [adapter.get(name) for name in names] == [name.encode() for name in names]


def test_an_input_of_a_local_directory_is_copied(adapter: S3Store) -> None:
    (adapter.workdir / "input").write_bytes(SMALL)
    url = f"file://{adapter.workdir}/input"
    transfer = adapter.download("input", SMALL, url=url)
    assert move(adapter.tool(), transfer).verified
    assert transfer.local.read_bytes() == SMALL
    refused(adapter.tool(), adapter.download("input", SMALL, url=url, checksum=checksums(b"other")), 1171)


def test_an_output_without_a_url_says_why(adapter: S3Store) -> None:
    assert "--output-dir" in refused(adapter.tool(), adapter.upload("output", SMALL, url=""), 1137).detail
