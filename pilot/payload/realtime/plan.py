"""Decides whether a job's lines are sent, which files, and where to (payload document 13); nothing is opened here."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Optional

from pilot.option_rules import RealtimeServer, realtime_server
from pilot.util.redact import register_secret
from pilot.util.safepath import is_inside

if TYPE_CHECKING:
    from pilot.info.catchall import CatchAll
    from pilot.info.job import Job
    from pilot.options import Options
    from pilot.settings import Settings

DEFAULT_NAME = "pilot-log"
SEARCH_SECONDS = 300.0
"""So long a file that an operator asked for by ``tail`` is looked for."""
_SECRET = re.compile(r"proxy|x509|token|secret|credential|password|\.pem$|\.key$|id_rsa|id_ed25519", re.IGNORECASE)
_REDIRECTED = "tmp.stdout*"
_ENTRIES = 20_000
"""Files of the job's directory that one search looks at."""


@dataclass(frozen=True)
class LogFile:
    """A file whose lines are sent: ``find`` returns its path once it is there."""

    name: str
    find: Callable[[], Optional[Path]] = field(repr=False)
    root: Optional[Path] = None
    """Directory that the file must not be outside of; None for what the site has named."""


@dataclass(frozen=True)
class Plan:
    """What a stream needs to know."""

    job_id: str
    server: RealtimeServer
    name: str
    """Name of the log at the server."""
    files: Sequence[LogFile]
    fields: Mapping[str, str]
    """Put into each record."""
    tls: bool
    verify: bool | str
    """False, True, or the CA file or directory."""
    period: float
    """s between looks at the files."""
    environ: Mapping[str, str] = field(repr=False, default_factory=dict)
    login: str = field(repr=False, default="")
    password: str = field(repr=False, default="")
    own_log: bool = False
    """Only the pilot's log is sent: until the job has left, not until the payload has ended."""

    def is_like(self, other: Plan) -> bool:
        """True when the other one would send the same lines to the same place."""
        return self._essence() == other._essence()

    def _essence(self) -> tuple[object, ...]:
        return self.server, self.tls, self.login, self.password, [file.name for file in self.files]


@dataclass(frozen=True)
class Circumstances:
    """What the decision depends on, beside the job."""

    options: Options
    settings: Settings
    environ: Mapping[str, str]
    catchall: CatchAll
    server: str
    """The experiment's own log server; may be empty."""
    tls: Optional[tuple[bool, bool]]
    """The experiment's word on TLS for it: (TLS at all, verify)."""
    verify: bool | str
    """CA file or directory of the pilot; True for the system's."""
    pilot_log: Path
    debug: bool = False
    debug_command: str = ""
    secrets: str = field(repr=False, default="")
    """``pilotSecrets`` that came later than the job."""


def is_wanted(job: Job, here: Circumstances) -> bool:
    """Return True when lines of the job are to be sent.

    Of every job by option ``--use-realtime-logging`` or ``loggingfile=`` in the queue's catchall; in debug mode (bare,
    or with ``tail``) where the queue names a server (``logging=``) or the job came with credentials.
    """
    if here.options.use_realtime_logging or here.catchall.realtime_logfile:
        return True
    command = here.debug_command.split()
    return here.debug and (not command or command[0] in ("debug", "tail")) and bool(
        here.catchall.realtime_logging or _login(job, here)[0])


def make_plan(job: Job, here: Circumstances) -> Optional[Plan]:
    """Return the plan, None when nothing is to be sent.

    Raises:
        ValueError: the server's description cannot be read; the text names where it stands.
    """
    if not is_wanted(job, here):
        return None
    pilot = here.settings.pilot
    origin, text = _server_text(here)
    try:
        server = realtime_server(text)
    except ValueError as exc:
        raise ValueError(f"{origin}: {exc}") from None
    if server is None:
        raise ValueError("no log server is known: give --realtime-logging-server or set pilot.rtlogging")
    tls, verify = bool(pilot.ssl_enable), bool(pilot.ssl_verify)
    if here.tls is not None and origin == _EXPERIMENT:
        tls, verify = here.tls
    login, password = _login(job, here)
    files = log_files(job, here)
    return Plan(
        job.jobid, server, here.options.realtime_logname or DEFAULT_NAME, files, _fields(job, here.environ), tls,
        (here.verify or True) if verify else False, float(pilot.rtlogging_period), here.environ, login, password,
        own_log=[file.name for file in files] == [pilot.pilotlog])


_EXPERIMENT = "the experiment's realtime_server"


def _server_text(here: Circumstances) -> tuple[str, str]:
    sources = (
        ("--realtime-logging-server", here.options.realtime_logging_server),
        ("logging= in the queue's catchall", here.catchall.realtime_logging),
        (_EXPERIMENT, here.server),
    )
    found = next(((origin, text) for origin, text in sources if text), None)
    return found or ("setting pilot.rtlogging", str(here.settings.pilot.rtlogging))


def _fields(job: Job, environ: Mapping[str, str]) -> dict[str, str]:
    known = {"TaskID": job.taskid, "PandaJobID": job.jobid}
    optional = {
        "Harvester_WorkerID": environ.get("HARVESTER_WORKER_ID", ""), "Harvester_ID": environ.get("HARVESTER_ID", ""),
        "RequestID": job.requestid}
    return {**known, **{name: value for name, value in optional.items() if value}}


def _login(job: Job, here: Circumstances) -> tuple[str, str]:
    """Return login and password for logstash out of ``pilotSecrets``; they are masked in every log from here on."""
    secrets = here.secrets or job.pilotsecrets
    try:
        found = json.loads(secrets) if secrets else {}
    except (ValueError, RecursionError):
        return "", ""
    if not isinstance(found, dict):
        return "", ""
    for value in found.values():
        register_secret(str(value))
    return str(found.get("logstash_login", "")), str(found.get("logstash_password", ""))


# --- files ------------------------------------------------------------------------------------------------------------


def log_files(job: Job, here: Circumstances) -> list[LogFile]:
    """Return the files to follow; the first source that names one wins."""
    environ, names = here.environ, []
    if here.options.realtime_logging_server:
        names = [name.strip() for name in re.split(r"[:,]", environ.get("REALTIME_LOGFILES", "")) if name.strip()]
    words = here.debug_command.split()
    if not names and here.debug and len(words) > 1 and words[0] == "tail" and not words[-1].startswith("-"):
        return [_searched(job.workdir, words[-1])]
    if not names:
        names = [name for name in (environ.get("REALTIME_LOGFILE", ""), here.catchall.realtime_logfile) if name][:1]
    if names:
        return [_named(job.workdir, name, here) for name in names]
    found: list[LogFile] = []
    if job.is_analysis:
        # what runGen and runAthena redirect; transforms of other experiments have no such file
        found.append(LogFile(_REDIRECTED, lambda: newest(job.workdir, _REDIRECTED, depth=1), job.workdir))
    return [*found, _named(job.workdir, here.settings.payload.payloadstdout, here)]


def _named(workdir: Path, name: str, here: Circumstances) -> LogFile:
    """A file by its path: an absolute one is the site's word; a relative one may not leave the job's directory."""
    if name == here.settings.pilot.pilotlog:
        return LogFile(name, lambda: here.pilot_log)  # in the job's directory there is a link to it
    path = Path(os.path.expandvars(name))
    if _SECRET.search(path.name):
        return LogFile(name, lambda: None)
    if path.is_absolute():
        return LogFile(name, lambda: path)
    inside = workdir / path
    return LogFile(name, lambda: inside if is_inside(workdir, inside) else None, workdir)


def _searched(workdir: Path, pattern: str) -> LogFile:
    """A file that an operator named: looked for in the whole directory of the job, for a while."""
    limit = time.monotonic() + SEARCH_SECONDS

    def find() -> Optional[Path]:
        return newest(workdir, pattern) if time.monotonic() < limit else None

    return LogFile(pattern, find, workdir)


def newest(workdir: Path, pattern: str, *, depth: int = 20) -> Optional[Path]:
    """Return the newest file below ``workdir`` whose path or name matches; never one that may hold a secret."""
    while pattern.startswith("./"):
        pattern = pattern[2:]
    found: list[tuple[float, Path]] = []
    for path in _regular_files(workdir, depth):
        below = str(path.relative_to(workdir))
        if (fnmatch.fnmatchcase(below, pattern) or fnmatch.fnmatchcase(path.name, pattern)) and not _SECRET.search(
                path.name):
            try:
                found.append((path.stat().st_mtime, path))
            except OSError:
                continue
    return max(found)[1] if found else None


def _regular_files(workdir: Path, depth: int) -> Iterator[Path]:
    """Files of the directory, links left out; a payload may make millions, so only so many are looked at."""
    left, waiting = _ENTRIES, [(str(workdir), depth)]
    while waiting:
        directory, below = waiting.pop(0)
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    left -= 1
                    if left < 0:
                        return
                    if entry.is_file(follow_symlinks=False):
                        yield Path(entry.path)
                    elif below > 0 and entry.is_dir(follow_symlinks=False):
                        waiting.append((entry.path, below - 1))
        except OSError:
            continue
