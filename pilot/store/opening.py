"""Opens the files of PilotDBs: for their owner, for a look, in memory; and tells when a file is no longer what it was.

The owner has its database for itself (``locking_mode=EXCLUSIVE``). SQLite then keeps the index of the write-ahead log
in memory and needs no ``-shm`` file, whose pages, mapped into the process, kill it with SIGBUS when somebody cuts it.
Views read a copy, so they neither take a lock nor keep one.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from pathlib import Path
from typing import Optional

from pilot.store.place import file_system_type
from pilot.store.transferrows import migrate

logger = logging.getLogger(__name__)

# File systems on which a write-ahead log does not work (or flushes are unreliable).
_NETWORK_FILE_SYSTEMS = (
    "nfs", "lustre", "gpfs", "ceph", "beegfs", "panfs", "afs", "cifs", "smb", "fuse", "9p", "orangefs")
_MAGIC = b"SQLite format 3\0"
_WAL_MAGIC = b"\x37\x7f\x06\x82"  # the last byte is 82 or 83: order of bytes of its sums
_CHECKPOINT_PAGES = 250
"""Pages of 4 kB in the write-ahead log before they go into the file."""
_JOURNAL_BYTES = 1_100_000
"""The write-ahead log is cut to that after a large transaction."""
_COMPANIONS = ("-wal", "-journal")
_COPY_ATTEMPTS = 20


def open_owned(path: Path) -> sqlite3.Connection:
    """Open, or make, the database of this process; raises sqlite3.Error, OSError."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(str(path), timeout=5, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")  # before the first access: else WAL uses shared memory
        kind = file_system_type(path)
        if any(name in kind for name in _NETWORK_FILE_SYSTEMS):
            connection.execute("PRAGMA journal_mode=DELETE")
            logger.info("the PilotDB lies on %s: rollback journal", kind)
        else:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
            connection.execute(f"PRAGMA journal_size_limit={_JOURNAL_BYTES}")
        # A crash of the node may cost the last transactions, a crash of the pilot none: the page cache survives it.
        connection.execute("PRAGMA synchronous=NORMAL")
        _make_tables(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def open_memory() -> sqlite3.Connection:
    """Return an empty database in memory."""
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    _make_tables(connection)
    return connection


def _make_tables(connection: sqlite3.Connection) -> None:
    connection.executescript(Path(__file__).with_name("schema.sql").read_text(encoding="utf-8"))
    migrate(connection)


class FileMark:
    """Knows a database's file again: SQLite does not notice that it was removed, replaced or cut, and writes on.

    It keeps the file open: closing any descriptor of it would drop the locks that this process has on it (POSIX).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._wal = path.with_name(f"{path.name}-wal")
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        info = os.fstat(self._descriptor)
        self._file, self._size = (info.st_dev, info.st_ino), info.st_size
        self._journal, self._journal_size, _ = self._look_at_journal()

    def _look_at_journal(self) -> tuple[Optional[tuple[int, int]], int, bytes]:
        try:
            with open(self._wal, "rb", buffering=0) as stream:
                info = os.fstat(stream.fileno())
                return (info.st_dev, info.st_ino), info.st_size, stream.read(len(_WAL_MAGIC)) or b""
        except OSError:
            return None, 0, b""

    def problem(self) -> str:
        """Return what has happened to the file, '' when it is as it should be."""
        try:
            info = os.stat(self._path)
            head = os.pread(self._descriptor, len(_MAGIC), 0)
        except FileNotFoundError as exc:
            return f"it was removed: {exc.strerror}"
        except OSError:
            return ""  # whether it can still be written, the next write will tell
        if (info.st_dev, info.st_ino) != self._file:
            return "it was replaced by another file"
        if info.st_size < self._size:
            return f"it was cut from {self._size} to {info.st_size} bytes"
        if head != _MAGIC:
            return "it was overwritten: file is not a database"
        self._size = info.st_size
        return self._journal_problem()

    def close(self) -> None:
        """Let go of the file; only after its database is closed."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        """A database that nobody has closed."""
        self.close()

    def _journal_problem(self) -> str:
        identity, size, head = self._look_at_journal()
        if self._journal is None:
            return ""
        if identity != self._journal:
            return "its write-ahead log was removed or replaced"
        if size < min(self._journal_size, _JOURNAL_BYTES) or (size and head[:3] != _WAL_MAGIC[:3]):
            return "its write-ahead log was cut or overwritten"
        self._journal_size = size
        return ""


def is_damage(exc: BaseException) -> bool:
    """Return whether an error speaks of the file's content rather than of a disk that does not take it."""
    return any(words in str(exc) for words in ("malformed", "not a database", "short read", "it was ", "log was "))


def put_aside(path: Path, now: float) -> Path:
    """Rename a damaged database, drop its companions; returns its new name. Raises OSError."""
    aside = path.with_name(f"{path.name}.damaged-{int(now)}")
    path.rename(aside)
    for suffix in (*_COMPANIONS, "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    return aside


# --- looking ----------------------------------------------------------------------------------------------------------


def open_view(path: Path) -> sqlite3.Connection:
    """Open a copy of a database for reading, whoever owns it; tables and columns of later versions are there, empty.

    Raises:
        sqlite3.Error, OSError: it cannot be read, or is none.
    """
    import tempfile

    with tempfile.TemporaryDirectory(prefix="pilotdb-", dir=_scratch()) as place:
        copy = Path(place) / path.name
        for _ in range(_COPY_ATTEMPTS):
            before = _state(path)
            _copy(path, copy)
            if _state(path) == before:
                break
        else:
            logger.debug("%s changes all the time; it is read as it is", path)
        connection = sqlite3.connect(str(copy), isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            connection.execute("PRAGMA synchronous=OFF")
            _make_tables(connection)
            connection.execute("PRAGMA query_only=ON")
        except BaseException:
            connection.close()
            raise
        return connection  # the open files stay when their names go


def _copy(path: Path, copy: Path) -> None:
    for suffix in ("", *_COMPANIONS):
        target = Path(f"{copy}{suffix}")
        target.unlink(missing_ok=True)
        try:
            content = Path(f"{path}{suffix}").read_bytes()
        except FileNotFoundError:
            if not suffix:
                raise
            continue
        if content or not suffix:
            target.write_bytes(content)


def _state(path: Path) -> tuple[object, ...]:
    """Return what changes when pages move into the file (then a copy is no good), but not when the log only grows."""
    info = os.stat(path)
    salts = b""
    try:
        with open(f"{path}-wal", "rb", buffering=0) as stream:
            salts = stream.read(32) or b""
    except FileNotFoundError:
        pass
    return info.st_ino, info.st_size, info.st_mtime_ns, salts, os.path.exists(f"{path}-journal")


def _scratch() -> Optional[str]:
    """Return a directory in memory when there is one: the usual one may be full, as the pilot's own disk."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else None
