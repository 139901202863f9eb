"""--check: does this node have what a pilot needs? A table with cures; the first failure decides the exit code."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Callable, Optional

from pilot.common.errorcodes import process_exit_code
from pilot.common.exception import PilotException
from pilot.info.config import SourceConfig
from pilot.info.infoservice import InfoService
from pilot.option_rules import server_base_url
from pilot.options import Options
from pilot.panda.credentials import Credentials
from pilot.settings import Settings
from pilot.user import load_experiment
from pilot.user.base import Experiment
from pilot.util.bounded import TookTooLong, bounded
from pilot.util.cancel import CancelToken
from pilot.util.fetch import fetch
from pilot.util.redact import redact
from pilot.workflow.checks.base import Scene
from pilot.workflow.checks.runner import run_all
from pilot.workflow.checks.table import as_json, table, terminal_width

_DIRECTORY_TIME = 3.0


def run_checks(options: Options, settings: Settings, say: Callable[[str], None]) -> int:
    """Run all checks; returns the exit code of the first one that failed, 0 when none did."""
    logging.getLogger().addHandler(logging.NullHandler())  # what goes wrong stands in the table, and only there
    scene = _scene(options, settings)
    with TemporaryDirectory(prefix="pilot-check-", dir=_writable_place()) as cache:  # a check leaves no files
        scene.info = _info(scene, Path(cache))
        findings = [finding._replace(found=redact(finding.found)) for finding in run_all(scene)]
    code = next((process_exit_code(finding.code) for finding in findings if finding.code), 0)
    if options.json:
        say(as_json(findings, code))
    else:
        say(table(findings, width=terminal_width(), colours=sys.stdout.isatty() and "NO_COLOR" not in os.environ))
    return code


def _scene(options: Options, settings: Settings) -> Scene:
    experiment, trouble = _experiment(options, settings)
    return Scene(
        options=options, settings=settings, environ=dict(os.environ), credentials=Credentials.from_environment(options),
        server_url=server_base_url(options, settings), here=_work_place(options),
        limit=settings.limits.node_check_time, experiment=experiment, experiment_trouble=trouble)


def _experiment(options: Options, settings: Settings) -> tuple[Optional[Experiment], str]:
    if not options.pilot_user:
        return None, ""
    try:
        return load_experiment(options.pilot_user, settings.plugins.experiments), ""
    except PilotException as exc:
        return None, exc.detail


def _launch_directory() -> Path:
    """Return the current directory; when somebody has removed it, the name that it had."""
    try:
        return Path.cwd()
    except OSError:
        return Path(os.environ.get("PWD") or "/nonexistent")


def _work_place(options: Options) -> Path:
    """Return the launch directory; with ``-a`` the nearest directory above that one which is there: a pilot makes the
    rest. One that hangs is returned as it is: its checks will say so."""
    if not options.workdir:
        return _launch_directory()
    place = _launch_directory() / options.workdir

    def nearest() -> Path:
        return next((path for path in (place, *place.parents) if path.is_dir()), Path("/"))

    try:
        return bounded(nearest, _DIRECTORY_TIME, CancelToken(), "work-directory")
    except TookTooLong:
        return place


def _writable_place() -> Optional[str]:
    """Return where a cache can be kept for a moment; None = Python's choice: /tmp may be full."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _info(scene: Scene, cache: Path) -> InfoService:
    source = SourceConfig.from_settings(
        scene.settings, options=scene.options, environ=scene.environ, pilot_home=cache,
        launch_dir=_launch_directory())
    config = replace(source, budget=0.0, timeout=min(source.timeout, scene.limit * 0.8))

    def fetch_with_ca(url: str, *, timeout: float, token: CancelToken | None) -> bytes:
        # the CA directory may hang: it is looked for in the thread of a check, never in this one
        verify = (scene.credentials.ca_path() or True) if scene.settings.server.verify_tls else False
        return fetch(url, timeout=timeout, token=token, verify=verify)

    return InfoService(config, fetcher=fetch_with_ca, token=scene.token)
