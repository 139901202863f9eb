"""When the batch system ends the job: environments and ClassAds as the systems write them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Dict, Mapping, Optional

import pytest

from pilot.monitoring.batchlimits import ends, read_ad, run_time_limit, slurm_time_left

AD = """MyType = "Job"
TargetType = "Machine"
GlobalJobId = "schedd.example.org#1234.0#1760000000"
JobStatus = 2
JobLeaseDuration = 2400
Cmd = "runpilot2-wrapper.sh"
Args = "MaxRuntime = 5"
Requirements = (TARGET.Arch == "X86_64") && (TARGET.OpSys == "LINUX")
"""


def left(environ: Mapping[str, str], ago: float = 100.0) -> Dict[str, int]:
    """s until each end, of a pilot that started some time ago."""
    found = ends(environ, time.monotonic() - ago, time.time() - ago)
    return {name: round(end.at - time.monotonic()) for name, end in found.items() if end is not None}


@pytest.mark.parametrize(("environ", "seconds", "words", "length"), [
    ({"SLURM_JOB_ID": "7", "SLURM_JOB_START_TIME": "{-500}", "SLURM_JOB_END_TIME": "{+3000}"}, 3000,
     "SLURM_JOB_END_TIME is", 3500),
    ({"SLURM_JOB_END_TIME": "{+3000}"}, 3000, "SLURM_JOB_END_TIME", None),
    ({"PBS_JOBID": "1.ce", "PBS_WALLTIME": "7200"}, 7100, "PBS_WALLTIME is 7200 s", 7200),
    ({"OAR_JOB_WALLTIME_SECONDS": "7200"}, 7100, "OAR_JOB_WALLTIME_SECONDS", 7200),
    ({"COBALT_STARTTIME": "{-500}", "COBALT_ENDTIME": "{+3000}"}, 3000, "COBALT_ENDTIME", 3500),
])
def test_environments(environ: Dict[str, str], seconds: int, words: str, length: Optional[float]) -> None:
    now = time.time()
    values = {name: f"{now + float(value[1:-1]):.0f}" if value[0] == "{" else value for name, value in environ.items()}
    (end,) = ends(values, time.monotonic() - 100, now - 100).values()
    assert end is not None
    assert abs(end.at - time.monotonic() - seconds) < 5
    assert words in end.text
    assert (end.length is None) == (length is None)
    assert length is None or abs((end.length or 0) - length) < 2


@pytest.mark.parametrize("environ", [
    {}, {"SLURM_JOB_END_TIME": ""}, {"SLURM_JOB_END_TIME": "soon"}, {"SLURM_JOB_END_TIME": "1760"},
    {"PBS_WALLTIME": "0"}, {"PBS_WALLTIME": "-5"}, {"PBS_WALLTIME": "01:00:00"}, {"SLURM_JOB_END_TIME": "4294967294"},
    {"_CONDOR_JOB_AD": "/nowhere"}, {"_CONDOR_JOB_AD": "relative"}, {"_CONDOR_JOB_AD": "/"},
])
def test_nonsense_is_nothing(environ: Dict[str, str]) -> None:
    assert left(environ) == {}


def condor(tmp_path: Path, job: str = "", machine: str = "") -> Dict[str, str]:
    (tmp_path / "job.ad").write_text(AD + job)
    (tmp_path / "machine.ad").write_text('Machine = "wn7.example.org"\nMachineMaxVacateTime = 600\n' + machine)
    return {"_CONDOR_JOB_AD": str(tmp_path / "job.ad"), "_CONDOR_MACHINE_AD": str(tmp_path / "machine.ad")}


@pytest.mark.parametrize(("line", "seconds", "words"), [
    ("AllowedExecuteDuration = 7200", 7000, "AllowedExecuteDuration of HTCondor's job ad is 7200 s"),
    ("AllowedJobDuration = 7200", 7000, "AllowedJobDuration"), ("maxruntime = 7200", 7000, "MaxRuntime"),
    ("BatchRuntime = 7200", 7000, "BatchRuntime"),
    ("MaxWallTime = 120", 7000, "MaxWallTime of HTCondor's job ad is 7200"),
    ("maxWallTime = 60 * 2", 7000, "is 7200 s"), ('MaxWallTime = "120"', 7000, "is 7200 s"),
    ("PeriodicRemove = (JobStatus == 2) && (time() - EnteredCurrentStatus > 7200)", 7000, "PeriodicRemove"),
    ("MaxWallTime = ifThenElse(x, 1, 2)", None, ""), ("MaxWallTime = undefined", None, ""),
    ("MaxWallTime = 0", None, ""), ("JobLeaseDuration = 40", None, ""), ("PeriodicRemove = false", None, ""),
])
def test_ads_of_htcondor_jobs(tmp_path: Path, line: str, seconds: Optional[int], words: str) -> None:
    """The job began 200 s ago, its wrapper's pilot 100 s ago."""
    environ = condor(tmp_path, f"JobCurrentStartDate = {time.time() - 200:.0f}\n{line}\n")
    found = ends(environ, time.monotonic() - 100, time.time() - 100)
    if seconds is None:
        assert found == {}
    else:
        (end,) = found.values()
        assert end is not None
        assert abs(end.at - time.monotonic() - seconds) < 5
        assert words in end.text


def test_without_a_start_in_the_ad_the_pilots_counts(tmp_path: Path) -> None:
    assert left(condor(tmp_path, "MaxRuntime = 7200\n")) == {"condor MaxRuntime": 7100}
    late = f"MaxRuntime = 7200\nJobCurrentStartDate = {time.time() + 9999:.0f}\n"
    assert left(condor(tmp_path, late)) == {"condor MaxRuntime": 7100}, "a start after the pilot's is none"


def test_the_end_of_a_glidein(tmp_path: Path) -> None:
    found = left(condor(tmp_path, machine=f"GLIDEIN_ToDie = {time.time() + 1080:.0f}\n"))
    assert list(found) == ["condor glidein"]
    assert 1075 < found["condor glidein"] <= 1081


@pytest.mark.parametrize(("expression", "limit"), [
    ("(RemoteWallClockTime > 345600)", 345600), ("RemoteWallClockTime >= 96 * 3600", 345600),
    ("JobStatus == 2 && (time() - EnteredCurrentStatus > 72 * 3600)", 259200),
    ("(JobStatus =?= 2) && (CurrentTime - EnteredCurrentStatus > 3600)", 3600),
    ("(JobStatus == 5 && time() - EnteredCurrentStatus > 100) || (JobStatus == 2 && ((time() - JobCurrentStartDate) > "
     "259200))", 259200),
    ("time() - JobStartDate > 99 || RemoteWallClockTime > 50", 50),
    # what is idle or held, and what depends on other things
    ("JobStatus == 5 && (time() - EnteredCurrentStatus) > 86400", None), ("time() - EnteredCurrentStatus > 10", None),
    ("JobStatus == 1 && (time() - QDate) > 10", None), ("ImageSize > 100 && RemoteWallClockTime > 5", None),
    ("A && (B || RemoteWallClockTime > 5)", None), ("!(RemoteWallClockTime > 5)", None),
    ("(RemoteWallClockTime > 5) =?= false", None), ("RemoteWallClockTime < 5", None), ("false", None), ("", None),
    ("(((((", None), (")))) || &&", None), ("RemoteWallClockTime > 0", None), ("RemoteWallClockTime > MaxTime", None),
    ("(" * 5000 + "RemoteWallClockTime > 5", None),
])
def test_run_times_in_periodic_remove(expression: str, limit: Optional[float]) -> None:
    assert run_time_limit(expression) == limit


def test_an_ad_is_read_with_bounds(tmp_path: Path) -> None:
    path = tmp_path / "ad"
    path.write_bytes(b"A = 1\nb=2\n\xff\xfe = 3\nno attribute\nC = \n" + b"D = 4\n" * 400_000)
    found = read_ad(str(path))
    assert (found["a"], found["b"], found["c"], found["d"]) == ("1", "2", "", "4")


@pytest.mark.parametrize(("text", "seconds"), [
    ("1-02:03:04", 93784), ("10:00:00", 36000), ("3:04", 184), ("59", 59), ("0:00", 0), (" 3:04 \n", 184),
    ("UNLIMITED", None), ("INVALID", None), ("NOT_SET", None), ("", None), ("-5", None),
])
def test_squeues_time_left(text: str, seconds: Optional[float]) -> None:
    assert slurm_time_left(text) == seconds
