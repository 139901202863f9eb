"""Checksums of the file lists (adler32, md5): one read for all of them, in big blocks, with the GIL released.

adler32 starts at 1 and is written as 8 lower-case hex digits; both facts are protocol (server, Rucio, XRootD).
"""

from __future__ import annotations

import os
import stat
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Iterable, Optional

from pilot.common.exception import PilotException
from pilot.util.cancel import CancelToken

if TYPE_CHECKING:
    import hashlib

Progress = Callable[[int], None]
"""Called with the number of bytes done since the last call."""

BLOCK = 1 << 20
"""Bytes per read: larger blocks fall out of the CPU's cache between read and sum, and are slower."""

KNOWN_ALGORITHMS = ("adler32", "md5")


class ChecksumFailure(PilotException):
    """The bytes could not be read for the sum."""

    default_code = 1366


class UnknownChecksumType(PilotException):
    """A checksum type that neither server nor storages know."""

    default_code = 1314


class Digest:
    """Running sums of one stream of bytes.

    Args:
        algorithms: ``adler32`` and/or ``md5``; may be empty.

    Raises:
        UnknownChecksumType: any other name.
    """

    def __init__(self, algorithms: Iterable[str]) -> None:
        self._adler: Optional[int] = None
        self._md5: Optional[hashlib._Hash] = None
        for name in algorithms:
            if name == "adler32":
                self._adler = 1
            elif name == "md5":
                import hashlib

                self._md5 = hashlib.md5(usedforsecurity=False)
            else:
                raise UnknownChecksumType(f"checksum type {name!r}, known are {', '.join(KNOWN_ALGORITHMS)}")

    def update(self, data: bytes | memoryview) -> None:
        """Add the next bytes."""
        if self._adler is not None:
            self._adler = zlib.adler32(data, self._adler)
        if self._md5 is not None:
            self._md5.update(data)

    def values(self) -> dict[str, str]:
        """Return ``{algorithm: hex}`` of what was added so far."""
        result = {}
        if self._adler is not None:
            result["adler32"] = f"{self._adler & 0xFFFFFFFF:08x}"
        if self._md5 is not None:
            result["md5"] = self._md5.hexdigest()
        return result


def same_checksum(one: str, other: str) -> bool:
    """Compare two hex sums: the case and missing leading zeros do not matter."""
    return one.strip().lower().lstrip("0") == other.strip().lower().lstrip("0")


def open_regular(path: Path | str, *, links: bool = True) -> int:
    """Open a regular file for reading and return its descriptor; a pipe or device never blocks us.

    Args:
        path: the file.
        links: False: a link is refused (ELOOP).

    Raises:
        OSError: cannot be opened, or is no regular file; ``filename`` is set.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    descriptor = os.open(path, flags if links else flags | os.O_NOFOLLOW)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        import errno

        code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(code, "not a regular file", str(path))
    return descriptor


def file_checksums(
    path: Path | str,
    algorithms: Iterable[str] = ("adler32",),
    token: CancelToken | None = None,
    progress: Progress | None = None,
) -> tuple[int, dict[str, str]]:
    """Read a file once and return its size (bytes) and ``{algorithm: hex}``.

    Args:
        path: the file; links are followed, a read-only file is fine.
        algorithms: ``adler32`` and/or ``md5``.
        token: looked at after each block.
        progress: told the bytes of each block.

    Raises:
        ChecksumFailure: 1366, the file cannot be read.
        UnknownChecksumType: 1314.
        CancelledError: the token was cancelled.
    """
    digest = Digest(algorithms)
    view = memoryview(bytearray(BLOCK))
    total = 0
    try:
        descriptor = open_regular(path)
        try:
            while True:
                if token is not None:
                    token.check()
                count = os.readv(descriptor, [view])
                if not count:
                    break
                digest.update(view[:count])
                total += count
                if progress is not None:
                    progress(count)
        finally:
            os.close(descriptor)
    except OSError as exc:
        raise ChecksumFailure(
            f"caught exception during checksum calculation: {path}: {exc.strerror or exc} after {total} B"
        ) from exc
    return total, digest.values()
