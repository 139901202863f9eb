"""The front door: options, settings, then the command that was asked for; no traceback ever reaches the terminal."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from pilot.common.errorcodes import ErrorCodes, process_exit_code, shell_exit_code
from pilot.common.exception import PilotException
from pilot.options import Options, parse_command_line
from pilot.settings import Settings, SettingsError, load_settings
from pilot.util.deferred import defer_import
from pilot.util.hardening import forbid_dumps, open_standard_descriptors, set_process_defaults
from pilot.version import PILOT_VERSION

__all__ = ["Options", "Settings", "SettingsError", "load_settings", "main", "parse_command_line"]

logger = logging.getLogger(__name__)

_CORE_DEPENDENCIES = ("requests", "psutil", "yaml")


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the pilot with ``argv`` (default: the process's arguments) and return the process exit code.

    Exit codes: cli-config section 7; 2 for a wrong command line, 65 for unusable settings, 70 for an error inside the
    pilot, 76 for a missing Python package, 130 for an interrupt before the signal handlers stand.
    """
    open_standard_descriptors()
    try:
        return _guarded(argv)
    finally:
        _flush_output()


def _guarded(argv: Optional[Sequence[str]]) -> int:
    try:
        return _run(argv)
    except SystemExit as exc:  # argparse: 0 after --help, 2 after an error
        return exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130
    except SettingsError as exc:
        for problem in exc.problems:
            _complain(f"settings: {problem}")
        return shell_exit_code(exc.code)
    except PilotException as exc:
        _complain(exc.full_text, exc)
        return process_exit_code(exc.code)
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in _CORE_DEPENDENCIES:
            return _internal_error(exc)
        _complain(f"{sys.executable} lacks the package {exc.name}: install it or set up a Python that has it")
        return shell_exit_code(ErrorCodes.MIDDLEWAREIMPORTFAILURE)
    except Exception as exc:  # noqa: BLE001 - the guard of the process: the unexpected becomes one line and code 70
        return _internal_error(exc)


def _run(argv: Optional[Sequence[str]]) -> int:
    options = parse_command_line(argv, os.environ)
    if options.version:
        sys.stdout.write(f"{PILOT_VERSION}\n")
        return 0
    # requests asks for its version (2.0 or newer, below 4.0); answers are decoded without it
    defer_import("charset_normalizer", "3.0.0")
    defer_import("importlib.metadata", functions=("version",))
    settings = load_settings(options, os.environ, experiment_settings_file(options.pilot_user))
    if options.runs_a_pilot:
        set_process_defaults()
        forbid_dumps()
        from pilot.workflow import start

        return start.run(options, settings)
    try:
        return _command(options, settings)
    except BrokenPipeError:  # pilot.py --status | head: the reader has seen enough
        return 0


def _command(options: Options, settings: Settings) -> int:
    from pilot.workflow import commands

    if options.recover is not None:
        return commands.run_recover(options, settings)
    if options.status is not None:
        return commands.run_status(options, settings)
    if options.report is not None:
        return commands.run_report(options, settings)
    return commands.run_check(options, settings)


def experiment_settings_file(pilot_user: str) -> Optional[Path]:
    """Return ``pilot/user/<name>/default.yaml`` of the experiment, None when it brings no settings of its own."""
    candidate = Path(__file__).parent / "user" / pilot_user.lower() / "default.yaml"
    return candidate if pilot_user and candidate.is_file() else None


def _internal_error(exc: BaseException) -> int:
    frame = exc.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    place = f" (at {Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno})" if frame else ""
    _complain(f"unexpected {type(exc).__name__}: {exc}{place}", exc)
    return shell_exit_code(ErrorCodes.UNKNOWNEXCEPTION)


def _complain(text: str, exc: Optional[BaseException] = None) -> None:
    """Write one line to stderr, and to the log, if there is one, with the traceback."""
    from pilot.util.redact import redact

    line = " ".join(redact(text).split())
    try:
        sys.stderr.write(f"pilot.py: {line}\n")
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass  # stderr is gone: there is nobody to tell
    if logging.getLogger().handlers:
        from pilot.util.logs import log_fatal

        log_fatal(line, exc)


def _flush_output() -> None:
    """Give stdout its last lines; a closed or full stdout must not change the exit code at interpreter shutdown."""
    from pilot.util.logs import close_stdout_safely

    close_stdout_safely()
