"""What every copytool has to do right, tried with real servers: test cases to be inherited.

```
 class TestMyTool(Downloads, Uploads, Aborts, LostServer): # those that make sense
     @pytest.fixture
     def adapter(...) -> Adapter: ...                      # tests/grid/adapters.py
```
"""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Callable, Iterator, List, Optional

import pytest

from pilot.common.exception import PilotException
from pilot.copytool.base import CopyTool, Transfer, TransferFailure, TransferResult
from pilot.util.cancel import CancelledError, CancelToken
from tests.disks import SMALL as SMALL_DISK
from tests.grid.adapters import SMALL, Adapter, checksums, move
from tests.grid.gate import Deaf, gate
from tests.grid.testbed.pki import Pki

ODD_NAMES = ["with space", "per%cent", "enc%20oded", "plus+x", "hash#x", "question?x=1", "amp&x=1", "ümläut-中文",
             "-dash", "semi;colon:", "quo\"te's", "br[a]ck", "back\\slash", "star*", " lead", "$HOME`id`"]
BIG = 24 << 20
HALFWAY = 9 << 20
PATIENCE = 20.0
"""Seconds after which something counts as hanging; what is waited for takes about one."""


@pytest.fixture
def adapter() -> Adapter:
    """To be overridden."""
    raise NotImplementedError


def refused(tool: CopyTool, transfer: Transfer, *codes: int) -> PilotException:
    """The order fails with one of these pilot error codes, and nothing half-written is left here."""
    with pytest.raises(PilotException) as caught:
        move(tool, transfer)
    error = caught.value
    assert error.code in codes, f"{error.code}: {error.detail}"
    assert transfer.lfn in error.detail, f"the text does not name the file: {error.detail}"
    return error


def leftovers(adapter: Adapter, *expected: str) -> List[str]:
    """What lies in the job's directory besides the expected."""
    logs = (".log", ".xrdlog")
    return [name for name in os.listdir(adapter.local) if name not in expected and not name.endswith(logs)]


def move_again(tool: CopyTool, transfer: Transfer, *lost: int) -> TransferResult:
    """Repeat as the planner does: a client may still have its doubts about a server that has just come back."""
    for _ in range(4):
        try:
            return move(tool, transfer)
        except TransferFailure as failure:
            if failure.code not in lost:
                raise
            transfer = replace(transfer, overwrite=transfer.overwrite or failure.remains)
    return move(tool, transfer)


class Running:
    """A transfer in a thread of its own."""

    def __init__(self, tool: CopyTool, transfer: Transfer) -> None:
        self.token = CancelToken()
        self.result: Optional[TransferResult] = None
        self.error: Optional[BaseException] = None
        self._thread = threading.Thread(target=self._run, args=(tool, transfer), daemon=True)
        self._thread.start()

    def _run(self, tool: CopyTool, transfer: Transfer) -> None:
        try:
            self.result = move(tool, transfer, self.token)
        except BaseException as exc:
            self.error = exc

    def wait(self) -> None:
        """Until it has ended."""
        self._thread.join(PATIENCE * 2)
        assert not self._thread.is_alive(), "the transfer does not end"

    def cancel(self) -> None:
        """Break it off and see that it lets go."""
        self.token.cancel(1151, "broken off by the test")
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the transfer does not let go after it was cancelled"


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that another process does."""
    waiting = threading.Event()
    for _ in range(int(PATIENCE / 0.02)):
        if condition():
            return
        waiting.wait(0.02)
    pytest.fail(f"not within {PATIENCE:.0f} s: {what}")


class Downloads:
    """Stage-in."""

    def test_a_file_arrives_and_is_verified(self, adapter: Adapter) -> None:
        adapter.put("dir/input.root", SMALL)
        transfer = adapter.download("dir/input.root", SMALL)
        result = move(adapter.tool(), transfer)
        assert transfer.local.read_bytes() == SMALL
        assert (result.size, result.verified) == (len(SMALL), True)
        assert leftovers(adapter, "input.root") == []

    def test_md5_is_compared_when_the_catalogue_has_only_that(self, adapter: Adapter) -> None:
        adapter.put("input", SMALL)
        assert move(adapter.tool(), adapter.download("input", SMALL, checksum=checksums(SMALL, "md5"))).verified
        wrong = adapter.download("input", SMALL, checksum=checksums(b"other", "md5"))
        refused(adapter.tool(), wrong, 1145)

    def test_without_a_checksum_the_size_is_compared_and_the_result_says_so(self, adapter: Adapter) -> None:
        adapter.put("input", SMALL)
        result = move(adapter.tool(), adapter.download("input", size=len(SMALL)))
        assert not result.verified
        refused(adapter.tool(), adapter.download("input", size=len(SMALL) + 1), 1099)

    def test_a_checksum_in_capitals_or_without_its_first_zero_is_the_same(self, adapter: Adapter) -> None:
        adapter.put("input", b"hello")  # adler32 062c0215
        for value in ("062C0215", "62c0215"):
            assert move(adapter.tool(), adapter.download("input", b"hello", checksum={"adler32": value})).verified

    def test_a_wrong_checksum_leaves_nothing_behind(self, adapter: Adapter) -> None:
        adapter.put("input", SMALL)
        transfer = adapter.download("input", SMALL, checksum=checksums(b"other"))
        error = refused(adapter.tool(), transfer, 1171)
        assert checksums(b"other")["adler32"] in error.detail
        assert leftovers(adapter) == []

    def test_a_wrong_size_leaves_nothing_behind(self, adapter: Adapter) -> None:
        adapter.put("input", SMALL)
        refused(adapter.tool(), adapter.download("input", SMALL, size=5), 1099)
        assert leftovers(adapter) == []

    def test_a_missing_source_is_told_apart(self, adapter: Adapter) -> None:
        refused(adapter.tool(), adapter.download("nothing/here", SMALL), 1331)
        assert leftovers(adapter) == []

    def test_an_empty_file_arrives(self, adapter: Adapter) -> None:
        adapter.put("empty", b"")
        transfer = adapter.download("empty", b"")
        assert move(adapter.tool(), transfer).size == 0
        assert transfer.local.read_bytes() == b""

    @pytest.mark.parametrize("size", [1, 4095, 4096, 65537, 1 << 20, (8 << 20) + 1])
    def test_sizes_around_block_borders_arrive_whole(self, adapter: Adapter, size: int) -> None:
        content = os.urandom(size)
        adapter.put("input", content)
        transfer = adapter.download("input", content)
        assert move(adapter.tool(), transfer).size == size
        assert transfer.local.read_bytes() == content

    @pytest.mark.parametrize("name", ODD_NAMES)
    def test_odd_names_arrive(self, adapter: Adapter, name: str) -> None:
        adapter.put(f"odd/{name}", SMALL)
        transfer = adapter.download(f"odd/{name}", SMALL)
        if any(char in name for char in adapter.impossible):
            refused(adapter.tool(), transfer, 1099, 1331)
            assert leftovers(adapter) == []
            return
        move(adapter.tool(), transfer)
        assert transfer.local.read_bytes() == SMALL
        assert leftovers(adapter, name) == []

    def test_an_older_local_file_is_replaced(self, adapter: Adapter) -> None:
        adapter.put("input", SMALL)
        transfer = adapter.download("input", SMALL)
        transfer.local.write_bytes(b"from an earlier attempt")
        move(adapter.tool(), transfer)
        assert transfer.local.read_bytes() == SMALL

    def test_a_full_disk_here_is_told_apart(self, adapter: Adapter, small_disk: Path) -> None:
        content = os.urandom(SMALL_DISK * 2)
        adapter.put("input", content)
        if not os.path.ismount(small_disk):
            pytest.skip("needs the right to mount a small disk")
        transfer = adapter.download("input", content, local=small_disk / "input")
        refused(adapter.tool(), transfer, 1098)
        assert os.listdir(small_disk) == []

    def test_progress_is_told_when_the_tool_says_so(self, adapter: Adapter) -> None:
        content = os.urandom(BIG)
        adapter.put("input", content)
        tool = adapter.tool()
        told: List[int] = []
        move(tool, adapter.download("input", content), progress=told.append)
        assert bool(told) or not tool.features.reports_progress


class Permissions:
    """A storage that refuses."""

    def test_a_file_that_may_not_be_read_is_told_apart(self, adapter: Adapter) -> None:
        adapter.put("locked/input", SMALL)
        adapter.deny("locked/input")
        refused(adapter.tool(), adapter.download("locked/input", SMALL), *adapter.denied["in"])
        assert leftovers(adapter) == []

    def test_a_directory_that_may_not_be_written_is_told_apart(self, adapter: Adapter) -> None:
        adapter.deny("locked/output")
        refused(adapter.tool(), adapter.upload("locked/output", SMALL), *adapter.denied["out"])
        assert not adapter.exists("locked/output")


class Uploads:
    """Stage-out."""

    def test_a_file_is_stored_in_a_new_directory(self, adapter: Adapter) -> None:
        transfer = adapter.upload("a/new/dir/output.root", SMALL)
        result = move(adapter.tool(), transfer)
        assert adapter.get("a/new/dir/output.root") == SMALL
        assert (result.size, dict(result.checksum), result.existed) == (len(SMALL), checksums(SMALL), False)
        assert result.url == transfer.url
        assert leftovers(adapter, "output.root") == []

    def test_the_checksum_that_is_known_already_is_not_computed_again(self, adapter: Adapter) -> None:
        transfer = adapter.upload("output", SMALL, size=len(SMALL), checksum=checksums(SMALL))
        assert dict(move(adapter.tool(), transfer).checksum) == checksums(SMALL)

    def test_a_file_that_is_not_what_its_checksum_says_is_not_left_in_the_storage(self, adapter: Adapter) -> None:
        transfer = adapter.upload("output", SMALL, size=len(SMALL), checksum=checksums(b"other"))
        refused(adapter.tool(), transfer, 1172)
        assert not adapter.exists("output")

    def test_an_empty_file_is_stored(self, adapter: Adapter) -> None:
        result = move(adapter.tool(), adapter.upload("empty", b""))
        assert adapter.get("empty") == b""
        assert (result.size, dict(result.checksum)) == (0, {"adler32": "00000001"})

    @pytest.mark.parametrize("size", [1, 4096, 65537, (8 << 20) + 1])
    def test_sizes_around_block_borders_are_stored_whole(self, adapter: Adapter, size: int) -> None:
        content = os.urandom(size)
        assert move(adapter.tool(), adapter.upload("output", content)).size == size
        assert adapter.get("output") == content

    @pytest.mark.parametrize("name", ODD_NAMES)
    def test_odd_names_are_stored(self, adapter: Adapter, name: str) -> None:
        transfer = adapter.upload(f"odd/{name}", SMALL)
        if any(char in name for char in adapter.impossible):
            refused(adapter.tool(), transfer, 1137, 1371)
            assert not adapter.exists(f"odd/{name.partition('?')[0]}")
            return
        move(adapter.tool(), transfer)
        assert adapter.get(f"odd/{name}") == SMALL
        assert leftovers(adapter, name) == []

    def test_a_missing_local_file_is_told_apart(self, adapter: Adapter) -> None:
        transfer = adapter.upload("output", SMALL)
        transfer.local.unlink()
        refused(adapter.tool(), transfer, 1103, 1165, 1366)
        assert not adapter.exists("output")

    def test_the_same_content_at_the_destination_is_a_success(self, adapter: Adapter) -> None:
        adapter.put("output", SMALL)
        before = adapter.identity("output")
        result = move(adapter.tool(), adapter.upload("output", SMALL))
        assert result.existed
        assert dict(result.checksum) == checksums(SMALL)
        assert adapter.identity("output") == before

    @pytest.mark.parametrize("there", [b"another content of another size", SMALL[::-1]], ids=["size", "checksum"])
    def test_another_content_at_the_destination_stays(self, adapter: Adapter, there: bytes) -> None:
        adapter.put("output", there)
        refused(adapter.tool(), adapter.upload("output", SMALL), 1221)
        assert adapter.get("output") == there

    @pytest.mark.parametrize("there", [b"another content of another size", SMALL[::-1]], ids=["size", "checksum"])
    def test_another_content_is_replaced_where_that_is_allowed(self, adapter: Adapter, there: bytes) -> None:
        move(adapter.tool(), adapter.upload("output", there))  # so that the server knows a checksum of it
        result = move(adapter.tool(), adapter.upload("output", SMALL, overwrite=True))
        assert adapter.get("output") == SMALL
        assert not result.existed


class InTheMaking:
    """Tools that write under the final name: another one comes while the file is half there."""

    def test_a_file_in_the_making_is_left_alone(self, adapter: Adapter) -> None:
        content = os.urandom(BIG)
        first, second = adapter.upload("output", content), adapter.upload("output", content)
        with gate(adapter.server, "hold", HALFWAY, "up") as door:
            running = Running(adapter.tool(), replace(first, url=adapter.url_for("output", door.port)))
            assert door.reached.wait(PATIENCE)
            until(lambda: adapter.exists("output"), "the file appears in the storage")
            refused(adapter.tool(), second, 1221)
            door.open()
            running.wait()
        assert running.result, running.error
        assert adapter.get("output") == content
        assert move(adapter.tool(), second).existed


class Credentials:
    """A storage that lets nobody in without a proxy."""

    def test_without_a_proxy_it_says_that_there_is_none(self, adapter: Adapter) -> None:
        adapter.put("input", SMALL)
        adapter.variables["X509_USER_PROXY"] = str(adapter.workdir / "none")
        error = refused(adapter.tool(), adapter.download("input", SMALL), 1163)
        assert "no proxy" in error.detail
        refused(adapter.tool(), adapter.upload("output", SMALL), 1163)
        assert not adapter.exists("output")

    def test_an_expired_proxy_is_named(self, adapter: Adapter, pki: Pki) -> None:
        adapter.put("input", SMALL)
        expired = pki.expired(adapter.workdir / "expired")
        adapter.variables["X509_USER_PROXY"] = str(expired)
        error = refused(adapter.tool(), adapter.download("input", SMALL), 1338)
        assert f"{expired} expired on" in error.detail
        refused(adapter.tool(), adapter.upload("output", SMALL), 1383)
        assert not adapter.exists("output")


class Races:
    """Two at the same instant; tools whose library cannot do that (gfal2 with root://) are not tried."""

    def test_two_that_race_for_one_destination_leave_a_whole_file(self, adapter: Adapter) -> None:
        content = os.urandom(4 << 20)
        tool = adapter.tool()
        transfer = adapter.upload("output", content)
        runs = [Running(tool, transfer) for _ in range(2)]
        for run in runs:
            run.wait()
        assert any(run.result for run in runs), [run.error for run in runs]
        for run in runs:
            assert run.result or isinstance(run.error, PilotException)
        assert adapter.get("output") == content


class Aborts:
    """Broken off by the planner: nothing half-written stays, neither here nor there."""

    @pytest.fixture
    def deaf(self) -> Iterator[Deaf]:
        server = Deaf()
        yield server
        server.close()

    @pytest.mark.parametrize("how", ["slow", "hold"])
    def test_a_download_that_is_cancelled_leaves_nothing(self, adapter: Adapter, how: str) -> None:
        adapter.put("input", os.urandom(BIG))
        with gate(adapter.server, how, HALFWAY) as door:
            transfer = adapter.download("input", size=BIG, url=adapter.url_for("input", door.port))
            running = Running(adapter.tool(), transfer)
            assert door.reached.wait(PATIENCE)
            running.cancel()
        assert isinstance(running.error, CancelledError), running.error
        until(lambda: leftovers(adapter) == [], f"the partial file is removed: {leftovers(adapter)}")

    @pytest.mark.parametrize("how", ["slow", "hold"])
    def test_an_upload_that_is_cancelled_leaves_nothing_in_the_storage(self, adapter: Adapter, how: str) -> None:
        with gate(adapter.server, how, HALFWAY, "up") as door:
            transfer = adapter.upload("output", os.urandom(BIG), url=adapter.url_for("output", door.port))
            running = Running(adapter.tool(), transfer)
            assert door.reached.wait(PATIENCE)
            running.cancel()
        assert isinstance(running.error, CancelledError), running.error
        until(lambda: not adapter.exists("output"), "the partial file is removed from the storage")
        assert leftovers(adapter, "output") == []

    def test_a_server_that_accepts_and_hangs_does_not_hold_a_download(self, adapter: Adapter, deaf: Deaf) -> None:
        running = Running(adapter.tool(), adapter.download("input", SMALL, url=adapter.url_for("input", deaf.port)))
        assert deaf.heard.wait(PATIENCE)
        running.cancel()
        assert isinstance(running.error, CancelledError), running.error
        assert leftovers(adapter) == []

    def test_a_server_that_accepts_and_hangs_does_not_hold_an_upload(self, adapter: Adapter, deaf: Deaf) -> None:
        running = Running(adapter.tool(), adapter.upload("output", SMALL, url=adapter.url_for("output", deaf.port)))
        assert deaf.heard.wait(PATIENCE)
        running.cancel()
        assert isinstance(running.error, CancelledError), running.error

    def test_one_that_hangs_does_not_cost_the_others(self, adapter: Adapter, deaf: Deaf) -> None:
        adapter.put("other", SMALL)
        tool = adapter.tool()
        hanging = Running(tool, adapter.download("input", SMALL, url=adapter.url_for("input", deaf.port)))
        assert deaf.heard.wait(PATIENCE)
        move(tool, adapter.download("other", SMALL))
        hanging.cancel()
        move(tool, adapter.download("other", SMALL))

    def test_an_order_that_is_cancelled_before_its_begin_does_nothing(self, adapter: Adapter) -> None:
        token = CancelToken()
        token.cancel(1151, "broken off by the test")
        with pytest.raises(CancelledError):
            move(adapter.tool(), adapter.upload("output", SMALL), token)
        assert not adapter.exists("output")


class LostServer:
    """The storage goes away in mid-transfer, as when it is killed, and comes back."""

    lost = {"in": (1099, 1151, 1324, 1327, 1362), "out": (1137, 1152, 1324, 1327, 1362)}

    @pytest.mark.timeout(300)  # five repeats, and a client may doubt the server for 20 s each time
    def test_a_download_fails_and_works_again_when_the_server_is_back(self, adapter: Adapter) -> None:
        content = os.urandom(BIG)
        adapter.put("input", content)
        with gate(adapter.server, "cut", HALFWAY) as door:
            transfer = adapter.download("input", content, url=adapter.url_for("input", door.port))
            refused(adapter.tool(), transfer, *self.lost["in"])
            assert leftovers(adapter) == []
            door.restore()
            move_again(adapter.tool(), transfer, *self.lost["in"])
        assert transfer.local.read_bytes() == content

    @pytest.mark.timeout(300)  # five repeats, and a client may doubt the server for 20 s each time
    def test_an_upload_fails_and_may_replace_its_remains_when_the_server_is_back(self, adapter: Adapter) -> None:
        content = os.urandom(BIG)
        with gate(adapter.server, "cut", HALFWAY, "up") as door:
            transfer = adapter.upload("output", content, url=adapter.url_for("output", door.port))
            error = refused(adapter.tool(), transfer, *self.lost["out"])
            door.restore()
            again = adapter.upload("output", content, url=transfer.url, overwrite=getattr(error, "remains", False))
            move_again(adapter.tool(), again, *self.lost["out"])
        assert adapter.get("output") == content

    def test_a_server_that_is_not_there_is_told_apart(self, adapter: Adapter) -> None:
        with gate(adapter.server) as door:
            door.cut()
            transfer = adapter.download("input", SMALL, url=adapter.url_for("input", door.port))
            refused(adapter.tool(), transfer, 1324, 1327)


class KilledServer:
    """A storage that belongs to this test alone is killed with SIGKILL in mid-transfer, and comes back."""

    def test_a_download_from_a_killed_server_fails_and_works_when_it_is_back(self, adapter: Adapter) -> None:
        content = os.urandom(BIG)
        adapter.put("input", content)
        with gate(adapter.server, "slow", HALFWAY) as door:
            transfer = adapter.download("input", content, url=adapter.url_for("input", door.port))
            running = Running(adapter.tool(), transfer)
            assert door.reached.wait(PATIENCE)
            adapter.kill_server()
            door.open()
            running.wait()
            assert isinstance(running.error, PilotException), running.error
            assert running.error.code in LostServer.lost["in"], running.error
            assert leftovers(adapter) == []
            adapter.start_server()
            move_again(adapter.tool(), transfer, *LostServer.lost["in"])
        assert transfer.local.read_bytes() == content
