"""jobMetrics of ATLAS: the line through the memory, and files that a payload may have written badly."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
from atlas_tasks import spec

from pilot.info.job import Job
from pilot.info.memory import MemoryUse
from pilot.user.atlas import Atlas
from pilot.user.atlas.leak import MOST_POINTS, leak_fit, line_fit
from pilot.user.atlas.metrics import event_number, hs06, job_metrics, read_byte_rate

PRMON = ("Time\tnprocs\tpss\trss\tswap\tutime\n" + "".join(f"{60 * n}\t3\t{1000 + 120 * n}\t9\t{5}\t1\n"
                                                           for n in range(10)))


# --- the line ---------------------------------------------------------------------------------------------------------


def test_a_straight_line_is_found() -> None:
    fit = line_fit([0, 1, 2, 3], [5, 7, 9, 11])
    assert fit is not None and (round(fit.slope, 9), round(fit.intersect, 9), round(fit.chi2, 9)) == (2, 5, 0)


def test_chi2_is_relative_to_the_line() -> None:
    fit = line_fit([0, 1, 2], [1, 3, 2])  # y = 1.5 + 0.5 x
    assert fit is not None and (fit.slope, fit.intersect) == (0.5, 1.5)
    assert fit.chi2 == pytest.approx((0.5 / 1.5) ** 2 + (1 / 2) ** 2 + (0.5 / 2.5) ** 2)
    zero = line_fit([-1, 0, 1], [-1, 0, 1])
    assert zero is not None and zero.chi2 == 0


@pytest.mark.parametrize("points", [0, 1, 7])
def test_too_few_points_have_no_line(points: int) -> None:
    assert leak_fit(list(range(points)), list(range(points)), final=False) is None


def test_one_moment_has_no_line() -> None:
    assert leak_fit([5.0] * 20, [float(n) for n in range(20)], final=False) is None
    assert leak_fit([float(n) for n in range(8)], [1.0] * 8, final=True) is None  # one point is left


def test_start_and_end_are_left_out_of_the_last_report() -> None:
    x = [60.0 * n for n in range(20)]
    y = [100.0] * 5 + [1000.0 + 60 * n for n in range(5, 18)] + [10.0, 10.0]
    last = leak_fit(x, y, final=True)
    assert last is not None and last.slope == pytest.approx(1.0) and last.intersect == pytest.approx(1000)
    before = leak_fit(x, y, final=False)
    assert before is not None and before.intersect != pytest.approx(1000, rel=0.1)


@pytest.mark.parametrize("spoilt", [slice(0, 10), slice(290, 300)])
def test_long_series_lose_the_end_that_spoils_the_fit(spoilt: slice) -> None:
    dice = random.Random(7)
    x = [60.0 * n for n in range(300)]
    y = [2e6 + 0.5 * t + dice.uniform(-500, 500) for t in x]
    y[spoilt] = [5000.0] * 10
    fit = leak_fit(x, y, final=True)
    assert fit is not None and fit.slope == pytest.approx(0.5, rel=0.05) and fit.chi2 < 0.01
    whole = line_fit(x, y)
    assert whole is not None and whole.chi2 > 10 * fit.chi2


def test_a_perfect_long_series_and_a_huge_one() -> None:
    x = [float(n) for n in range(200)]
    perfect = leak_fit(x, [1000 + 2 * t for t in x], final=False)
    assert perfect is not None and perfect.slope == pytest.approx(2)
    many = [float(n) for n in range(40 * MOST_POINTS)]
    fit = leak_fit(many, [7.0 + t for t in many], final=True)
    assert fit is not None and fit.slope == pytest.approx(1)


# --- files ------------------------------------------------------------------------------------------------------------


def test_event_number(tmp_path: Path) -> None:
    path = tmp_path / "eventLoopHeartBeat.txt"
    assert event_number(tmp_path) == ""
    path.write_text("  ===>>>  done processing event #11, run #1 on slot 0\n ===>>> done processing event #12, run\n")
    assert event_number(tmp_path) == "12"
    path.write_bytes(b"x" * 10_000_000 + b"\n done processing event #7, run\n")
    assert event_number(tmp_path) == "7"
    path.write_text("nothing\n")
    assert event_number(tmp_path) == ""
    path.unlink()
    os.mkfifo(path)
    assert event_number(tmp_path) == ""
    path.unlink()
    path.symlink_to("/proc/self/mem")
    assert event_number(tmp_path) == ""


def test_hs06_of_the_jobs_cores(tmp_path: Path) -> None:
    (tmp_path / "total_cpu").write_text("8\n")
    (tmp_path / "hs06").write_text("99.5")
    assert hs06(2, {"MACHINEFEATURES": str(tmp_path)}) == "24.88"
    assert hs06(2, {}) == "" and hs06(2, {"MACHINEFEATURES": "http://x"}) == ""
    (tmp_path / "hs06").write_text("unknown")
    assert hs06(2, {"MACHINEFEATURES": str(tmp_path)}) == ""


def test_read_byte_rate_leaves_libraries_out() -> None:
    job = Job("1", indata=[spec("a.root", filesize=1000), spec("u.lib.tgz", filesize=10**9), spec("b", filesize=0)])
    assert read_byte_rate(job, MemoryUse(totals=(1, 2, 1500, 4))) == "1.50"
    assert read_byte_rate(job, MemoryUse()) == read_byte_rate(Job("1"), MemoryUse(totals=(1, 2, 1500, 4))) == ""


def full_job(workdir: Path) -> Job:
    job = Job("1", workdir=workdir, corecount=4, nevents=50, neventsw=40, dbtime=1.234, dbdata=77, resimevents=0,
              cpu_seconds=300.0, indata=[spec("a.root", filesize=1000)],
              definition={"scheduler_ip": "10.0.0.1", "session_ip": "10.0.0.2"})
    job.timing.spans["payload"] = 100.0
    (workdir / "memory_monitor_output.txt").write_text(PRMON)
    (workdir / "eventLoopHeartBeat.txt").write_text(" done processing event #49,\n")
    (workdir / "memory_monitor_summary.json").write_text(json.dumps(
        {"Max": {"rss": 1, "vmem": 1, "swap": 1, "pss": 1, "rchar": 1, "wchar": 1, "read_bytes": 1500, "write_bytes": 1,
                 "utime": 300, "stime": 20}, "Avg": {}, "HW": {"gpu": {"nGPU": 2, "gpu_0": {"name": "Tesla V100 X"}}}}))
    return job


def test_everything_in_its_order(tmp_path: Path) -> None:
    (tmp_path / "features").mkdir()
    (tmp_path / "features/total_cpu").write_text("8")
    (tmp_path / "features/hs06").write_text("80")
    text = job_metrics(full_job(tmp_path), {"MACHINEFEATURES": str(tmp_path / "features")}, final=False)
    assert text == (
        "actualCoreCount=3.20 nEvents=50 nEventsW=40 dbTime=1.23 dbData=77 resimevents=0 hs06=40.00 leak=2.00 "
        "chi2=0.00 intersect=1005.00 eventnumber=49 schedulerIP=10.0.0.1 sessionIP=10.0.0.2 readbyterate=1.50 "
        "GPU_name=Tesla_V100_X nGPU=2")
    assert Atlas().job_metrics(full_job(tmp_path), final=False).startswith("actualCoreCount=3.20 nEvents=50")


def test_a_job_of_which_nothing_is_known(tmp_path: Path) -> None:
    assert job_metrics(Job("1", workdir=tmp_path), {}, final=True) == ""
    job = Job("1", workdir=tmp_path, core_counts=[1.0, 2.0])
    assert job_metrics(job, {}, final=True) == "actualCoreCount=1.50"


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "[1]", "{", "\xff", '{"Max": 3, "HW": {"gpu": {"gpu_0": {"name": 3}}}}'])
def test_broken_summaries_cost_nothing(tmp_path: Path, text: str) -> None:
    job = full_job(tmp_path)
    (tmp_path / "memory_monitor_summary.json").write_text(text, encoding="latin-1")
    assert "nEvents=50" in job_metrics(job, {}, final=True)
    assert "readbyterate" not in job_metrics(job, {}, final=True)


def test_while_the_monitor_runs_its_snapshot_counts(tmp_path: Path) -> None:
    job = full_job(tmp_path)
    (tmp_path / "memory_monitor_summary.json").rename(tmp_path / "memory_monitor_summary.json_snapshot")
    assert "readbyterate=1.50" in job_metrics(job, {}, final=False)


def test_leak_in_the_samples_of_the_pilot_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pilot's own sampler writes what prmon writes: the same line comes out, from 8 points on."""
    from pilot.monitoring import sampler
    from pilot.util.procfs import PAGE_BYTES, ProcInfo

    now = [1_700_000_000.0]
    monkeypatch.setattr(sampler.time, "time", lambda: now[0])
    own = sampler.MemorySampler(tmp_path)
    own.writes = True
    growing = ProcInfo(2**22 + 1, "payload", "S", 1, 1, 1, 0, 0, 0, 0, 1, 5, 0, 1 << 30)  # gone: RSS stands for PSS
    job = Job("1", workdir=tmp_path)
    for minute in range(12):
        if minute == 7:
            assert "leak" not in job_metrics(job, {}, final=False), "seven points say nothing"
        own.sample([growing._replace(rss=(100_000 + 180 * minute) * 1024 // PAGE_BYTES)])
        now[0] += 60
    assert "leak=3.00 chi2=0.00" in job_metrics(job, {}, final=False)
