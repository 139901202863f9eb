"""fluentd and Fluent Bit: the forward protocol, whose messages are MessagePack, over TCP."""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Optional

from pilot.payload.realtime.records import Record
from pilot.payload.realtime.sinks import TIMEOUT, Sink, SinkError, send_within


class Fluent(Sink):
    """One message ``[tag, [[time, record], ...]]`` per batch (forward mode)."""

    def __init__(self, host: str, port: int, tag: str) -> None:
        self._address, self._tag = (host, port), tag
        self._socket: Optional[socket.socket] = None

    @property
    def place(self) -> str:
        """The address."""
        return f"fluentd {self._address[0]}:{self._address[1]}"

    def send(self, records: Sequence[Record]) -> None:
        """Write the batch."""
        data = pack([self._tag, [[record.when // 10**9, record.fields] for record in records]])
        try:
            if self._socket is None:
                self._socket = socket.create_connection(self._address, TIMEOUT)
            send_within(self._socket, data)
        except OSError as exc:
            self.close()
            raise SinkError(f"{self.place}: {type(exc).__name__}: {exc}") from exc

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def pack(value: object) -> bytes:
    """Return ``value`` as MessagePack (https://github.com/msgpack/msgpack/blob/master/spec.md), longest forms only."""
    if value is None or isinstance(value, bool):
        return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value]
    if isinstance(value, int):
        if -(1 << 63) <= value < 1 << 63:
            return b"\xd3" + struct.pack(">q", value)
        return pack(str(value))
    if isinstance(value, float):
        return b"\xcb" + struct.pack(">d", value)
    if isinstance(value, Mapping):
        return b"\xdf" + struct.pack(">I", len(value)) + b"".join(
            pack(str(key)) + pack(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return b"\xdd" + struct.pack(">I", len(value)) + b"".join(map(pack, value))
    raw = str(value).encode("utf-8", "replace")
    return b"\xdb" + struct.pack(">I", len(raw)) + raw
