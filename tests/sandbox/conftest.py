"""Fixtures of the sandbox tests: a running sandbox and a client of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Iterator

import pytest

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from sandbox_client import Client  # noqa: E402

from sandbox import Sandbox  # noqa: E402


@pytest.fixture
def box() -> Iterator[Sandbox]:
    with Sandbox(queues={"TEST_QUEUE": {"nickname": "TEST_QUEUE", "status": "online"}}) as running:
        yield running


@pytest.fixture
def client(box: Sandbox) -> Client:
    return Client(box)
