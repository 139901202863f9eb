"""Just enough of a STOMP 1.1 broker: each message becomes a line of a file. Arguments: PORT FILE."""

from __future__ import annotations

import socketserver
import sys

CONNECTED = b"CONNECTED\nversion:1.1\nheart-beat:0,0\n\n\0"


class Handler(socketserver.StreamRequestHandler):
    """One client; frames end with a zero byte."""

    def handle(self) -> None:
        """Answer CONNECT, keep the body of SEND."""
        pending = b""
        while True:
            data = self.request.recv(65536)
            if not data:
                return
            *frames, pending = (pending + data).split(b"\0")
            for frame in frames:
                head, _, body = frame.lstrip(b"\r\n").partition(b"\n\n")
                command = head.split(b"\n")[0].strip()
                if command in (b"CONNECT", b"STOMP"):
                    self.request.sendall(CONNECTED)
                elif command == b"SEND":
                    with open(sys.argv[2], "ab") as output:
                        output.write(body.replace(b"\n", b" ").strip() + b"\n")
                elif command == b"DISCONNECT":
                    return


class Broker(socketserver.ThreadingTCPServer):
    """Listens on the loopback interface."""

    allow_reuse_address = True
    daemon_threads = True


if __name__ == "__main__":
    Broker(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
