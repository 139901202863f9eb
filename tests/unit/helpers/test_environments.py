"""A pilot that lives for days does not keep the environments of all its jobs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pilot.util import helper
from pilot.util.cancel import CancelToken


def test_environments_of_long_ago_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helper, "FORGOTTEN", 0.0)
    pool = helper.HelperPool(tmp_path)
    for number in range(5):
        with pool.session():
            assert pool.missing("crash", {**os.environ, "PANDAID": str(number)}, CancelToken()) == ""
    assert len(pool._slots) == 1
