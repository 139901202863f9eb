"""A worker like that of XRootD; what it answers is in the name of the file. It notes what it was asked in $SEEN."""

from __future__ import annotations

import os
import threading
from typing import Any, Mapping

from pilot.copytool.worker.main import Call, Operation, Refused

OPERATIONS = ("ping", "stat", "checksum", "copy", "remove", "rename")


def load() -> dict[str, Operation]:
    """Import what cannot fail."""
    return dict.fromkeys(OPERATIONS, answer)


def answer(call: Call) -> Mapping[str, Any]:
    """Do nothing, well or badly."""
    url = str(call.args["url"])
    with open(os.environ["SEEN"], "a", encoding="utf-8") as seen:
        seen.write(f"{call.op} {url} {os.environ.get('XrdSecPROTOCOL', '')}\n")  # noqa: SIM112 - XRootD's own
    if "missing" in url:
        raise Refused("[3011] No such file", missing=True)
    if "denied" in url:
        raise Refused("[3010] Permission denied")
    if "crash" in url:
        os._exit(7)
    if "slow" in url:
        over = threading.Event()
        call.on_cancel(over.set)
        over.wait()
        raise Refused("cancelled")
    call.event(bytes=17)
    answers = {"stat": {"size": 42}, "checksum": {"md5": "0"} if "md5" in url else {"adler32": "0a0b0c0d"}}
    return answers.get(call.op, {})
