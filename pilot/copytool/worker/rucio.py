"""Rucio client library in a helper process: the catalogue, downloads and uploads."""

from __future__ import annotations

import getpass
import logging
import os
import sys

from pilot.copytool.worker.main import Operation

HOST = "PILOT_RUCIO_HOST"
"""Variable that names another server than rucio.cfg."""
VERBOSE = "PILOT_RUCIO_VERBOSE"
"""Variable that has the client tell of each step, some lines per file."""
_DEFAULTS = {
    "XRD_CONNECTIONWINDOW": "20", "XRD_CONNECTIONRETRY": "2", "XRD_STREAMTIMEOUT": "60", "XRD_STREAMERRORWINDOW": "0",
}  # fmt: skip
"""Seconds and attempts, for gfal2 and the commands of XRootD; their own keep a job ten minutes at a dead door, and
refuse for half an hour to try again one that did not answer once."""


def load() -> dict[str, Operation]:
    """Import the library."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    sys.argv = ["pilot"]  # the library sends it with every request
    _name_the_user()
    level = logging.INFO if os.environ.pop(VERBOSE, "") else logging.WARNING
    logging.basicConfig(stream=sys.stderr, level=level, format="%(levelname)s %(message)s")
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # its warnings say what the client says again
    try:
        _use_host(os.environ.pop(HOST, ""))
        from pilot.copytool.worker import rucio_client, rucio_copy

        rucio_copy.prepare()
    except ImportError:
        raise
    except Exception as exc:  # the library reads its configuration while it is imported
        raise ImportError(" ".join(f"{type(exc).__name__}: {exc}".split())) from exc
    return {
        "ping": rucio_client.ping,
        "list_replicas": rucio_client.list_replicas,
        "declare_suspicious": rucio_client.declare_suspicious,
        "declare_bad": rucio_client.declare_bad,
        "download": rucio_copy.download,
        "upload": rucio_copy.upload,
        "clean": rucio_copy.clean,
    }


def _name_the_user() -> None:
    """The library names its token directory after the user; in a container the uid may have no name."""
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):
        os.environ["LOGNAME"] = f"uid{os.getuid()}"


def _use_host(host: str) -> None:
    """Put ``host`` in place of both servers of rucio.cfg: the library makes clients of its own, out of our reach.

    The changed configuration has no name in the file system: it may hold a password.
    """
    from rucio.common.config import clean_cached_config, get_config
    from rucio.common.exception import ConfigNotFound

    try:
        settings = get_config()
    except ConfigNotFound:
        if not host:
            return
        from configparser import ConfigParser

        settings = ConfigParser()
    if not settings.has_section("client"):
        settings.add_section("client")
    if not host or settings.get("client", "rucio_host", fallback="", raw=True).rstrip("/") == host.rstrip("/"):
        return
    settings.set("client", "rucio_host", host)
    settings.set("client", "auth_host", host)
    memory = os.memfd_create("rucio.cfg", os.MFD_CLOEXEC)
    with open(memory, "w", encoding="utf-8", closefd=False) as stream:
        settings.write(stream)
    os.environ["RUCIO_CONFIG"] = f"/proc/self/fd/{memory}"
    clean_cached_config()
