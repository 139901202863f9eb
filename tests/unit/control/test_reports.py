"""The join key of jobs and transfers in the job metrics: there when files were moved, and never cut off."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pilot.control.reports import heartbeat_message
from pilot.control.traces import usable_url
from pilot.info.job import Job
from pilot.settings import default_settings
from pilot.user.base import Experiment


class Chatty(Experiment):
    metrics = ""

    def job_metrics(self, job: Job, *, final: bool) -> str:
        return self.metrics


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(jobid="6000000001", attemptnr=3, workdir=tmp_path, has_transfers=True)


def metrics_of(job: Job, metrics: str = "", error: int = 0, environ: dict[str, str] | None = None) -> str:
    """``jobMetrics`` of an update, with an experiment that has metrics of its own."""
    experiment = Chatty()
    experiment.metrics = metrics
    ctx: Any = SimpleNamespace(
        environ=environ or {}, settings=default_settings(), experiment=experiment,
        queue=SimpleNamespace(resource="Q"), options=SimpleNamespace(version_tag="PR"), kubernetes=False,
        node=SimpleNamespace(host_name="wn1", cpu_consumption_unit=""),
        transfers=SimpleNamespace(error=lambda _job: error))
    return str(heartbeat_message(ctx, job, "running").get("jobMetrics", ""))


def test_a_job_with_transfers_names_what_their_ids_begin_with(job: Job) -> None:
    assert metrics_of(job) == "transferKey=6000000001.3"
    assert metrics_of(job, "leak=1.25 nEvents=7") == "leak=1.25 nEvents=7 transferKey=6000000001.3"


def test_a_job_without_transfers_has_the_experiments_metrics_only(job: Job) -> None:
    job.has_transfers = False
    assert metrics_of(job, "leak=1.25") == "leak=1.25"
    assert metrics_of(job) == ""


@pytest.mark.parametrize("length", range(440, 475, 7))
def test_many_metrics_do_not_push_the_join_key_out(job: Job, length: int) -> None:
    text = metrics_of(job, f"{'a' * length}=1 second=2 third=3 fourth=4")
    assert len(text) <= 500
    assert text.endswith(" transferKey=6000000001.3")
    assert all("=" in word for word in text.split()), "no word is cut in its middle"


def test_the_error_of_the_traces_is_a_number_from_whoever_knows_it(job: Job) -> None:
    note = job.workdir / "rucio_trace_error.txt"
    assert metrics_of(job, error=7).startswith("rucioTraceError=7 ")
    assert metrics_of(job, environ={"RUCIO_TRACE_ERROR": "22"}).startswith("rucioTraceError=22 ")
    note.write_text("28\n")
    assert metrics_of(job).startswith("rucioTraceError=28 ")
    for harmless in ("0", "", "leak=99 x", "٣", "-1"):
        note.write_text(harmless)
        assert metrics_of(job) == "transferKey=6000000001.3"
    note.unlink()
    os.mkfifo(note)
    assert metrics_of(job) == "transferKey=6000000001.3", "a FIFO of the payload holds nobody up"


@pytest.mark.parametrize(("url", "good"), [
    ("https://rucio-lb-prod.cern.ch/traces/", True), ("http://127.0.0.1:8080/traces/", True), ("rucio/traces/", True),
    ("", False), ("ftp://host/traces/", False), ("https://[broken/", False), ("https:///traces/", False),
    ("https://host:port/", False),
])
def test_only_a_url_that_can_be_used_makes_traces(url: str, good: bool) -> None:
    assert usable_url(url) is good
