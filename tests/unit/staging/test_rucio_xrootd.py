"""Rucio's protocol xrootd by XRootD's library in a process of its own: names, errors, limits, abort."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest

pytest.importorskip("rucio.rse.protocols.xrootd")

from rucio.common import exception
from rucio.rse import rsemanager
from rucio.rse.protocols.xrootd import Default

from pilot.copytool.worker import rucio_xrootd
from pilot.copytool.worker.rucio_order import Abort, Order, working_for
from pilot.util.helper import HelperPool

ROOT = Path(__file__).resolve().parents[3]
PATIENCE = 30.0
DOOR = "root://door.example:1094/"


@pytest.fixture
def seen(tmp_path: Path) -> Callable[[], List[str]]:
    file = tmp_path / "seen"
    file.touch()
    return lambda: file.read_text().splitlines()


@pytest.fixture(autouse=True)
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HelperPool]:
    made = HelperPool(tmp_path, (sys.executable,))
    monkeypatch.setattr(rucio_xrootd, "HELPERS", made)
    monkeypatch.setattr(rucio_xrootd, "WORKER", "tests.unit.staging.xrootdworker")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    rucio_xrootd._with.cache_clear()
    yield made
    made.close(at_once=True)
    rucio_xrootd._with.cache_clear()


@pytest.fixture
def settings() -> Dict[str, Any]:
    ranks = {"read": 1, "write": 1, "delete": 1}
    return {
        "rse": "X", "deterministic": False, "protocols": [{
            "scheme": "root", "hostname": "door.example", "port": 1094, "prefix": "//data/", "domains": {"wan": ranks},
            "impl": "rucio.rse.protocols.xrootd.Default"}],
    }  # fmt: skip


@pytest.fixture
def protocol(settings: Dict[str, Any]) -> Any:
    attributes = {**settings["protocols"][0], "auth_token": None}
    return rucio_xrootd.Library(attributes, settings)


def test_questions_go_to_the_door_of_the_protocol_and_copies_to_the_url(
    protocol: Any, seen: Callable[[], List[str]], tmp_path: Path
) -> None:
    (tmp_path / "out").write_bytes(b"x")
    url = f"{DOOR}/data/ab/file"
    protocol.connect()
    protocol.connect()
    assert protocol.exists("root://other:2094//data/ab/file")
    assert protocol.stat(url) == {"filesize": "42", "adler32": "0a0b0c0d"}
    protocol.get("root://other:2094//data/ab/file", str(tmp_path / "in"))
    protocol.put("out", url, str(tmp_path))
    protocol.rename(f"{url}.rucio.upload", url)
    protocol.delete(url)
    wanted = [f"ping {DOOR}/data/", f"stat {url}", f"stat {url}", f"checksum {url}",
              "copy root://other:2094//data/ab/file", f"copy {url}", f"rename {url}.rucio.upload",
              "remove root://tidy@door.example:1094//data/ab/file"]  # fmt: skip
    assert seen() == [f"{line} gsi" for line in wanted]
    assert "XrdSecPROTOCOL" not in os.environ


def test_a_token_is_in_the_environment_of_the_process_only(
    settings: Dict[str, Any], seen: Callable[[], List[str]]
) -> None:
    with_token = rucio_xrootd.Library({**settings["protocols"][0], "auth_token": "a.b.c"}, settings)
    assert with_token.exists(f"{DOOR}/data/file")
    assert seen() == [f"stat {DOOR}/data/file ztn"]


def test_errors_are_those_of_rucio(protocol: Any, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"x")
    missing, denied = f"{DOOR}/data/missing", f"{DOOR}/data/denied"
    target = str(tmp_path / "in")
    cases: List[tuple[type, Callable[[], Any]]] = [
        (exception.SourceNotFound, lambda: protocol.get(missing, target)),
        (exception.SourceNotFound, lambda: protocol.delete(missing)),
        (exception.SourceNotFound, lambda: protocol.rename(missing, denied)),
        (exception.SourceNotFound, lambda: protocol.put("no such", denied, str(tmp_path))),
        (exception.ServiceUnavailable, lambda: protocol.stat(missing)),
        (exception.ServiceUnavailable, lambda: protocol.get(denied, target)),
        (exception.ServiceUnavailable, lambda: protocol.put("out", denied, str(tmp_path))),
        (exception.ServiceUnavailable, lambda: protocol.delete(denied)),
        (exception.ServiceUnavailable, lambda: protocol.get(f"{DOOR}/data/crash", target)),
        (exception.RSEChecksumUnavailable, lambda: protocol.stat(f"{DOOR}/data/md5")),
    ]
    for kind, action in cases:
        with pytest.raises(kind):
            action()
    assert not protocol.exists(missing) and not protocol.exists(denied)


def test_what_was_said_and_moved_is_told_to_the_order(protocol: Any, tmp_path: Path) -> None:
    moved: List[int] = []
    with working_for(Order(moved.append)) as order:
        protocol.get(f"{DOOR}/data/file", str(tmp_path / "in"))
        assert (moved, order.copying) == ([17], True)
        with pytest.raises(exception.ServiceUnavailable):
            protocol.get(f"{DOOR}/data/denied", str(tmp_path / "in"))
        assert order.said == "[3010] Permission denied"


def test_a_copy_has_the_time_of_its_order(protocol: Any, tmp_path: Path) -> None:
    with working_for(Order()) as order:
        order.begin("in", 0.2)
        with pytest.raises(exception.ServiceUnavailable):
            protocol.get(f"{DOOR}/data/slow", str(tmp_path / "in"))
        assert "timed out" in order.said


def test_an_abort_ends_a_copy(protocol: Any, seen: Callable[[], List[str]], tmp_path: Path) -> None:
    order = Order()
    errors: List[BaseException] = []

    def run() -> None:
        try:
            with working_for(order), order.in_library():
                protocol.get(f"{DOOR}/data/slow", str(tmp_path / "in"))
        except BaseException as exc:
            errors.append(exc)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    pause = threading.Event()
    while not seen():
        pause.wait(0.01)
    order.abort()
    thread.join(PATIENCE)
    assert [type(error) for error in errors] == [Abort]


@pytest.mark.parametrize("here", [True, False])
def test_protocols_keep_rucios_commands_where_the_bindings_are_missing(
    settings: Dict[str, Any], monkeypatch: pytest.MonkeyPatch, here: bool
) -> None:
    monkeypatch.setattr(rsemanager, "create_protocol", rsemanager.create_protocol)
    if not here:
        monkeypatch.setattr(rucio_xrootd, "WORKER", "tests.unit.staging.no_such_worker")
    rucio_xrootd.install()
    made = rsemanager.create_protocol(settings, "read")
    assert type(made) is (rucio_xrootd.Library if here else Default)
    assert made.hostname == "door.example"
