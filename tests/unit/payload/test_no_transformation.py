"""A job whose parameters are the whole command (noExecStrCnv)."""

from __future__ import annotations

from pathlib import Path

import pytest

from pilot.common.exception import PilotException
from pilot.info.job import Job
from pilot.payload.command import resolve_transformation


def nothing(_url: str) -> bytes:
    raise AssertionError("nothing is to be downloaded")


def test_the_parameters_are_the_command(tmp_path: Path) -> None:
    job = Job("7", noexecstrcnv=True, jobparams="source setup.sh; run --all")
    assert resolve_transformation(job, tmp_path, (), nothing, environ={}) == ""


def test_without_the_flag_a_transformation_is_needed(tmp_path: Path) -> None:
    with pytest.raises(PilotException) as caught:
        resolve_transformation(Job("7", jobparams="run"), tmp_path, (), nothing, environ={})
    assert caught.value.code == 1346
