"""Words and numbers as people read them, and strings of strangers made harmless."""

from __future__ import annotations

import time
from typing import Optional

from pilot.util.logs import one_record
from pilot.util.redact import redact

_MARKUP = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"})
_REDACT_MORE = 4
"""Times the length that is wanted: a secret that a cut would tear is masked before."""


def clock(epoch: object) -> str:
    """Return an epoch time as ``YYYY-MM-DD HH:MM:SS`` UTC, '-' for none."""
    if not isinstance(epoch, (int, float)):
        return "-"
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(epoch))
    except (ValueError, OverflowError, OSError):
        return "-"


def duration(seconds: float) -> str:
    """Return ``0.4 s``, ``12 s``, ``3 min 20 s``, ``2 h 05 min``, ``3 d 04 h``."""
    seconds = max(0.0, seconds)  # a clock that was set back makes no negative times
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def size(count: float) -> str:
    """Return a number of bytes with three digits: ``512 B``, ``1.50 MB`` (powers of ten)."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 999.5 or unit == "TB":
            break
        count /= 1000
    if unit == "B":
        return f"{count:.0f} B"
    return f"{count:.{2 if abs(count) < 9.995 else 1 if abs(count) < 99.95 else 0}f} {unit}"


def quantity(value: float, unit: str) -> str:
    """Return a value of a limit with its unit (``bytes``, ``s``, anything else as it is)."""
    if unit in ("bytes", "B"):
        return size(value)
    return duration(value) if unit == "s" else f"{value:g} {unit}".strip()


def clean(text: object, limit: int = 300) -> str:
    """Return one line of at most ``limit`` characters: secrets masked, control characters and turns of the direction
    of writing shown as escapes."""
    words = "" if text is None else str(text)
    longer = len(words) > limit * _REDACT_MORE
    line = one_record(redact(words[:limit * _REDACT_MORE])).replace("\n", "\\n")
    if longer or len(line) > limit:
        line = f"{line[:max(0, limit - 4)]} ..."
    return line


def block(text: str) -> list[str]:
    """Return the lines of a text, each harmless; secrets are masked over line ends, too."""
    return [one_record(line) for line in redact(text).replace("\r\n", "\n").split("\n")]


def escape(text: str) -> str:
    """Return ``text`` for HTML, between tags and in attributes. (Python's module for it costs a pilot 0.5 MB.)"""
    return text.translate(_MARKUP)


def percent(part: float, whole: float) -> Optional[int]:
    """Return the share in percent, None when the whole is not known."""
    return min(100, int(100 * part / whole)) if whole > 0 else None
