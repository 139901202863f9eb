"""Downloads and uploads of the Rucio client in a helper process: file by file, each outcome told at once.

What the server has to say is asked first, for all files, so that one by one costs no more than the library's own bulk
calls, and a file that fails takes no other with it.

```
 download   server: RSEs, scopes ──► per file: client ──► <directory>/<name>.part ──► <name>    (the pilot moves it)
 upload     server: RSEs         ──► per file: client ──► <pfn>.rucio.upload ──► size, checksum ──► <pfn>
                                      exists already: same content = done, other = refused, or removed where allowed
```
"""

from __future__ import annotations

import json
import os
import random
import re
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Mapping, Optional

from rucio.common.checksum import CHECKSUM_ALGO_DICT

from pilot.copytool.worker.main import Call, Refused
from pilot.copytool.worker.rucio_client import CLIENTS, PilotClient, logger, refused
from pilot.copytool.worker.rucio_order import Abort, Order, current, watched, working_for
from pilot.copytool.worker.rucio_rse import ENDPOINTS, Door

STAT_PAUSES = (0.5, 1.0, 2.0, 4.0)
"""Seconds between looks at a file that was just stored and is not to be seen yet."""
ABORT_CLEANUP = 2.0
"""Seconds for the removal of a remote partial file when the order was broken off."""
FAILURE_CLEANUP = 20.0
"""Seconds for it after a failure."""
RACE_PAUSE = 2.0
"""Seconds for another upload of the same file to come to its end."""
_RACE = re.compile(r"no such file|not found|unable to rename|size mismatch|checksum mismatch|exists")
"""Somebody else uploads the same, under the same temporary name: each takes the other's for old remains."""
_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._+=@,-]+")


def prepare() -> None:
    """Put ourselves between the library and its server and storage; called once."""
    from rucio.rse import rsemanager

    from pilot.copytool.worker import rucio_order, rucio_xrootd

    ENDPOINTS.gfal = rucio_order.install()
    rucio_xrootd.install()
    rsemanager.get_rse_info = ENDPOINTS.info
    PilotClient.list_scopes = lambda _self: ENDPOINTS.scopes()
    PilotClient.list_rses = lambda _self, name, *_args: [{"rse": name}]  # a name is its own expression
    PilotClient.list_rse_attributes = lambda _self, name: ENDPOINTS.attributes(name)


def _tools(client: Any) -> tuple[Any, Any]:
    """Return the client's download and upload clients: they look their host's name up when they are made."""
    if not hasattr(client, "pilot_tools"):
        from rucio.client.downloadclient import DownloadClient
        from rucio.client.uploadclient import UploadClient

        class Uploader(UploadClient):  # type: ignore[misc]
            def _retry_protocol_stat(self, protocol: Any, pfn: str) -> Any:
                return _patient_stat(protocol, pfn)

        client.pilot_tools = (DownloadClient(client=client, logger=logger), Uploader(_client=client, logger=logger))
        for tool in client.pilot_tools:
            tool.tracing = False  # as an argument it makes UploadClient 41.5.1 call the logger, a TypeError
    tools: tuple[Any, Any] = client.pilot_tools
    return tools


def _patient_stat(protocol: Any, pfn: str) -> Any:
    """Look at a stored file until it is to be seen; the library's own way waits a minute for each empty file."""
    from rucio.common.exception import RSEChecksumUnavailable

    order = current()
    empty = os.stat(order.source).st_size == 0
    for pause in STAT_PAUSES:
        try:
            facts = protocol.stat(pfn)
            if int(facts["filesize"]) or empty:
                return facts
        except RSEChecksumUnavailable:
            raise
        except Exception as exc:  # noqa: BLE001 - whatever it is, it may pass
            logger.info("stat of %s: %s", pfn, exc)
        order.wait(pause)
    return protocol.stat(pfn)


@contextmanager
def _plain(path: str) -> Iterator[str]:
    """Another name for a path with characters that gfal2 takes for parts of a URL."""
    if _PLAIN_PATH.fullmatch(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="pilot-rucio-") as place:
        link = os.path.join(place, "file")
        os.symlink(path, link)
        yield link


def _outcome(order: Order, trace: Mapping[str, Any], error: Optional[BaseException], **more: Any) -> dict[str, Any]:
    """What is told of one file."""
    reason = str(trace.get("stateReason") or "")
    if not reason or reason in ("UNKNOWN", "OK"):
        reason = str(error or "")
    return {
        "state": str(getattr(trace.get("clientState"), "value", trace.get("clientState") or "")),
        "reason": reason, "said": order.said, "errno": order.errno or int(getattr(error, "errno", None) or 0),
        "protocol": str(trace.get("protocol") or ""), "arrived": order.arrived, "free": order.free, **more,
    }  # fmt: skip


@contextmanager
def _order(call: Call) -> Iterator[tuple[Order, Any]]:
    """An order with a client, stopped when the call is cancelled; its progress is the sum over the files."""
    finished = 0
    present = 0

    def moved(count: int) -> None:
        nonlocal present
        present = max(present, count)
        call.progress(finished + present)

    def next_file() -> None:
        nonlocal finished, present
        finished, present = finished + present, 0

    order = Order(moved)
    order.next_file = next_file
    call.on_cancel(order.abort)
    try:
        with working_for(order), CLIENTS.one() as client:
            yield order, client
    except Abort:
        raise Refused("broken off") from None
    finally:
        call.forget(order.abort)


# --- download --------------------------------------------------------------------------------------------------------


def download(call: Call) -> Mapping[str, Any]:
    """Fetch ``items``: index, scope, name, url, rse, kind and value of the checksum, directory, file, timeout."""
    items = call.args["items"]
    wrong = ENDPOINTS.fetch(call, {item["rse"] for item in items if item.get("url")}, scopes=True)
    with _order(call) as (order, client), watched(order):
        downloader = _tools(client)[0]
        downloader.check_pcache = bool(call.args.get("pcache"))
        for item in items:
            call.event(begin=item["index"])
            failure = wrong.get(item["rse"]) if item.get("url") else None
            facts = dict(failure.facts, reason=failure.facts["text"]) if failure else _get(order, downloader, item)
            order.next_file()
            call.event(done=item["index"], **facts)
    return {}


def _get(order: Order, downloader: Any, item: Mapping[str, Any]) -> dict[str, Any]:
    facts = _fetch(order, downloader, item)
    cached = facts["state"] == "FOUND_IN_PCACHE"
    if cached and facts["ok"] and item.get("value"):  # the library takes it as it is
        facts["ok"] = CHECKSUM_ALGO_DICT[item["kind"]](facts["path"]) == item["value"]
    if downloader.check_pcache and not facts["ok"] and (cached or facts.get("exception") == "SystemExit"):
        logger.warning("%s: the cache of the node is of no use: %s", item["name"], facts.get("reason"))
        downloader.check_pcache = False
        facts = _fetch(order, downloader, item)
    return facts


def _fetch(order: Order, downloader: Any, item: Mapping[str, Any]) -> dict[str, Any]:
    traces: list[dict[str, Any]] = []
    error: Optional[BaseException] = None
    target = Path(item["directory"], item["file"])
    order.begin(str(target), item.get("timeout"))
    for stale in (target, Path(f"{target}.part")):
        stale.unlink(missing_ok=True)  # of a helper that was killed: an existing file counts as done
    with _plain(item["directory"]) as directory:
        entry = {"base_dir": directory, "no_subdir": True, "rse": item["rse"] or None}
        if item.get("timeout"):
            entry["transfer_timeout"] = int(item["timeout"])
        if item.get("value"):
            entry[item["kind"]] = item["value"]
        options: dict[str, Any] = {"traces_copy_out": traces, "deactivate_file_download_exceptions": True}
        try:
            with order.in_library():
                if item.get("url"):
                    # the name is only that of the local file: the server's may hold anything
                    entry.update(did=f"{item['scope']}:{item['file']}", pfn=item["url"])
                    downloader.download_pfns([entry], 1, **options)
                else:
                    entry["did"] = f"{item['scope']}:{item['name']}"
                    downloader.download_dids([entry], 1, **options)
        except (Exception, SystemExit) as exc:  # noqa: BLE001 - costs this file only; pcache exits where it cannot write
            error = exc
    trace = traces[-1] if traces else {}
    path = target if item.get("url") else Path(item["directory"], item["name"].lstrip("/"))
    facts = _outcome(order, trace, error, path=str(path))
    facts["ok"] = error is None and facts["state"] in ("DONE", "FOUND_IN_PCACHE")
    if error is not None and (not traces or isinstance(error, SystemExit)):
        facts = {**refused(error).facts, **facts}
    return facts


# --- upload ----------------------------------------------------------------------------------------------------------


def upload(call: Call) -> Mapping[str, Any]:
    """Store ``items``: index, scope, name, path, url, rse, guid, overwrite, timeout, adler32."""
    items = call.args["items"]
    wrong = ENDPOINTS.fetch(call, {item["rse"] for item in items}, scopes=False)
    with _order(call) as (order, client):
        uploader = _tools(client)[1]
        for item in items:
            call.event(begin=item["index"])
            failure = wrong.get(item["rse"])
            facts = dict(failure.facts, reason=failure.facts["text"]) if failure else _put(call, order, uploader, item)
            order.next_file()
            call.event(done=item["index"], **facts)
    return {}


def clean(call: Call) -> Mapping[str, Any]:
    """Remove what an upload has left whose helper died; ``item`` as in ``upload``."""
    item = call.args["item"]
    ENDPOINTS.fetch(call, {item["rse"]}, scopes=False)
    with _order(call) as (_, client):
        return {"clean": Door(item, _tools(client)[1].auth_token).remove_partial(FAILURE_CLEANUP)}


def _put(call: Call, order: Order, uploader: Any, item: Mapping[str, Any]) -> dict[str, Any]:
    door = Door(item, uploader.auth_token)
    order.clean_up = lambda: door.remove_partial(ABORT_CLEANUP, fresh=True)
    order.on_copy = lambda: call.event(copying=item["index"], direct=not door.renames)
    bad = door.unspeakable()
    if bad:
        return {"ok": False, "kind": "name", "reason": f"{bad} in the name: Rucio puts it into URLs as it is"}
    with _plain(item["path"]) as path:
        order.begin(path, item.get("timeout"))
        order.adler32 = str(item.get("adler32") or "")
        try:
            facts = _upload(order, uploader, item, path)
            if not facts["ok"] and _again(order, door, item, facts):
                facts = _upload(order, uploader, item, path)
            if not facts["ok"] and "already exists" in facts["reason"].lower():
                facts = _existing(order, door, facts)
        except Abort:
            if order.copying:
                door.remove_partial(ABORT_CLEANUP, fresh=True)
            raise
    if facts["ok"] and not facts.get("pfn"):
        facts["pfn"] = door.pfn()
    if not facts["ok"] and order.copying:
        facts["remains"] = not door.remove_partial(FAILURE_CLEANUP)
    return facts


def _again(order: Order, door: Door, item: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    """Clear the way for a second attempt, where that may help."""
    reason = facts["reason"].lower()
    if "unable to remove temporary file" in reason:  # the library looks for it under another URL than it was given
        return door.remove_partial(FAILURE_CLEANUP)
    if order.copying and _RACE.search(reason):
        order.wait(random.uniform(0.5, 1.5) * RACE_PAUSE)
        return True
    if "already exists" in reason:
        return bool(item.get("overwrite")) and not _existing(order, door, facts)["ok"] and door.remove()
    return False


def _upload(order: Order, uploader: Any, item: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Have the library upload one file."""
    traces: list[dict[str, Any]] = []
    error: Optional[BaseException] = None
    row: Mapping[str, Any] = {}
    did = {"did_scope": item["scope"], "did_name": item["name"]}
    entry = {"path": path, "rse": item["rse"], **did, "no_register": True}
    if item.get("timeout"):
        entry["transfer_timeout"] = int(item["timeout"])
    if item.get("guid"):
        entry["guid"] = item["guid"]
    if item.get("url"):
        entry["pfn"] = item["url"]
    with tempfile.TemporaryDirectory(prefix="pilot-rucio-", dir=item.get("place") or None) as place:
        summary = Path(place, "summary.json")
        try:
            with order.in_library():
                uploader.upload([entry], summary_file_path=str(summary), traces_copy_out=traces,
                                ignore_availability=True)  # fmt: skip
            row = json.loads(summary.read_text(encoding="utf-8")).get(f"{item['scope']}:{item['name']}", {})
        except Exception as exc:  # noqa: BLE001 - costs this file only
            error = exc
    trace = traces[-1] if traces else {}
    facts = _outcome(order, trace, error, ok=error is None)
    facts.update({name: row.get(name) for name in ("pfn", "bytes", "adler32")})
    if "?" in str(facts["pfn"]):  # signed: for this upload only
        facts["pfn"] = ""
    return facts


def _existing(order: Order, door: Door, facts: Mapping[str, Any]) -> dict[str, Any]:
    """A file lies at the destination: ours, or in the way."""
    from rucio.common.checksum import adler32

    size, value = os.stat(order.source).st_size, adler32(order.source)
    try:
        there = door.stat()
    except Exception as exc:  # noqa: BLE001 - then it is in the way
        return {**facts, "reason": f"File already exists, and {exc}"}
    if int(there["filesize"]) == size and str(there.get("adler32", "")).lstrip("0") == value.lstrip("0"):
        found = {"existed": True, "pfn": door.pfn(), "bytes": size, "adler32": value, "protocol": door.scheme}
        return {**facts, "ok": True, **found}
    found_text = f"{there['filesize']} B adler32 {there.get('adler32', 'unknown')}"
    return {**facts, "reason": f"File already exists: {door.pfn()} ({found_text}, ours {size} B adler32 {value})"}
