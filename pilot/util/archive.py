"""A compressed tar file written as one stream: size and checksum are known when the last byte is, memory stays flat.

Names in the archive lie below one top directory. A file that vanishes, shrinks or cannot be read is noted, never an
error; the notes become the last member. What holds secrets never gets in, whatever the caller wants to include.
"""

from __future__ import annotations

import errno
import os
import stat
import time
import zlib
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Iterable, Iterator, Optional

from pilot.common.exception import PilotException
from pilot.util.cancel import CancelToken
from pilot.util.checksum import Digest, open_regular
from pilot.util.copying import placed
from pilot.util.mounts import mounts_below

if TYPE_CHECKING:
    from tarfile import TarFile, TarInfo

LEVEL = 1
"""Of the compression: three times as fast as the usual 6 on log files, for about a fifth more bytes."""
BLOCK = 1 << 18
NOTES = "NOT_IN_THIS_ARCHIVE.txt"
SECRET_PATTERNS = (
    "panda_secrets*",
    "*proxy*",
    "x509up_*",
    "*.pem",
    "*.p12",
    "*_token",
    "*.token",
    "bt_u*",
    ".netrc",
    ".ssh",
    ".globus",
    ".aws",
    "id_rsa*",
    "id_ed25519*",
)
"""File and directory names, any case, that are never archived."""
_KEY_MARK = b"PRIVATE KEY-----"
_HOLES_FROM = 64 << 20
"""Sparse files below this size are archived with their holes as zeros."""


class ArchiveTimeout(PilotException):
    """The archive was not finished in time (1376)."""

    default_code = 1376


@dataclass(frozen=True)
class Member:
    """One file for the archive: where it lies, its name there, and how much of its end (0 = all of it; bytes)."""

    path: Path
    name: str
    tail: int = 0


@dataclass
class Rules:
    """What a walk takes along and what it leaves out (names are compared without their directory)."""

    secrets: tuple[str, ...] = ()
    """Patterns besides ``SECRET_PATTERNS``."""
    skip_at_top: frozenset[str] = frozenset()
    """Names directly below the root: inputs, outputs."""
    redundant: tuple[str, ...] = ()
    """Patterns relative to the root; a leading slash means nothing."""
    keep: tuple[str, ...] = ()
    """Parts of a name that protect it from ``redundant``."""
    core_files: bool = False
    """Take core dumps along."""
    max_file: int = 0
    """Bytes; larger files are left out; 0 = no limit."""

    def is_secret(self, name: str) -> bool:
        """True for a name that must never leave the node."""
        lower = name.lower()
        return any(fnmatchcase(lower, pattern.lower()) for pattern in (*SECRET_PATTERNS, *self.secrets))

    def is_redundant(self, relative: str) -> bool:
        """True for what the experiment does not want."""
        if any(part in relative for part in self.keep):
            return False
        name = relative.rsplit("/", 1)[-1]
        return any(
            fnmatchcase(relative, pattern.lstrip("/")) or ("/" not in pattern and fnmatchcase(name, pattern))
            for pattern in self.redundant
        )

    def is_core(self, name: str) -> bool:
        """True for a core dump that is not wanted."""
        return not self.core_files and (name == "core" or (name.startswith("core.") and name[5:].isdigit()))


@dataclass
class ArchiveResult:
    """What was written; size in bytes."""

    size: int = 0
    checksum: dict[str, str] = field(default_factory=dict)
    files: int = 0
    notes: list[str] = field(default_factory=list)


def walk(root: Path, rules: Rules, note: Callable[[str], None]) -> Iterator[Member]:
    """Yield the regular files below ``root``, shallow ones first; links are never followed, nor other file systems."""
    try:
        device = os.lstat(root).st_dev
    except OSError as exc:
        note(f"{root.name}: {exc.strerror}")
        return
    mounts = mounts_below(root)
    waiting = [(root, "")]
    while waiting:
        directory, prefix = waiting.pop(0)
        try:
            with os.scandir(directory) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as exc:
            note(f"{prefix or '.'}: {exc.strerror}")
            continue
        for entry in entries:
            relative = prefix + entry.name
            if relative in mounts:  # not even asked: its server may have died
                note(f"{relative}: another file system")
                continue
            try:
                info = entry.stat(follow_symlinks=False)
            except OSError as exc:
                note(f"{relative}: {exc.strerror}")
                continue
            reason = _left_out(entry.name, relative, info, device, rules)
            if reason == _SILENTLY:
                continue
            if reason:
                note(f"{relative}: {reason}")
            elif stat.S_ISDIR(info.st_mode):
                waiting.append((Path(entry.path), f"{relative}/"))
            else:
                yield Member(Path(entry.path), relative)


_SILENTLY = "-"


def _left_out(name: str, relative: str, info: os.stat_result, device: int, rules: Rules) -> str:
    """Return why an entry stays out (``_SILENTLY`` = not worth a note), empty when it goes in."""
    if relative in rules.skip_at_top or rules.is_redundant(relative):
        return _SILENTLY
    if rules.is_secret(name):
        return "may hold secrets"
    if stat.S_ISDIR(info.st_mode):
        return "another file system" if info.st_dev != device else ""
    if stat.S_ISLNK(info.st_mode):
        return "a link"
    if not stat.S_ISREG(info.st_mode):
        return "no regular file"
    if rules.is_core(name):
        return "a core dump"
    if rules.max_file and info.st_size > rules.max_file:
        return f"too large ({info.st_size} B, limit {rules.max_file} B)"
    if info.st_size > _HOLES_FROM and info.st_blocks * 512 < info.st_size // 2:
        return f"a sparse file ({info.st_size} B, {info.st_blocks * 512} B on disk)"
    return ""


def write_archive(
    target: Path,
    top: str,
    members: Iterable[Member],
    result: ArchiveResult,
    *,
    algorithms: Iterable[str] = ("adler32",),
    token: Optional[CancelToken] = None,
    deadline: Optional[float] = None,
) -> None:
    """Write ``target`` (gzip'ed tar), complete or not at all, and fill ``result``.

    Args:
        target: final name; written under a ``.part`` name first.
        top: directory in the archive above everything.
        members: may be a generator that adds to ``result.notes`` while it runs.
        result: gets size, checksum, number of files; its notes become the last member.
        algorithms: checksums of the archive.
        token: looked at after each block.
        deadline: ``time.monotonic()`` seconds.

    Raises:
        OSError: the archive cannot be written (reading errors of members become notes).
        ArchiveTimeout: 1376, deadline passed.
        CancelledError: the token was cancelled.
    """
    import tarfile

    digest = Digest(algorithms)
    with placed(target) as part:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            stream = _GzipStream(descriptor, digest, part, token, deadline)
            tar = tarfile.TarFile(
                fileobj=stream,  # type: ignore[arg-type]
                mode="w",
                format=tarfile.PAX_FORMAT,
                copybufsize=BLOCK,
            )
            seen: set[str] = set()
            for member in members:
                if member.name not in seen:
                    seen.add(member.name)
                    _add_file(tar, top, member, result)
            if result.notes:
                _add_text(tar, f"{top}/{NOTES}", "\n".join(result.notes) + "\n")
            tar.close()
            result.size = stream.finish()
        finally:
            os.close(descriptor)
    result.checksum = digest.values()


class _GzipStream:
    """The file object that tarfile writes to: compresses, sums, writes; looks at the clock after each block."""

    def __init__(
        self, descriptor: int, digest: Digest, path: Path, token: Optional[CancelToken], deadline: Optional[float]
    ) -> None:
        self._descriptor = descriptor
        self._digest = digest
        self._path = path
        self._token = token
        self._deadline = deadline
        self._gzip = zlib.compressobj(LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
        self._written = 0
        self._position = 0

    def write(self, data: bytes) -> int:
        """Take uncompressed bytes."""
        self.check()
        self._store(self._gzip.compress(data))
        self._position += len(data)
        return len(data)

    def check(self) -> None:
        """Raise when the archive is to end now."""
        if self._token is not None:
            self._token.check()
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise ArchiveTimeout(f"{self._path.name}: {self._position} B archived when the time was over")

    def tell(self) -> int:
        """Return the uncompressed position."""
        return self._position

    def finish(self) -> int:
        """Write what is left and return the size of the archive (bytes)."""
        self._store(self._gzip.flush())
        return self._written

    def _store(self, data: bytes) -> None:
        self._digest.update(data)
        view = memoryview(data)
        try:
            while view:
                count = os.write(self._descriptor, view)
                self._written += count
                view = view[count:]
        except OSError as exc:
            exc.filename = str(self._path)
            raise


def _add_file(tar: TarFile, top: str, member: Member, result: ArchiveResult) -> None:
    """Add one file with the size that it has now: later growth is cut, a loss is filled with zeros and noted."""
    try:
        descriptor = open_regular(member.path, links=False)  # what the walk has seen may have become a link since
    except OSError as exc:
        reason = "a link in place of the file" if exc.errno == errno.ELOOP else exc.strerror or exc
        result.notes.append(f"{member.name}: {reason}")
        return
    try:
        info = os.fstat(descriptor)
        size = min(info.st_size, member.tail) if member.tail else info.st_size
        os.lseek(descriptor, info.st_size - size, os.SEEK_SET)
        first = _read(descriptor, min(size, BLOCK))
        if first is None:
            result.notes.append(f"{member.name}: unreadable")
            return
        if _KEY_MARK in first:
            result.notes.append(f"{member.name}: may hold secrets (a private key)")
            return
        if size < info.st_size:
            result.notes.append(f"{member.name}: only the last {size} of {info.st_size} B")
        source = _ExactReader(descriptor, first, size)
        tar.addfile(_header(f"{top}/{member.name}", size, info), source)  # type: ignore[arg-type]
        if source.missing:
            result.notes.append(f"{member.name}: cut while it was archived, the last {source.missing} B are zeros")
        result.files += 1
    finally:
        os.close(descriptor)


class _ExactReader:
    """Gives tarfile exactly the bytes that the header promises: a file that shrank ends in zeros."""

    def __init__(self, descriptor: int, first: bytes, size: int) -> None:
        self._descriptor = descriptor
        self._first = first
        self._left = size
        self.missing = 0

    def read(self, count: int) -> bytes:
        """Return ``count`` bytes, fewer only at the promised end."""
        count = min(count, self._left)
        data, self._first = self._first[:count], self._first[count:]
        while len(data) < count and not self.missing:
            more = _read(self._descriptor, count - len(data))
            if not more:
                break
            data += more
        self._left -= count
        self.missing += count - len(data)
        return data + bytes(count - len(data))


def _read(descriptor: int, count: int) -> Optional[bytes]:
    """Return the next bytes, None when they cannot be read (the caller notes it)."""
    try:
        return os.read(descriptor, count)
    except OSError:
        return None


def _header(name: str, size: int, info: os.stat_result) -> TarInfo:
    import tarfile

    header = tarfile.TarInfo(name)
    header.size = size
    header.mode = stat.S_IMODE(info.st_mode) & 0o777
    header.mtime = int(info.st_mtime)
    return header


def _add_text(tar: TarFile, name: str, text: str) -> None:
    import io
    import tarfile

    data = text.encode("utf-8", "backslashreplace")
    header = tarfile.TarInfo(name)
    header.size = len(data)
    header.mtime = int(time.time())
    tar.addfile(header, io.BytesIO(data))
