"""The rucio copytool's part in the pilot process: orders, outcomes, codes; the helper's answers are played back."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

import pytest

from pilot.common.exception import MiddlewareImportFailure, PilotException
from pilot.copytool.base import Direction, Outcome, ToolConfig, Transfer, TransferFailure, TransferResult
from pilot.copytool.catalogue import Catalogue, client_environ, innermost
from pilot.copytool.rucio import RucioTool
from pilot.util.cancel import CancelledError, CancelToken
from pilot.util.helper import HelperFailure, HelperLost, HelperPool

Play = Callable[[Mapping[str, Any], Callable[[Mapping[str, Any]], None]], Mapping[str, Any]]


class Recorded(HelperPool):
    """Answers as a helper has given them."""

    def __init__(self, *plays: Play, absent: str = "") -> None:
        super().__init__()
        self.plays = list(plays)
        self.absent = absent
        self.orders: List[List[str]] = []

    def missing(self, library: str, env: Mapping[str, str]) -> str:
        return self.absent

    def call(
        self,
        library: str,
        op: str,
        args: Mapping[str, Any],
        *,
        env: Mapping[str, str],
        token: CancelToken,
        on_event: Optional[Callable[[Mapping[str, Any]], None]] = None,
    ) -> Dict[str, Any]:
        self.orders.append([item["name"] for item in args.get("items", ())])
        return dict(self.plays.pop(0)(args, on_event or (lambda _event: None)))


def order(direction: Direction, directory: Path, name: str = "file", **more: Any) -> Transfer:
    given: Dict[str, Any] = {"scope": "mc23", "endpoint": "SITE_DISK", "url": "root://se//file", "timeout": 60.0}
    if direction is Direction.OUT:
        (directory / name).write_bytes(b"hello")
        given["url"] = ""
    return Transfer(direction, name, directory / name, **{**given, **more})


def tool(helpers: HelperPool) -> RucioTool:
    return RucioTool(ToolConfig(helpers=helpers))


def move(rucio: RucioTool, transfers: Sequence[Transfer]) -> Dict[str, Outcome]:
    outcomes: Dict[str, Outcome] = {}
    rucio.copy_many(transfers, CancelToken(), lambda _count: None,
                    lambda transfer, outcome: outcomes.update({transfer.lfn: outcome}))  # fmt: skip
    return outcomes


GFAL_404 = (
    "The requested service is not available at the moment.\nDetails: An unknown exception occurred.\n"
    "Details: Could not open source: Result HTTP 404 : File not found  after 1 attempts"
)
DENIED = "The requested service is not available at the moment.\nDetails: An unknown exception occurred.\nDetails: {}"
VALIDATE = "Checksum validation failed: Local checksum: 0000000b, Rucio checksum: 0000000a"


@pytest.mark.parametrize(
    ("direction", "facts", "code", "state"),
    [
        ("in", {"state": "FAIL_VALIDATE", "reason": VALIDATE}, 1171, "AD_MISMATCH"),
        ("in", {"state": "FILE_NOT_FOUND", "reason": "No available sources"}, 1331, "MISSING_INPUT"),
        ("in", {"state": "FAILED", "reason": "Source file not found.\nDetails: [Errno 2] No such file or directory"},
         1331, "MISSING_INPUT"),
        ("in", {"state": "FAILED", "reason": GFAL_404, "errno": 2}, 1331, "MISSING_INPUT"),
        ("in", {"state": "FAILED", "reason": DENIED.format("Permission denied"), "errno": 13}, 1338, "COPY_ERROR"),
        ("out", {"state": "FAILED", "reason": DENIED.format("Permission denied"), "errno": 13}, 1383, "COPY_ERROR"),
        ("in", {"state": "FAILED", "reason": DENIED.format("Connection refused"), "errno": 111}, 1324, "SERVICE_ERROR"),
        ("in", {"state": "FAILED", "reason": DENIED.format("Source file not found."),
                "said": "Run: [ERROR] Server responded with an error: [3010] /p is disallowed."}, 1338, "COPY_ERROR"),
        ("in", {"state": "FAILED", "reason": "", "said": "xrdcp: timed out, not done within 60 s", "errno": 110},
         1151, "CP_TIMEOUT"),
        ("out", {"reason": "File already exists: root://se//x (5 B adler32 1, ours 5 B adler32 2)"},
         1221, "FILE_EXISTS"),
        ("out", {"state": "FAILED", "reason": "Checksum mismatch. Source: 1 Destination: 2"}, 1172, "AD_MISMATCH"),
        ("out", {"state": "FAILED", "reason": "Filesize mismatch. Source: 1 Destination: 2"}, 1137, "COPY_ERROR"),
        ("out", {"kind": "name", "reason": "# in the name"}, 1371, "COPY_ERROR"),
        ("in", {"kind": "proxy", "text": "no X.509 proxy at /tmp/x"}, 1163, "COPY_ERROR"),
        ("in", {"kind": "login", "text": "CannotAuthenticate: no"}, 1338, "COPY_ERROR"),
        ("out", {"kind": "login", "text": "CannotAuthenticate: no"}, 1383, "COPY_ERROR"),
        ("in", {"state": "FAIL_VALIDATE", "reason": VALIDATE, "arrived": 3, "free": 1 << 40}, 1099, "COPY_ERROR"),
        ("in", {"state": "FAIL_VALIDATE", "reason": VALIDATE, "arrived": 3, "free": 0}, 1098, "NO_SPACE"),
    ],
)  # fmt: skip
def test_what_the_client_says_becomes_a_code_and_a_state(
    tmp_path: Path, direction: str, facts: Mapping[str, Any], code: int, state: str
) -> None:
    inward = direction == "in"
    transfer = order(Direction.IN if inward else Direction.OUT, tmp_path, checksum={"adler32": "0000000a"}, size=5)
    helpers = Recorded()
    rucio = RucioTool(ToolConfig(helpers=helpers, environ={"BEARER_TOKEN": "x"}))
    failure = rucio.failure(transfer, facts)
    assert (failure.code, getattr(failure, "state", "")) == (code, state), failure.detail
    assert failure.detail.startswith(f"mc23:file {'from' if inward else 'to'} SITE_DISK, ")


def test_a_checksum_that_differs_is_told_with_both_values(tmp_path: Path) -> None:
    transfer = order(Direction.IN, tmp_path, checksum={"md5": "0" * 31 + "a"})
    failure = tool(Recorded()).failure(transfer, {"state": "FAIL_VALIDATE", "reason": VALIDATE})
    assert failure.code == 1145
    assert "checksum (catalog)=0000000000000000000000000000000a != checksum (local)=0000000b" in failure.detail


def test_a_refused_login_without_any_credential_is_a_matter_of_the_proxy(tmp_path: Path) -> None:
    facts = {"state": "FAILED", "reason": DENIED.format("[FATAL] Auth failed: No protocols left to try")}
    assert tool(Recorded()).failure(order(Direction.IN, tmp_path), facts).code == 1163


def test_a_missing_protocol_library_says_what_to_install(tmp_path: Path) -> None:
    facts = {"reason": "One dependency is missing.\nDetails: Missing dependency : gfal2"}
    failure = tool(Recorded()).failure(order(Direction.IN, tmp_path), facts)
    assert failure.code == 1342 and "gfal2" in failure.detail and "lsetup rucio" in failure.detail


def test_without_the_library_the_tool_says_what_to_install() -> None:
    with pytest.raises(MiddlewareImportFailure) as caught:
        tool(Recorded(absent="No module named 'rucio'"))
    assert "panda-pilot[rucio]" in caught.value.detail and "lsetup rucio" in caught.value.detail


@pytest.mark.parametrize(
    ("text", "inside"),
    [(GFAL_404, "Could not open source: Result HTTP 404 : File not found after 1 attempts"), ("plain", "plain"),
     ("An unknown exception occurred.", "An unknown exception occurred."), ("", "no text")],
)  # fmt: skip
def test_the_layers_of_the_librarys_errors_are_taken_off(text: str, inside: str) -> None:
    assert innermost(text) == inside


def test_what_is_settled_is_not_ordered_again(tmp_path: Path) -> None:
    def first(args: Mapping[str, Any], tell: Callable[[Mapping[str, Any]], None]) -> Mapping[str, Any]:
        tell({"begin": 0})
        tell({"done": 0, "ok": True, "pfn": "root://se//a", "bytes": 5, "adler32": "062c0215"})
        tell({"begin": 1})
        tell({"copying": 1})
        raise HelperLost("the helper process for rucio ended with signal 11")

    def clean(args: Mapping[str, Any], tell: Callable[[Mapping[str, Any]], None]) -> Mapping[str, Any]:
        assert args["item"]["name"] == "b"
        return {"clean": True}

    def second(args: Mapping[str, Any], tell: Callable[[Mapping[str, Any]], None]) -> Mapping[str, Any]:
        for item in list(args["items"]):
            tell({"done": item["index"], "ok": True, "pfn": "root://se//c", "bytes": 5, "adler32": "062c0215"})
        return {}

    helpers = Recorded(first, clean, second)
    outcomes = move(tool(helpers), [order(Direction.OUT, tmp_path, name) for name in "abc"])
    assert helpers.orders == [["a", "b", "c"], [], ["c"]]
    assert isinstance(outcomes["a"], TransferResult) and isinstance(outcomes["c"], TransferResult)
    lost = outcomes["b"]
    assert isinstance(lost, TransferFailure) and "signal 11" in lost.detail and not lost.remains
    assert lost.detail.startswith("mc23:b to SITE_DISK, ")


def test_a_helper_that_dies_before_it_begins_anything_fails_the_order(tmp_path: Path) -> None:
    def die(args: Mapping[str, Any], tell: Callable[[Mapping[str, Any]], None]) -> Mapping[str, Any]:
        raise HelperLost("ended")

    with pytest.raises(HelperLost):
        move(tool(Recorded(die)), [order(Direction.OUT, tmp_path)])


def test_an_order_that_is_refused_as_a_whole_fails_each_file_under_its_name(tmp_path: Path) -> None:
    def refuse(args: Mapping[str, Any], tell: Callable[[Mapping[str, Any]], None]) -> Mapping[str, Any]:
        raise HelperFailure({"text": "ConnectionError: [Errno 111] Connection refused"})

    outcomes = move(tool(Recorded(refuse)), [order(Direction.OUT, tmp_path, name) for name in "ab"])
    for name in "ab":
        failure = outcomes[name]
        assert isinstance(failure, PilotException) and failure.code == 1324
        assert failure.detail.startswith(f"mc23:{name} to SITE_DISK, ")


def test_files_that_were_not_begun_are_not_to_blame_for_one_that_hangs(tmp_path: Path) -> None:
    def hang(args: Mapping[str, Any], tell: Callable[[Mapping[str, Any]], None]) -> Mapping[str, Any]:
        tell({"begin": 0})
        raise CancelledError("stands still", code=1151)

    outcomes: Dict[str, Outcome] = {}
    with pytest.raises(CancelledError):
        tool(Recorded(hang)).copy_many(
            [order(Direction.IN, tmp_path, name) for name in "ab"], CancelToken(), lambda _count: None,
            lambda transfer, outcome: outcomes.update({transfer.lfn: outcome}),
        )  # fmt: skip
    assert list(outcomes) == ["b"] and getattr(outcomes["b"], "untried", False)
    assert list(tmp_path.iterdir()) == [], "private directories are removed"


def test_an_order_that_was_broken_off_before_any_file_is_not_given_back_for_ever(tmp_path: Path) -> None:
    def hang(args: Mapping[str, Any], tell: Callable[[Mapping[str, Any]], None]) -> Mapping[str, Any]:
        raise CancelledError("stands still", code=1151)

    outcomes: List[Outcome] = []
    with pytest.raises(CancelledError):
        tool(Recorded(hang)).copy_many(
            [order(Direction.IN, tmp_path)], CancelToken(), lambda _count: None,
            lambda _transfer, outcome: outcomes.append(outcome),
        )  # fmt: skip
    assert outcomes == []


def test_a_name_that_leads_elsewhere_is_not_given_to_the_library_as_a_local_name(tmp_path: Path) -> None:
    transfer = Transfer(Direction.IN, "../../etc/x", tmp_path / "x", scope="mc23", endpoint="SITE_DISK")
    outcomes = move(tool(Recorded()), [transfer])
    assert isinstance(outcomes["../../etc/x"], TransferFailure)


def test_a_file_that_changed_is_not_uploaded(tmp_path: Path) -> None:
    outcomes = move(tool(Recorded()), [order(Direction.OUT, tmp_path, size=4)])
    failure = outcomes["file"]
    assert isinstance(failure, TransferFailure) and "has changed: 5 B now, 4 B" in failure.detail


def test_an_upload_without_a_url_is_a_failure(tmp_path: Path) -> None:
    def play(args: Mapping[str, Any], tell: Callable[[Mapping[str, Any]], None]) -> Mapping[str, Any]:
        tell({"done": 0, "ok": True, "pfn": "", "bytes": 5, "adler32": "062c0215"})
        return {}

    assert isinstance(move(tool(Recorded(play)), [order(Direction.OUT, tmp_path)])["file"], TransferFailure)


def test_the_door_of_the_lan_follows_from_the_site_name() -> None:
    assert client_environ({"PILOT_RUCIO_SITENAME": "HERE"})["SITE_NAME"] == "HERE"
    assert client_environ({"PILOT_RUCIO_SITENAME": "HERE", "SITE_NAME": "THERE"})["SITE_NAME"] == "THERE"
    assert "SITE_NAME" not in client_environ({})


@pytest.mark.parametrize(("kind", "code"), [("", 1322), ("login", 1338), ("proxy", 1163)])
def test_a_look_up_that_fails_says_why(kind: str, code: int) -> None:
    def refuse(args: Mapping[str, Any], tell: Callable[[Mapping[str, Any]], None]) -> Mapping[str, Any]:
        raise HelperFailure({"text": "An unknown exception occurred.\nDetails: no error", "kind": kind})

    with pytest.raises(PilotException) as caught:
        Catalogue(Recorded(refuse), {}).list_replicas(
            [{"scope": "s", "name": "n"}], schemes=["root"], client_location={}, token=CancelToken()
        )
    assert caught.value.code == code
    assert caught.value.detail.startswith("Failed to get replicas from Rucio: ")
