"""What memory monitors write, in every form and every broken form; the pilot's own sampler writes the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pilot.info.job import Job
from pilot.info.memory import (
    OUTPUT,
    SNAPSHOT,
    SUMMARY,
    MemoryUse,
    parse_columns,
    read_memory_use,
    time_series,
    use_of_summary,
)
from pilot.monitoring.processdetails import read_details
from pilot.monitoring.sampler import COLUMNS, MemorySampler
from pilot.panda.messages import ReportEnvironment, build_update
from pilot.util.procfs import ProcInfo, read_process

PRMON: dict[str, Any] = {
    "Avg": {"rss": 2000.7, "pss": 1700, "vmem": 8000, "swap": 3, "rchar": 4000, "wchar": 500, "read_bytes": 600,
            "write_bytes": 700},
    "Max": {"rss": 3000, "pss": 2500, "vmem": 9000, "swap": 12, "rchar": 4096000, "wchar": 51200, "read_bytes": 61440,
            "write_bytes": 71680, "utime": 50, "stime": 3, "wtime": 120},
    "HW": {"gpu": {"nGPU": 2, "gpu_0": {"name": "NVIDIA A100-SXM4 40GB"}}},
}
OLD: dict[str, Any] = {
    "Max": {"maxVMEM": 40058624, "maxPSS": 10340177, "maxRSS": 16342012, "maxSwap": 16235568, "totRCHAR": 1,
            "totWCHAR": 2, "totRBYTES": 3, "totWBYTES": 4},
    "Avg": {"avgVMEM": 19384236, "avgPSS": 5023500, "avgRSS": 6501489, "avgSwap": 5964997, "rateRCHAR": 5,
            "rateWCHAR": 6, "rateRBYTES": 7, "rateWBYTES": 8},
}
PRMON_TEXT = ("wtime\tpss\tTime\trss\tswap\tvmem\tutime\tstime\trchar\n"
              "60\t100\t1000\t200\t0\t900\t5\t1\t10\n120\t300\t1060\t400\t10\t1100\t9\t2\t20\n")
OLD_TEXT = ("Time\tVMEM\tPSS\tRSS\tSwap\trchar\twchar\trbytes\twbytes\n"
            "1\t10\t2\t3\t0\t5\t6\t7\t8\n2\t20\t4\t5\t1\t5\t6\t7\t8\n")
MEMORY_FIELDS = [f"{kind}{name}" for kind in ("max", "avg") for name in ("RSS", "VMEM", "SWAP", "PSS")]


def said(content: object) -> MemoryUse:
    use = use_of_summary(json.dumps(content).encode())
    assert use is not None
    return use


def test_summary_of_prmon() -> None:
    use = said(PRMON)
    assert use.update_fields() == {
        "maxRSS": 3000, "maxVMEM": 9000, "maxSWAP": 12, "maxPSS": 2500,
        "avgRSS": 2000, "avgVMEM": 8000, "avgSWAP": 3, "avgPSS": 1700,
        "totRCHAR": 4096000, "totWCHAR": 51200, "totRBYTES": 61440, "totWBYTES": 71680,
        "rateRCHAR": 4000, "rateWCHAR": 500, "rateRBYTES": 600, "rateWBYTES": 700}
    assert (use.gpu_name, use.ngpu, use.utime, use.seconds) == ("NVIDIA_A100-SXM4_40GB", 2, 50.0, 120.0)


def test_summary_of_the_old_monitor() -> None:
    fields = said(OLD).update_fields()
    assert fields["maxPSS"] == 10340177 and fields["avgSWAP"] == 5964997
    assert fields["totWBYTES"] == 4 and fields["rateRCHAR"] == 5


@pytest.mark.parametrize("key", ["rss", "pss", "vmem", "swap"])
@pytest.mark.parametrize("section", ["Max", "Avg"])
@pytest.mark.parametrize("value", [None, "missing", float("nan"), float("inf"), -5, "many", [], 10**30])
def test_one_missing_value_makes_all_eight_unknown(section: str, key: str, value: object) -> None:
    content = json.loads(json.dumps(PRMON))
    content[section][key] = value
    if value == "missing":
        del content[section][key]
    fields = said(content).update_fields()
    assert [fields[name] for name in MEMORY_FIELDS] == [-1] * 8


@pytest.mark.parametrize("content", [
    b"", b"{", b"null", b"[]", b"3", b'{"Max": 1, "Avg": {}}', b"[" * 200000, b"\xff\xfe", b"{}", b"9" * 5000,
    json.dumps(PRMON).encode()[:-30]])
def test_no_summary(content: bytes) -> None:
    assert use_of_summary(content) is None


@pytest.mark.parametrize("hardware", [None, 3, [], {"gpu": 1}, {"gpu": {"nGPU": "x", "gpu_0": {"name": None}}}])
def test_odd_hardware(hardware: object) -> None:
    use = said({**PRMON, "HW": hardware})
    assert (use.gpu_name, use.ngpu, use.max_pss) == ("", 0, 2500)


def test_text_of_prmon_by_names(tmp_path: Path) -> None:
    (tmp_path / OUTPUT).write_text(PRMON_TEXT)
    use = read_memory_use(tmp_path)
    assert use is not None
    assert use.update_fields() == {"maxRSS": 400, "maxVMEM": 1100, "maxSWAP": 10, "maxPSS": 300,
                                   "avgRSS": 300, "avgVMEM": 1000, "avgSWAP": 5, "avgPSS": 200}
    assert (use.utime, use.stime, use.seconds) == (9.0, 2.0, 120.0)
    assert list(time_series(tmp_path)["time"]) == [1000.0, 1060.0]


def test_text_of_the_old_monitor() -> None:
    columns = parse_columns(OLD_TEXT.encode())
    assert list(columns["pss"]) == [2.0, 4.0] and list(columns["read_bytes"]) == [7.0, 7.0]


@pytest.mark.parametrize("bad", ["1\t2", "a\tb\tc\td\te\tf\tg\th\ti", "nan\t" * 8 + "1", "\0\xff", "-1\t" * 8 + "1",
                                 "60\t1\t2\t3\t4\t5\t6\t7\t8\t9", "1e400\t" * 8 + "1"])
def test_bad_lines_are_left_out(bad: str) -> None:
    columns = parse_columns((PRMON_TEXT + bad + "\n").encode("utf-8", "replace"))
    assert {len(values) for values in columns.values()} == {2}


@pytest.mark.parametrize("content", [b"", b"\n\n", b"Time\tTime\n1\t2\n", b"pss\trss\n1\t2\n", b"Time\tpss\n",
                                     b"\xff" * 1000, b"Time" * 100000])
def test_no_columns(content: bytes) -> None:
    assert not parse_columns(content)


def test_order_of_the_files(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    assert read_memory_use(tmp_path, home) is None

    def write(path: Path, rss: int) -> None:
        path.write_text(json.dumps({**PRMON, "Max": {**PRMON["Max"], "rss": rss}}))

    (tmp_path / OUTPUT).write_text(PRMON_TEXT)
    for path, rss in ((tmp_path / SNAPSHOT, 1), (home / SUMMARY, 2), (tmp_path / SUMMARY, 3)):
        write(path, rss)
        use = read_memory_use(tmp_path, home)
        assert use is not None and use.max_rss == rss
    (tmp_path / SUMMARY).write_text("{")
    use = read_memory_use(tmp_path, home)
    assert use is not None and use.max_rss == 2


@pytest.mark.parametrize("name", [SUMMARY, SNAPSHOT, OUTPUT])
def test_links_pipes_directories_and_huge_files(tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.write_text(json.dumps(PRMON) if name != OUTPUT else PRMON_TEXT)
    work = tmp_path / "work"
    work.mkdir()
    (work / name).symlink_to(outside)
    assert read_memory_use(work) is None
    (work / name).unlink()
    os.mkfifo(work / name)
    assert read_memory_use(work) is None
    (work / name).unlink()
    (work / name).mkdir()
    assert read_memory_use(work) is None
    (work / name).rmdir()
    with open(work / name, "wb") as stream:
        stream.truncate(10 << 30)
    assert read_memory_use(work) is None


def test_two_turns_together() -> None:
    first = MemoryUse((10, 20, 0, 8), (5, 10, 0, 4), (100, 1, 1, 1), (10, 1, 1, 1), 1.0, 2.0, 10.0)
    second = MemoryUse((8, 30, 1, 9), (8, 20, 1, 7), (50, 1, 1, 1), (40, 1, 1, 1), 3.0, 4.0, 30.0, "GPU", 1)
    both = first.joined(second)
    assert both.peak == (10, 30, 1, 9) and both.average == (7, 17, 0, 6)
    assert both.totals == (150, 2, 2, 2) and both.rates == (32, 1, 1, 1)
    assert (both.utime, both.seconds, both.ngpu) == (4.0, 40.0, 1)
    assert first.joined(MemoryUse()) == first and MemoryUse().joined(second) == second


def test_fields_in_updates() -> None:
    job = Job("1", memory=said(PRMON))
    update = build_update(job, "running", ReportEnvironment("site", "node", "1"), 0.0)
    assert update["maxPSS"] == 2500 and update["rateWBYTES"] == 700
    job.memory = MemoryUse()
    assert build_update(job, "finished", ReportEnvironment("site", "node", "1"), 0.0)["avgVMEM"] == -1
    job.memory = None
    assert "maxPSS" not in build_update(job, "running", ReportEnvironment("site", "node", "1"), 0.0)


# --- the pilot's own sampler ------------------------------------------------------------------------------------------


@pytest.fixture
def process() -> Any:
    """A process with 50 MB of its own."""
    code = "x = bytearray(b'x' * 50_000_000); open('/dev/zero', 'rb').read(1 << 20); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        yield read_process(child.pid)
        child.kill()


def test_sampler_writes_what_prmon_writes(tmp_path: Path, process: ProcInfo) -> None:
    times = iter(float(second) for second in range(0, 10000, 30))
    sampler = MemorySampler(tmp_path, clock=lambda: next(times))
    assert sampler.use() is None
    sampler.writes = True
    for _ in range(3):
        sampler.sample([process])
    sampler.sample([])
    use = sampler.use()
    assert use is not None and 50_000 < use.max_pss <= use.max_rss < use.peak[1]
    assert use.totals is not None and use.totals[0] >= 1 << 20
    columns = time_series(tmp_path)
    assert set(columns) == {name.lower() for name in COLUMNS} and len(columns["pss"]) == 3
    snapshot = use_of_summary((tmp_path / SNAPSHOT).read_bytes())
    assert snapshot is not None and snapshot.peak == use.peak
    sampler.finish()
    final = read_memory_use(tmp_path)
    assert final is not None and final.peak == use.peak and (tmp_path / SUMMARY).exists()
    assert not (tmp_path / SNAPSHOT).exists()
    sampler.sample([process])
    assert len(time_series(tmp_path)["pss"]) == 3


def test_sampler_without_files_and_on_a_lost_directory(tmp_path: Path, process: ProcInfo) -> None:
    quiet = MemorySampler(tmp_path)
    quiet.sample([process])
    assert quiet.finish() is not None and list(tmp_path.iterdir()) == []
    lost = MemorySampler(tmp_path / "gone")
    lost.writes = True
    lost.sample([process])
    assert lost.finish() is not None


def test_sampler_never_follows_a_link(tmp_path: Path, process: ProcInfo) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / OUTPUT).symlink_to(victim)
    sampler = MemorySampler(tmp_path)
    sampler.writes = True
    sampler.sample([process])
    assert victim.read_text() == "precious"


def test_details_are_rare_when_they_are_dear(tmp_path: Path, process: ProcInfo, monkeypatch: Any) -> None:
    looked: list[int] = []
    now = [0.0]
    cpu = [0.0]

    def dear(pid: int) -> Any:
        looked.append(pid)
        cpu[0] += 0.015
        return read_details(pid)

    monkeypatch.setattr("pilot.monitoring.sampler.read_details", dear)
    monkeypatch.setattr("pilot.monitoring.sampler.time.thread_time", lambda: cpu[0])
    sampler = MemorySampler(tmp_path, clock=lambda: now[0])
    crowd = [process._replace(start=number) for number in range(1000)]
    for minute in range(10):
        now[0] = minute * 60.0
        sampler.sample(crowd)
    assert cpu[0] <= 10 * 0.03 + 0.03 and 2 <= len(looked) <= 22
    use = sampler.use()
    assert use is not None and use.max_pss <= use.max_rss


def test_a_sample_is_cheap(tmp_path: Path, process: ProcInfo) -> None:
    sampler = MemorySampler(tmp_path)
    sampler.writes = True
    begin = time.thread_time()
    sampler.sample([process])
    print(f"one sample: {(time.thread_time() - begin) * 1000:.1f} ms of CPU time")  # noqa: T201 - a figure, no limit


def test_kernel_without_smaps_rollup(tmp_path: Path, process: ProcInfo, monkeypatch: Any) -> None:
    from pilot.monitoring import processdetails

    real = processdetails._read
    monkeypatch.setattr(processdetails, "_read", lambda path: None if path.endswith("smaps_rollup") else real(path))
    own = MemorySampler(tmp_path)
    own.sample([process])
    use = own.use()
    assert use is not None and use.max_pss == use.max_rss > 50_000 and use.totals is not None and use.totals[0] > 0


def test_vanished_process() -> None:
    assert read_details(2**22 + 1) is None
