"""Storage endpoints in a helper process: what the Rucio server knows of them, and the way to one file of an upload."""

from __future__ import annotations

import copy
import threading
import time
from functools import partial
from typing import Any, Mapping, Optional

from pilot.copytool.worker.main import Call, Refused
from pilot.copytool.worker.rucio_client import ask, logger
from pilot.copytool.worker.rucio_order import Abort, escaped, limited

KNOWN_FOR = 900.0
"""Seconds that the description of an RSE is kept."""
_TEMPORARY = ".rucio.upload"
"""What the library appends to the name of a file that is on its way."""


class Endpoints:
    """Descriptions of RSEs. Each user gets a copy: the library's protocols write into theirs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, dict[str, Any], dict[str, Any]]] = {}
        self._scopes: Optional[list[str]] = None
        self.gfal = True

    def fetch(self, call: Call, names: set[str], *, scopes: bool) -> dict[str, Refused]:
        """Ask for what is not known yet; returns the names that the server does not know either.

        Raises:
            Refused: no server, no login.
        """
        wrong: dict[str, Refused] = {}
        for name in sorted(names):
            with self._lock:
                known = self._known.get(name)
            if known and known[0] > time.monotonic():
                continue
            try:
                info, attributes = ask(call, partial(_described, name))
            except Refused as exc:
                if exc.facts.get("exception") not in ("RSENotFound", "InvalidRSEExpression"):
                    raise
                wrong[name] = exc
                continue
            with self._lock:
                self._known[name] = (time.monotonic() + KNOWN_FOR, info, attributes)
        if scopes and self._scopes is None:
            self._scopes = ask(call, lambda client: list(client.server_scopes()))
        return wrong

    def info(self, rse: Optional[str] = None, *_args: Any, **_more: Any) -> dict[str, Any]:
        """Stands for the library's ``get_rse_info``, which logs in anew, to the host of ``rucio.cfg``."""
        with self._lock:
            known = self._known.get(str(rse))
        if known is None:
            from rucio.common.exception import RSENotFound

            raise RSENotFound(f"{rse} is not known")
        info = copy.deepcopy(known[1])
        if not self.gfal:
            _without_gfal(info)
        return info

    def attributes(self, rse: str) -> dict[str, Any]:
        """Attributes of an RSE (``site``)."""
        with self._lock:
            return dict(self._known[rse][2])

    def scopes(self) -> list[str]:
        """All scopes, where a scope has to be found in a name."""
        return self._scopes or []


def _described(name: str, client: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    info = dict(client.get_rse(name))
    try:
        return info, dict(client.server_attributes(name))
    except Exception as exc:  # noqa: BLE001 - without attributes the WAN door is taken
        logger.warning("attributes of %s: %s", name, exc)
        return info, {}


def _without_gfal(info: dict[str, Any]) -> None:
    """Where gfal2 is not installed the commands of XRootD do for root://."""
    from shutil import which

    if which("xrdcp") and which("xrdfs"):
        for protocol in info.get("protocols", ()):
            if protocol["scheme"] == "root" and protocol["impl"].startswith("rucio.rse.protocols.gfal."):
                protocol["impl"] = "rucio.rse.protocols.xrootd.Default"


ENDPOINTS = Endpoints()


class Door:
    """Where an upload goes to: the same protocol that the library takes."""

    def __init__(self, item: Mapping[str, Any], auth_token: Optional[str]) -> None:
        from rucio.common.client import detect_client_location

        self._item = item
        self._auth = auth_token
        info = ENDPOINTS.info(item["rse"])
        site = ENDPOINTS.attributes(item["rse"]).get("site")
        lan = "lan" in info["domain"] and site and site == detect_client_location()["site"]
        self.domain = "lan" if lan else "wan"
        self.scheme = str(item.get("url") or "").partition(":")[0] or self._first_scheme(info)
        self._writer = self._writing()

    def _writing(self) -> Any:
        try:
            return self._make("write")
        except Exception as exc:  # noqa: BLE001 - the upload itself says why
            logger.info("protocol of %s: %s", self._item["rse"], exc)
            return None

    @property
    def _implementation(self) -> str:
        return type(self._writer).__module__.rpartition(".")[2]

    @property
    def renames(self) -> bool:
        """A file that is on its way has a name of its own."""
        return bool(getattr(self._writer, "renaming", True))

    def _first_scheme(self, info: Any) -> str:
        from rucio.rse import rsemanager

        try:
            return str(rsemanager.get_protocols_ordered(info, "write", domain=self.domain)[0]["scheme"])
        except Exception as exc:  # noqa: BLE001 - the upload itself says why
            logger.info("protocols of %s: %s", self._item["rse"], exc)
            return ""

    def _make(self, operation: str) -> Any:
        from rucio.rse import rsemanager

        return rsemanager.create_protocol(
            ENDPOINTS.info(self._item["rse"]), operation, scheme=self.scheme or None, domain=self.domain,
            auth_token=self._auth, logger=logger.log,
        )  # fmt: skip

    def _open(self, operation: str) -> Any:
        protocol = self._make(operation)
        protocol.connect()
        return protocol

    def _name(self, protocol: Any) -> str:
        given = str(self._item.get("url") or "")
        did = {"scope": self._item["scope"], "name": self._item["name"]}
        return given or str(next(iter(protocol.lfns2pfns(did).values())))

    def pfn(self) -> str:
        """URL of the file."""
        return self._name(self._writer)

    def stat(self) -> Mapping[str, Any]:
        """Size and checksum of what lies there."""
        protocol = self._open("read")
        facts: Mapping[str, Any] = protocol.stat(self._name(protocol))
        return facts

    def unspeakable(self) -> str:
        """Characters of the name that would make the URL mean another file: Rucio escapes nothing."""
        implementation = self._implementation
        if self._writer is None:
            return ""
        name = self._item["name"]
        taken = {"posix": "?#", "xrootd": "?", "rucio_xrootd": "?"}.get(implementation, "?#%")
        if implementation == "gfal" and self.scheme.startswith(("http", "dav")):
            taken += "".join(char for char in name if escaped(f"{self.scheme}{char}") != f"{self.scheme}{char}")
        return " ".join(char for char in dict.fromkeys(taken) if char in name)

    def remove(self) -> bool:
        """Delete what lies there."""
        try:
            protocol = self._open("delete")
            protocol.delete(self._name(protocol))
        except Exception as exc:  # noqa: BLE001 - the next attempt finds it
            logger.warning("%s cannot be replaced: %s", self._item["name"], exc)
            return False
        return True

    def remove_partial(self, seconds: float, fresh: bool = False) -> bool:
        """Delete what a broken upload has left; False when something may still lie there.

        Args:
            seconds: limit.
            fresh: the connection to the server may stand still: take another one.
        """
        from rucio.common.exception import SourceNotFound

        try:
            with limited(seconds):
                protocol = self._open("delete")
                name = self._name(protocol)
                if fresh and self.scheme == "root" and self._implementation == "gfal":
                    name = name.replace("://", "://pilot@", 1)  # XRootD's client has one connection per user and host
                protocol.delete(f"{name}{_TEMPORARY}" if protocol.renaming else name)
            return True
        except SourceNotFound:
            return True
        except (Exception, Abort) as exc:  # noqa: BLE001 - told as ``remains``
            logger.warning("partial file of %s: %s", self._item["name"], exc or "no answer in time")
            return False
