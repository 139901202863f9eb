"""gfal2 in a helper process: copies with progress and abort, file checks, removal.

Each order has a context to itself. One that served an order for ``root://`` well is used again: the making of it, with
all plug-ins, takes a tenth of the time of a small file, and XRootD keeps nothing in it. That for HTTP does.

How a name stands in a URL depends on the plug-in (tried with gfal2 2.21): those for HTTP and XRootD decode ``%20``, the
latter on the local side too; HTTP refuses what is not encoded. The others take names as they are.
"""

from __future__ import annotations

import errno
import os
import threading
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any, Iterator, Mapping, Optional
from urllib.parse import quote

from pilot.copytool.worker.main import Call, Operation, Refused
from pilot.copytool.worker.watch import Upload, read_position, size_of, watched
from pilot.copytool.worker.xrootd import XRD_DEFAULTS
from pilot.version import PILOT_VERSION

WEB = ("http", "https", "dav", "davs")
XROOTD = ("root", "xroot", "roots", "xroots")
LONGEST = 10800
"""Seconds, for orders without a limit of their own."""
_PLUGINS = ("HTTP PLUGIN", "SRM PLUGIN", "GRIDFTP PLUGIN")
_CHECKSUM = 84
"""Error number of the XRootD plug-in for a checksum that differs (errno has nothing for it)."""


def load() -> dict[str, Operation]:
    """Import the library."""
    for name, value in XRD_DEFAULTS.items():
        os.environ.setdefault(name, value)
    import gfal2  # noqa: F401

    return {"copy": _guarded(_copy), "stat": _guarded(_stat), "checksum": _guarded(_checksum),
            "remove": _guarded(_remove), "open": _guarded(_open)}


def scheme_of(url: str) -> str:
    """Return the scheme in lower case."""
    return url.partition(":")[0].lower()


def remote_url(url: str, name: str) -> str:
    """Return ``url`` as gfal2 wants it.

    Args:
        url: as the catalogue or the endpoint's protocol says; a URL that ends with ``name`` is plain text, another one
            (signed, say) is encoded already, but for characters that no URL has.
        name: logical file name.
    """
    scheme, _, rest = url.partition("://")
    if scheme.lower() == "file":
        return f"file:///{rest.partition('/')[2].lstrip('/')}"
    if scheme.lower() not in (*WEB, *XROOTD):
        return url
    host, _, path = rest.partition("/")
    safe = "/" if name and url.endswith(f"/{name}") else "/%:=&?~#+!$,;'@()*"
    return f"{scheme}://{host}/{quote(path, safe=safe)}"


def local_url(path: str, other: str) -> str:
    """Return the URL of a local file for a copy from or to ``other``."""
    return f"file://{quote(path) if scheme_of(other) in XROOTD else path}"


def _guarded(operation: Operation) -> Operation:
    """Turn what gfal2 raises into facts."""

    def carry_out(call: Call) -> Mapping[str, Any]:
        import gfal2

        try:
            return operation(call)
        except gfal2.GError as exc:
            raise _refused(exc) from exc

    return carry_out


def _refused(exc: Any, **facts: Any) -> Refused:
    number = int(exc.code or 0)
    text = "CheckSum error: " if number == _CHECKSUM and "checksum" not in str(exc.message).lower() else ""
    return Refused(f"{text}{exc.message}", errno=number if number < 3000 else 0, xrootd=number if number >= 3000 else 0,
                   missing=number == errno.ENOENT, **facts)


def _context(url: str, limit: int) -> Any:
    """A context of gfal2 with time limits (s) and, for ``url``, the token, which is read anew: it may be fresh."""
    import gfal2

    context = gfal2.creat_context()
    context.set_user_agent("panda-pilot", PILOT_VERSION)
    _with_limits(context, limit)
    context.set_opt_boolean("HTTP PLUGIN", "RETRIEVE_BEARER_TOKEN", False)
    token = _token()
    if token:
        context.cred_set(url, context.cred_new("BEARER", token))
    return context


def _with_limits(context: Any, limit: int) -> Any:
    """The context, with time limits in s."""
    for plugin in _PLUGINS:
        context.set_opt_integer(plugin, "OPERATION_TIMEOUT", limit)
    context.set_opt_integer("CORE", "NAMESPACE_TIMEOUT", min(limit, 300))
    context.set_opt_integer("CORE", "CHECKSUM_TIMEOUT", limit)
    return context


_IDLE: SimpleQueue[Any] = SimpleQueue()
"""Contexts for ``root://`` that nobody uses and no token was given to."""


@contextmanager
def _lent(call: Call, url: str, limit: int) -> Iterator[Any]:
    """A context for the block, which is stopped when the order is broken off."""
    kept = scheme_of(url) in XROOTD and not _token()
    try:
        context = _with_limits(_IDLE.get_nowait(), limit) if kept else _context(url, limit)
    except Empty:
        context = _context(url, limit)
    abort = _abort(context)
    call.on_cancel(abort)
    try:
        yield context
    except BaseException:
        kept = False
        raise
    finally:
        call.forget(abort)
        if kept and not call.cancelled:  # else it may be stopped at any time from now on
            _IDLE.put(context)


def _token() -> str:
    """The bearer token, where WLCG says to look; gfal2 itself knows only the first place."""
    value = os.environ.get("BEARER_TOKEN", "").strip()
    name = os.environ.get("BEARER_TOKEN_FILE", "")
    if value or not name:
        return value
    try:
        with open(name, encoding="ascii") as file:
            return file.read().strip()
    except (OSError, ValueError) as exc:
        raise Refused(f"auth failed: the token file {name} cannot be read (BEARER_TOKEN_FILE)") from exc


def _copy(call: Call) -> Mapping[str, Any]:
    """Copy between ``local`` and ``url``; ``checksum`` (``adler32:<hex>``) is compared with the storage's after it."""
    import gfal2

    args = call.args
    url, local, size = str(args["url"]), str(args["local"]), int(args["size"])
    limit = int(args["timeout"]) or LONGEST
    upload = _upload(call, limit) if args["upload"] else None
    told: list[int] = []

    def monitor(_source: str, _target: str, _average: int, _rate: int, done: int, _elapsed: int) -> None:
        if upload is not None and done:
            upload.began = True
        told[:] = [done]
        call.progress(done)

    def notice(event: Any) -> None:
        # the XRootD plug-in looks for an existing file after this, the others have done so
        if upload is not None and str(event.stage) == "TRANSFER:ENTER" and scheme_of(url) not in XROOTD:
            upload.began = True

    def position() -> Optional[int]:
        return told[0] if told else read_position(local) if upload is not None else size_of(local)

    kind, _, value = str(args["checksum"]).partition(":")
    near = local_url(local, url)
    try:
        with _lent(call, url, limit) as context:
            parameters = context.transfer_parameters()
            parameters.timeout = limit
            parameters.create_parent = upload is not None
            parameters.monitor_callback = monitor
            parameters.event_callback = notice
            if value:
                parameters.set_checksum(gfal2.checksum_mode.target, kind.upper(), value)
            if upload is not None and scheme_of(url) in XROOTD:
                _refuse_existing(context, url)
            with watched(call, position, size if upload is not None else 0):
                context.filecopy(parameters, *((near, url) if upload is not None else (url, near)))
    except gfal2.GError as exc:
        taken = int(exc.code or 0) == errno.EEXIST
        raise _refused(exc, remains=upload.failed() if upload is not None and not taken else False) from exc
    if upload is not None:
        upload.done()
    return {}


def _refuse_existing(context: Any, url: str) -> None:
    """The XRootD plug-in removes the destination when its upload fails, even if another one is writing it."""
    import gfal2

    try:
        context.stat(url)
    except gfal2.GError as exc:
        if exc.code == errno.ENOENT:
            return
        raise
    raise gfal2.GError("file exists", errno.EEXIST)


def _abort(context: Any) -> Any:
    """gfal2's cancel waits for the end of the transfer: the clean-up must not wait with it."""

    def abort() -> None:
        threading.Thread(target=context.cancel, daemon=True).start()

    return abort


def _upload(call: Call, limit: int) -> Upload:
    """The clean-up has a context, and so connections, of its own; the XRootD plug-in needs another user name."""
    import gfal2

    url = str(call.args["url"])
    if scheme_of(url) in XROOTD and "@" not in url.partition("://")[2].partition("/")[0]:
        url = url.replace("://", "://tidy@", 1)
    limit = min(limit, 5)

    def size() -> Optional[int]:
        try:
            return int(_context(url, limit).stat(url).st_size)
        except gfal2.GError as exc:
            if exc.code == errno.ENOENT:
                return None
            raise

    def remove() -> None:
        try:
            _context(url, limit).unlink(url)
        except gfal2.GError as exc:
            if exc.code != errno.ENOENT:
                raise

    return Upload(call, int(call.args["size"]), size, remove)


@contextmanager
def _question(call: Call) -> Iterator[tuple[Any, str]]:
    """A context for a question about ``url``, and that URL."""
    url = str(call.args["url"])
    with _lent(call, url, int(call.args.get("timeout", 60))) as context:
        yield context, url


def _stat(call: Call) -> Mapping[str, Any]:
    with _question(call) as (context, url):
        return {"size": int(context.stat(url).st_size)}


def _checksum(call: Call) -> Mapping[str, Any]:
    """Ask the storage for the checksum: ``{"adler32": "1beacc19"}``."""
    kind = str(call.args.get("type") or "adler32")
    with _question(call) as (context, url):
        return {kind: str(context.checksum(url, kind.upper()))}


def _remove(call: Call) -> Mapping[str, Any]:
    with _question(call) as (context, url):
        context.unlink(url)
    return {}


def _open(call: Call) -> Mapping[str, Any]:
    """Open a file for reading and read its first bytes."""
    with _question(call) as (context, url):
        return {"bytes": len(context.open(url, "r").read(int(call.args.get("bytes", 1024))))}
