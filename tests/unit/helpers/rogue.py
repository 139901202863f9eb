"""A worker whose client library has every bad habit."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Mapping

from pilot.copytool.worker.main import Call, Operation, Refused


def load() -> dict[str, Operation]:
    """``ROGUE_IMPORT`` chooses what importing the library does."""
    habit = os.environ.get("ROGUE_IMPORT", "")
    if habit == "missing":
        raise ImportError("no module named rogue")
    if habit == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
        threading.Event().wait()
    if habit == "hang":
        threading.Event().wait()
    if habit == "noise":
        print("welcome to the library", flush=True)
        os.write(3, b'{"status": "not for you"}\n17\n\n[]\nnot json\n')
    if habit == f"not with {sys.executable}":
        raise ImportError("no module named rogue")
    return {name[3:]: function for name, function in globals().items() if name.startswith("op_")}


def op_echo(call: Call) -> Mapping[str, Any]:
    return {"args": call.args, "again": call.again, "pid": os.getpid()}


def op_refuse(call: Call) -> Mapping[str, Any]:
    raise Refused("no such file", errno=2)


def op_fault(call: Call) -> Mapping[str, Any]:
    raise OSError(28, "No space left on device")


def op_leave(call: Call) -> Mapping[str, Any]:
    sys.exit(4)


def op_no_json(call: Call) -> Mapping[str, Any]:
    circle: list[Any] = []
    circle.append(circle)
    return {"circle": circle}


def op_crash(call: Call) -> Mapping[str, Any]:
    """Dies; with ``once``, a path, only when that does not exist; with ``event``, after it told of progress."""
    once = call.args.get("once")
    if once and os.path.exists(once):
        return {"again": call.again}
    if once:
        Path(once).touch()
    if call.args.get("event"):
        call.event(bytes=1)
    print("my last words", file=sys.stderr, flush=True)
    if call.args.get("fork") and os.fork() == 0:
        os.execvp("sleep", ["sleep", "1000"]) if call.args["fork"] == "exec" else threading.Event().wait()
    os.kill(os.getpid(), signal.SIGSEGV)
    threading.Event().wait()  # until it has arrived
    return {}


def op_hang(call: Call) -> Mapping[str, Any]:
    """Does not hear of its cancellation."""
    call.event(pid=os.getpid())
    threading.Event().wait()
    return {}


def op_children(call: Call) -> Mapping[str, Any]:
    """Starts a child of its own, and hangs."""
    child = subprocess.Popen(["sleep", "1000"])
    call.event(pid=os.getpid(), child=child.pid)
    threading.Event().wait()
    return {}


def op_obey(call: Call) -> Mapping[str, Any]:
    """Ends when it is cancelled."""
    over = threading.Event()
    call.on_cancel(over.set)
    call.event(pid=os.getpid())
    over.wait()
    Path(call.args["mark"]).touch()
    raise Refused("broken off")


def op_noise(call: Call) -> Mapping[str, Any]:
    """Prints to everything that looks like an output, between and among the answers."""
    print("noise on stdout", flush=True)
    os.write(1, b"half a line without an end")
    os.write(2, b"x" * int(call.args.get("long", 0)) + b"\n")
    for line in (b"garbage\n", b"\n", b"{}\n", b'{"id": 1}\n', b'{"id": "x", "result": 1}\n', b"[" * 100_000 + b"\n",
                 b"\xff\xfe\n", b'{"id": 99999, "result": {}}\n'):
        os.write(3, line)
    blob = b"y" * (1 << 20)
    for _ in range(int(call.args.get("huge", 0))):
        os.write(3, blob)
    os.write(3, b"\n")
    return {"said": True}


def op_describe(call: Call) -> Mapping[str, Any]:
    own = "/proc/self"
    return {
        "argv": Path(f"{own}/cmdline").read_bytes().decode(), "environ": dict(os.environ), "cwd": os.getcwd(),
        "core": resource.getrlimit(resource.RLIMIT_CORE)[0], "version": list(sys.version_info[:2]), "path": sys.path,
        "json": sys.modules["json"].__file__, "group": os.getpgid(0) == os.getpid(), "umask": os.umask(0o077),
    }  # fmt: skip


def op_secret_fork(call: Call) -> Mapping[str, Any]:
    return {"dumpable": _dumpable()}


def _dumpable() -> int:
    import ctypes

    return int(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
