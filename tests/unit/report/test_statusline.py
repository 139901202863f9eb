"""What the line on a terminal says: stage, payload, transfers with percent and rate; without a job, why not."""

from __future__ import annotations

import os
import pty
from pathlib import Path
from types import SimpleNamespace
from typing import Iterator

import pytest

from pilot.control.lifecycle import Stage
from pilot.store.pilotdb import PilotDB
from pilot.store.viewrows import Moving, Sample
from pilot.workflow.statusline import StatusLine


class Road:
    """Jobs and their stages."""

    def __init__(self, **stages: Stage) -> None:
        self.stages = stages

    def jobs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(jobid=name[1:]) for name in self.stages]

    def track(self, job_id: str) -> SimpleNamespace:
        return SimpleNamespace(state=SimpleNamespace(stage=self.stages[f"j{job_id}"]))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PilotDB]:
    made = PilotDB(tmp_path / "pilot.db")
    yield made
    made.close()


def words(store: PilotDB, road: Road) -> str:
    line = StatusLine(SimpleNamespace(store=store, road=road))  # type: ignore[arg-type]
    return " | ".join(line._jobs()) or line._without_job()


def test_transfers_come_with_percent_and_rate(store: PilotDB) -> None:
    copies = [Moving("stage-in", name, "rucio", 100.0, 110.0, done, total) for name, done, total in
              (("a.root", 420_000_000, 1_000_000_000), ("b.root", 0, 10), ("c.root", 5, 0))]
    store.set_progress("7", "stage-in", copies)
    said = words(store, Road(j7=Stage.STAGEIN))
    assert said == "job 7  stagein 0.0 s  a.root 42% (420 MB of 1.00 GB), 42.0 MB/s; b.root for 10 s; 1 more"
    store.set_progress("7", "stage-in", ())
    assert words(store, Road(j7=Stage.STAGEIN)) == "job 7  stagein 0.0 s"


def test_a_payload_comes_with_what_it_uses(store: PilotDB) -> None:
    store.add_sample("7", Sample(1.0, 390.0, 1.98, 1_200_000_000, 4))
    assert words(store, Road(j7=Stage.PAYLOAD)) == "job 7  payload 0.0 s  1.98 cores, CPU 6 min 30 s, RSS 1.20 GB"
    assert words(store, Road(j7=Stage.STAGEOUT, j8=Stage.STAGEIN)) == "job 7  stageout 0.0 s | job 8  stagein 0.0 s"


def test_without_a_job_it_says_what_is_waited_for(store: PilotDB) -> None:
    assert words(store, Road()) == "no job"
    store.set_status("getjob", "asking the server for a job")
    assert words(store, Road()) == "no job  asking the server for a job"


def test_names_of_strangers_cannot_steer_the_terminal(store: PilotDB) -> None:
    master, slave = pty.openpty()
    try:
        line = StatusLine(SimpleNamespace(store=store, road=Road()))  # type: ignore[arg-type]
        line._descriptor = slave
        store.set_progress("7", "stage-in", [Moving("stage-in", "\x1b[2J\nevil\u202e\u4e2d", "x", 1.0, 9.0, 0, 0)])
        line._ctx.road = Road(j7=Stage.STAGEIN)  # type: ignore[assignment]
        line.look()
        assert line.text() == r"job 7  stagein 0.0 s  \x1b[2J     evil\u202e? for 8.0 s"
    finally:
        os.close(master)
        os.close(slave)
