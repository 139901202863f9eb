"""Reads what payloads write: files of any size, binary, missing, or no files at all; bounded and made printable."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

HEAD_BYTES = 4 << 20
TAIL_BYTES = 12 << 20
_CHUNK = 1 << 20
_LINE_LIMIT = 4096

_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b\n]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffd]")


def open_regular(path: Path, *, links: bool = False) -> int | None:
    """Return a file descriptor for reading, None when there is no regular file; never blocks (a FIFO would).

    A link is no regular file unless ``links``: a payload in a container could else have files of the host shown to the
    world in diagnoses and extracts, by putting a link in the place of its stdout.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        handle = os.open(path, flags if links else flags | os.O_NOFOLLOW)
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        return None
    return handle


def read_head(path: Path, limit: int, *, links: bool = False) -> bytes:
    """Return the first ``limit`` bytes, empty when there is no such file; ``links`` are followed on request."""
    handle = open_regular(path, links=links)
    if handle is None:
        return b""
    try:
        return os.pread(handle, limit, 0)
    except OSError:
        return b""
    finally:
        os.close(handle)


def read_tail(path: Path, limit: int) -> bytes:
    """Return the last ``limit`` bytes, empty when there is no such file."""
    handle = open_regular(path)
    if handle is None:
        return b""
    try:
        return os.pread(handle, limit, max(0, os.fstat(handle).st_size - limit))
    except OSError:
        return b""
    finally:
        os.close(handle)


def matching_lines(path: Path, needles: tuple[bytes, ...], wanted: int = 200) -> Iterator[bytes]:
    """Yield lines that contain one of ``needles``, in order: one pass over the beginning (4 MiB) and the end (12 MiB).

    Searching for fixed strings runs at memory speed; patterns are then applied to these few lines only.
    """
    handle = open_regular(path)
    if handle is None:
        return
    try:
        size = os.fstat(handle).st_size
        spans = [(0, size)] if size <= HEAD_BYTES + TAIL_BYTES else [(0, HEAD_BYTES), (size - TAIL_BYTES, size)]
        for begin, end in spans:
            for line in _lines_with(handle, begin, end, needles):
                yield line
                wanted -= 1
                if wanted <= 0:
                    return
    except OSError:
        return
    finally:
        os.close(handle)


def _lines_with(handle: int, begin: int, end: int, needles: tuple[bytes, ...]) -> Iterator[bytes]:
    """Yield the lines of one span that contain a needle; a line longer than 4 kB is cut."""
    carry = b""
    while begin < end:
        chunk = os.pread(handle, min(_CHUNK, end - begin), begin)
        if not chunk:
            break
        begin += len(chunk)
        block = carry + chunk
        cut = block.rfind(b"\n") + 1
        if begin < end:
            carry = block[cut:][-_LINE_LIMIT:] if cut else block[-_LINE_LIMIT:]
            block = block[:cut] if cut else block
        if any(needle in block for needle in needles):
            for line in block.split(b"\n"):
                if any(needle in line for needle in needles):
                    yield line[:_LINE_LIMIT]


def printable(raw: bytes | str) -> str:
    """Return ``raw`` as text without escape sequences; control characters and broken UTF-8 become ``?``."""
    text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw
    return _CONTROL.sub("?", _ESCAPE.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))


def is_binary(raw: bytes) -> bool:
    """True when a piece of a file is no text: it holds NUL bytes."""
    return b"\0" in raw


def cut_bytes(text: str, limit: int, *, keep_end: bool = False) -> str:
    """Return ``text`` cut to ``limit`` bytes of UTF-8 without breaking a character."""
    raw = text.encode("utf-8", "replace")
    if len(raw) <= limit:
        return raw.decode("utf-8")
    return (raw[len(raw) - limit :] if keep_end else raw[:limit]).decode("utf-8", "ignore")
