"""Message broker: off by default and then not even imported; a missing library or server is said, and costs no job."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, Tuple

import pytest
from harness import HERE, ROOT, Farm


def library(directory: Path, text: str) -> Dict[str, str]:
    """An environment in which ``import stomp`` runs ``text``."""
    directory.mkdir()
    (directory / "stomp.py").write_text(text)
    return {"PYTHONPATH": f"{directory}:{HERE}:{ROOT}"}


def test_nothing_is_imported_unless_asked_for(farm: Farm, tmp_path: Path) -> None:
    job = farm.submit_job()
    pilot = farm.run_pilot(env=library(tmp_path / "library", "import os; os.write(2, b'IMPORTED')"))
    assert farm.final(job)["state"] == "finished"
    assert "IMPORTED" not in pilot.output and "message broker" not in pilot.output


def test_a_missing_library_is_named_and_the_pilot_goes_on(farm: Farm, tmp_path: Path) -> None:
    job = farm.submit_job()
    pilot = farm.run_pilot("--subscribe-to-msgsvc", env=library(tmp_path / "library", "raise ImportError('gone')"))
    assert pilot.process.returncode == 0 and farm.final(job)["state"] == "finished"
    assert "pip install 'panda-pilot[messaging]'" in pilot.output and "Traceback" not in pilot.output


@pytest.mark.parametrize("options", [("-z",), ("--harvester-submit-mode", "PUSH")])
def test_a_pilot_that_asks_no_server_does_not_listen(farm: Farm, tmp_path: Path, options: Tuple[str, ...]) -> None:
    env = {**library(tmp_path / "library", "import os; os.write(2, b'IMPORTED')"), "HARVESTER_ID": "h",
           "HARVESTER_WORKER_ID": "1"}
    pilot = farm.run_pilot("--subscribe-to-msgsvc", "-v", "1", *options, env=env)
    assert "--subscribe-to-msgsvc has no effect" in pilot.output and "IMPORTED" not in pilot.output
