"""``python -m tests.grid.testbed up|down|status|env DIR``: the testbed for a person; it runs until it is taken down.

DIR keeps what is needed to find it again: state.json, and env.sh for a shell. The services themselves work below the
system's temporary directory, since users xrootd and postgres must be able to pass the way to their files.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

from tests.grid.testbed.names import LIMIT
from tests.grid.testbed.service import BrokenService, MissingService
from tests.grid.testbed.testbed import NAMES, Testbed

PATIENCE = 15.0
"""Seconds that a process may take to end."""


def birth(pid: int) -> Optional[str]:
    """When a process began, in clock ticks: tells it from a later one with the same number. None: it is gone."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if words[0] == "Z" else words[19]


class State:
    """What runs, on disk."""

    def __init__(self, place: Path) -> None:
        self.path = place / "state.json"
        self.shell = place / "env.sh"

    def read(self) -> Dict[str, Any]:
        """The state, or one of nothing."""
        try:
            content: Dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        except OSError:
            return {"services": [], "env": {}, "directory": ""}
        return content

    def write(self, testbed: Testbed) -> None:
        """Keep what has been started, before anything else can fail."""
        services = [{"name": service.name, "processes": [[pid, birth(pid)] for pid in service.pids],
                     "describe": service.describe(), "seconds": round(service.started_in, 2)}
                    for service in testbed.running]
        env = {"RES_OPTIONS": LIMIT, **testbed.env}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {"directory": str(testbed.directory), "services": services, "env": env}
        self.path.write_text(json.dumps(content, indent=1), encoding="utf-8")
        lines = [f"export {key}={shlex.quote(value)}\n" for key, value in env.items()]
        self.shell.write_text("".join(lines), encoding="utf-8")

    def forget(self) -> None:
        """Nothing runs."""
        self.path.unlink(missing_ok=True)
        self.shell.unlink(missing_ok=True)


def alive(service: Dict[str, Any]) -> bool:
    """Whether all processes of a service run."""
    return all(birth(pid) == begin for pid, begin in service["processes"])


def up(state: State, names: List[str]) -> int:
    """Start what is named, all unless something is."""
    if any(alive(service) and service["processes"] for service in state.read()["services"]):
        print("The testbed runs already; 'make grid-down' ends it.\n")
        return status(state)
    down(state)
    directory = Path(tempfile.mkdtemp(prefix="pilot-grid-up-"))
    directory.chmod(0o755)
    testbed = Testbed(directory, bound=False)
    try:
        testbed.start_all(names)
        for service in testbed.running:
            service.detach()
        state.write(testbed)
    except (MissingService, BrokenService) as reason:
        testbed.stop()
        shutil.rmtree(directory, ignore_errors=True)
        print(f"testbed: {reason}", file=sys.stderr)
        return 1
    except BaseException:
        testbed.stop()
        shutil.rmtree(directory, ignore_errors=True)
        raise
    status(state)
    print(f"\nFor a shell:  . {state.shell}\nThe end:      make grid-down\nMore:         docs/grid-testbed.md")
    return 0


def down(state: State) -> int:
    """End what runs, the last one first."""
    known = state.read()
    for service in reversed(known["services"]):
        for pid, begin in reversed(service["processes"]):
            if birth(pid) == begin:
                end(pid, begin, signal.SIGINT if service["name"] == "postgres" else signal.SIGTERM)
    if known["directory"]:
        shutil.rmtree(known["directory"], ignore_errors=True)
    state.forget()
    return 0


def end(pid: int, begin: str, how: signal.Signals) -> None:
    """End a process, and what it leaves of its session."""
    os.kill(pid, how)
    limit = time.monotonic() + PATIENCE
    while birth(pid) == begin and time.monotonic() < limit:
        time.sleep(0.05)
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # nothing is left


def status(state: State) -> int:
    """Say what runs, and where; exit code 1 when nothing does or something has died."""
    services = state.read()["services"]
    if not services:
        print("The testbed does not run; 'make grid-up' starts it.")
        return 1
    for service in services:
        pids = ", ".join(str(pid) for pid, _ in service["processes"])
        condition = "files only" if not pids else f"pid {pids}" if alive(service) else f"DEAD (was pid {pids})"
        print(f"{service['name']:11} {condition}, started in {service['seconds']:.1f} s")
        for name, value in service["describe"].items():
            print(f"  {name}: {value}")
    return 0 if all(alive(service) for service in services) else 1


def show_env(state: State) -> int:
    """Print the variables as shell commands."""
    if not state.shell.exists():
        return status(state)
    print(state.shell.read_text(encoding="utf-8"), end="")
    return 0


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.grid.testbed",
                                     description="Grid services on the loopback interface.")
    parser.add_argument("command", choices=["up", "down", "status", "env"])
    parser.add_argument("directory", type=Path, metavar="DIR", help="where the state is kept")
    parser.add_argument("services", nargs="*", metavar="SERVICE", help=f"for up: {', '.join(NAMES)}; all unless given")
    arguments = parser.parse_args()
    state = State(arguments.directory)
    unknown = set(arguments.services) - set(NAMES)
    if unknown:
        parser.error(f"no such service: {', '.join(sorted(unknown))}")
    if arguments.command == "up":
        return up(state, arguments.services)
    return {"down": down, "status": status, "env": show_env}[arguments.command](state)


if __name__ == "__main__":
    sys.exit(main())
