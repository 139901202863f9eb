"""The commands beside running a pilot: --recover, --status, --report, --check. None needs a queue or an experiment."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Optional, TypeVar

from pilot.common.errorcodes import shell_exit_code
from pilot.option_rules import server_base_url, traces_wanted
from pilot.options import Options
from pilot.panda.credentials import Credentials
from pilot.panda.server import PandaServer, user_agent
from pilot.settings import Settings
from pilot.store.pilotdb import PilotDB
from pilot.store.place import owner_lives
from pilot.version import PILOT_VERSION
from pilot.workflow.leftovers import find_databases, recover_database

if TYPE_CHECKING:
    from pilot.control.traces import TracePost

# How long --recover repeats a delivery that fails: somebody is waiting at the terminal.
_RECOVER_PATIENCE = 120.0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _searched(directory: str) -> tuple[list[Path], int]:
    """Return the databases below ``directory`` after saying where was looked, and the exit code when there are none."""
    place = Path(directory or ".").absolute()
    _say(f"searched: {place} and {place}/PanDA_Pilot*/")
    if not place.is_dir():
        sys.stderr.write(f"pilot.py: {place} is not a directory\n")
        return [], shell_exit_code(1103)
    found = find_databases(place)
    if not found:
        _say("no PilotDB found")
    return found, 0


def _server_factory(options: Options, settings: Settings) -> Callable[[str], PandaServer]:
    def make(stored: str) -> PandaServer:
        url = server_base_url(options, settings) if options.url or not stored else stored
        credentials = Credentials.from_environment(options)
        return PandaServer(url, settings, credentials=credentials, user_agent=user_agent(PILOT_VERSION))

    return make


def _trace_factory(options: Options, settings: Settings) -> Optional[Callable[[], TracePost]]:
    from pilot.control.traces import TracePost, usable_url

    if not (traces_wanted(options, os.environ) and usable_url(settings.rucio.url)):
        return None

    def make() -> TracePost:
        return TracePost(settings, Credentials.from_environment(options))

    return make


def run_recover(options: Options, settings: Settings) -> int:
    """Deliver what killed pilots have left; 0 when nothing is left, 79 when a report could not be delivered."""
    found, code = _searched(options.recover or "")
    left = 0
    make_server = _server_factory(options, settings)
    post_traces = _trace_factory(options, settings)
    for path in found:
        patience = min(_RECOVER_PATIENCE, settings.server.final_patience)
        result = recover_database(path, make_server, settings, patience=patience, post_traces=post_traces)
        if result.owner_alive:
            _say(f"{path}: its pilot is alive and delivers its reports itself")
            continue
        for job_id in result.abandoned:
            _say(f"{path}: job {job_id} had no final report: reported as failed")
        problem = f"; {result.problem}" if result.problem else ""
        _say(f"{path}: {result.delivered} report(s) delivered, {result.left} left{problem}")
        if result.traces or result.traces_left:
            problem = f"; {result.trace_problem}" if result.trace_problem else ""
            _say(f"{path}: {result.traces} trace(s) delivered, {result.traces_left} left{problem}")
        left += result.left
    return shell_exit_code(1318) if left else code


def run_status(options: Options, settings: Settings) -> int:
    """Print what the pilots of a directory are doing, or did."""
    from pilot.report.status import status_document, status_text

    if options.json:
        import json

        place = Path(options.status or ".").absolute()
        documents = [_with_store(path, status_document) for path in find_databases(place)]
        _say(json.dumps({"searched": str(place), "databases": documents}, indent=1))
        return 0 if place.is_dir() else shell_exit_code(1103)
    found, code = _searched(options.status or "")
    for path in found:
        _say(f"\n{path}")
        _say(_with_store(path, status_text))
    return code


def run_report(options: Options, settings: Settings) -> int:
    """Write one HTML page per job beside each database and print the paths."""
    from pilot.report.html import job_page
    from pilot.report.tails import job_logs

    found, code = _searched(options.report or "")
    payload = settings.payload

    def write(store: PilotDB, _alive: bool) -> str:
        lines = [f"{store.path} cannot be read: {store.problem}"] if store.problem else []
        for job in store.jobs():
            home = Path(str(store.path)).parent
            page = home / f"job-{_file_name(job.job_id)}.html"
            logs = job_logs(home, job, settings.pilot.pilotlog, (payload.payloadstdout, payload.payloadstderr))
            page.write_text(job_page(store, job, logs), encoding="utf-8", errors="replace")
            lines.append(str(page))
        return "\n".join(lines) or "no jobs"

    for path in found:
        try:
            _say(_with_store(path, write))
        except OSError as exc:
            sys.stderr.write(f"pilot.py: the report could not be written: {exc}\n")
            code = shell_exit_code(1303) or code
    return code


def _file_name(job_id: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in job_id)[:64]


_View = TypeVar("_View")


def _with_store(path: Path, view: Callable[[PilotDB, bool], _View]) -> _View:
    """Run ``view`` on a copy of a database, whoever owns it."""
    alive = owner_lives(path)
    store = PilotDB(path, read_only=True)
    try:
        return view(store, alive)
    finally:
        store.close()


def run_check(options: Options, settings: Settings) -> int:
    """Check what a pilot needs on this node and print a line each; 0 when all is well."""
    from pilot.workflow.check import run_checks

    return run_checks(options, settings, _say)
