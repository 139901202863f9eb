"""Paths made of names that strangers chose: nothing leaves its directory."""

from __future__ import annotations

import os
from pathlib import Path

from pilot.common.exception import PilotException

NAME_MAX = 255
"""Longest file name in bytes on every file system that we meet."""


class UnsafePath(PilotException):
    """A name that would leave its directory or that no tool could handle (code 1371, Bad output file name)."""

    default_code = 1371


def check_name(name: str) -> str:
    """Return ``name`` when it is one harmless file name.

    Raises:
        UnsafePath: empty, ``.``, ``..``, with a slash, a NUL or a line end inside, or longer than 255 bytes.
    """
    if not name or name in (".", ".."):
        raise UnsafePath(f"unsafe file name {name!r}: not a name of a file")
    if any(char in name for char in "/\0\n\r"):
        raise UnsafePath(f"unsafe file name {name!r}: slash, NUL or line end inside")
    try:
        length = len(os.fsencode(name))
    except UnicodeEncodeError as exc:
        raise UnsafePath(f"unsafe file name {name!r}: cannot be encoded for the file system ({exc.reason})") from None
    if length > NAME_MAX:
        raise UnsafePath(f"unsafe file name {name[:80]!r}...: {length} bytes, longest allowed is {NAME_MAX}")
    return name


def inside(base: Path | str, name: str) -> Path:
    """Join ``base`` and the relative path ``name``; the result lies in ``base`` also after following links.

    The last component itself may be a link (it is not followed), so a caller that opens it has to look.

    Raises:
        UnsafePath: ``name`` is absolute, has ``..`` or unusable components, or a directory on its way is a link out.
    """
    parts = name.split("/")
    for part in parts:
        check_name(part)
    base = Path(base)
    path = base.joinpath(*parts)
    if len(parts) > 1 and not is_inside(base, path.parent):
        raise UnsafePath(f"unsafe path {name!r}: a link on its way leaves {base}")
    return path


def is_inside(base: Path | str, path: Path | str) -> bool:
    """True when ``path``, all links followed, is ``base`` or lies below it (a loop of links counts as outside)."""
    real_base, real_path = os.path.realpath(base), os.path.realpath(path)
    if os.path.islink(real_path):  # realpath gives up on loops
        return False
    return real_path == real_base or real_path.startswith(real_base.rstrip("/") + "/")
