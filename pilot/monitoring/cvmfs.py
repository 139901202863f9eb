"""Is CVMFS there and alive? Looked at once, before the first job; a mount that hangs costs a thread, never the pilot.

Source: control-and-monitoring document 7.12. The 300 s of the reference are an alarm around its look, not an age of the
repository: one that is not updated for days is in order (releases change seldom), one that does not answer is not.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Mapping, NamedTuple, Optional

from pilot.info.cvmfs import CvmfsTree
from pilot.util.bounded import TookTooLong, bounded
from pilot.util.cancel import CancelToken

logger = logging.getLogger(__name__)

_LINE = 4096
_COMMAND_TIME = 60.0
_COMMAND_GRACE = 5.0
"""s beyond it for a command that not even SIGKILL ends: it waits for the mount in the kernel."""
_TEXT = 500


class CvmfsHealth(NamedTuple):
    """What was found; ``trouble`` is empty when all is well."""

    trouble: str = ""
    updated: float = 0.0
    """When the repository says it was last updated (epoch s); 0 = not known."""
    seconds: float = 0.0
    """How long the look has taken."""


def check_cvmfs(tree: CvmfsTree, seconds: float, token: Optional[CancelToken] = None) -> CvmfsHealth:
    """Look at everything in ``tree``; it never takes longer than ``seconds`` all in all.

    Raises:
        CancelledError: the token was cancelled.
    """
    token = token or CancelToken()
    began = time.monotonic()
    place = [tree.base]  # what is being looked at: named when the look does not return

    def look() -> CvmfsHealth:
        return _look(tree, place)

    try:
        health = bounded(look, seconds, token, "cvmfs")
    except TookTooLong:
        health = CvmfsHealth(f"{place[0]} does not answer within {seconds:.0f} s: the mount hangs")
    return health._replace(seconds=time.monotonic() - began)


def _look(tree: CvmfsTree, place: list[str]) -> CvmfsHealth:
    for name in tree.present:
        place[0] = os.path.join(tree.base, name)
        try:
            os.stat(place[0])
        except OSError as exc:
            return CvmfsHealth(f"{place[0]}: {exc.strerror}")
    stamp = b""
    for name in dict.fromkeys((*tree.opened, *filter(None, (tree.update_file,)))):
        place[0] = os.path.join(tree.base, name)
        try:
            with open(place[0], "rb") as stream:
                line = stream.readline(_LINE)
        except OSError as exc:
            return CvmfsHealth(f"{place[0]}: {exc.strerror}")
        if name == tree.update_file:
            stamp = line
    if not tree.update_file:
        return CvmfsHealth()
    updated = _stamp(stamp)
    if updated <= 0:
        shown = stamp[:80].decode("ascii", "replace").strip()
        return CvmfsHealth(
            f"{update_place(tree)}: no time of the last update as the third item of its first line, {shown!r}")
    return CvmfsHealth(updated=updated)


def update_place(tree: CvmfsTree) -> str:
    """Return the path of the file with the time of the last update."""
    return os.path.join(tree.base, tree.update_file)


def _stamp(line: bytes) -> float:
    """Return the third of the items between ``|``, a whole number; 0 when there is none."""
    items = line.split(b"|")
    text = items[2].strip() if len(items) > 2 else b""
    return float(text) if text.isdigit() and len(text) < 16 else 0.0


def run_diagnostics(tree: CvmfsTree, environ: Mapping[str, str], token: Optional[CancelToken] = None) -> list[str]:
    """Run the commands of the tree and return a line or two for the log about each; never longer than 65 s each.

    Raises:
        CancelledError: the token was cancelled.
    """
    token = token or CancelToken()
    return [f"{' '.join(command)}: {_output_of(command, environ, token)}" for command in tree.commands]


def _output_of(command: tuple[str, ...], environ: Mapping[str, str], token: CancelToken) -> str:
    from pilot.util.command import Finished, run_command

    def run() -> Finished:
        return run_command(command, env=environ, cwd=Path("/"), token=token, timeout=_COMMAND_TIME)

    try:
        done = bounded(run, _COMMAND_TIME + _COMMAND_GRACE, token, "cvmfs-diagnostics")
    except TookTooLong:
        return f"has not ended after {_COMMAND_TIME:.0f} s, and cannot be killed"
    except FileNotFoundError:
        return "there is no such command here"
    except OSError as exc:
        return f"cannot be started: {exc.strerror}"
    if done.timed_out:
        return f"was ended after {_COMMAND_TIME:.0f} s: {done.output[-_TEXT:]}"
    return f"exit code {done.code}: {done.output[-_TEXT:]}"
