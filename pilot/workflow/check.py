"""--check: does this node have what a pilot needs? One line per check; the worst decides the exit code."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Callable

from pilot.common.errorcodes import shell_exit_code
from pilot.common.exception import PilotException
from pilot.option_rules import server_base_url
from pilot.options import Options
from pilot.panda.credentials import Credentials
from pilot.panda.server import PandaServer, user_agent
from pilot.settings import Settings
from pilot.util.space import free_space
from pilot.version import PILOT_VERSION

Finding = tuple[str, int, str]
"""What was looked at, pilot error code (0 = good), text."""


def run_checks(options: Options, settings: Settings, say: Callable[[str], None]) -> int:
    """Run all checks; returns the shell exit code of the first one that failed, 0 when none did."""
    worst = 0
    for what, code, text in _checks(options, settings):
        say(f"{'ok  ' if code == 0 else 'FAIL'} {what}: {text}")
        worst = worst or code
    return shell_exit_code(worst)


def _checks(options: Options, settings: Settings) -> Iterator[Finding]:
    yield "python", 0 if sys.version_info >= (3, 9) else 1342, f"{sys.version.split()[0]} ({sys.executable})"
    for name in ("requests", "psutil", "yaml"):
        try:
            module = importlib.import_module(name)
            yield name, 0, str(getattr(module, "__version__", "present"))
        except ImportError as exc:
            yield name, 1342, f"{exc}: install it, or set up a Python that has it"
    free, need = free_space(Path.cwd(), os.environ), settings.pilot.free_space_limit
    good = free is None or free > need
    yield "local space", 0 if good else 1098, f"{free} B free in {Path.cwd()}, {need} B needed"
    writable = os.access(".", os.W_OK)
    yield "work directory", 0 if writable else 1199, f"{Path.cwd()} is {'' if writable else 'NOT '}writable"
    credentials = Credentials.from_environment(options)
    identity = "OIDC token" if credentials.token() else credentials.proxy() or "none (plain http or anonymous TLS only)"
    yield "identity", 0, identity
    yield "CA directory", 0, credentials.ca_path() or "none: the certificates of the Python installation"
    yield _server(options, settings, credentials)
    if options.queue:
        yield _queue(options, settings, credentials)


def _queue(options: Options, settings: Settings, credentials: Credentials) -> Finding:
    from pilot.info.config import SourceConfig
    from pilot.info.infoservice import InfoService
    from pilot.util.fetch import fetch

    with TemporaryDirectory() as cache:  # a check leaves no files
        source = SourceConfig.from_settings(settings, options=options, pilot_home=Path(cache), launch_dir=Path.cwd())
        verify = (credentials.ca_path() or True) if settings.server.verify_tls else False
        try:
            service = InfoService(replace(source, budget=0.0), fetcher=partial(fetch, verify=verify))
            queue = service.load_queue(options.queue)
        except PilotException as exc:
            return "queue", exc.code, exc.detail
    refusal = queue.refusal()
    return ("queue", *refusal) if refusal else ("queue", 0, f"{queue.name}: {queue.state}, {queue.status}")


def _server(options: Options, settings: Settings, credentials: Credentials) -> Finding:
    url = server_base_url(options, settings)
    try:
        alive = PandaServer(url, settings, credentials=credentials, user_agent=user_agent(PILOT_VERSION)).is_alive()
    except PilotException as exc:
        return "PanDA server", 1318, f"{url}: {exc.detail}"
    return "PanDA server", 0 if alive else 1318, f"{url} {'answers' if alive else 'gives no proper answer'}"
