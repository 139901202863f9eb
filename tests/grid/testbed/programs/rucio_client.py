"""A Rucio client in a process of its own: calls in, answers out, one line of JSON each.

The client reads its configuration once per process and keeps one token per user; so each account has its own process.
A program, run by the Rucio server's interpreter with RUCIO_HOME set; ``Rucio.call`` speaks to it.
"""

from __future__ import annotations

import enum
import json
import logging
import os
import sys
import types

from rucio.client import Client
from rucio.client.downloadclient import DownloadClient
from rucio.client.uploadclient import UploadClient


def answer(client, call):
    """Call a method of Client, UploadClient (``upload``) or DownloadClient (``download_...``)."""
    method, arguments, keywords = call
    target = client
    if method == "upload":
        target = UploadClient(client, logger=logging.getLogger("upload"))
    elif method.startswith("download_"):
        target = DownloadClient(client, logger=logging.getLogger("download"))
    result = getattr(target, method)(*arguments, **keywords)
    return plain(list(result) if isinstance(result, (types.GeneratorType, map, filter)) else result)


def plain(value):
    """The value with nothing in it that JSON does not know: enumerations become their values, other things text."""
    if isinstance(value, dict):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(item) for item in value]
    if isinstance(value, enum.Enum):
        return value.value
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


def main():
    """Answer until the input ends."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    client = None
    for line in sys.stdin:
        try:
            client = client or Client()
            reply = {"result": answer(client, json.loads(line))}
        except Exception as reason:  # noqa: BLE001 - the caller raises it again
            reply = {"error": type(reason).__name__, "text": str(reason)}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
