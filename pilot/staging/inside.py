"""The other side of a transfer in a process of its own: reads the request, runs the planner, writes the result.

Runs on any Python from 3.9 on with nothing but the standard library; what a copytool needs beyond that it imports
itself. Exit code 0: all is well, 12: a transfer failed, 1: not even a result could be written.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn, Optional, Sequence

from pilot.common.exception import PilotException, StageInFailure, StageOutFailure
from pilot.staging.context import TransferRecord
from pilot.staging.handover import Restored, read_json, restore, result_of, write_json
from pilot.staging.stagein import bring_inputs
from pilot.staging.stageout import store_files
from pilot.util.cancel import CancelledError, CancelToken
from pilot.util.hardening import forbid_dumps
from pilot.util.logs import setup_logging
from pilot.util.tethered import GO

logger = logging.getLogger(__name__)

TRANSFER_ERROR = 12
_LAST_SECONDS = 10.0
"""After the pilot has gone, or told us to end; then without farewell."""


def main(argv: Sequence[str]) -> NoReturn:
    """Carry the request out and end the process.

    Args:
        argv: ``-d -w <directory> -q <queue> --jobid=<id> --request=<file> --result=<file> --keys=<file> --log=<file>``;
            the first four are for people who look at the process.
    """
    given = dict(word[2:].partition("=")[::2] for word in argv if word.startswith("--"))
    code = 1
    try:
        code = _run(given)
    except PilotException as exc:
        sys.stderr.write(f"{exc.full_text}\n")
    except Exception as exc:  # noqa: BLE001 - the pilot reads stderr when there is no result
        sys.stderr.write(f"{type(exc).__name__}: {exc}\n")
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue
    os._exit(code)  # the thread that reads stdin cannot be joined


def _run(given: dict[str, str]) -> int:
    os.umask(os.umask(0o077) | 0o002)
    forbid_dumps()  # proxy and keys
    request = read_json(Path(given["request"]))
    token = CancelToken()
    _hear_of_the_end(token)
    wanted = request.get("settings")
    structured = isinstance(wanted, dict) and wanted.get("pilot.log_format") == "json"
    setup_logging(Path(given["log"]), debug=True, structured=structured)
    logger.info("Python %s (%s), directory %s", sys.version.split()[0], sys.executable, Path.cwd())
    order = restore(request, os.environ)
    order.ctx.key_pair = _KeyPairs(Path(given["keys"]))
    records: list[TransferRecord] = []
    order.ctx.record = records.append
    failure: Optional[PilotException] = None
    try:
        _carry_out(order, token)
    except PilotException as exc:
        failure = exc
        logger.error("%s", exc.full_text)
    except Exception as exc:  # a fault of ours must reach the server with its text
        logger.exception("unexpected error")
        kind = StageInFailure if order.direction == "in" else StageOutFailure
        failure = kind(f"{type(exc).__name__}: {exc}")
    cancelled = isinstance(failure, CancelledError)
    result = result_of(order.name, order.files, records, order.ctx.tries, failure, cancelled=cancelled)
    write_json(Path(given["result"]), result)
    order.ctx.helpers.close(at_once=True)
    return TRANSFER_ERROR if failure else 0


def _carry_out(order: Restored, token: CancelToken) -> None:
    if order.direction == "in":
        order.job.indata = order.files
        bring_inputs(order.job, order.ctx, token)
    else:
        store_files(order.job, order.files, order.ctx, token, log=order.direction == "log")


def _hear_of_the_end(token: CancelToken) -> None:
    """Break off when the pilot lets go of our standard input, or on SIGTERM."""

    def told(_number: int, _frame: object) -> None:
        threading.Thread(target=leave, daemon=True).start()  # callbacks of the token may take locks

    def leave() -> None:
        token.cancel(1200, "the transfer was broken off by the pilot")
        time.sleep(_LAST_SECONDS)
        os._exit(1)

    def listen() -> None:
        text = b""
        while data := os.read(0, 1024):
            text = (text + data)[:64]
        if text.startswith(GO):  # else nobody has tied us: a container may give no input at all
            leave()

    signal.signal(signal.SIGTERM, told)
    threading.Thread(target=listen, name="tether", daemon=True).start()


class _KeyPairs:
    """Keys of object stores: read once, and the file is gone."""

    def __init__(self, path: Path) -> None:
        self._known: dict[str, str] = {}
        if path.exists():
            self._known = {str(name): str(value) for name, value in read_json(path).items()}
            path.unlink()

    def __call__(self, public: str, private: str) -> tuple[str, str]:
        return self._known.get(public, ""), self._known.get(private, "")
