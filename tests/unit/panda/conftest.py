"""Fixtures of the PanDA server's unit tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Callable

import pytest
from panda_wire import Step, WireServer

from pilot.panda.credentials import Credentials
from pilot.panda.server import PandaServer
from pilot.settings import default_settings


@pytest.fixture
def wire() -> Iterator[Callable[..., WireServer]]:
    """Makes servers that play the given steps."""
    servers: list[WireServer] = []

    def make(*steps: Step, **options: Any) -> WireServer:
        servers.append(WireServer(*steps, **options))
        return servers[-1]

    yield make
    for server in servers:
        server.__exit__()


@pytest.fixture
def connect() -> Callable[..., PandaServer]:
    """Makes clients of a wire server; keywords ``section.key`` go to the settings as ``server__key``."""

    def make(server: WireServer, dialect: str = "auto", environ: Any = None, **server_settings: Any) -> PandaServer:
        settings = default_settings(**{f"server.{key}": value for key, value in server_settings.items()})
        credentials = Credentials(environ=environ if environ is not None else {})
        return PandaServer(
            server.url, settings, credentials=credentials, user_agent="pilot/2.13 (Python 3; L x)", dialect=dialect
        )

    return make
