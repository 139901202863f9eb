"""The pilot's pulse on made-up clocks, the pilot heartbeat file, and the kill file that nobody can remove."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from pilot.control.watch.heartbeatfile import HeartbeatFile
from pilot.monitoring import killfile
from pilot.monitoring.checks import Ends, FileLook
from pilot.monitoring.killfile import KillFileCheck
from pilot.monitoring.pulse import Pulse
from pilot.monitoring.workdir import WorkdirView


class Clocks:
    def __init__(self) -> None:
        self.monotonic, self.asleep, self.wall = 100.0, 0.0, 1_760_000_000.0

    def pulse(self, threshold: float = 600.0) -> Pulse:
        return Pulse(threshold, monotonic=lambda: self.monotonic, boot=lambda: self.monotonic + self.asleep,
                     wall=lambda: self.wall)

    def go(self, seconds: float) -> None:
        self.monotonic += seconds
        self.wall += seconds


def test_regular_beats_are_no_suspension() -> None:
    clocks = Clocks()
    pulse = clocks.pulse()
    for seconds in (10, 61, 599, 600):
        clocks.go(seconds)
        assert pulse.beat() == (0.0, 0.0)
    assert pulse.suspended == 0


def test_a_stopped_pilot_and_its_file(tmp_path: Path) -> None:
    clocks = Clocks()
    pulse = clocks.pulse()
    keeper = HeartbeatFile(tmp_path / "pilot_heartbeat.json", pulse, 60)
    clocks.go(61)
    keeper.look()
    path = tmp_path / "pilot_heartbeat.json"
    assert json.loads(path.read_text()) == {
        "max_diff_time": 61, "last_pilot_update": 1_760_000_061, "time_since_detection": 0}
    clocks.go(5000)
    before = clocks.monotonic
    keeper.look()
    assert json.loads(path.read_text()) == {
        "max_diff_time": 5000, "last_pilot_update": 1_760_005_061, "time_since_detection": 5000}
    assert pulse.suspended_before(before - 1) == 0 and pulse.suspended_before(before) == 5000
    assert pulse.read() == 5000  # by the looping check, once
    clocks.go(60)
    keeper.look()
    assert json.loads(path.read_text())["time_since_detection"] == 0
    assert pulse.read() == 5000
    assert list(tmp_path.iterdir()) == [path]


def test_a_sleeping_machine_is_said_and_costs_no_monotonic_time(caplog: Any) -> None:
    clocks = Clocks()
    pulse = clocks.pulse()
    clocks.asleep += 7200
    clocks.wall += 7200
    assert pulse.beat() == (0.0, 7200.0)
    assert pulse.suspended == 0 and pulse.document()["time_since_detection"] == 7200
    assert "the machine has slept" in caplog.text and "was set" not in caplog.text


@pytest.mark.parametrize(("step", "word"), [(3600, "forward"), (-3600, "back")])
def test_a_clock_that_is_set_is_said_and_is_no_suspension(caplog: Any, step: float, word: str) -> None:
    clocks = Clocks()
    pulse = clocks.pulse()
    clocks.wall += step
    clocks.go(10)
    assert pulse.beat() == (0.0, 0.0)
    assert f"was set {word} by 3600 s" in caplog.text


def test_a_heartbeat_file_that_cannot_be_written_is_said_once(tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "hb.json").mkdir()
    (tmp_path / "hb.json" / "x").touch()
    keeper = HeartbeatFile(tmp_path / "hb.json", Clocks().pulse(), 60)
    keeper.look()
    keeper.look()
    assert caplog.text.count("cannot be written") == 1


def test_a_link_in_the_place_of_the_heartbeat_file_is_replaced_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in ("hb.json", "hb.json.part"):
        (tmp_path / name).symlink_to(victim)
    HeartbeatFile(tmp_path / "hb.json", Clocks().pulse(), 60).look()
    assert victim.read_text() == "precious" and json.loads((tmp_path / "hb.json").read_text())


# --- kill file --------------------------------------------------------------------------------------------------------


def look(elapsed: Any = 10.0) -> FileLook:
    return FileLook(1000.0, 1_760_000_000.0, elapsed, WorkdirView(), None)


def test_it_counts_while_a_payload_runs_only(tmp_path: Path) -> None:
    path = tmp_path / "kill"
    check = KillFileCheck(path, 60)
    assert check.look(look()) is None
    path.touch()
    assert check.look(look(None)) is None and path.exists()
    breach = check.look(look())
    assert breach is not None and breach.ends is Ends.PAYLOAD and str(path) in breach.text
    assert not path.exists() and check.look(look()) is None


def test_one_that_cannot_be_removed_ends_one_payload_only(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "kill"
    path.touch()

    def refuse(_path: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(killfile.os, "unlink", refuse)
    assert KillFileCheck(path, 60).look(look()) is not None
    assert KillFileCheck(path, 60).look(look()) is None  # of the next job
    os.utime(path, (1, 1))  # somebody has touched it again: a new order
    assert KillFileCheck(path, 60).look(look()) is not None


def test_a_long_start_is_no_suspension() -> None:
    clocks = Clocks()
    pulse = clocks.pulse()
    clocks.go(3600)
    pulse.begin()
    clocks.go(10)
    assert pulse.beat() == (0.0, 0.0)


def test_a_quiet_pilot_keeps_its_log_young(tmp_path: Path) -> None:
    """The wrapper ends a pilot whose log is an hour old."""
    from pilot.util import logs

    log, root = tmp_path / "pilotlog.txt", logging.getLogger()
    level, raising, others = root.level, logging.raiseExceptions, list(root.handlers)
    logs.setup_logging(log, stdout=False)
    try:
        os.utime(log, (1, 1))
        HeartbeatFile(tmp_path / "hb.json", Clocks().pulse(), 60).look()
        assert log.stat().st_mtime > 1
    finally:
        for handler in [item for item in root.handlers if item not in others]:
            root.removeHandler(handler)
            handler.close()
        root.setLevel(level)
        logging.raiseExceptions = raising
