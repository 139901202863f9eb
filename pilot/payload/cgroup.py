"""Control groups (version 2) of payloads: exact accounts and a kill that nothing escapes, where the site has delegated
a group to the pilot.

::

    slot's group ── pilot-<name> ─┬─ controller   the pilot, and who was in the slot's group before: only so may it
                                  │               have controllers for what is below
                                  ├─ payload-1    moved in before it runs its first line
                                  └─ payload-2

The base is the pilot's own group; below HTCondor (24.0.7 and later), whose jobs are in a ``.scope`` leaf, the slice
above it. Where no controllers can be had the groups still count CPU time and kill; where no group can be made the
payload runs as without groups: subreaper and /proc see the same processes. Source: control and monitoring document,
7.5; processes are never moved by their names, and nothing of another slot is touched.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Optional, Sequence

from pilot.util import cgroups, procfs
from pilot.util.oomkills import OomCount

logger = logging.getLogger(__name__)

OLDEST_CONDOR = (24, 0, 7)
"""Older ones put the job into a group that they read, move and remove themselves."""
_PREFIX = "pilot-"
_WANTED = ("memory", "pids", "cpu")
_AD_SIZE = 1 << 20
_CONDOR = re.compile(rb"^\s*CondorVersion\s*=\s*\"\$CondorVersion:\s*(\d+)\.(\d+)\.(\d+)", re.MULTILINE)
_REMOVE_SECONDS = 2.0

_INTO = ("/bin/bash", "--posix", "-c", '{ echo 0 > "$0"; } 2>/dev/null; exec "$@"')
"""The shell moves itself, then becomes the payload: no line of the payload runs outside of its group, and the pilot,
which has threads, runs no Python between fork and exec. Where it cannot move it becomes the payload all the same.
``--posix``: bash reads no start-up files then (BASH_ENV), and unlike dash it keeps variables with odd names."""


class GroupUse(NamedTuple):
    """What a group has used so far; None = the kernel does not say."""

    cpu_seconds: Optional[float] = None
    peak_bytes: Optional[int] = None
    """memory.peak: with page cache, for information only."""
    processes: Optional[int] = None
    most_processes: Optional[int] = None


class PayloadGroup:
    """The group of one payload."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.memory_max = 0
        """Bytes that the kernel was told to hold it below; 0 = it was not."""
        self._last = GroupUse()

    def wrapped(self, argv: Sequence[str]) -> list[str]:
        """Return the command that starts ``argv`` inside of the group, as the same process."""
        return [*_INTO, str(self.directory / "cgroup.procs"), *argv]

    def oom_count(self) -> Optional[OomCount]:
        """Return the counter of kills for lack of memory; None where memory is not accounted for."""
        file = self.directory / "memory.events"
        kills = cgroups.numbers(file).get("oom_kill")
        return OomCount(kills, file) if kills is not None else None

    def limit_memory(self, size: int) -> bool:
        """Let the kernel hold the payload below ``size`` bytes (it drops page cache before it kills); False when it
        will not."""
        file = self.directory / "memory.max"
        if not file.exists():
            return False
        try:
            file.write_text(f"{size}\n")
        except OSError as exc:
            logger.warning("%s cannot be set to %d: %s", file, size, exc.strerror)
            return False
        self.memory_max = size
        return True

    def pids(self) -> set[int]:
        """Return the processes in the group and in those that the payload has made below it."""
        found: set[int] = set()
        for place, _, _ in os.walk(self.directory):
            found.update(int(word) for word in cgroups.read(Path(place) / "cgroup.procs").split() if word != b"0")
        return found

    def kill(self) -> bool:
        """Have the kernel send SIGKILL to everything in it at once, also to what is being forked; False when it cannot
        (before Linux 5.14): the caller kills process by process in any case."""
        try:
            handle = os.open(self.directory / "cgroup.kill", os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            os.write(handle, b"1")
        except OSError as exc:
            logger.warning("%s/cgroup.kill: %s", self.directory, exc.strerror)
            return False
        finally:
            os.close(handle)
        return True

    def use(self) -> GroupUse:
        """Return what it has used; what it had when it was removed from then on."""
        seconds = cgroups.cpu_seconds(self.directory)
        if seconds is not None:
            self._last = GroupUse(
                seconds, cgroups.number(self.directory / "memory.peak"),
                cgroups.number(self.directory / "pids.current"), cgroups.number(self.directory / "pids.peak"))
        return self._last

    def remove(self) -> None:
        """Remove it, and the groups below it; its processes must have ended. What it has used stays known."""
        use = self.use()
        if use.cpu_seconds is not None:
            logger.info("control group %s: CPU time %.1f s%s%s", self.directory.name, use.cpu_seconds,
                        f", memory.peak {use.peak_bytes} B with page cache" if use.peak_bytes is not None else "",
                        f", at most {use.most_processes} processes" if use.most_processes is not None else "")
        _remove_groups(self.directory, _REMOVE_SECONDS)


class ControlGroups:
    """The groups of one pilot; made when the first payload is started, removed with the pilot."""

    def __init__(self, name: str, environ: Mapping[str, str], root: Path = Path("/"), *, bare: bool = True) -> None:
        """Nothing is made yet.

        Args:
            name: unique on the node; part of the group's name.
            environ: of the pilot: says what the batch system is.
            root: stands for the root directory, so that tests can show the files of other machines.
            bare: also groups without the memory controller. They count CPU time and kill, which the pilot does well
                without them, and to move the first process into one takes the kernel some 15 ms.
        """
        self._bare = bare
        self._name, self._environ, self._root = re.sub(r"\W", "", name)[:16], environ, root
        self._base: Optional[Path] = None
        self._place: Optional[Path] = None
        self._controller: Optional[Path] = None
        self._given: list[tuple[Path, str]] = []
        """Controllers switched on by us: group and word."""
        self._lock: Optional[int] = None
        """Held as long as the pilot lives, whatever ends it: tells others that the groups are in use."""
        self._tried = False
        self._count = 0

    def new(self) -> Optional[PayloadGroup]:
        """Make a group for a payload; None when there cannot be one. The first call finds out, and says it."""
        if not self._tried:
            self._tried = True
            try:
                self._set_up()
            except OSError as exc:
                logger.info("no control groups for payloads: %s: %s", exc.filename, exc.strerror)
                self.close()
        if self._place is None:
            return None
        self._count += 1
        directory = self._place / f"payload-{self._count}"
        try:
            directory.mkdir()
        except OSError as exc:
            logger.warning("no control group for this payload: %s: %s", directory, exc.strerror)
            return None
        return PayloadGroup(directory)

    def close(self) -> None:
        """Undo all of it, as far as it can be undone: who was moved goes back."""
        for directory, word in reversed(self._given):
            _write(directory / "cgroup.subtree_control", f"-{word}")
        self._given.clear()
        if self._controller is not None and self._base is not None:
            _move_all(self._controller, self._base)
        for place in (self._controller, self._place):
            if place is not None:
                _remove_groups(place, 0.0)
        if self._lock is not None:
            os.close(self._lock)
        self._base = self._place = self._controller = self._lock = None

    # --- set up -------------------------------------------------------------------------------------------------------

    def _set_up(self) -> None:
        base = self._find_base()
        if base is None:
            return
        place = base / f"{_PREFIX}{self._name}"
        place.mkdir()
        self._base, self._place = base, place
        self._lock = _locked(place)
        _remove_old(base)
        if not (place / "cgroup.procs").exists():
            raise OSError(errno.ENOTSUP, "no cgroup.procs: this is no control group", str(place))
        self._take_controllers(base, place)
        words = _words(place / "cgroup.subtree_control")
        if "memory" not in words and not self._bare:
            logger.info("no control groups for payloads: %s does not account for memory (payload.control_groups)", base)
            self.close()
            return
        logger.info("payloads run in control groups below %s, controllers: %s", place, ", ".join(words) or "none")

    def _find_base(self) -> Optional[Path]:
        version = condor_version(self._environ, self._root)
        if version is not None and version < OLDEST_CONDOR:
            logger.info("no control groups for payloads: HTCondor %s keeps its groups for itself, %s would not",
                        ".".join(map(str, version)), ".".join(map(str, OLDEST_CONDOR)))
            return None
        path = cgroups.membership("self", self._root).get("")
        own = cgroups.v2_directory(path, self._root) if path else None
        if own is None:
            logger.debug("no control groups of version 2 here")
            return None
        candidates = [own]
        is_condor = version is not None or "_CONDOR_JOB_AD" in self._environ
        if is_condor and own.name.endswith(".scope") and own.parent.name.endswith(".slice"):
            candidates.insert(0, own.parent)
        for candidate in candidates:
            if all(os.access(candidate / name, os.W_OK) for name in ("", "cgroup.procs", "cgroup.subtree_control")):
                return candidate
        logger.info("no control groups for payloads: %s is not delegated to this user", own)
        return None

    def _take_controllers(self, base: Path, place: Path) -> None:
        """Switch controllers on for the payloads' groups.

        At the very top of the node nothing is switched and nobody moved: what is on there is used.
        """
        wanted = [word for word in _WANTED if word in _words(base / "cgroup.controllers")]
        missing = [word for word in wanted if word not in _words(base / "cgroup.subtree_control")]
        is_top = not (base / "cgroup.type").exists()
        if missing and os.geteuid() == 0 and _strangers(base):
            # root may write everywhere: that is no delegation of what others live in (cron's group, a session's)
            logger.info("control groups without controllers: other processes than the pilot's live in %s", base)
        elif missing and not is_top:
            self._controller = place / "controller"
            self._controller.mkdir()
            _move_all(base, self._controller)
            if base.name.endswith(".slice"):  # the leaf that HTCondor has made: its processes stay, the pilot moves
                _move(os.getpid(), self._controller)
            self._switch_on(base, missing)
        on = _words(base / "cgroup.subtree_control")
        self._switch_on(place, [word for word in wanted if word in on])

    def _switch_on(self, directory: Path, words: Sequence[str]) -> None:
        for word in words:
            reason = _write(directory / "cgroup.subtree_control", f"+{word}")
            if reason:
                logger.info("control groups without '%s': %s: %s", word, directory, reason)
            else:
                self._given.append((directory, word))


def condor_version(environ: Mapping[str, str], root: Path = Path("/")) -> Optional[tuple[int, int, int]]:
    """Return the version of HTCondor on this node, from the machine's ClassAd; None when there is none, or no word."""
    path = environ.get("_CONDOR_MACHINE_AD", "")
    if not path:
        return None
    try:
        with open(root / path.lstrip("/"), "rb") as stream:
            found = _CONDOR.search(stream.read(_AD_SIZE))
    except OSError:
        return None
    return (int(found.group(1)), int(found.group(2)), int(found.group(3))) if found else None


def _strangers(group: Path) -> set[int]:
    """Return the processes in a group that are neither the pilot's descendants nor those that have led to it."""
    table = procfs.scan()
    ours = {info.pid for info in table.tree(os.getpid())}
    pid = os.getpid()
    while (info := table.get(pid)) is not None and info.ppid not in ours:
        ours.add(info.ppid)
        pid = info.ppid
    return {int(word) for word in _words(group / "cgroup.procs")} - ours


def _words(file: Path) -> list[str]:
    return cgroups.read(file).decode("ascii", "replace").split()


def _write(file: Path, text: str) -> str:
    """Write to a file of the kernel; returns why it would not, '' for success."""
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    except OSError as exc:
        return exc.strerror or str(exc)
    try:
        os.write(handle, text.encode())
        return ""
    except OSError as exc:
        return exc.strerror or str(exc)
    finally:
        os.close(handle)


def _move(pid: int, group: Path) -> str:
    return _write(group / "cgroup.procs", str(pid))


def _move_all(source: Path, target: Path) -> None:
    """Move every process; what is forked meanwhile comes with the next round."""
    for _ in range(5):
        pids = [word for word in _words(source / "cgroup.procs") if word != "0"]
        if not pids:
            return
        reasons = {pid: reason for pid in pids if (reason := _move(int(pid), target))}
        if len(reasons) == len(pids):
            logger.info("%d processes stay in %s: %s", len(pids), source, next(iter(reasons.values())))
            return


def _locked(place: Path) -> Optional[int]:
    """Lock a group; returns the descriptor that holds the lock, None when somebody else does."""
    try:
        handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return handle
    except OSError:
        os.close(handle)
        return None


def _remove_old(base: Path) -> None:
    """Remove what pilots have left that were killed; a group in which something still runs stays."""
    for place in base.glob(f"{_PREFIX}*"):
        handle = _locked(place)
        if handle is not None:
            _remove_groups(place, 0.0)
            os.close(handle)


def _remove_groups(top: Path, patience: float) -> None:
    """Remove a group and those below it, the deepest first; the kernel needs a moment after the last process."""
    until = time.monotonic() + patience
    for place, _, _ in os.walk(top, topdown=False):
        while True:
            try:
                os.rmdir(place)
            except FileNotFoundError:
                pass
            except OSError as exc:
                if exc.errno == errno.EBUSY and time.monotonic() < until:
                    time.sleep(0.01)
                    continue
                logger.debug("the control group %s stays: %s", place, exc.strerror)
            break
