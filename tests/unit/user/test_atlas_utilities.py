"""What ATLAS runs around a payload: texts of prmon, Xcache and the benchmark suite, and what becomes of their words."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from containertasks import task

from pilot.info.payloadtask import Moment, PayloadCommand, PayloadTask
from pilot.user.atlas import Atlas
from pilot.user.atlas.benchmark import add_to_report, benchmark, machine, read_result
from pilot.user.atlas.prmon import memory_monitor
from pilot.user.atlas.xcache import xcache_kill, xcache_start, xcache_variables

CVMFS = Path(__file__).resolve().parents[2] / "standins" / "cvmfs"
ALRB = (f"export ATLAS_LOCAL_ROOT_BASE={CVMFS}/atlas.cern.ch/repo/ATLASLocalRootBase;"
        "source ${ATLAS_LOCAL_ROOT_BASE}/user/atlasLocalSetup.sh --quiet;")
PRMON = ("prmon --pid 4711 --filename memory_monitor_output.txt --json-summary memory_monitor_summary.json "
         "--interval 60")
WORKDIR = "/scratch/PanDA_Pilot-1234567"


def with_cvmfs(**how: object) -> PayloadTask:
    return task(environ={"ATLAS_SW_BASE": str(CVMFS)}, **how)  # type: ignore[arg-type]


def test_prmon_line_to_the_character() -> None:
    utility, = memory_monitor(replace(with_cvmfs(), pid=4711))
    assert utility.line == f"cd {WORKDIR};{ALRB}lsetup prmon;{PRMON}"
    assert (utility.label, utility.signal) == ("memorymonitor", 10)


def test_no_line_without_alrb(tmp_path: Path) -> None:
    where = task(environ={"ATLAS_SW_BASE": str(tmp_path)}, queue={"catchall": "pilotXcache"})
    for moment in Moment:
        assert list(Atlas().utility(moment, where, PayloadCommand(""))) == []


def test_xcache_lines_to_the_character() -> None:
    where = with_cvmfs(queue={"catchall": "pilotXcache"})
    start, = xcache_start(where)
    assert start.line == (f"{ALRB}lsetup xcache; xcache list; "
                          "xcache start -d $PWD/1234567/xcache -C centos7 --disklow 4g --diskhigh 5g -b 4")
    assert start.daemon and start.error_code == 0
    assert list(xcache_start(with_cvmfs())) == [] and list(xcache_kill(where)) == []
    where.job.variables["ALRB_XCACHE_MYPROCESS"] = "42"
    assert xcache_kill(where)[0].line.endswith(f"{ALRB}lsetup xcache; xcache kill -p $ALRB_XCACHE_MYPROCESS")


def test_words_of_xcache() -> None:
    output = ('noise\n export ALRB_XCACHE_PROXY="root://localhost:3139//"\n'
              ' export ALRB_XCACHE_PROXY_REMOTE="root://wn.example:3139//"\n ALRB_XCACHE_MYPROCESS=12-uuid\n'
              ' ALRB_XCACHE_FILES=/tmp/x\nxcache started successfully.  Messages logged in /tmp/x/log.txt\n')
    assert xcache_variables(output) == {
        "ALRB_XCACHE_PROXY": "root://localhost:3139//", "ALRB_XCACHE_PROXY_REMOTE": "root://wn.example:3139//",
        "ALRB_XCACHE_MYPROCESS": "12-uuid", "ALRB_XCACHE_FILES": "/tmp/x", "ALRB_XCACHE_LOG": "/tmp/x/log.txt"}
    assert xcache_variables("command not found") == {}


@pytest.fixture
def suite(tmp_path: Path) -> PayloadTask:
    """A task with a stand-in for the suite's repository and a result."""
    place = tmp_path / "cvmfs" / "atlas.cern.ch/repo/benchmarks/cern/current"
    place.mkdir(parents=True)
    (place / "cern-benchmark").write_text("")
    result = tmp_path / "work" / "benchmark" / "bmk_tmp"
    result.mkdir(parents=True)
    (result / "result_profile.json").write_text(json.dumps({
        "metadata": {"osdist": "x", "UID": "y", "ip": "1.2.3.4"}, "_timestamp": "now", "_id": "z",
        "profiles": {"whetstone": {"score": "12.5"}, "fastBmk": {"value": 7}}}))
    return task(job={"workdir": tmp_path / "work", "corecount": 8, "definition": {"cloud": "CERN"}},
                environ={"ATLAS_SW_BASE": str(tmp_path / "cvmfs")}, monitor__benchmark_fraction=0.01)


def test_benchmark_line(suite: PayloadTask) -> None:
    assert list(benchmark(suite, 0.01)) == []
    utility, = benchmark(suite, 0.009)
    base = f"{suite.environ['ATLAS_SW_BASE']}/atlas.cern.ch/repo/benchmarks/cern/current"
    assert utility.line == (
        f"export CVMFS_BASE_PATH={base};export BMK_LOGDIR={suite.workdir}/benchmark;"
        "export BMK_ROOTDIR=$CVMFS_BASE_PATH;$CVMFS_BASE_PATH/cern-benchmark --benchmarks='whetstone;fastBmk'"
        " --topic=/topic/vm.spec --cloud=CERN --vo=ATLAS -o --mp_num=8 --public_ip=$(hostname -i)")
    assert list(benchmark(with_cvmfs(monitor__benchmark_fraction=1), 0.5)) == []
    assert list(benchmark(with_cvmfs(), 0.0)) == []  # the default


def test_benchmark_result_and_report(suite: PayloadTask) -> None:
    result = read_result(suite)
    assert result is not None
    assert result["profiles"] == {"whetstone": {"score": 12.5}, "fastBmk": {"value": 7.0}}
    assert result["timestamp"] == "now" and result["type"] == "BenchmarkData" and "_id" not in result
    metadata = result["metadata"]
    assert metadata["ip"] == "1.2.3.4" and metadata["PanDAID"] == "1234567" and "UID" not in metadata
    assert metadata["node"] == os.uname().nodename and metadata["sockets"] >= 1
    report = suite.workdir / "jobReport.json"
    for content, filled in (('{"exitCode": 0, "resource": {"machine": {"node": "n"}}}', True), ("{}", True),
                            ('{"resource": 3}', False), ("[]", False), ("{", False)):
        report.write_text(content)
        add_to_report(suite)
        assert ("benchmark" in report.read_text()) == filled
    assert machine("processor : 0\nphysical id : 0\nsiblings : 4\ncpu cores : 2\nflags : fpu hypervisor\n") == {
        "threadsPerCore": 2, "coresPerSocket": 2, "sockets": 1, "isAVM": True}


@pytest.mark.parametrize("content", [
    "", "{", "[1]", '{"profiles": 3, "metadata": []}', '{"profiles": {"whetstone": NaN}}', "[" * 100000])
def test_broken_result_of_the_benchmark(suite: PayloadTask, content: str) -> None:
    (suite.workdir / "benchmark/bmk_tmp/result_profile.json").write_text(content)
    result = read_result(suite)
    assert result is None or result["profiles"] == {}
