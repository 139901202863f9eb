"""A mount whose server has died, as real as it gets: a FUSE file system that shows files and never answers a read.

``stat``, ``open`` and directory look-ups work, which is how a hung NFS or Lustre server looks while attributes are
cached. A killed reader is let go (as NFS does); nobody else is. A ``mute`` one answers nothing at all: who only asks
for its attributes hangs, too.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import threading
from pathlib import Path
from typing import Callable, Dict, List, Tuple

_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ, _STATFS, _RELEASE, _FLUSH = 1, 2, 3, 14, 15, 17, 18, 25
_INIT, _INTERRUPT, _DESTROY, _BATCH_FORGET = 26, 36, 38, 42
_HEADER = struct.Struct("<IIQQIIII")
_MNT_DETACH = 2


def _mounted(place: Path, name: bytes) -> Tuple[ctypes.CDLL, int]:
    """Mount a FUSE file system over ``place``; returns the C library and the server's descriptor."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as exc:
        raise PermissionError(f"/dev/fuse: {exc.strerror}") from exc
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
    if libc.mount(name, os.fsencode(place), b"fuse", 0, options.encode()):
        os.close(device)
        raise PermissionError(f"mount: {os.strerror(ctypes.get_errno())}")
    return libc, device


class DeadMount:
    """Mounted over ``place``; every name in it is a file of ``size`` bytes. ``reads`` is set when somebody hangs.

    Raises:
        PermissionError: no right to mount here.
    """

    def __init__(self, place: Path, size: int, *, mute: bool = False) -> None:
        self.place, self.size = place, size
        self._mute, self._valid = False, 0 if mute else 60
        self.reads = threading.Event()
        self._closed = False
        self._unanswered: List[int] = []
        self._libc, self._device = _mounted(place, b"dead")
        self._thread = threading.Thread(target=self._serve, name="dead mount", daemon=True)
        self._thread.start()
        self._connection = Path(f"/sys/fs/fuse/connections/{os.minor(place.stat().st_dev)}")
        self._mute = mute

    def close(self) -> None:
        """Unmount, once; whoever still reads gets an error."""
        if self._closed:
            return
        self._closed, self._mute = True, False
        for unique in self._unanswered:
            self._answer(unique, b"", errno.EIO)
        self._libc.umount2(os.fsencode(self.place), _MNT_DETACH)
        if self._connection.exists():
            (self._connection / "abort").write_text("1")
        self._thread.join(5)
        os.close(self._device)

    def _serve(self) -> None:
        answers: Dict[int, Callable[[], bytes]] = {
            _INIT: lambda: struct.pack("<IIIIHHII36x", 7, 31, 65536, 0, 12, 9, 65536, 1),
            _LOOKUP: lambda: struct.pack("<QQQQII", 2, 0, self._valid, self._valid, 0, 0) + self._attributes(2),
            _OPEN: lambda: struct.pack("<QII", 1, 0, 0),
            _STATFS: lambda: bytes(80),
            _RELEASE: bytes,
            _FLUSH: bytes,
        }
        while True:
            try:
                request = os.read(self._device, 1 << 20)
            except OSError as exc:
                if exc.errno in (errno.EINTR, errno.ENOENT):
                    continue
                return  # unmounted
            _, operation, unique, node, *_ = _HEADER.unpack_from(request)
            if operation == _READ or (self._mute and operation in (*answers, _GETATTR)):
                self.reads.set()
                self._unanswered.append(unique)
            elif operation == _INTERRUPT:
                (unique,) = struct.unpack_from("<Q", request, _HEADER.size)
                self._answer(unique, b"", errno.EINTR)
            elif operation == _GETATTR:
                self._answer(unique, struct.pack("<QII", self._valid, 0, 0) + self._attributes(node))
            elif operation in answers:
                self._answer(unique, answers[operation]())
            elif operation not in (_FORGET, _BATCH_FORGET, _DESTROY):
                self._answer(unique, b"", errno.ENOSYS)

    def _answer(self, unique: int, data: bytes, error: int = 0) -> None:
        try:
            os.write(self._device, struct.pack("<IiQ", 16 + len(data), -error, unique) + data)
        except OSError:  # who asked is gone
            return

    def _attributes(self, node: int) -> bytes:
        mode, size = (0o040755, 0) if node == 1 else (0o100644, self.size)
        return struct.pack("<6Q10I", node, size, 1, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


class SilentMount:
    """A mount whose server never says a word: not even ``stat`` of it returns. Whoever waits can be killed.

    Raises:
        PermissionError: no right to mount here.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self._libc, self._device = _mounted(place, b"silent")

    def close(self) -> None:
        """Unmount; whoever still waits gets an error, since the last descriptor of the server is closed."""
        self._libc.umount2(os.fsencode(self.place), _MNT_DETACH)
        os.close(self._device)
