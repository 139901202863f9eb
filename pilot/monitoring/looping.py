"""Is a payload still alive? A pure rule: what was changed last, how much CPU it uses, and for how long that may be so.

::

    a file was changed ────────────────────────────► alive: the clock begins again
    none for the limit, CPU < 1 % of its cores ────► looping, at the limit
    none for the limit, CPU is used ───────────────► an endless loop looks like that, too: looping at limit x stretch,
                                                     or when the pilot has to leave, whichever comes first

All times are of the monotonic clock: a node's clock that is set does not change what has happened, and time in which
the pilot was suspended (and its payload with it) does not count. Source: control and monitoring document 7.11.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Callable, NamedTuple, Optional

from pilot.info.memory import FILES

if TYPE_CHECKING:
    from pathlib import Path

    from pilot.info.job import Job
    from pilot.info.queuedata import QueueData
    from pilot.monitoring.checks import FileLook
    from pilot.settings import Settings

JOB_SETTING = "loopingLimit"
"""Key of a job definition (s); no server sends it today."""

_QUIET = 0.01
"""Part of wall time x cores; who uses less CPU does nothing."""
_CPU_SAMPLES = 64
_MOST_FILES = 200_000


class LoopingLimit(NamedTuple):
    """s without a sign of life, and where that figure comes from."""

    seconds: float
    origin: str


def looping_limit(job: Job, queue: QueueData, settings: Settings) -> LoopingLimit:
    """Return the limit of a job: its own, the queue's, else that of its kind; never below the lower bound."""
    own = job.definition.get(JOB_SETTING)
    asked = int(own) if isinstance(own, (int, str)) and str(own).isdecimal() else 0
    if asked > 0:
        limit = LoopingLimit(asked, f"{JOB_SETTING} of the job")
    elif queue.looping_limit > 0:
        limit = LoopingLimit(queue.looping_limit, "params.looping_limit of the queue")
    else:
        limits = settings.limits
        limit = LoopingLimit(limits.looping_analysis, "limits.looping_analysis") if job.is_analysis else LoopingLimit(
            limits.looping_production, "limits.looping_production")
        if not limit.seconds:
            limit = LoopingLimit(settings.pilot.looping_limit_default, "pilot.looping_limit_default")
    lowest = settings.pilot.looping_limit_min_default
    if limit.seconds < lowest:
        return LoopingLimit(lowest, f"pilot.looping_limit_min_default, above {limit.origin}")
    return limit


class Idleness(NamedTuple):
    """What stands against a payload."""

    seconds: float
    """Since the last sign of life, suspensions not counted."""
    allowed: float
    busy: bool
    """It uses CPU: ``allowed`` is the limit, stretched."""
    cpu: float
    """CPU s in the last ``window`` s."""
    window: float


class LoopingRule:
    """Follows one payload; used by one thread.

    Args:
        limit: of the job.
        cores: of the job.
        after: s from a payload's start in which nothing is judged.
        stretch: factor on the limit of a payload that uses CPU.
        leave_by: gives the monotonic s at which the pilot has to leave.
    """

    def __init__(self, limit: float, cores: int, *, after: float, stretch: float,
                 leave_by: Callable[[], float] = lambda: float("inf")) -> None:
        self.limit, self.cores, self.after, self.stretch = limit, max(1, cores), after, max(1.0, stretch)
        self._leave_by = leave_by
        self._last = float("-inf")
        self._seen: tuple[float, str] = (0.0, "")
        self._cpu: deque[tuple[float, float]] = deque()

    def look(self, look: FileLook, suspended: float = 0.0) -> Optional[Idleness]:
        """Take what was seen; returns what stands against the payload, None while nothing does.

        Args:
            look: at the job's files.
            suspended: s (monotonic) that the pilot has stood still since the last call.
        """
        if look.elapsed is None:
            self._cpu.clear()
            return None
        began = look.now - look.elapsed
        if self._last < began:  # a payload, or another turn of it
            self._last = began
            self._cpu.clear()
        if suspended:
            self._last = min(look.now, self._last + suspended)
            self._cpu = deque((at + suspended, cpu) for at, cpu in self._cpu)
        newest = (look.view.newest, look.view.newest_path)
        if newest != self._seen:  # what was seen before is no news, whatever the clock says today
            self._seen = newest
            self.changed(look.now, look.wall - look.view.newest, look.view.taken)
        window, cpu = self._cpu_since(look)
        idle = look.now - self._last
        busy = window > 0 and cpu >= _QUIET * window * self.cores
        allowed = self.limit
        if busy:
            # a little before the pilot has to leave: then this is the reason, not the time
            end = self._leave_by() - self.after - self._last
            allowed = max(self.limit, min(self.limit * self.stretch, end))
        if look.elapsed < self.after or idle <= allowed:
            return None
        return Idleness(idle, allowed, busy, cpu, window)

    def changed(self, now: float, age: float, seen: Optional[float] = None) -> None:
        """A file was changed ``age`` s ago; with an age below 0 (the clock was set) when it was ``seen``."""
        at = now - age if age >= 0 or seen is None else seen
        self._last = max(self._last, min(at, now))

    def _cpu_since(self, look: FileLook) -> tuple[float, float]:
        """Return (s, CPU s) of the time that is judged: the limit's length, or what is known of it."""
        marks = self._cpu
        if not marks or look.now - marks[-1][0] >= self.limit / _CPU_SAMPLES:
            marks.append((look.now, look.cpu_seconds))
        while len(marks) > 1 and marks[1][0] <= look.now - self.limit:
            marks.popleft()
        at, cpu = marks[0]
        return look.now - at, look.cpu_seconds - cpu


def describe(idle: Idleness, limit: LoopingLimit, newest: str, age: float, files: int, cores: int) -> str:
    """Return the words for a report: what was looked at, the limit and its origin, the newest file, CPU.

    Args:
        idle: what stands against the payload.
        limit: of the job.
        newest: path of the newest file that counts, '' when there is none.
        age: of that file, s.
        files: looked at.
        cores: of the job.
    """
    stretched = f", x {idle.allowed / limit.seconds:.1f} as CPU is used" if idle.busy else ""
    last = f"newest of {files}: {newest}, {age:.0f} s old" if newest else f"none of {files} was written by it"
    return (f"no file changed for {idle.seconds:.0f} s (limit {limit.seconds:.0f} s{stretched}; {limit.origin}); "
            f"{last}; CPU {idle.cpu:.1f} s in {idle.window:.0f} s on {cores} core{'s' if cores > 1 else ''}")


# --- signs of life ----------------------------------------------------------------------------------------------------

_OURS = frozenset({
    *FILES, "PoolFileCatalog.xml", "setup.stdout", "setup.stderr", "pilot_errors.json", "gdb_output.txt",
    "jobReport.json.original", "stagein_request.json", "stagein_result.json", ".stagein_keys.json",
    "stageout_request.json", "stageout_result.json", ".stageout_keys.json",
})
"""Names that are not settings, directly in the job's directory."""
_UTILITY_OUTPUT = re.compile(r"(?:memorymonitor|benchmark|xcache_start|xcache_kill)_std(?:out|err)\.txt(?:-\d+)?")
"""Of what runs beside a payload, but not of the job's own steps."""
_GDB = re.compile(r"\.gdb-[^/]+/.*|core\.\d+")
"""What the pilot's gdb writes."""


def sign_of_life(settings: Settings, exclusions: Sequence[str] = (), secrets: Iterable[Path] = ()
                 ) -> Callable[[str], bool]:
    """Return the predicate: does a change of the file with this path, relative to the job's directory, come from the
    payload?

    Not the pilot's own files, by their exact names. The payload's standard output counts.

    Args:
        settings: names of files.
        exclusions: patterns (``fnmatch``) of the experiment, for the path or its last part.
        secrets: files that the pilot has written for the job.
    """
    pilot, box = settings.pilot, settings.container
    ours = _OURS | {
        pilot.pilotlog, pilot.stageinlog, pilot.stageoutlog, pilot.pandasecrets, pilot.base_trace_report,
        pilot.remotefileverification_dictionary, pilot.remotefileverification_log,
        pilot.remotefileverification_instant, pilot.heartbeat_message, pilot.pilot_heartbeat_file, pilot.timing_file,
        settings.payload.error_report, settings.rucio.rucio_trace_error_file,
        box.container_script, box.release_setup, box.middleware_container_stagein_script,
        box.middleware_container_stageout_script, box.stagein_status_dictionary, box.stagein_replica_dictionary,
        box.stageout_status_dictionary, box.middleware_stagein_stdout, box.middleware_stagein_stderr,
        box.middleware_stageout_stdout, box.middleware_stageout_stderr, *(path.name for path in secrets),
    }
    ours |= {f"{name}.part" for name in ours}
    patterns = tuple(exclusions)

    def counts(path: str) -> bool:
        if path in ours or _UTILITY_OUTPUT.fullmatch(path) or _GDB.fullmatch(path):
            return False
        name = os.path.basename(path)
        return not any(fnmatchcase(path, pattern) or fnmatchcase(name, pattern) for pattern in patterns)

    return counts


class Touched(NamedTuple):
    """A file and when it was changed (epoch s)."""

    changed: float
    path: str
    size: int
    counts: bool


def newest_files(workdir: Path, counts: Callable[[str], bool], wall: float, most: int = 20) -> list[Touched]:
    """Return the files that were changed last, the newest first, as they are now; dates in the future stand last, as
    they tell nothing. Links are not followed; directories are no files.

    Args:
        workdir: of the job.
        counts: what is a sign of life.
        wall: the time now, epoch s.
        most: so many, with the newest that counts among them.
    """
    found: list[Touched] = []
    top = os.fspath(workdir)
    left = _MOST_FILES
    for place, _, names in os.walk(top):
        for name in names:
            path = os.path.join(place, name)
            try:
                status = os.lstat(path)
            except OSError:
                continue
            relative = os.path.relpath(path, top)
            found.append(Touched(status.st_mtime, relative, status.st_size, counts(relative)))
            left -= 1
        if left <= 0:
            break
    found.sort(key=lambda item: (item.changed <= wall, item.changed), reverse=True)
    newest = next((item for item in found if item.counts and item.changed <= wall), None)
    shown = found[:most]
    return shown if newest is None or newest in shown else [*shown[:most - 1], newest]
