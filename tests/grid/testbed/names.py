"""Look-ups of names from /etc/hosts only, for this process and those that it starts.

The XRootD client asks for the name of the machine's own address. A resolver that drops such a question, which happens
when many ask at once, costs five seconds each time. As root we give ourselves a private /etc/nsswitch.conf: nothing on
the machine changes, and it is gone with the process. Otherwise the look-up is limited to one second.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

NSSWITCH = Path("/etc/nsswitch.conf")
LIMIT = "timeout:1 attempts:1"
_CLONE_NEWNS = 0x20000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000


def use_local_names(directory: Path) -> bool:
    """Do so; False where this is not permitted and the limit has to do. ``directory`` keeps the private file."""
    os.environ.setdefault("RES_OPTIONS", LIMIT)
    try:
        lines = NSSWITCH.read_text(encoding="utf-8").splitlines()
        private = directory / NSSWITCH.name
        others = [line for line in lines if not line.startswith("hosts:")]
        private.write_text("\n".join(["hosts: files", *others, ""]), encoding="utf-8")
        _call("unshare", _CLONE_NEWNS)
        _call("mount", b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
        _call("mount", bytes(private), bytes(NSSWITCH), None, _MS_BIND, None)
    except OSError:
        return False
    return True


def _call(function: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    converted = [ctypes.c_ulong(value) if isinstance(value, int) else value for value in arguments]
    if getattr(libc, function)(*converted) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
