"""The rucio copytool with a real Rucio server and every protocol of the testbed."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Type
from uuid import uuid4

import psutil
import pytest
import requests

from pilot.common.exception import PilotException
from pilot.copytool.base import CopyTool, Direction, Outcome, ToolConfig, Transfer, TransferFailure, TransferResult
from pilot.copytool.catalogue import Catalogue
from pilot.copytool.registry import load_tool
from pilot.util.cancel import CancelledError, CancelToken
from pilot.util.helper import HelperPool
from tests.grid.adapters import SMALL, Adapter, XRootDAdapter, checksums, move
from tests.grid.conformance import (
    BIG,
    HALFWAY,
    ODD_NAMES,
    PATIENCE,
    Aborts,
    Downloads,
    LostServer,
    Permissions,
    Running,
    Uploads,
    leftovers,
    refused,
    until,
)
from tests.grid.gate import Deaf, Gate, gate
from tests.grid.testbed.pki import Pki
from tests.grid.testbed.rucio import Rucio
from tests.grid.testbed.xrootd import XRootD


def needs_gfal() -> None:
    """Skip where gfal2 is not to be had for this version of Python."""
    from pilot.copytool.worker import rucio_order

    if rucio_order.gfal2_module() is None:
        pytest.skip("gfal2 is not installed for this version of Python")


@pytest.fixture(autouse=True)
def library() -> None:
    """All of this needs the client library."""
    pytest.importorskip("rucio.client", reason="rucio-clients is not installed")


class ViaRucio(XRootDAdapter):
    """An RSE on a testbed's XRootD server."""

    tool_name = "rucio"
    prefix = ""
    rse = ""

    def __init__(self, workdir: Path, helpers: HelperPool, storage: XRootD, rucio: Rucio) -> None:
        super().__init__(workdir, helpers, storage)
        self.rucio = rucio
        self.base = f"/{self.prefix}{self.base}"

    def environ(self) -> Dict[str, str]:
        return {**super().environ(), **self.rucio.env, **self.storage.env}

    def order(self, direction: Direction, name: str, **changes: Any) -> Transfer:
        return super().order(direction, name, **{"endpoint": self.rse, **changes})


class XrootdRse(ViaRucio):
    """XRootD's library."""

    prefix, rse = "rucio", "TB_XROOTD"
    impossible = ("?",)


class XrootdRseCommands(XrootdRse):
    """The commands xrdcp and xrdfs: no Python here has the bindings."""

    def environ(self) -> Dict[str, str]:
        blocked = self.workdir / "python" / "XRootD"
        blocked.mkdir(parents=True, exist_ok=True)
        (blocked / "__init__.py").write_text("raise ImportError('taken away by the test')\n")
        return {**super().environ(), "PYTHONPATH": str(blocked.parent)}


class XrootdGsiRse(ViaRucio):
    """XRootD's library with a proxy."""

    prefix, rse = "xgsirse", "TB_XGSI"
    impossible = ("?",)


class GfalRse(ViaRucio):
    """gfal2, root://."""

    prefix, rse = "gfalrse", "TB_GFAL"
    impossible = ("?", "#", "%")


class HttpRse(ViaRucio):
    """gfal2, http://."""

    prefix, rse, web = "httprse", "TB_HTTP", True
    impossible = ("?", "#", "%")


class GsiRse(ViaRucio):
    """gfal2, root:// with a proxy."""

    prefix, rse = "gsirse", "TB_GSI"
    impossible = ("?", "#", "%")


class DavsRse(ViaRucio):
    """gfal2, davs://."""

    prefix, rse, web = "davsrse", "TB_DAVS", True
    impossible = ("?", "#", "%")


class PosixRse(Adapter):
    """A directory."""

    tool_name = "rucio"
    impossible = ("?", "#")

    def __init__(self, workdir: Path, helpers: HelperPool, rucio: Rucio) -> None:
        super().__init__(workdir, helpers)
        self.rucio = rucio
        self.place = rucio.posix / workdir.parent.name / workdir.name

    def environ(self) -> Dict[str, str]:
        return {**super().environ(), **self.rucio.env}

    def order(self, direction: Direction, name: str, **changes: Any) -> Transfer:
        return super().order(direction, name, **{"endpoint": "TB_POSIX", **changes})

    def url_for(self, name: str, port: int = 0) -> str:
        return f"file://localhost{self.place}/{name}"

    def put(self, name: str, content: bytes) -> None:
        path = self.place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def get(self, name: str) -> bytes:
        return (self.place / name).read_bytes()

    def exists(self, name: str) -> bool:
        return (self.place / name).exists()

    def identity(self, name: str) -> object:
        status = (self.place / name).stat()
        return status.st_ino, status.st_mtime_ns


class OddOutputs:
    """Rucio escapes nothing: over HTTP a name is refused when it would have to be."""

    @pytest.mark.parametrize("name", ODD_NAMES)
    def test_odd_names_are_stored(self, adapter: Adapter, name: str) -> None:
        transfer = adapter.upload(f"odd/{name}", SMALL)
        if re.fullmatch(r"[A-Za-z0-9+&=;:*.-]+", name):
            move(adapter.tool(), transfer)
            assert adapter.get(f"odd/{name}") == SMALL
        else:
            refused(adapter.tool(), transfer, 1371)


class TestXrootdRse(Downloads, Uploads, Permissions, Aborts, LostServer):
    @pytest.fixture
    def adapter(self, tmp_path: Path, helpers: HelperPool, rucio: Rucio) -> Adapter:
        return XrootdRse(tmp_path, helpers, rucio.storage, rucio)


class TestXrootdRseCommands(Downloads, Uploads, Permissions, Aborts, LostServer):
    @pytest.fixture
    def adapter(self, tmp_path: Path, helpers: HelperPool, rucio: Rucio) -> Adapter:
        return XrootdRseCommands(tmp_path, helpers, rucio.storage, rucio)


class TestXrootdGsiRse(Downloads, Uploads, Permissions):
    @pytest.fixture
    def adapter(self, tmp_path: Path, helpers: HelperPool, rucio: Rucio) -> Adapter:
        return XrootdGsiRse(tmp_path, helpers, rucio.gsi_storage, rucio)


class TestGfalRse(Downloads, Uploads, Permissions, Aborts, LostServer):
    @pytest.fixture
    def adapter(self, tmp_path: Path, helpers: HelperPool, rucio: Rucio) -> Adapter:
        needs_gfal()
        return GfalRse(tmp_path, helpers, rucio.storage, rucio)


class TestHttpRse(OddOutputs, Downloads, Uploads, Aborts, LostServer):
    @pytest.fixture
    def adapter(self, tmp_path: Path, helpers: HelperPool, rucio: Rucio) -> Adapter:
        needs_gfal()
        return HttpRse(tmp_path, helpers, rucio.storage, rucio)


class TestGsiRse(Downloads, Uploads):
    @pytest.fixture
    def adapter(self, tmp_path: Path, helpers: HelperPool, rucio: Rucio) -> Adapter:
        needs_gfal()
        return GsiRse(tmp_path, helpers, rucio.gsi_storage, rucio)


class TestDavsRse(OddOutputs, Downloads, Uploads):
    @pytest.fixture
    def adapter(self, tmp_path: Path, helpers: HelperPool, rucio: Rucio) -> Adapter:
        needs_gfal()
        return DavsRse(tmp_path, helpers, rucio.gsi_storage, rucio)


class TestPosixRse(Downloads, Uploads):
    @pytest.fixture
    def adapter(self, tmp_path: Path, helpers: HelperPool, rucio: Rucio) -> Adapter:
        return PosixRse(tmp_path, helpers, rucio)


# --- beyond what all copytools have in common ------------------------------------------------------------------------


def order(direction: Direction, rse: str, path: Path, **more: Any) -> Transfer:
    """An order whose URL the tool or the catalogue has to find."""
    given = {"lfn": path.name, "scope": "mc23", "local": path, "endpoint": rse, "timeout": 100.0}
    return Transfer(direction, **{**given, **more})


def run(tool: CopyTool, transfers: Sequence[Transfer], token: Optional[CancelToken] = None) -> Dict[str, Outcome]:
    """Outcome by file, in the order in which they became known."""
    outcomes: Dict[str, Outcome] = {}

    def done(transfer: Transfer, outcome: Outcome) -> None:
        assert transfer.lfn not in outcomes
        outcomes[transfer.lfn] = outcome

    tool.copy_many(transfers, token or CancelToken(), lambda _count: None, done)
    return outcomes


def write(directory: Path, name: str, content: bytes) -> Path:
    """A file to upload."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_bytes(content)
    return path


class OwnPool(HelperPool):
    """Helpers of one test, which it may look at and kill."""

    def __init__(self) -> None:
        super().__init__()
        self._others = {process.pid for process in psutil.Process().children()}

    def processes(self) -> List[psutil.Process]:
        """Those that run, each followed by its commands."""
        found: List[psutil.Process] = []
        for process in psutil.Process().children():
            try:
                if process.pid not in self._others and "rucio" in process.cmdline()[-2:]:
                    found += [process, *process.children(recursive=True)]
            except psutil.Error:
                continue
        return found


def kill_helper_at(door: Gate, helpers: OwnPool) -> None:
    """Kill it when its transfer has come to the door; the next one will be stopped there, too."""
    assert door.reached.wait(PATIENCE)
    processes = helpers.processes()
    for process in processes:
        process.suspend()
    door.again()
    for process in processes:
        process.kill()


@pytest.fixture
def environ(rucio: Rucio) -> Dict[str, str]:
    """What a pilot on a worker node has."""
    return {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "RES_OPTIONS": "timeout:1 attempts:1",
            **rucio.env}


@pytest.fixture
def own_helpers() -> Iterator[OwnPool]:
    """Helpers that belong to one test."""
    pool = OwnPool()
    with pool.session():
        yield pool
    pool.close(at_once=True)


@pytest.fixture
def rucio_tool(environ: Dict[str, str], own_helpers: OwnPool) -> CopyTool:
    return load_tool("rucio", ToolConfig(environ=environ, helpers=own_helpers))


ALL = ["TB_POSIX", "TB_XROOTD", "TB_GFAL", "TB_HTTP", "TB_DAVS", "TB_GSI", "TB_XGSI"]


@pytest.mark.parametrize("rse", ALL)
def test_a_file_goes_where_rucio_wants_it_and_comes_back_by_the_catalogues_url(
    rucio: Rucio, rucio_tool: CopyTool, environ: Dict[str, str], own_helpers: OwnPool, tmp_path: Path, rse: str
) -> None:
    if rse not in ("TB_POSIX", "TB_XROOTD"):
        needs_gfal()
    path = write(tmp_path, f"cycle.{rse}.{uuid4().hex}.root", SMALL)
    stored = move(rucio_tool, order(Direction.OUT, rse, path, guid=str(uuid4()), checksum=checksums(SMALL)))
    scheme, host, port, prefix, _ = rucio.rses[rse]
    digest = hashlib.md5(f"mc23:{path.name}".encode()).hexdigest()
    where = f"{host}:{port}" if port else host
    assert stored.url == f"{scheme}://{where}{prefix}mc23/{digest[:2]}/{digest[2:4]}/{path.name}"
    assert (stored.endpoint, stored.protocol, dict(stored.checksum)) == (rse, scheme, checksums(SMALL))
    assert rucio.replicas("mc23", path.name) == [], "the server registers, not the pilot"
    rucio.call("add_replica", rse, "mc23", path.name, len(SMALL), checksums(SMALL)["adler32"])
    (row,) = Catalogue(own_helpers, environ).list_replicas(
        [{"scope": "mc23", "name": path.name}], schemes=[scheme], client_location={"ip": "127.0.0.1", "site": "X"},
        token=CancelToken(),
    )  # fmt: skip
    assert (row["bytes"], row["adler32"]) == (len(SMALL), checksums(SMALL)["adler32"])
    ((url, facts),) = row["pfns"].items()
    assert (url, facts["rse"], facts["type"]) == (stored.url, rse, "DISK")
    back = tmp_path / "back" / path.name
    back.parent.mkdir()
    fetched = move(rucio_tool, order(Direction.IN, rse, back, url=url, size=len(SMALL), checksum=checksums(SMALL)))
    assert back.read_bytes() == SMALL
    assert (fetched.protocol, fetched.verified) == (scheme, True)
    assert os.listdir(back.parent) == [path.name]
    by_name = order(Direction.IN, rse, tmp_path / "again", lfn=path.name, size=len(SMALL), checksum=checksums(SMALL))
    assert move(rucio_tool, by_name).verified
    assert (tmp_path / "again").read_bytes() == SMALL


def test_one_bad_file_costs_no_other_in_the_same_order(rucio_tool: CopyTool, tmp_path: Path) -> None:
    unique = uuid4().hex
    good = [order(Direction.OUT, "TB_POSIX", write(tmp_path, f"good{number}.{unique}", SMALL)) for number in range(3)]
    missing = order(Direction.OUT, "TB_POSIX", tmp_path / "missing")
    unknown = order(Direction.OUT, "NO_SUCH_RSE", write(tmp_path, "nowhere", SMALL))
    odd = order(Direction.OUT, "TB_POSIX", write(tmp_path, "odd#name", SMALL))
    outcomes = run(rucio_tool, [missing, good[0], unknown, good[1], odd, good[2]])
    assert all(isinstance(outcomes[transfer.lfn], TransferResult) for transfer in good), outcomes
    codes = {name: outcome.code for name, outcome in outcomes.items() if isinstance(outcome, PilotException)}
    assert codes == {"missing": 1103, "nowhere": 1137, "odd#name": 1371}
    failure = outcomes["nowhere"]
    assert isinstance(failure, PilotException)
    assert failure.detail.startswith("mc23:nowhere to NO_SUCH_RSE, ")
    inputs = [replace(transfer, direction=Direction.IN, local=tmp_path / f"back{number}", size=len(SMALL),
                      checksum=checksums(SMALL), url=str(getattr(outcomes[transfer.lfn], "url", "")))
              for number, transfer in enumerate(good)]  # fmt: skip
    inputs[1] = replace(inputs[1], checksum=checksums(b"other"))
    back = run(rucio_tool, inputs)
    assert [isinstance(back[transfer.lfn], TransferResult) for transfer in inputs] == [True, False, True]
    assert not (tmp_path / "back1").exists()


def test_five_hundred_small_files_in_one_order(rucio_tool: CopyTool, tmp_path: Path) -> None:
    unique = uuid4().hex
    outputs = [order(Direction.OUT, "TB_POSIX", write(tmp_path / "out", f"f{number}.{unique}", b"%d" % number))
               for number in range(500)]  # fmt: skip
    stored = run(rucio_tool, outputs)
    assert len(stored) == 500 and all(isinstance(outcome, TransferResult) for outcome in stored.values())
    (tmp_path / "in").mkdir()
    inputs = [order(Direction.IN, "TB_POSIX", tmp_path / "in" / name, url=str(getattr(outcome, "url", "")),
                    checksum=getattr(outcome, "checksum", {})) for name, outcome in stored.items()]  # fmt: skip
    fetched = run(rucio_tool, inputs)
    assert len(fetched) == 500 and all(isinstance(outcome, TransferResult) for outcome in fetched.values())
    assert (tmp_path / "in" / f"f499.{unique}").read_bytes() == b"499"
    assert len(os.listdir(tmp_path / "in")) == 500


class TestHelperKilled:
    """The helper process dies in mid-transfer."""

    @pytest.fixture(params=[XrootdRse, XrootdRseCommands])
    def adapter(
        self, tmp_path: Path, own_helpers: OwnPool, rucio: Rucio, request: pytest.FixtureRequest
    ) -> Adapter:
        adapter: Adapter = request.param(tmp_path, own_helpers, rucio.storage, rucio)
        return adapter

    def test_what_has_no_outcome_is_ordered_again(self, adapter: Adapter, own_helpers: OwnPool) -> None:
        adapter.put("first", SMALL)
        adapter.put("big", os.urandom(BIG))
        adapter.put("last", SMALL)
        settled: List[str] = []
        with gate(adapter.server, "hold", HALFWAY) as door:
            files = [adapter.download("first", SMALL), adapter.download("last", SMALL)]
            files.insert(1, adapter.download("big", size=BIG, url=adapter.url_for("big", door.port)))
            failures: List[Outcome] = []

            def done(transfer: Transfer, outcome: Outcome) -> None:
                settled.append(transfer.lfn)
                if not isinstance(outcome, TransferResult):
                    failures.append(outcome)

            thread = threading.Thread(
                target=adapter.tool().copy_many, args=(files, CancelToken(), lambda _count: None, done)
            )
            thread.start()
            assert door.reached.wait(PATIENCE)
            until(lambda: settled == ["first"], "the first file is settled")
            helper, *commands = own_helpers.processes()
            helper.kill()
            door.open()
            thread.join(PATIENCE * 2)
            assert not thread.is_alive()
        assert (settled, failures) == (["first", "big", "last"], [])
        assert commands, "xrdcp, or the process with its library, was running"
        psutil.wait_procs(commands, timeout=PATIENCE)
        assert not any(process.is_running() for process in commands)
        assert leftovers(adapter, "first", "big", "last") == []

    def test_a_file_that_kills_it_twice_costs_no_other(self, adapter: Adapter, own_helpers: OwnPool) -> None:
        for name in ("first", "big", "last"):
            adapter.put(name, os.urandom(BIG) if name == "big" else SMALL)
        with gate(adapter.server, "hold", HALFWAY) as door:
            files = [adapter.download("first", SMALL), adapter.download("last", SMALL)]
            files.insert(1, adapter.download("big", size=BIG, url=adapter.url_for("big", door.port)))
            outcomes: Dict[str, Outcome] = {}
            tool = adapter.tool()
            thread = threading.Thread(target=lambda: outcomes.update(run(tool, files)))
            thread.start()
            for _ in range(2):
                kill_helper_at(door, own_helpers)
            thread.join(PATIENCE * 2)
            assert not thread.is_alive()
        failure = outcomes["big"]
        assert isinstance(failure, PilotException) and "ended with signal 9" in failure.detail, outcomes
        assert isinstance(outcomes["first"], TransferResult) and isinstance(outcomes["last"], TransferResult)
        assert leftovers(adapter, "first", "last") == []

    def test_an_upload_that_lost_its_helper_twice_leaves_nothing_in_the_storage(
        self, adapter: Adapter, own_helpers: OwnPool
    ) -> None:
        with gate(adapter.server, "hold", HALFWAY, "up") as door:
            transfer = adapter.upload("output", os.urandom(BIG), url=adapter.url_for("output", door.port))
            running = Running(adapter.tool(), transfer)
            for _ in range(2):
                kill_helper_at(door, own_helpers)
            running.wait()
        assert isinstance(running.error, TransferFailure) and not running.error.remains, running.error
        assert not adapter.exists("output") and not adapter.exists("output.rucio.upload")


@pytest.mark.parametrize("kind", [XrootdRse, XrootdRseCommands, GfalRse, HttpRse])
def test_nothing_runs_and_nothing_lies_about_after_an_upload_was_broken_off(
    kind: Type[ViaRucio], tmp_path: Path, own_helpers: OwnPool, rucio: Rucio
) -> None:
    if not issubclass(kind, XrootdRse):
        needs_gfal()
    adapter = kind(tmp_path, own_helpers, rucio.storage, rucio)
    with gate(adapter.server, "hold", HALFWAY, "up") as door:
        transfer = adapter.upload("output", os.urandom(BIG), url=adapter.url_for("output", door.port))
        running = Running(adapter.tool(), transfer)
        assert door.reached.wait(PATIENCE)
        _, *commands = own_helpers.processes()
        assert bool(commands) == issubclass(kind, XrootdRse)
        assert any("xrdcp" in command.name() for command in commands) == (kind is XrootdRseCommands)
        running.cancel()
        until(lambda: not adapter.exists("output.rucio.upload"), "the partial file is removed from the storage")
    psutil.wait_procs(commands, timeout=PATIENCE)
    assert not any(process.is_running() for process in commands)
    assert not adapter.exists("output")
    assert [name for name in os.listdir(adapter.local) if "rucio" in name] == []


def test_what_was_not_begun_when_another_file_hung_is_given_back(
    tmp_path: Path, own_helpers: OwnPool, rucio: Rucio
) -> None:
    adapter = XrootdRse(tmp_path, own_helpers, rucio.storage, rucio)
    deaf = Deaf()
    try:
        adapter.put("next", SMALL)
        token = CancelToken()
        outcomes: Dict[str, Outcome] = {}
        errors: List[BaseException] = []
        files = [adapter.download("hangs", SMALL, url=adapter.url_for("hangs", deaf.port)),
                 adapter.download("next", SMALL)]  # fmt: skip

        def done(transfer: Transfer, outcome: Outcome) -> None:
            outcomes[transfer.lfn] = outcome

        def work() -> None:
            try:
                adapter.tool().copy_many(files, token, lambda _count: None, done)
            except BaseException as exc:
                errors.append(exc)

        thread = threading.Thread(target=work)
        thread.start()
        assert deaf.heard.wait(PATIENCE)
        token.cancel(1151, "stands still")
        thread.join(PATIENCE)
        assert not thread.is_alive()
    finally:
        deaf.close()
    assert isinstance(errors[0], CancelledError)
    assert list(outcomes) == ["next"] and getattr(outcomes["next"], "untried", False)


class TestServer:
    """Trouble with the Rucio server itself."""

    def test_a_server_that_is_down_is_told_for_each_file(
        self, environ: Dict[str, str], own_helpers: OwnPool, tmp_path: Path
    ) -> None:
        dead = {**environ, "RUCIO_CONFIG": str(config_file(tmp_path, "http://127.0.0.1:9", "userpass"))}
        tool = load_tool("rucio", ToolConfig(environ=dead, helpers=own_helpers))
        paths = [write(tmp_path, name, SMALL) for name in ("one", "two")]
        outcomes = run(tool, [order(Direction.OUT, "TB_POSIX", path) for path in paths])
        for name, outcome in outcomes.items():
            assert isinstance(outcome, PilotException) and outcome.code == 1324, outcome
            assert outcome.detail.startswith(f"mc23:{name} to TB_POSIX, ")
        with pytest.raises(PilotException) as caught:
            look_up(own_helpers, dead)
        assert caught.value.code == 1322
        assert "Failed to get replicas from Rucio: " in caught.value.detail

    def test_a_server_that_accepts_and_hangs_is_asked_again_and_given_up(
        self, environ: Dict[str, str], own_helpers: OwnPool, tmp_path: Path
    ) -> None:
        deaf = Deaf()
        try:
            hanging = config_file(tmp_path, f"http://127.0.0.1:{deaf.port}", "userpass")
            with pytest.raises(PilotException) as caught:
                look_up(own_helpers, {**environ, "RUCIO_CONFIG": str(hanging)}, timeout=0.2)
            assert caught.value.code == 1322 and "timed out" in caught.value.detail.lower()
        finally:
            deaf.close()

    def test_the_wait_for_a_server_that_hangs_can_be_broken_off(
        self, environ: Dict[str, str], own_helpers: OwnPool, tmp_path: Path
    ) -> None:
        deaf = Deaf()
        token = CancelToken()
        try:
            hanging = config_file(tmp_path, f"http://127.0.0.1:{deaf.port}", "userpass")
            threading.Thread(target=lambda: deaf.heard.wait(PATIENCE) and token.cancel(1200, "enough")).start()
            with pytest.raises(CancelledError):
                look_up(own_helpers, {**environ, "RUCIO_CONFIG": str(hanging)}, token=token)
        finally:
            deaf.close()

    def test_another_server_is_asked_for_everything(
        self, rucio: Rucio, environ: Dict[str, str], own_helpers: OwnPool, tmp_path: Path
    ) -> None:
        wrong = config_file(tmp_path, "http://127.0.0.1:9", "userpass")
        config = ToolConfig(environ={**environ, "RUCIO_CONFIG": str(wrong)}, helpers=own_helpers, rucio_host=rucio.url)
        path = write(tmp_path, uuid4().hex, SMALL)
        assert move(load_tool("rucio", config), order(Direction.OUT, "TB_POSIX", path)).size == len(SMALL)

    def test_no_traces_are_sent_by_the_library(self, rucio: Rucio, rucio_tool: CopyTool, tmp_path: Path) -> None:
        path = write(tmp_path, f"quiet.{uuid4().hex}", SMALL)
        stored = move(rucio_tool, order(Direction.OUT, "TB_POSIX", path))
        move(rucio_tool, order(Direction.IN, "TB_POSIX", tmp_path / "back", url=stored.url, checksum=stored.checksum))
        mark = uuid4().hex
        trace = {"eventType": "get_sm", "eventVersion": "1", "uuid": mark, "scope": "mc23", "filename": mark,
                 "dataset": "d", "localSite": "x"}  # fmt: skip
        requests.post(f"{rucio.url}/traces/", json=trace, timeout=30).raise_for_status()
        rucio.traces(lambda message: message.get("filename") == mark)
        seen = rucio.traces(lambda message: message.get("filename") in (mark, path.name, "back"))
        assert [message["filename"] for message in seen] == [mark]

    def test_suspicious_and_bad_replicas_are_told(
        self, rucio: Rucio, environ: Dict[str, str], own_helpers: OwnPool
    ) -> None:
        name = uuid4().hex
        rucio.call("add_replica", "TB_POSIX", "mc23", name, 10, "0a0b0c0d")
        (row,) = rucio.replicas("mc23", name)
        catalogue = Catalogue(own_helpers, environ)
        catalogue.declare_suspicious(list(row["pfns"]), "checksum", CancelToken())
        catalogue.declare_bad(list(row["pfns"]), "checksum", CancelToken())
        assert rucio.replicas("mc23", name, all_states=True)[0]["states"] == {"TB_POSIX": "BAD"}
        with pytest.raises(PilotException) as caught:
            catalogue.declare_bad(["file://localhost/nothing/here"], "checksum", CancelToken())
        assert caught.value.code == 1316


def look_up(
    helpers: HelperPool, environ: Dict[str, str], token: Optional[CancelToken] = None, timeout: float = 60.0
) -> List[Dict[str, Any]]:
    """A question to the catalogue."""
    return Catalogue(helpers, environ).list_replicas(
        [{"scope": "mc23", "name": "x"}], schemes=["root"], client_location={"ip": "127.0.0.1", "site": "X"},
        token=token or CancelToken(), timeout=timeout,
    )  # fmt: skip


def config_file(directory: Path, url: str, how: str, account: str = "root", authority: str = "") -> Path:
    """A ``rucio.cfg`` without a token from before."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{uuid4().hex}.cfg"
    path.write_text(
        f"[client]\nrucio_host = {url}\nauth_host = {url}\nauth_type = {how}\naccount = {account}\n"
        f"username = ddmlab\npassword = secret\nca_cert = {authority}\nauth_token_file_path = {path}.token\n"
        "[policy]\npermission = generic\nschema = generic\nlfn2pfn_algorithm_default = hash\n"
        "support = none\nsupport_rucio = none\n"
    )
    return path


def expired(pki: Pki, directory: Path) -> Path:
    """A certificate with key that ended some years ago."""
    (directory / "index").touch()
    (directory / "serial").write_text("01\n")
    (directory / "ca.cnf").write_text(
        f"[ca]\ndefault_ca=it\n[it]\ndatabase={directory}/index\nserial={directory}/serial\nnew_certs_dir={directory}\n"
        f"certificate={pki.ca}\nprivate_key={pki.ca.with_suffix('.key')}\ndefault_md=sha256\npolicy=any\n"
        "[any]\ncommonName=supplied\n"
    )
    steps = (
        ["req", "-newkey", "rsa:2048", "-nodes", "-keyout", "old.key", "-out", "old.csr", "-subj", "/CN=pilot"],
        ["ca", "-config", "ca.cnf", "-batch", "-notext", "-in", "old.csr", "-out", "old.pem",
         "-startdate", "20200101000000Z", "-enddate", "20200102000000Z"],
    )  # fmt: skip
    for step in steps:
        subprocess.run(["openssl", *step], cwd=directory, check=True, capture_output=True)
    path = directory / "expired"
    path.write_text((directory / "old.pem").read_text() + (directory / "old.key").read_text())
    path.chmod(0o600)
    return path


class TestLogin:
    """The Rucio server with X.509."""

    def environ(self, rucio: Rucio, directory: Path, proxy: Path, account: str = "pilot") -> Dict[str, str]:
        """With this proxy."""
        config = config_file(directory, rucio.x509_url, "x509_proxy", account, str(rucio.pki.ca))
        return {"PATH": os.environ["PATH"], "HOME": str(directory), **rucio.pki.env, "RUCIO_CONFIG": str(config),
                "RUCIO_ACCOUNT": account, "X509_USER_PROXY": str(proxy)}  # fmt: skip

    def test_a_proxy_opens_the_door(self, rucio: Rucio, own_helpers: OwnPool, tmp_path: Path) -> None:
        assert look_up(own_helpers, self.environ(rucio, tmp_path, rucio.pki.proxy)) is not None

    @pytest.mark.parametrize("what", ["none", "expired", "no proxy"])
    def test_what_is_wrong_with_the_proxy_is_said(
        self, rucio: Rucio, own_helpers: OwnPool, tmp_path: Path, what: str
    ) -> None:
        path = {"none": lambda: tmp_path / "nothing", "expired": lambda: expired(rucio.pki, tmp_path),
                "no proxy": lambda: write(tmp_path, "text", b"no certificate")}[what]()  # fmt: skip
        environ = self.environ(rucio, tmp_path / "home", path)
        words = {"none": "no X.509 proxy at", "expired": "expired at 2020-01-02", "no proxy": "holds no X.509 proxy"}
        with pytest.raises(PilotException) as caught:
            look_up(own_helpers, environ)
        assert caught.value.code == 1163 and words[what] in caught.value.detail, caught.value
        tool = load_tool("rucio", ToolConfig(environ=environ, helpers=own_helpers))
        outcomes = run(tool, [order(Direction.OUT, "TB_POSIX", write(tmp_path, "output", SMALL))])
        failure = outcomes["output"]
        assert isinstance(failure, PilotException) and failure.code == 1163 and words[what] in failure.detail, failure

    def test_an_account_that_is_not_ours_is_an_authentication_failure(
        self, rucio: Rucio, own_helpers: OwnPool, tmp_path: Path
    ) -> None:
        environ = self.environ(rucio, tmp_path, rucio.pki.proxy, account="somebody")
        with pytest.raises(PilotException) as caught:
            look_up(own_helpers, environ)
        assert caught.value.code == 1338, caught.value
        tool = load_tool("rucio", ToolConfig(environ=environ, helpers=own_helpers))
        outcomes = run(tool, [order(Direction.OUT, "TB_POSIX", write(tmp_path, "output", SMALL))])
        failure = outcomes["output"]
        assert isinstance(failure, PilotException) and failure.code == 1383, failure
