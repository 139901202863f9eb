"""When a payload counts as looping: files, CPU, clocks that jump, suspensions; made-up looks, no waiting."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import pytest

from pilot.info.job import Job
from pilot.info.memory import FILES
from pilot.info.queuedata import QueueData
from pilot.monitoring.checks import FileLook
from pilot.monitoring.looping import (
    Idleness,
    LoopingRule,
    describe,
    looping_limit,
    newest_files,
    sign_of_life,
)
from pilot.monitoring.workdir import WorkdirView
from pilot.settings import Settings, load_settings
from pilot.user import load_experiment

HOUR = 3600.0
LIMIT = 2 * HOUR
EPOCH = 1_700_000_000.0


@dataclass
class World:
    """A payload, its files and the node's clocks; a look each minute."""

    rule: LoopingRule
    now: float = 1000.0
    offset: float = EPOCH
    began: float = 1000.0
    cpu: float = 0.0
    newest: float = 0.0
    path: str = ""
    running: bool = True
    found: Optional[Idleness] = None
    at: float = 0.0

    def touch(self, path: str = "out.txt") -> None:
        if self.now + self.offset > self.newest:  # as the tracker has it: it only grows
            self.newest, self.path = self.now + self.offset, path

    def look(self, suspended: float = 0.0) -> Optional[Idleness]:
        view = WorkdirView(self.now, 0, 1, self.newest, self.path, self.now)
        elapsed = self.now - self.began if self.running else None
        return self.rule.look(FileLook(self.now, self.now + self.offset, elapsed, view, None, self.cpu), suspended)

    def go(self, seconds: float, *, load: float = 0.0, touching: bool = False) -> World:
        """Let time pass; stops at a verdict."""
        until = self.now + seconds
        while self.now < until and self.found is None:
            self.now += 60.0
            self.cpu += load * 60.0
            if touching:
                self.touch()
            self.found, self.at = self.look(), self.now
        return self


def world(cores: int = 1, leave_by: float = float("inf"), stretch: float = 3.0) -> World:
    return World(LoopingRule(LIMIT, cores, after=900.0, stretch=stretch, leave_by=lambda: leave_by))


def test_no_file_and_no_cpu_is_looping_at_the_limit() -> None:
    case = world()
    case.go(HOUR, touching=True, load=1.0)
    silent = case.now
    case.go(9 * HOUR)
    assert case.found is not None and not case.found.busy
    assert case.found.allowed == LIMIT and LIMIT < case.at - silent <= LIMIT + 120


def test_never_touched_counts_from_the_start() -> None:
    case = world().go(9 * HOUR)
    assert case.found is not None and LIMIT < case.at - case.began <= LIMIT + 60


def test_files_that_change_keep_it_alive_without_any_cpu() -> None:
    assert world().go(48 * HOUR, touching=True).found is None


def test_a_busy_loop_gets_three_times_the_limit_and_no_more() -> None:
    case = world().go(48 * HOUR, load=1.0)
    assert case.found is not None and case.found.busy
    assert 3 * LIMIT < case.at - case.began <= 3 * LIMIT + 60


def test_one_busy_core_of_sixty_four_is_busy_and_less_than_one_percent_is_not() -> None:
    assert world(cores=64).go(LIMIT + HOUR, load=1.0).found is None
    case = world(cores=64).go(LIMIT + HOUR, load=0.6)
    assert case.found is not None and not case.found.busy


def test_cpu_before_the_silence_does_not_count() -> None:
    case = world()
    case.go(HOUR, load=8.0)  # busy, no file: then it hangs
    case.go(9 * HOUR)
    assert case.found is not None and not case.found.busy
    assert case.at - case.began <= HOUR + LIMIT + 300


def test_the_stretch_ends_before_the_pilot_has_to_leave() -> None:
    case = world(leave_by=1000.0 + 4 * HOUR).go(9 * HOUR, load=1.0)
    assert case.found is not None and LIMIT < case.at - case.began < 4 * HOUR


def test_little_time_left_never_shortens_the_limit_itself() -> None:
    assert world(leave_by=1000.0 + HOUR).go(LIMIT, load=1.0).found is None


def test_nothing_is_judged_before_the_verification_time() -> None:
    case = World(LoopingRule(60.0, 1, after=900.0, stretch=3.0))
    assert case.go(840).found is None
    assert case.go(120).found is not None


# --- clocks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [-HOUR, HOUR, -10 * HOUR, 10 * HOUR, 300 * HOUR])
def test_a_clock_that_is_set_neither_ends_a_good_payload_nor_saves_a_looping_one(step: float) -> None:
    case = world()
    case.go(HOUR, touching=True)
    silent = case.now
    case.go(1.5 * HOUR)
    case.offset += step
    assert case.look() is None
    case.go(9 * HOUR)
    assert case.found is not None and LIMIT < case.at - silent <= LIMIT + 60


def test_a_clock_set_back_does_not_hide_later_changes() -> None:
    case = world()
    case.go(HOUR, touching=True)
    case.offset -= HOUR
    case.go(20 * HOUR, touching=True)
    assert case.found is None


def test_a_date_in_the_future_counts_when_it_comes_up_and_never_again() -> None:
    case = world()
    case.go(HOUR)
    case.newest, case.path = EPOCH * 2, "from-a-tarball"
    assert case.look() is None
    seen = case.now
    case.go(9 * HOUR)
    assert case.found is not None and LIMIT < case.at - seen <= LIMIT + 60


def test_a_date_before_the_start_is_that_of_an_input() -> None:
    case = world()
    case.newest, case.path = EPOCH - 1e6, "input.root"
    case.go(9 * HOUR)
    assert case.found is not None and case.at - case.began <= LIMIT + 60


def test_a_suspension_does_not_count() -> None:
    case = world()
    case.go(HOUR, touching=True)
    silent = case.now
    case.go(HOUR)
    case.now += 10 * HOUR  # the monotonic clock runs on while the processes are stopped
    assert case.look(suspended=10 * HOUR) is None
    case.go(9 * HOUR)
    assert case.found is not None and LIMIT < case.at - silent - 10 * HOUR <= LIMIT + 120


def test_a_sleep_of_the_machine_does_not_count() -> None:
    case = world()
    case.go(HOUR, touching=True)
    case.offset += 10 * HOUR  # the monotonic clock stands still
    assert case.look() is None
    assert case.go(LIMIT - 120).found is None


def test_each_turn_of_a_payload_begins_anew() -> None:
    case = world()
    case.go(LIMIT - 120)
    case.running = False
    case.go(5 * HOUR)
    case.running, case.began = True, case.now
    assert case.go(LIMIT - 60).found is None
    assert case.go(HOUR).found is not None


# --- limits -----------------------------------------------------------------------------------------------------------


def settings(**values: object) -> Settings:
    return load_settings(None, {f"PANDA_PILOT_{key.upper()}": str(value) for key, value in values.items()})


USER = "https://pandaserver-doma.cern.ch/trf/user/runGen"


@pytest.mark.parametrize(("transformation", "queue", "own", "values", "expected", "origin"), [
    (USER, {}, {}, {}, 7200, "limits.looping_analysis"),
    ("Sim_tf.py", {}, {}, {}, 43200, "limits.looping_production"),
    ("Sim_tf.py", {"looping_limit": 10000}, {}, {}, 10000, "params.looping_limit of the queue"),
    ("Sim_tf.py", {"looping_limit": 10000}, {"loopingLimit": 20000}, {}, 20000, "loopingLimit of the job"),
    ("Sim_tf.py", {"looping_limit": 10000}, {"loopingLimit": "20000"}, {}, 20000, "loopingLimit of the job"),
    ("Sim_tf.py", {"looping_limit": 10000}, {"loopingLimit": [1]}, {}, 10000, "params.looping_limit of the queue"),
    ("Sim_tf.py", {"looping_limit": 60}, {}, {}, 7200, "pilot.looping_limit_min_default, above params.looping_limit"),
    (USER, {}, {}, {"limits__looping_analysis": 60}, 7200, "pilot.looping_limit_min_default"),
    ("Sim_tf.py", {}, {}, {"limits__looping_production": 0}, 7200, "pilot.looping_limit_default"),
    ("Sim_tf.py", {"looping_limit": -5}, {"loopingLimit": "-7"}, {}, 43200, "limits.looping_production"),
])
def test_where_the_limit_comes_from(transformation, queue, own, values, expected, origin) -> None:  # type: ignore
    job = Job(jobid="1", transformation=transformation, definition=own)
    data = QueueData.from_raw({"nickname": "Q", "params": queue})
    limit = looping_limit(job, data, settings(**values))
    assert limit.seconds == expected and limit.origin.startswith(origin)


def test_the_words_say_limit_origin_file_age_and_cpu() -> None:
    job = Job(jobid="1", transformation=USER)
    limit = looping_limit(job, QueueData(name="Q"), settings())
    text = describe(Idleness(7300, 7200, False, 0.4, 7200), limit, "payload.stdout", 7301, 12, 8)
    assert text == ("no file changed for 7300 s (limit 7200 s; limits.looping_analysis); newest of 12: payload.stdout,"
                    " 7301 s old; CPU 0.4 s in 7200 s on 8 cores")
    busy = describe(Idleness(22000, 21600, True, 7000, 7200), limit, "", 0, 3, 1)
    assert "x 3.0 as CPU is used" in busy and "none of 3 was written by it" in busy


# --- signs of life ----------------------------------------------------------------------------------------------------

PILOTS_OWN = (
    *FILES, "container_script.sh", "my_release_setup.sh", "PoolFileCatalog.xml", "pilotlog.txt", "panda_secrets.json",
    "setup.stdout", "setup.stderr", "payload_error_report.json", "stageinlog.txt", "stageoutlog.txt",
    "heartbeat.json", "pilot_heartbeat.json", "pilot_errors.json", "gdb_output.txt", ".gdb-x1/core.12", "core.12",
    "memorymonitor_stdout.txt", "memorymonitor_stderr.txt-1", "x509up_u1000-payload", "stagein_request.json",
    f"{FILES[1]}.part", "remotefileslog.txt", "stagein.py", "stageout_status.json", "pilot_timing.json",
)
USERS = (
    "payload.stdout", "payload.stderr", "run.py", "workDir/container_script.sh", "results/memory_monitor_output.txt",
    "my_pilotlog.txt", "mem.dat", "docs/notes.txt", "pandaJob.out", "core", "core.dat", "log.RAWtoALL",
    "coprocess_stdout.txt", "eventLoopHeartBeat.txt", "jobReport.json", "out.root", "setup.sh", "prmon", "a.lib.tgz",
)


def test_nothing_that_the_pilot_writes_is_a_sign_of_life() -> None:
    counts = sign_of_life(settings(), (), [Path("/w/x509up_u1000-payload")])
    assert [name for name in PILOTS_OWN if counts(name)] == []
    assert [name for name in USERS if not counts(name)] == []


@pytest.mark.parametrize(("experiment", "hidden", "alive"), [
    ("ATLAS", ("prmon.full.EVNTtoHITS", "sub/mem.summary.AODMerge.json", "prmon.summary.EVNTtoHITS.json"),
     ("run.py", "memory.dat", "pandaJob.out", "log.EVNTtoHITS", "mem.root", "DBRelease-100.tar.gz")),
    ("Rubin", ("memory_report.txt",), ("run.py",)),
    ("generic", (), ("memory_report.txt",)),
])
def test_patterns_of_experiments(experiment: str, hidden: tuple[str, ...], alive: tuple[str, ...]) -> None:
    counts = sign_of_life(settings(), load_experiment(experiment).looping_exclusions)
    assert [name for name in hidden if counts(name)] == []
    assert [name for name in alive if not counts(name)] == []


def test_the_newest_files_are_found_without_those_of_the_future(tmp_path: Path) -> None:
    for number, name in enumerate(("old", "young", "pilotlog.txt", "future")):
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, (0, EPOCH + number * 10))
    (tmp_path / "directory").mkdir()
    os.symlink("/nowhere", tmp_path / "link")
    os.utime(tmp_path / "link", (0, EPOCH - 9), follow_symlinks=False)
    found = newest_files(tmp_path, sign_of_life(settings()), EPOCH + 25)
    assert [(item.path, item.counts) for item in found[:3]] == [
        ("pilotlog.txt", False), ("young", True), ("old", True)]
    assert found[-1].path == "future"
    one = newest_files(tmp_path, sign_of_life(settings()), EPOCH + 25, 1)
    assert [item.path for item in one] == ["young"]
