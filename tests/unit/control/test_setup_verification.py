"""When the set-up of a payload is tried first, and which time counts as set-up (pilots: test_payload_containers.py)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import pytest

from pilot.control.plan import PayloadPlan
from pilot.control.verification import _strict, _wanted, note_setup_end
from pilot.info.job import Job
from pilot.info.payloadtask import PayloadCommand, PayloadTask
from pilot.info.queuedata import QueueData
from pilot.options import Options
from pilot.settings import default_settings
from pilot.user.base import Experiment


def plan(tmp_path: Path, command: PayloadCommand, queue: Optional[QueueData] = None) -> PayloadPlan:
    task = PayloadTask(job=Job("1", workdir=tmp_path), queue=queue or QueueData(name="Q"), options=Options(),
                       settings=default_settings(), environ={}, home=tmp_path, parameters="", transformation=str,
                       download=str)
    return PayloadPlan(task, command, command)


class Stamped(Experiment):
    """Says when set-up has ended."""

    def __init__(self, wanted: bool = True, end: Optional[float] = None) -> None:
        self.wanted, self.end, self.head = wanted, end, ""

    def verifies_setup(self, job: Job, queue: QueueData) -> bool:
        return self.wanted

    def setup_end(self, task: PayloadTask, command: PayloadCommand, head: str) -> Optional[float]:
        self.head = head
        return self.end


def context(experiment: Experiment, **settings: Any) -> Any:
    return SimpleNamespace(experiment=experiment, settings=default_settings(**settings))


@pytest.mark.parametrize("experiment", [True, False])
@pytest.mark.parametrize("setting", [True, False])
@pytest.mark.parametrize("queue", [True, False, None])
def test_who_decides(tmp_path: Path, experiment: bool, setting: bool, queue: Optional[bool]) -> None:
    raw = {"nickname": "Q", "params": {} if queue is None else {"verify_setup": queue}}
    asked = plan(tmp_path, PayloadCommand("x"), QueueData.from_raw(raw))
    answer = _wanted(context(Stamped(experiment), **{"jobs.verify_setup": setting}), asked)
    assert answer is (experiment and (setting if queue is None else queue))


@pytest.mark.parametrize("after, payload, setup", [
    (None, 10.0, 1.0), (3.0, 7.0, 4.0), (0.0, 10.0, 1.0), (-0.5, 10.0, 1.0), (10.4, 0.0, 11.0), (-5.0, 10.0, 1.0),
    (12.0, 10.0, 1.0)])
def test_the_time_of_set_up(tmp_path: Path, after: Optional[float], payload: float, setup: float) -> None:
    made = plan(tmp_path, PayloadCommand("x"))
    job = made.task.job
    job.timing.wall["payload"] = 1000.0
    job.timing.spans.update(payload=10.0, setup=1.0)
    (tmp_path / "payload.stdout").write_bytes(b"\xff line\n" * 80)
    experiment = Stamped(end=None if after is None else 1000.0 + after)
    note_setup_end(context(experiment), made)
    assert (job.timing.spans["payload"], job.timing.spans["setup"]) == (pytest.approx(payload), pytest.approx(setup))
    assert experiment.head.count("line") == 50


@pytest.mark.parametrize("name", ["missing", "fifo", "directory", "link"])
def test_output_that_is_none(tmp_path: Path, name: str) -> None:
    import os

    path = tmp_path / "payload.stdout"
    if name == "fifo":
        os.mkfifo(path)
    elif name == "directory":
        path.mkdir()
    elif name == "link":
        path.symlink_to("/etc/passwd")
    made, experiment = plan(tmp_path, PayloadCommand("x")), Stamped()
    made.task.job.timing.wall["payload"] = 1000.0
    note_setup_end(context(experiment), made)
    assert experiment.head.strip() == ""


def test_what_is_tried(tmp_path: Path) -> None:
    bare = PayloadCommand(
        "export A=1;source asetup x;./run", setup="export A=1;source asetup x;", asetup="source asetup x;")
    outside = plan(tmp_path, bare)
    assert _strict(outside) == "export A=1;source asetup x || exit $?;"
    inside = replace(outside, command=replace(bare, line="in a container"))
    assert _strict(inside) == "export A=1;source asetup x;", "that of the container's release file counts"
    assert _strict(plan(tmp_path, PayloadCommand("a; ./run", setup="a"))) == "a;"
