"""The pilot's log: pilotlog.txt and stdout, the format that server and diagnosis tools expect, secrets masked.

The log must never hurt the job: a full disk, a closed pipe or a vanished directory costs log lines (which is said once
lines can be written again), never an exception, a traceback on the terminal or an exit code.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
import time
from pathlib import Path
from threading import Lock
from typing import IO, Optional, Protocol

from pilot.util.logowner import owners
from pilot.util.redact import redact
from pilot.version import PILOT_VERSION

INFO_FORMAT = "%(asctime)s | %(levelname)-8s | %(message)s"
DEBUG_FORMAT = "%(asctime)s | %(levelname)-8s | %(name)-32s | %(funcName)-25s | %(message)s"
"""Both are protocol: log extracts and the server's diagnosis strip a leading time stamp of this form."""

STREAM_HANDLER = "stream_handler"
FILE_HANDLER = "pilotlog_handler"
JOB_HANDLER = "joblog_handler"
"""Of the file of a job that still leaves while the next one has the pilot log."""
_NOISY_LIBRARIES = ("urllib3", "requests", "charset_normalizer", "asyncio", "botocore", "boto3", "s3transfer")

logger = logging.getLogger(__name__)


class PilotFormatter(logging.Formatter):
    """UTC time stamps; masks secrets in message, arguments, exception and stack text.

    Without ``tracebacks`` only the message is shown: the terminal is for people, the file for diagnosis.
    """

    converter = staticmethod(time.gmtime)

    def __init__(self, form: str, tracebacks: bool = True) -> None:
        super().__init__(form)
        self._tracebacks = tracebacks

    def format(self, record: logging.LogRecord) -> str:
        """Return the finished line(s); a record whose arguments do not fit its message is shown as it is."""
        if not self._tracebacks and (record.exc_info or record.exc_text or record.stack_info):
            record = logging.makeLogRecord({**record.__dict__, "exc_info": None, "exc_text": None, "stack_info": None})
        try:
            text = super().format(record)
        except (TypeError, ValueError, KeyError):
            text = f"{record.levelname} | {record.name} | {record.msg!r} {record.args!r}"
        return one_record(redact(text))

    def gap(self, count: int) -> str:
        """Return the line that stands for ``count`` lines which could not be written."""
        return f"[{count} log lines are missing here: they could not be written]"


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def one_record(text: str) -> str:
    """Return ``text`` so that no string of a stranger in it can steer a terminal or pass for another log line.

    Control characters and marks that turn the direction of writing are shown as escapes (``\\x1b``), and lines after
    the first one are indented: a log line begins with its time stamp at the left margin.
    """
    if "\n" in text:
        text = text.replace("\r\n", "\n").replace("\n", "\n    ")
    return _CONTROL.sub(lambda found: ascii(found.group())[1:-1], text)


class PilotLogHandler(logging.Handler):
    """Appends lines to a file with one system call each: nothing is lost in a buffer when the pilot is killed.

    Args:
        path: the file.
        descriptor: of the file, if it is open already.
        jobid: the job whose lines alone are for this file; empty for the pilot log.
    """

    def __init__(self, path: Path, descriptor: Optional[int] = None, jobid: str = "") -> None:
        super().__init__()
        self.path = path
        self.set_name(JOB_HANDLER if jobid else FILE_HANDLER)
        self._descriptor = _open_log(path) if descriptor is None else descriptor
        self._lost = 0
        self._torn = False
        self.addFilter(lambda record: owners.is_for(jobid, record))

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record; when the file system refuses it the line is dropped and counted."""
        text = self.format(record) + "\n"
        if self._lost:
            gap = self.formatter.gap(self._lost) if isinstance(self.formatter, PilotFormatter) else "[...]"
            text = f"{gap}\n{text}"
        data = ("\n" if self._torn else "").encode() + text.encode("utf-8", "backslashreplace")
        try:
            written = os.write(self._descriptor, data)
        except OSError:
            self._lost += 1
            return
        self._torn = written < len(data)
        self._lost = 1 if self._torn else 0

    def touch(self) -> None:
        """Renew the modification time, by which the wrapper tells a living pilot from a stuck one."""
        try:
            os.utime(self._descriptor)
        except OSError as exc:
            logger.debug("cannot touch %s: %s", self.path, exc)

    def switch(self, keep_as: Optional[Path]) -> int:
        """Go on in an empty file of the same name; what was written so far stays as ``keep_as``.

        The name never vanishes where the file system knows hard links, so that a look at its time always succeeds.

        Args:
            keep_as: None when the file has a second name already.

        Returns:
            Descriptor of the old file: the caller's from now on.
        """
        self.acquire()
        try:
            fresh = self.path.with_name(f".{self.path.name}.new")
            try:
                if keep_as is not None:
                    os.link(self.path, keep_as)
                descriptor = _open_log(fresh, os.O_TRUNC)
                os.replace(fresh, self.path)
            except OSError:
                if keep_as is None:
                    raise
                os.replace(self.path, keep_as)
                descriptor = _open_log(self.path)
            old, self._descriptor = self._descriptor, descriptor
            self._torn = False
            return old
        finally:
            self.release()

    def close(self) -> None:
        """Close the file; later records are dropped."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
        super().close()


ERASE = "\r\x1b[K"
"""Takes away the line in which a terminal's cursor stands."""


class BottomLine(Protocol):
    """What is kept below the log."""

    def text(self) -> str:
        """Return it as it is to be shown now: shorter than the terminal is wide, without a line end."""


class SafeStreamHandler(logging.Handler):
    """Writes to stdout and gives up quietly once nobody reads it any more."""

    def __init__(self, stream: IO[str]) -> None:
        super().__init__()
        self.stream: Optional[IO[str]] = stream
        self.line: Optional[BottomLine] = None
        """A line that is kept below the log; on terminals only."""
        self.set_name(STREAM_HANDLER)

    def emit(self, record: logging.LogRecord) -> None:
        """Write and flush the record; a line that stdout refuses is in pilotlog.txt."""
        if self.stream is None:
            return
        try:
            self.write(self.format(record) + "\n", self.line)
        except (OSError, ValueError) as exc:  # ValueError: the stream was closed
            if isinstance(exc, ValueError) or exc.errno in (errno.EPIPE, errno.EBADF, errno.EIO):
                self.stream = None

    def write(self, text: str, line: Optional[BottomLine]) -> None:
        """Write text where ``line`` is, and the line again below it, in one piece; raises OSError or ValueError."""
        if self.stream is None:
            return
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        text = text.encode(encoding, "backslashreplace").decode(encoding)
        self.stream.write(f"{ERASE}{text}{line.text()}" if line is not None else text)
        self.stream.flush()

    def flush(self) -> None:
        """Hand buffered lines to the operating system."""
        try:
            if self.stream is not None:
                self.stream.flush()
        except (OSError, ValueError):
            return  # full disk or closed stream: as in emit


def _open_log(path: Path, flags: int = 0) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | flags, 0o644)


def setup_logging(path: Optional[Path], debug: bool = False, stdout: bool = True, structured: bool = False) -> None:
    """Send the log to ``path`` (None: no file, as for ``--no-pilot-log``) and to stdout; replaces an earlier set-up.

    A log file that cannot be opened is said on stdout and done without.

    Args:
        path: the pilot log; an existing file is continued, never truncated.
        debug: level DEBUG and the long format (``-d``), else INFO.
        stdout: also write to ``sys.stdout``.
        structured: lines of JSON (``--log-format json``) in the place of the classic ones.
    """
    logging.raiseExceptions = False
    root = logging.getLogger()
    for old in (STREAM_HANDLER, FILE_HANDLER, JOB_HANDLER):
        for handler in [item for item in root.handlers if item.get_name() == old]:
            root.removeHandler(handler)
            handler.close()
    root.setLevel(logging.DEBUG if debug else logging.INFO)
    for name in _NOISY_LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)
    handlers: list[logging.Handler] = [SafeStreamHandler(sys.stdout)] if stdout and sys.stdout is not None else []
    problem = ""
    if path is not None:
        try:
            handlers.append(PilotLogHandler(Path(os.path.abspath(path))))
        except OSError as exc:
            problem = f"cannot write {path} ({exc.strerror}): the log goes to stdout only"
    has_file = len(handlers) > 0 and isinstance(handlers[-1], PilotLogHandler)
    for handler in handlers:
        handler.setFormatter(_formatter(structured, debug, debug or not has_file or handler is handlers[-1]))
        root.addHandler(handler)
    _job_log.reset()
    _description.clear()
    if problem:
        logger.warning(problem)


def _formatter(structured: bool, debug: bool, tracebacks: bool) -> PilotFormatter:
    if structured:
        from pilot.util.jsonlog import JsonFormatter

        return JsonFormatter(tracebacks)
    return PilotFormatter(DEBUG_FORMAT if debug else INFO_FORMAT, tracebacks)


_description: dict[str, object] = {}


def describe_pilot(**fields: object) -> None:
    """Say in a structured log once, not on each line, whose log it is; each new log file repeats it after its banner.

    The classic log has the same in its first lines, as text.
    """
    _description.update(fields)
    _log_description()


def _log_description() -> None:
    if _description:
        logger.info("about this log: %s", _description, extra={"fields": _description})


def redirect_stdout(path: str) -> None:
    """Replace ``sys.stdout`` by the file ``path`` (``--redirect-stdout``); call it before ``setup_logging``.

    A file that cannot be opened is said on stderr; stdout then stays what it is.
    """
    try:
        sys.stdout = open(path, "a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115 - open until the end
    except OSError as exc:
        sys.stderr.write(f"pilot.py: --redirect-stdout {path}: {exc.strerror}; stdout is not redirected\n")


class _JobLog:
    """Which job the present pilot log belongs to, where the logs of the others are, and which of those still grow."""

    def __init__(self) -> None:
        self.kept: dict[str, Path] = {}
        self.lock = Lock()
        self.reset()

    def reset(self) -> None:
        """Begin anew with the next job."""
        self.jobid = self.ended = owners.present = ""
        owners.others = frozenset()
        self.has_name = False
        """The present log has its job's name beside ``pilotlog.txt``."""
        self.growing: dict[str, PilotLogHandler] = {}


_job_log = _JobLog()


def start_job_log(jobid: str, overlapping: bool = False) -> None:
    """Begin the log of a job: the log of the job before it is kept as ``pilotlog-<its id>.txt``.

    The first job's log goes on in the file that has the start-up lines. From the second on, the log starts fresh with
    the banner (the reference truncates the file here).

    Args:
        jobid: PandaID.
        overlapping: the job before may not be over (pipelining): until ``end_job_log`` its lines go to its own file,
            and the new log has the name ``pilotlog-<id>.txt``, too, so that nobody meets it under a changing name.
    """
    handler = _file_handler()
    owners.work_for(jobid)
    with _job_log.lock:
        previous = _job_log.jobid
        _job_log.jobid = owners.present = jobid
        if handler is None or previous == jobid:
            return
        if previous:
            kept = _job_log.kept[previous] if _job_log.has_name else _free_name(handler.path, previous)
            try:
                old = handler.switch(None if _job_log.has_name else kept)
            except OSError as exc:
                logger.warning("the log of job %s is not kept apart (%s): this file continues it", previous, exc)
                _job_log.has_name = False
                return
            _job_log.kept[previous] = kept
            if overlapping and previous != _job_log.ended:
                _let_grow(PilotLogHandler(kept, old, previous), previous)
            else:
                os.close(old)
        _job_log.has_name = overlapping and _give_name(handler.path, jobid)
    if previous:
        log_banner()
        logger.info("the log of the previous job %s is in %s", previous, kept.name)


def _let_grow(handler: PilotLogHandler, jobid: str) -> None:
    present = _file_handler()
    handler.setFormatter(present.formatter if present is not None else None)
    _job_log.growing[jobid] = handler
    owners.others = frozenset(_job_log.growing)
    logging.getLogger().addHandler(handler)


def _give_name(path: Path, jobid: str) -> bool:
    name = _free_name(path, jobid)
    try:
        os.link(path, name)
    except OSError as exc:  # no hard links here: it gets its name when the next job comes
        logger.debug("the log has no second name: %s", exc)
        return False
    _job_log.kept[jobid] = name
    return True


def end_job_log(jobid: str) -> None:
    """The job is over: its log grows no more."""
    with _job_log.lock:
        _job_log.ended = jobid
        handler = _job_log.growing.pop(jobid, None)
        owners.others = frozenset(_job_log.growing)
    if handler is not None:
        logging.getLogger().removeHandler(handler)
        handler.close()


def job_log_path(jobid: str) -> Optional[Path]:
    """Return the file with the log of ``jobid``: its own, else the present pilot log; None without a log file."""
    with _job_log.lock:
        if jobid in _job_log.kept:
            return _job_log.kept[jobid]
    handler = _file_handler()
    return handler.path if handler is not None else None


def stream_handler() -> Optional[SafeStreamHandler]:
    """Return what writes the log to stdout, None when nothing does."""
    found = (item for item in logging.getLogger().handlers if item.get_name() == STREAM_HANDLER)
    return next((item for item in found if isinstance(item, SafeStreamHandler)), None)


def touch_log() -> None:
    """Renew the pilot log's modification time."""
    handler = _file_handler()
    if handler is not None:
        handler.touch()


def _file_handler() -> Optional[PilotLogHandler]:
    found = (item for item in logging.getLogger().handlers if item.get_name() == FILE_HANDLER)
    return next((item for item in found if isinstance(item, PilotLogHandler)), None)


def _free_name(path: Path, jobid: str) -> Path:
    stem = f"{path.stem}-{re.sub(r'[^A-Za-z0-9_.-]', '_', jobid)[:64]}"
    candidate, number = path.with_name(f"{stem}{path.suffix}"), 1
    while os.path.lexists(candidate):
        number += 1
        candidate = path.with_name(f"{stem}.{number}{path.suffix}")
    return candidate


def log_banner() -> None:
    """Log the banner, one record per line, so that every line of the log has the format."""
    for line in banner().splitlines():
        logger.info("%s", line)
    _log_description()


def banner() -> str:
    """Return the lines that open a log: version, virtual machine or not, operating system."""
    title = f"***  PanDA Pilot version {PILOT_VERSION}  ***"
    stars = "*" * len(title)
    lines = [stars, title, stars, ""]
    if "hypervisor" in _read("/proc/cpuinfo"):
        lines.append("pilot is running in a VM")
    lines.append("architecture information:")
    lines.append(_read("/etc/os-release").strip() or "unknown (no /etc/os-release)")
    lines.append(stars)
    return "\n".join(lines)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def log_fatal(line: str, exc: Optional[BaseException]) -> None:
    """Log the reason for the pilot's end, with the traceback in the log file only: the terminal gets one line."""
    root = logging.getLogger()
    exc_info = (type(exc), exc, exc.__traceback__) if exc else None
    record = root.makeRecord(__name__, logging.CRITICAL, __file__, 0, line, (), exc_info, "log_fatal")
    for handler in root.handlers:
        if isinstance(handler, PilotLogHandler):
            handler.handle(record)


def close_stdout_safely() -> None:
    """Flush stdout for the last time; if that fails, keep the interpreter from failing over it at exit (code 120)."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):
        _silence(1)
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
    except (OSError, ValueError):
        _silence(2)


def _silence(descriptor: int) -> None:
    try:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, descriptor)
        os.close(devnull)
    except OSError:
        return  # not even /dev/null: nothing more can be done on the way out
