"""The report that another process makes for a dead pilot's job names the same root cause as the pilot would have."""

from __future__ import annotations

from pathlib import Path

from pilot.common.errors import ErrorList
from pilot.store.pilotdb import PilotDB
from pilot.workflow.leftovers import _abandoned_report


def test_ranks_who_and_advice_survive_the_pilot(tmp_path: Path) -> None:
    store = PilotDB(tmp_path / "pilot.db")
    store.add_job("77", 1, "token", 1.0, "{}", "Reco_tf.py")
    store.set_job("77", exit_code=1)
    errors = ErrorList()
    errors.add(1098, "No space left on device", rank=6)
    errors.add(1211, "sh: setup.sh: No such file or directory")
    errors.add(1305, "exit code 1", who="site", retry="elsewhere")
    for error in errors:
        store.add_error("77", error)
    store.close()
    again = PilotDB(tmp_path / "pilot.db")
    report = _abandoned_report(again, again.jobs()[0], "the pilot died", 1201)
    assert (report["pilotErrorCode"], report["pilotErrorDiag"]) == errors.reported()
    assert report["pilotErrorCode"] == 1211 and report["transExitCode"] == 1
