"""Copy local files: by the kernel when nobody needs the bytes, else in one pass that also sums them.

```
 copy_file             FICLONE -> copy_file_range -> sendfile -> read/write     (first that the file systems can do)
 copy_with_checksum    read -> write                      (caller's thread)
                         \\--> adler32, md5               (a second thread, for files beyond a few MiB)
```
Nothing half-written is ever seen under the final name: ``placed`` gives a ``.part`` name and renames at the end.
An ``OSError`` that leaves this module has the failing side in ``filename``.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Callable, Iterable, Iterator

from pilot.util.cancel import CancelToken
from pilot.util.checksum import Digest, Progress, open_regular
from pilot.util.safepath import NAME_MAX

if TYPE_CHECKING:
    from queue import SimpleQueue

    Block = tuple[memoryview, int]

FICLONE = 0x40049409  # linux/fs.h: share the blocks of another file
KERNEL_CHUNK = 16 << 20
"""Bytes per kernel copy call: small enough to notice a cancel within a second on any disk."""
CHUNK = 1 << 20
"""Bytes per read of a summing copy when the caller names none."""
PIPELINE_FROM = 8 << 20
"""Smaller files are summed in the caller's thread: starting a thread would cost more than it saves."""
BUFFERS = 4

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def part_name(path: Path) -> Path:
    """Return the name under which ``path`` is written before it is complete (same directory)."""
    name = f"{path.name}.part"
    if len(os.fsencode(name)) > NAME_MAX or "?" in name:  # clients of storages take it for the end of the path
        import hashlib

        digest = hashlib.md5(os.fsencode(path.name), usedforsecurity=False).hexdigest()
        name = f".{digest}.part"
    return path.with_name(name)


@contextmanager
def placed(path: Path) -> Iterator[Path]:
    """Give a temporary name; when the block ends well it becomes ``path`` (replacing it), else it is removed."""
    part = part_name(path)
    _remove(part)
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        _remove(part)
        raise


def _remove(path: Path) -> None:
    try:
        os.unlink(path)
    except OSError:  # not there, or not removable: then creating it tells why
        return


def free_bytes(directory: Path | str) -> int:
    """Return the bytes that this user may still write below ``directory``.

    Raises:
        OSError: no such directory.
    """
    info = os.statvfs(directory)
    return info.f_bavail * info.f_frsize


def copy_file(
    source: Path | str,
    target: Path | str,
    token: CancelToken | None = None,
    progress: Progress | None = None,
    *,
    fsync: bool = False,
) -> int:
    """Copy without looking at the bytes; returns the size. ``target`` is created or overwritten, never a link.

    Raises:
        OSError: reading or writing failed (``filename`` says which).
        CancelledError: the token was cancelled; what was written stays for the caller to remove.
    """
    with _opened(source, target, fsync) as (reader, writer, size):
        if _clone(reader, writer):
            if progress is not None:
                progress(size)
            return size
        done = 0
        for kernel_copy in (_copy_file_range, _sendfile):
            done = _kernel_loop(kernel_copy, reader, writer, done, size, token, progress, str(target))
            if done >= size:
                break
        os.lseek(reader, done, os.SEEK_SET)  # the rest: what the kernel could not do, or a file that grew meanwhile
        os.lseek(writer, done, os.SEEK_SET)
        view = memoryview(bytearray(CHUNK if done < size else 4096))
        while True:
            count = _read(reader, view, token, str(source))
            if not count:
                return done
            _write(writer, view[:count], str(target))
            done += count
            if progress is not None:
                progress(count)


def copy_with_checksum(
    source: Path | str,
    target: Path | str,
    algorithms: Iterable[str] = ("adler32",),
    token: CancelToken | None = None,
    progress: Progress | None = None,
    *,
    chunk: int = CHUNK,
    fsync: bool = False,
) -> tuple[int, dict[str, str]]:
    """Copy and sum in one pass; memory stays at a few chunks whatever the size of the file.

    Args:
        source: the file; links are followed.
        target: created or overwritten; a link of that name is an error.
        algorithms: ``adler32`` and/or ``md5``; none = ``copy_file``.
        token: looked at before each chunk.
        progress: told the bytes of each chunk.
        chunk: bytes per read.
        fsync: force the data to disk before returning.

    Returns:
        Bytes copied, and ``{algorithm: hex}``.

    Raises:
        OSError: reading or writing failed (``filename`` says which).
        UnknownChecksumType: 1314.
        CancelledError: the token was cancelled; what was written stays for the caller to remove.
    """
    algorithms = tuple(algorithms)
    digest = Digest(algorithms)
    if not algorithms:
        return copy_file(source, target, token, progress, fsync=fsync), {}
    with _opened(source, target, fsync) as (reader, writer, size):
        if size >= PIPELINE_FROM:
            total = _copy_in_two_threads(reader, writer, digest, chunk, token, progress, (str(source), str(target)))
        else:
            total = 0
            view = memoryview(bytearray(max(4096, min(chunk, size + 1))))
            while True:
                count = _read(reader, view, token, str(source))
                if not count:
                    break
                _write(writer, view[:count], str(target))
                digest.update(view[:count])
                total += count
                if progress is not None:
                    progress(count)
    return total, digest.values()


def _copy_in_two_threads(
    reader: int,
    writer: int,
    digest: Digest,
    chunk: int,
    token: CancelToken | None,
    progress: Progress | None,
    names: tuple[str, str],
) -> int:
    """Read and write here, sum in a second thread; the sums are complete when this returns."""
    from queue import SimpleQueue

    free: SimpleQueue[memoryview] = SimpleQueue()
    full: SimpleQueue[Block | None] = SimpleQueue()
    for _ in range(BUFFERS):
        free.put(memoryview(bytearray(chunk)))
    summing = Thread(target=_sum_blocks, args=(full, free, digest), name="checksum", daemon=True)
    summing.start()
    total = 0
    try:
        while True:
            view = free.get()
            count = _read(reader, view, token, names[0])
            if not count:
                return total
            full.put((view, count))  # comes back through ``free`` when it is summed; written it is before we look there
            _write(writer, view[:count], names[1])
            total += count
            if progress is not None:
                progress(count)
    finally:
        full.put(None)
        summing.join()


def _sum_blocks(full: SimpleQueue[Block | None], free: SimpleQueue[memoryview], digest: Digest) -> None:
    while True:
        block = full.get()
        if block is None:
            return
        view, count = block
        digest.update(view[:count])
        free.put(view)


@contextmanager
def _opened(source: Path | str, target: Path | str, fsync: bool) -> Iterator[tuple[int, int, int]]:
    """Open both ends; the target gets the source's permissions (as cp does). Errors at close count: NFS tells late."""
    reader = open_regular(source)
    try:
        info = os.fstat(reader)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(reader, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        writer = os.open(target, flags, info.st_mode & 0o777)
        try:
            yield reader, writer, info.st_size
            if fsync:
                os.fsync(writer)
        except OSError as exc:
            _close_quietly(writer)
            exc.filename = exc.filename or str(target)
            raise
        except BaseException:
            _close_quietly(writer)
            raise
        try:
            os.close(writer)
        except OSError as exc:
            exc.filename = str(target)
            raise
    finally:
        os.close(reader)


def _close_quietly(descriptor: int) -> None:
    try:
        os.close(descriptor)
    except OSError:  # an error is on its way to the caller already
        return


def _read(reader: int, view: memoryview, token: CancelToken | None, name: str) -> int:
    if token is not None:
        token.check()
    try:
        return os.readv(reader, [view])
    except OSError as exc:
        exc.filename = name
        raise


def _write(writer: int, view: memoryview, name: str) -> None:
    try:
        while view:
            view = view[os.write(writer, view) :]
    except OSError as exc:
        exc.filename = name
        raise


def _clone(reader: int, writer: int) -> bool:
    """Share the source's blocks where the file system can (XFS, Btrfs): no byte moves."""
    import fcntl

    try:
        fcntl.ioctl(writer, FICLONE, reader)
    except OSError:  # not this file system, not these two files: the bytes have to move
        return False
    return True


def _copy_file_range(reader: int, writer: int, offset: int, count: int) -> int:
    if not hasattr(os, "copy_file_range"):
        return 0
    return os.copy_file_range(reader, writer, count, offset, offset)


def _sendfile(reader: int, writer: int, offset: int, count: int) -> int:
    os.lseek(writer, offset, os.SEEK_SET)
    return os.sendfile(writer, reader, offset, count)


def _kernel_loop(
    kernel_copy: Callable[[int, int, int, int], int],
    reader: int,
    writer: int,
    done: int,
    size: int,
    token: CancelToken | None,
    progress: Progress | None,
    target: str,
) -> int:
    """Copy from ``done`` on until the end, or until the kernel refuses; returns the new position."""
    while done < size:
        if token is not None:
            token.check()
        try:
            count = kernel_copy(reader, writer, done, min(KERNEL_CHUNK, size - done))
        except OSError as exc:
            if exc.errno not in _FULL:
                return done  # cannot be done in this way, or one side is broken: reading and writing tells which
            exc.filename = target
            raise
        if not count:  # some file systems (FUSE, /proc) answer 0 before the end: reading decides
            return done
        done += count
        if progress is not None:
            progress(count)
    return done
