"""What holds for all tests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Generator

import pytest

_REAL = tuple(Path(__file__).parent / name for name in ("grid", "integration"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give tests with real processes, servers and clocks a second attempt: one in ten thousand meets a machine that
    stood still. The closing lines name each of them (``RERUN``); with ``PILOT_RERUNS=0`` there is none."""
    reruns = int(os.environ.get("PILOT_RERUNS", "1"))
    if reruns and config.pluginmanager.hasplugin("rerunfailures"):
        for item in items:
            if any(place in item.path.parents for place in _REAL):
                item.add_marker(pytest.mark.flaky(reruns=reruns))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Make captured text presentable: a worker of pytest-xdist dies of one that is not UTF-8, which some tests log."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report
