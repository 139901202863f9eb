"""Rucio's protocol ``xrootd`` with XRootD's client library: Rucio's own class starts a command per question and file.

```
 thread of the order ──► library ──► Library (here) ──► helper process 'xrootd' of this helper ──► storage
```
XRootD has a process of its own, the same one that the copytool xrdcp uses: it can be broken off and killed as a command
can, the protocol's variables (``XrdSecPROTOCOL``) do not reach gfal2, and gfal2 may bring another version of XRootD.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any, Callable, Mapping, Optional

from rucio.common.exception import (
    RSEAccessDenied,
    RSEChecksumUnavailable,
    ServiceUnavailable,
    SourceNotFound,
)
from rucio.rse import rsemanager
from rucio.rse.protocols.xrootd import Default

from pilot.common.exception import PilotException
from pilot.copytool.worker.alarm import CLOCK
from pilot.copytool.worker.rucio_order import ASK_LIMIT, Abort, Order, current, once_a_minute
from pilot.util.cancel import CancelledError, CancelToken
from pilot.util.helper import HelperFailure, HelperPool

WORKER = "xrootd"
DOOR_LIMIT = 10.0
"""Seconds that a door has to answer at all."""
_TIDY = "tidy"
"""User name for removals: a connection of their own, since that of a broken copy may stand still."""

HELPERS = HelperPool()


def install() -> None:
    """Give protocols of Rucio's class our methods when they are made, where a Python here has the bindings.

    The class cannot be replaced where it is (its constructor names it), and ``impl`` in the settings of an endpoint has
    to remain what ``preferred_impl`` in ``rucio.cfg`` may ask for.
    """
    create = rsemanager.create_protocol

    def create_ours(*args: Any, **more: Any) -> Any:
        protocol = create(*args, **more)
        if type(protocol) is Default and usable(protocol):
            protocol.__class__ = Library
        return protocol

    rsemanager.create_protocol = create_ours


def usable(protocol: Default) -> bool:
    """Whether the helper process can be used for ``protocol``; starts it."""
    order = current()
    with order.at_door(lambda: None):
        return not HELPERS.missing(WORKER, _environ(protocol), order.token)


def _environ(protocol: Default) -> dict[str, str]:
    return _with(tuple(protocol._auth_env.items()))


@lru_cache(maxsize=4)
def _with(variables: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """The environment of the process; our own does not change while files are moved."""
    return {**os.environ, **dict(variables)}


class Library(Default):  # type: ignore[misc]
    """Names and paths as Rucio makes them, everything else by the library."""

    @once_a_minute
    def connect(self) -> None:
        """See whether the door is there: a question to one that is not takes its time, and an upload has some."""
        try:
            self._ask("ping", f"/{self.attributes['prefix']}", limit=DOOR_LIMIT)
        except HelperFailure as exc:
            raise RSEAccessDenied(exc.text) from exc

    def exists(self, pfn: str) -> bool:
        """Whether a file is known to be there; what hinders the look hinders the upload, and is told then."""
        try:
            self._ask("stat", self.pfn2path(pfn))
        except HelperFailure:
            return False
        return True

    def stat(self, path: str) -> dict[str, str]:
        """Size and adler32.

        Raises:
            ServiceUnavailable: no answer, or no such file.
            RSEChecksumUnavailable: the storage has no adler32.
        """
        name = self.pfn2path(path) if "://" in path else path
        try:
            size = self._ask("stat", name)["size"]
        except HelperFailure as exc:
            raise ServiceUnavailable(exc.text) from exc
        try:
            sums = self._ask("checksum", name, type="adler32")
        except HelperFailure as exc:
            raise RSEChecksumUnavailable(exc.text) from exc
        if "adler32" not in sums:
            raise RSEChecksumUnavailable(f"adler32 was asked for, {' '.join(sums)} came")
        return {"filesize": str(size), "adler32": str(sums["adler32"])}

    def get(self, pfn: str, dest: str, transfer_timeout: Optional[int] = None) -> None:
        """Fetch a file; who calls compares the checksum.

        Raises:
            SourceNotFound: it is not there.
            ServiceUnavailable: anything else.
        """
        try:
            self._copy(pfn, dest, upload=False)
        except HelperFailure as exc:
            raise (SourceNotFound if exc.facts.get("missing") else ServiceUnavailable)(exc.text) from exc

    def put(self, filename: str, target: str, source_dir: str, transfer_timeout: Optional[int] = None) -> None:
        """Store a file, never over another one; who calls looks at it afterwards.

        Raises:
            SourceNotFound: there is no such local file.
            ServiceUnavailable: anything else.
        """
        source = os.path.join(source_dir or ".", filename)
        if not os.path.exists(source):
            raise SourceNotFound(f"no local file {source}")
        try:
            self._copy(self.path2pfn(target), os.path.abspath(source), upload=True)
        except HelperFailure as exc:
            raise ServiceUnavailable(exc.text) from exc

    def delete(self, pfn: str) -> None:
        """Remove a file.

        Raises:
            SourceNotFound: it is not there.
            ServiceUnavailable: anything else.
        """
        try:
            self._ask("remove", self.pfn2path(pfn), login=f"{_TIDY}@")
        except HelperFailure as exc:
            raise (SourceNotFound if exc.facts.get("missing") else ServiceUnavailable)(exc.text) from exc

    def rename(self, pfn: str, new_pfn: str) -> None:
        """Give a file its final name.

        Raises:
            SourceNotFound: it is not there.
            ServiceUnavailable: anything else.
        """
        try:
            self._ask("rename", self.pfn2path(pfn), target=self._url(self.pfn2path(new_pfn)))
        except HelperFailure as exc:
            raise (SourceNotFound if exc.facts.get("missing") else ServiceUnavailable)(exc.text) from exc

    # --- the process -------------------------------------------------------------------------------------------------

    def _url(self, path: str, login: str = "") -> str:
        """At the door of the protocol, whatever the file's own URL says: so it is with Rucio's commands."""
        return f"{self.scheme}://{login}{self.hostname}:{self.port}//{path.lstrip('/')}"

    def _ask(self, op: str, path: str, *, login: str = "", limit: float = ASK_LIMIT, **more: Any) -> Mapping[str, Any]:
        return self._call(op, {"url": self._url(path, login), "timeout": int(limit), **more}, limit)

    def _copy(self, url: str, local: str, *, upload: bool) -> None:
        order = current()
        order.copies()
        size = os.stat(local).st_size if upload else 0
        args = {"url": url, "local": local, "upload": upload, "size": size, "checksum": "",
                "timeout": int(order.limit or 0)}
        self._call("copy", args, order.limit, lambda event: order.tell(int(event.get("bytes", 0))))

    def _call(
        self, op: str, args: Mapping[str, Any], limit: Optional[float],
        on_event: Callable[[Mapping[str, Any]], None] = lambda _event: None,
    ) -> Mapping[str, Any]:  # fmt: skip
        """Have something done within ``limit`` s (None = none).

        Raises:
            HelperFailure: the library refused, crashed or was too slow.
            Abort: the order was broken off.
        """
        order = current()
        try:
            with order.at_door(lambda: None):
                return _within(limit, order, op, args, _environ(self), on_event)
        except HelperFailure as exc:
            order.said = exc.text
            raise


def _within(
    limit: Optional[float], order: Order, op: str, args: Mapping[str, Any], env: Mapping[str, str],
    on_event: Callable[[Mapping[str, Any]], None],
) -> Mapping[str, Any]:  # fmt: skip
    token = CancelToken(order.token)
    alarm = CLOCK.after(limit, lambda: token.cancel(1151, "too slow")) if limit else None
    try:
        return HELPERS.call(WORKER, op, args, env=env, token=token, on_event=on_event)
    except CancelledError:
        if order.aborted:
            raise Abort from None
        raise HelperFailure({"text": f"{op}: timed out, not done within {limit:.0f} s"}) from None
    except PilotException as exc:  # it died twice
        raise HelperFailure({"text": exc.detail}) from exc
    finally:
        if alarm is not None:
            alarm.cancel()
        token.detach()
