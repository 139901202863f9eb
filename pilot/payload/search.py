"""Finds fixed texts in what a payload wrote: one bounded pass for all of them, at memory speed, in any file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from pilot.info.diagnosis import Line
from pilot.payload.textfiles import HEAD_BYTES, TAIL_BYTES, open_regular, printable, read_head, read_tail

_CHUNK = 1 << 20
_LINE_LIMIT = 4096
_PER_NEEDLE = 200


class SearchedOutput:
    """stdout or stderr of a payload (``pilot.info.diagnosis.PayloadOutput``).

    Args:
        path: the file, or where it should be.
        needles: every text that will ever be asked for; they are all searched at the first question.
    """

    def __init__(self, path: Path, needles: Iterable[bytes] = ()) -> None:
        self.path = path
        self._needles = tuple(dict.fromkeys(needle for needle in needles if needle))
        self._found: dict[bytes, dict[int, Line]] | None = None

    def head(self, limit: int) -> str:
        """Return the first ``limit`` bytes as printable text."""
        return printable(read_head(self.path, limit))

    def tail(self, limit: int) -> str:
        """Return the last ``limit`` bytes as printable text."""
        return printable(read_tail(self.path, limit))

    def lines(self, *needles: bytes) -> Sequence[Line]:
        """Return the lines that have one of ``needles``, in their order."""
        if self._found is None:
            self._found = _search(self.path, self._needles)
        together: dict[int, Line] = {}
        for needle in needles:
            together.update(self._found[needle])
        return [together[begin] for begin in sorted(together)]


def _search(path: Path, needles: Sequence[bytes]) -> dict[bytes, dict[int, Line]]:
    """Return needle -> {offset of the line: line}."""
    found: dict[bytes, dict[int, Line]] = {needle: {} for needle in needles}
    handle = open_regular(path) if needles else None
    if handle is None:
        return found
    try:
        size = os.fstat(handle).st_size
        if size <= HEAD_BYTES + TAIL_BYTES:
            _search_span(handle, path.name, (0, size), found)
        else:
            _search_span(handle, path.name, (0, HEAD_BYTES), found)
            for lines in found.values():  # the beginning must not use up what the end may have
                for begin in list(lines)[_PER_NEEDLE // 2:]:
                    del lines[begin]
            _search_span(handle, path.name, (size - TAIL_BYTES, size), found)
    except OSError:
        pass  # gone, or its disk is: what was found counts
    finally:
        os.close(handle)
    return found


def _search_span(handle: int, name: str, span: tuple[int, int], found: dict[bytes, dict[int, Line]]) -> None:
    begin, end = span
    overlap = max(map(len, found)) - 1
    newlines, base, carry = 0, begin, b""
    done: dict[bytes, int] = dict.fromkeys(found, begin)
    while base + len(carry) < end:
        chunk = os.pread(handle, min(_CHUNK, end - base - len(carry)), base + len(carry))
        if not chunk:
            break
        block = carry + chunk
        for needle, lines in found.items():
            position = block.find(needle, max(0, done[needle] - base))
            while position >= 0 and len(lines) < _PER_NEEDLE:
                at = base + position
                start, raw, rest = _line_around(handle, at, begin, end)
                number = newlines + block.count(b"\n", 0, position) + 1
                place = f"{name} line {number}" if begin == 0 else f"{name} byte {start}"
                lines[start] = Line(printable(raw).strip(), place)
                done[needle] = rest
                position = block.find(needle, rest - base) if rest - base < len(block) else -1
        cut = len(block) - min(overlap, len(block))  # a needle may go on in the next chunk
        newlines += block.count(b"\n", 0, cut)
        base, carry = base + cut, block[cut:]


def _line_around(handle: int, at: int, begin: int, end: int) -> tuple[int, bytes, int]:
    """Return (offset, content, offset behind it) of the line at ``at``; of a longer one 4 kB around it."""
    first = max(begin, at - _LINE_LIMIT // 2)
    raw = os.pread(handle, min(_LINE_LIMIT, end - first), first)
    inside = at - first
    left = raw.rfind(b"\n", 0, inside) + 1
    right = raw.find(b"\n", inside)
    if right < 0:
        right = len(raw)
    return first + left, raw[left:right], first + right + 1
