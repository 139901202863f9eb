"""A job definition that somebody put into a file: Harvester, aCT, or a person on a test machine.

Source: Harvester document, section 3; command line document, 5.2. The file is a queue of length one without a lock:
it is validated first, then a copy is made safe on disk, then it is removed, so that a crash at any instant neither
loses the job nor makes it run twice, and of two pilots that see the same file exactly one gets the job.
"""

from __future__ import annotations

import json
import logging
import os
import stat
from pathlib import Path
from typing import Callable, Mapping, Optional, Protocol

from pilot.common.exception import PilotException
from pilot.info.encoding import JobRefused, decode_job_text, panda_id

logger = logging.getLogger(__name__)

Remember = Callable[[Mapping[str, object]], object]

JOB_FILE = "pandaJobData.out"
HPC_FILE = "HPCJobs.json"
COPY = "job_definition.json"
MAX_FILE = 256 * 1024 * 1024
"""Largest job file, bytes."""


class JobFileRefused(PilotException):
    """A job file that gives no job: empty, unreadable or garbage. Trying again does not help."""

    default_code = 1302


class FileOptions(Protocol):
    """The options that say where job files are."""

    @property
    def harvester_datadir(self) -> str:
        """Directory of ``pandaJobData.out``; when given, no other place is searched for that file."""

    @property
    def harvester_workdir(self) -> str:
        """Directory of ``HPCJobs.json``."""


def job_file_places(
    options: FileOptions, launch_dir: Path, environ: Mapping[str, str], names: tuple[str, str] = (JOB_FILE, HPC_FILE)
) -> list[Path]:
    """Return where a job file may be, in the order of the search; relative directories are below ``launch_dir``."""
    if options.harvester_datadir:
        places = [launch_dir / options.harvester_datadir / names[0]]
    else:
        places = [launch_dir.parent / names[0], launch_dir / names[0]]
        if environ.get("PILOT_WORK_DIR"):
            places.append(launch_dir / environ["PILOT_WORK_DIR"] / names[0])
    for directory in (options.harvester_workdir, environ.get("HARVESTER_WORKDIR", "")):
        if directory:
            places.append(launch_dir / directory / names[1])
    return places


def find_job_file(
    options: FileOptions, launch_dir: Path, environ: Mapping[str, str], names: tuple[str, str] = (JOB_FILE, HPC_FILE)
) -> Path | None:
    """Return the first existing job file, or None.

    Args:
        options: the pilot's options.
        launch_dir: directory that the pilot was started in; absolute.
        environ: environment; PILOT_WORK_DIR and HARVESTER_WORKDIR are looked at.
        names: settings ``pilot.pandajobdata`` and ``harvester.pandajob_file``.
    """
    places = job_file_places(options, launch_dir, environ, names)
    for path in places:
        if os.path.lexists(path):
            logger.info("job definition found in %s", path)
            return path
    logger.debug("no job definition in %s", ", ".join(map(str, places)))
    return None


def take_job(
    path: Path, *, harvester_or_pod: bool, pilot_home: Path, remember: Optional[Remember] = None
) -> list[dict[str, object]]:
    """Take the jobs out of a job file, which is gone afterwards.

    Args:
        path: the file, see ``find_job_file``.
        harvester_or_pod: the file is expected to be JSON (query strings are recognised nevertheless).
        pilot_home: gets ``job_definition.json``, a copy that only the pilot's user can read (it may hold secrets); a
            second ``pandaJobData.out`` there is removed.
        remember: called with each job before the file is removed: stores it where a killed pilot does not lose it.
    Returns:
        One definition or several, to be run one after the other. Each has a usable PandaID, everything else is left
        to ``parse_job``.
    Raises:
        JobFileRefused: 1302 the file is empty (it stays where it is) or garbage (it is renamed to ``<name>.refused``);
            1303 it cannot be read, copied or removed, or another pilot was faster.
    """
    data = _read(path)
    if not data.strip():
        raise JobFileRefused(f"job file {path} is empty: no job can be run; let the submitter write it again")
    try:
        jobs, refused = _valid_jobs(decode_job_text(data, harvester_or_pod))
        copy = _copy_of(jobs)
    except JobRefused as exc:
        kept = _set_aside(path)
        raise JobFileRefused(f"job file {path} is refused: {exc.detail}; it was kept as {kept}") from None
    _write_copy(pilot_home / COPY, copy)
    if remember is not None:
        for job in jobs:
            remember(job)
    _consume(path, keep=bool(refused))
    _remove_second_copy(pilot_home / JOB_FILE, path)
    logger.info("%d job(s) taken from %s: %s", len(jobs), path, ", ".join(panda_id(job) for job in jobs[:10]))
    return jobs


def _read(path: Path) -> bytes:
    """Read a regular file of sensible size; a FIFO or a device would block or never end."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise JobFileRefused(f"job file {path} is no regular file; job refused", code=1303)
        if status.st_size > MAX_FILE:
            raise JobFileRefused(f"job file {path} has {status.st_size} bytes, limit {MAX_FILE}; job refused")
        return path.read_bytes()
    except OSError as exc:
        raise JobFileRefused(f"job file {path} cannot be read: {exc.strerror}", code=1303) from exc


def _valid_jobs(found: list[dict[str, object]]) -> tuple[list[dict[str, object]], int]:
    """Return the jobs with a usable and unique PandaID, and how many others there were.

    Raises:
        JobRefused: none has one.
    """
    jobs: dict[str, dict[str, object]] = {}
    refused = 0
    reason: JobRefused | None = None
    for number, job in enumerate(found, 1):
        try:
            key = panda_id(job)
        except JobRefused as exc:
            reason = exc
            refused += 1
            logger.error("entry %d of the job file is refused: %s", number, exc.detail)
            continue
        if key in jobs:
            refused += 1
            logger.error("entry %d of the job file is refused: job %s is in it twice", number, key)
            continue
        jobs[key] = job
    if not jobs and reason is not None:
        raise reason
    return list(jobs.values()), refused


def _set_aside(path: Path) -> Path:
    """Rename a refused file, so that nobody takes it for a fresh one."""
    target = path.with_name(path.name + ".refused")
    try:
        os.replace(path, target)
    except OSError as exc:
        logger.warning("%s cannot be renamed: %s", path, exc.strerror)
        return path
    return target


def _copy_of(jobs: list[dict[str, object]]) -> str:
    """Return ``{"<PandaID>": {...}}`` as ASCII text, whatever bytes the values were made of."""
    try:
        return json.dumps({panda_id(job): job for job in jobs})
    except (RecursionError, ValueError):
        raise JobRefused("the job definition is nested too deeply to be written again") from None


def _write_copy(target: Path, text: str) -> None:
    """Write the copy atomically and durably, readable by the owner only."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, target)
        _sync_directory(target.parent)
    except OSError as exc:
        temporary.unlink(missing_ok=True)
        problem = f"the job definition cannot be kept in {target}: {exc.strerror}; the job file was left where it is"
        raise JobFileRefused(problem, code=1303) from exc


def _consume(path: Path, *, keep: bool) -> None:
    """Remove the job file; exactly one of several pilots succeeds in that.

    A file with refused entries is renamed in place of being removed.
    """
    try:
        if keep:
            os.rename(path, path.with_name(path.name + ".refused"))
        else:
            os.unlink(path)
    except FileNotFoundError as exc:
        text = f"job file {path} vanished while it was read: another pilot has taken the job"
        raise JobFileRefused(text, code=1303) from exc
    except OSError as exc:
        text = f"job file {path} cannot be removed ({exc.strerror}), it could be run twice: make the directory writable"
        raise JobFileRefused(text, code=1303) from exc
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    """Make a rename or a removal durable; some file systems cannot, which is not worth a job."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        logger.debug("%s cannot be opened for a sync: %s", directory, exc.strerror)
        return
    try:
        os.fsync(descriptor)
    except OSError as exc:
        logger.debug("%s cannot be synced: %s", directory, exc.strerror)
    finally:
        os.close(descriptor)


def _remove_second_copy(copy: Path, used: Path) -> None:
    """Remove a second job file in the pilot's home, which would be found by the next pilot there."""
    try:
        if os.path.lexists(copy) and copy.absolute() != used.absolute():
            copy.unlink()
            logger.info("second copy of the job definition removed: %s", copy)
    except OSError as exc:
        logger.warning("%s is a second copy of the job definition and cannot be removed: %s", copy, exc.strerror)
