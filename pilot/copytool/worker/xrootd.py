"""XRootD client library in a helper process: copies with progress and abort, file checks, removal."""

from __future__ import annotations

import os
from typing import Any, Mapping, Optional

from pilot.copytool.worker.main import Call, Operation, Refused
from pilot.copytool.worker.watch import Upload, watched

XRD_DEFAULTS = {
    "XRD_CONNECTIONWINDOW": "20",
    "XRD_CONNECTIONRETRY": "2",
    "XRD_STREAMTIMEOUT": "60",
    "XRD_STREAMERRORWINDOW": "0",
}
"""Seconds and attempts: the library's own (120 s, 5) keep a job ten minutes at a dead door, and there are others. For
half an hour after an error it would not even try the server again, whoever asks."""
MISSING = 3011
_TAKEN = (3003, 3018)
"""Error numbers of a server for a destination that exists, or is being written by somebody else."""


def load() -> dict[str, Operation]:
    """Import the library."""
    for name, value in XRD_DEFAULTS.items():
        os.environ.setdefault(name, value)
    from XRootD import client  # noqa: F401

    return {"copy": _copy, "stat": _stat, "checksum": _checksum, "remove": _remove, "rename": _rename, "ping": _ping,
            "open": _open}


def _refuse(status: Any, what: str, **facts: Any) -> Refused:
    """``errno`` of a status is XRootD's number (3011, ...) for answers of the server, an errno else."""
    number = int(getattr(status, "errno", 0) or 0)
    return Refused(
        f"{what}: {str(status.message).strip()}", xrootd=number if number >= 3000 else 0,
        errno=number if 0 < number < 3000 else 0, status=int(status.code), shell=int(status.shellcode),
        missing=number == MISSING, **facts,
    )  # fmt: skip


def _copy(call: Call) -> Mapping[str, Any]:
    """Copy between ``local`` and ``url``; ``checksum`` (``adler32:<hex>``) is compared with the server's afterwards."""
    from XRootD import client
    from XRootD.client.utils import CopyProgressHandler

    args = call.args
    upload = _upload(call) if args["upload"] else None
    moved = 0

    class Watch(CopyProgressHandler):  # type: ignore[misc]
        def update(self, _job: int, processed: int, _total: int) -> None:
            nonlocal moved
            moved = processed
            if upload is not None and processed:
                upload.began = True
            call.progress(processed)

        def should_cancel(self, _job: int) -> bool:
            return call.cancelled

    kind, _, value = str(args["checksum"]).partition(":")
    source, target = (args["local"], args["url"]) if upload else (args["url"], args["local"])
    copy = client.CopyProcess()
    copy.add_job(
        source, target, mkdir=True, checksummode="target" if value else "none", checksumtype=kind,
        checksumpreset=value, rmBadCksum=True, cptimeout=int(args["timeout"]),
    )  # fmt: skip
    status = copy.prepare()
    if status.ok:
        with watched(call, lambda: moved, int(args["size"]) if upload else 0):
            status, results = copy.run(Watch())
        if results:
            status = results[0]["status"]
    if upload is not None and status.ok:
        upload.done()
    if not status.ok:
        taken = int(status.errno or 0) in _TAKEN or "file exists" in str(status.message).lower()
        remains = upload.failed() if upload is not None and not taken else False
        raise _refuse(status, "xrootd copy", remains=remains)
    return {"size": int(results[0].get("size") or 0)}


def _upload(call: Call) -> Upload:
    """The clean-up has a connection of its own: the library makes one for each user name."""
    files, path = _split(call.args["url"], login="tidy")

    def size() -> Optional[int]:
        status, info = files.stat(path, timeout=5)
        if status.ok:
            return int(info.size)
        if status.errno == MISSING:
            return None
        raise _refuse(status, "stat")

    def remove() -> None:
        status, _ = files.rm(path, timeout=5)
        if not status.ok and status.errno != MISSING:
            raise _refuse(status, "rm")

    return Upload(call, int(call.args["size"]), size, remove)


def _split(url: str, login: str = "") -> tuple[Any, str]:
    from XRootD import client

    parsed = client.URL(url)
    door = f"{login}@{parsed.hostname}:{parsed.port}" if login else parsed.hostid
    return client.FileSystem(f"{parsed.protocol}://{door}"), parsed.path_with_params or parsed.path


def _stat(call: Call) -> Mapping[str, Any]:
    files, path = _split(call.args["url"])
    status, info = files.stat(path, timeout=int(call.args.get("timeout", 60)))
    if not status.ok:
        raise _refuse(status, "stat")
    return {"size": int(info.size)}


def _checksum(call: Call) -> Mapping[str, Any]:
    """Ask the server for the checksum: ``{"adler32": "1beacc19"}``."""
    from XRootD.client.flags import QueryCode

    files, path = _split(call.args["url"])
    kind = call.args.get("type", "adler32")
    limit = int(call.args.get("timeout", 900))
    status, answer = files.query(QueryCode.CHECKSUM, f"{path}?cks.type={kind}", timeout=limit)
    if not status.ok:
        raise _refuse(status, "checksum query")
    name, _, value = bytes(answer).rstrip(b"\0 \n").decode("ascii", "replace").partition(" ")
    return {name: value.strip()}


def _remove(call: Call) -> Mapping[str, Any]:
    files, path = _split(call.args["url"])
    status, _ = files.rm(path, timeout=int(call.args.get("timeout", 60)))
    if not status.ok:
        raise _refuse(status, "rm")
    return {}


def _rename(call: Call) -> Mapping[str, Any]:
    """Give a file the name that ``target``, a URL at the same door, has."""
    from XRootD.client.flags import MkDirFlags

    files, path = _split(call.args["url"])
    target = _split(call.args["target"])[1]
    limit = int(call.args.get("timeout", 60))
    parent = os.path.dirname(target)
    if parent != os.path.dirname(path):
        files.mkdir(parent, MkDirFlags.MAKEPATH, timeout=limit)  # mv says what is wrong
    status, _ = files.mv(path, target, timeout=limit)
    if not status.ok:
        raise _refuse(status, "mv")
    return {}


def _ping(call: Call) -> Mapping[str, Any]:
    """See whether a server answers; what it answers does not matter."""
    files, _ = _split(call.args["url"])
    status, _ = files.ping(timeout=int(call.args.get("timeout", 10)))
    if not status.ok and int(status.errno or 0) < 3000:
        raise _refuse(status, "ping")
    return {}


def _open(call: Call) -> Mapping[str, Any]:
    """Open a file for reading and read its first bytes."""
    from XRootD import client

    limit = int(call.args.get("timeout", 30))
    with client.File() as handle:
        status, _ = handle.open(call.args["url"], timeout=limit)
        if not status.ok:
            raise _refuse(status, "open")
        status, data = handle.read(0, int(call.args.get("bytes", 1024)), timeout=limit)
        if not status.ok:
            raise _refuse(status, "read")
    return {"bytes": len(data or b"")}
