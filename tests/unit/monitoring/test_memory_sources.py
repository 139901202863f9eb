"""What stands for a payload's memory: its control group, PSS, RSS; and what the check makes of it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator

import pytest

from pilot.info.memory import BY_MONITOR, MemoryUse
from pilot.monitoring import processdetails, sampler
from pilot.monitoring.checks import Blind, Look
from pilot.monitoring.memorylimit import MemoryBound
from pilot.monitoring.processchecks import MAXNPROC, MemoryLimit, ProcessCount
from pilot.monitoring.sampler import BY_GROUP, BY_PSS, BY_RSS, MemorySampler
from pilot.util.cgroups import Group, memory_group, memory_in_use, parse_membership
from pilot.util.procfs import ProcInfo, read_process
from tests import groups
from tests.groups import machine

HOLD = ("import mmap, os, sys, time\n"
        "shared = mmap.mmap(-1, 60 << 20); shared.write(b's' * (60 << 20))\n"
        "for _ in range(3):\n"
        "    if os.fork() == 0: break\n"
        "own = bytearray(b'o' * (10 << 20)); sum(shared[i] for i in range(0, 60 << 20, 4096))\n"
        "print('up', flush=True); time.sleep(1000)\n")
"""Four processes that share 60 MB and have 10 MB each: 100 MB together, 280 MB and more by RSS."""


@pytest.fixture
def crowd() -> Iterator[list[ProcInfo]]:
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, start_new_session=True) as child:
        assert child.stdout is not None
        for _ in range(4):
            child.stdout.readline()
        children = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
        found = [read_process(int(pid)) for pid in (child.pid, *children)]
        yield [info for info in found if info is not None]
        os.killpg(child.pid, 9)


def test_shared_memory_counts_once(crowd: list[ProcInfo], tmp_path: Path) -> None:
    own = MemorySampler(tmp_path)
    own.sample(crowd)
    assert len(crowd) == 4 and own.last.source == BY_PSS
    assert 100 << 10 < own.last.pss < 150 << 10 and own.last.rss > 280 << 10


def test_workers_that_were_not_looked_at_are_taken_for_what_their_likes_are(
    crowd: list[ProcInfo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forked since the last close look: with their RSS they would look like a breach that is none."""
    own = MemorySampler(tmp_path)
    own.sample(crowd)
    exact = own.last.pss
    monkeypatch.setattr(own, "_next_details", float("inf"))
    more = [info._replace(start=info.start + number) for number in range(1, 3) for info in crowd]
    own.sample([*crowd, *more])
    assert own.last.pss <= 3.1 * exact < own.last.rss


def test_near_the_limit_nothing_is_estimated(
    crowd: list[ProcInfo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = MemorySampler(tmp_path)
    monkeypatch.setattr(own, "_next_details", float("inf"))
    own.sample(crowd)
    assert own.last.pss == own.last.rss, "nothing was looked at"
    other = MemorySampler(tmp_path)
    monkeypatch.setattr(other, "_next_details", float("inf"))
    other.limit_kb = 200 << 10
    other.sample(crowd)
    use = other.use()
    assert other.last.pss < 150 << 10 and use is not None and use.max_pss < 150 << 10


def test_memory_of_others_counts_with_its_rss_and_that_is_said_once(
    crowd: list[ProcInfo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = processdetails._read
    hidden = {str(info.pid) for info in crowd[1:]}
    monkeypatch.setattr(processdetails, "_read",
                        lambda path: None if path.split("/")[2] in hidden else real(path))
    own = MemorySampler(tmp_path)
    for _ in range(3):
        own._next_details = 0.0
        own.sample(crowd)
    assert own.last.source == BY_PSS and 200 << 10 < own.last.pss <= own.last.rss
    assert caplog.text.count("is not shown to the pilot") == 1 and "3 of the payload's 4 processes" in caplog.text
    hidden.add(str(crowd[0].pid))
    own._next_details = 0.0
    own.sample(crowd)
    use = own.use()
    assert own.last.source == BY_RSS and own.last.pss == own.last.rss and use is not None and use.source == BY_RSS


def test_another_users_memory() -> None:
    """For real: the kernel shows a process of root to nobody else."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to be somebody else")
    parent, child = os.getpid(), os.fork()
    if child == 0:
        try:
            os.setuid(65534)
            details = processdetails.read_details(parent)
            os._exit(3 if details is not None and not details.readable else 4)
        finally:
            os._exit(5)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3


def test_processes_that_end_during_a_look(crowd: list[ProcInfo], tmp_path: Path,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    def dying(pid: int) -> Any:
        if pid == crowd[1].pid:
            os.kill(pid, 9)
            os.kill(crowd[2].pid, 9)
            while True:
                info = read_process(pid)
                if info is None or not info.alive:
                    break
        return processdetails.read_details(pid)

    monkeypatch.setattr(sampler, "read_details", dying)
    own = MemorySampler(tmp_path)
    own.sample(crowd)
    own.sample(crowd)
    assert own.last.pss > 0


def test_a_pid_that_was_used_again_has_a_history_of_its_own(crowd: list[ProcInfo], tmp_path: Path) -> None:
    own = MemorySampler(tmp_path)
    own.sample([crowd[0]])
    own._next_details = float("inf")
    small = crowd[0]._replace(start=crowd[0].start + 1, comm="other", rss=10)
    own.sample([small])
    assert own.last.swap == 0 and own.last.pss <= 10 * 4


# --- control groups ---------------------------------------------------------------------------------------------------

STAT2 = "anon 157286400\nfile 900000000\nkernel 5\nfile_mapped 104857600\ninactive_file 800000000\n"
STAT1 = ("cache 1\nrss 1\nmapped_file 1\ntotal_cache 900000000\ntotal_rss 157286400\ntotal_mapped_file 104857600\n")


def two(root: Path, ours: str, theirs: str, files: dict[str, str]) -> Path:
    return machine(root, ours, {"proc/77/cgroup": theirs, **files})


@pytest.mark.parametrize(("ours", "theirs", "place", "stat", "version"), [
    ("0::/slot/pilot/controller\n", "0::/slot/pilot/payload-1\n", "sys/fs/cgroup/slot/pilot/payload-1", STAT2, 2),
    ("4:memory:/slot\n0::/\n", "4:memory:/slot/payload\n0::/\n", "sys/fs/cgroup/memory/slot/payload", STAT1, 1),
    ("4:memory:/slot\n", "5:cpu,memory:/slot/x\n", "sys/fs/cgroup/memory/slot/x",
     "rss 157286400\nmapped_file 104857600\n", 1),
])
def test_the_payloads_own_group(tmp_path: Path, ours: str, theirs: str, place: str, stat: str, version: int) -> None:
    root = two(tmp_path, ours, theirs, {"sys/fs/cgroup/cgroup.procs": "", "sys/fs/cgroup/cgroup.controllers": "",
                                        f"{place}/memory.stat": stat, f"{place}/memory.current": "999999999999"})
    group = memory_group(77, root)
    assert group == Group(root / place, version) and memory_in_use(group) == 250 << 20


@pytest.mark.parametrize(("ours", "theirs"), [
    ("0::/slot\n", "0::/slot\n"), ("0::/slot/pilot\n", "0::/slot\n"), ("4:memory:/a\n", "4:memory:/a\n"),
    ("4:memory:/a/b\n", "4:memory:/a\n"), ("4:memory:/a/b\n", "4:memory:/\n"), ("", ""), ("0::/a\n", ""),
    ("0::/a\n", "0::/../b\n"),
])
def test_a_group_that_holds_the_pilot_too_is_none_of_the_payload(tmp_path: Path, ours: str, theirs: str) -> None:
    files = {f"sys/fs/cgroup/{place}memory.stat": text for text, places in (
        (STAT2, ("slot/", "slot/pilot/", "a/", "b/", "")), (STAT1, ("memory/a/", "memory/a/b/", "memory/")))
        for place in places}
    root = two(tmp_path, ours, theirs, {
        **files, "sys/fs/cgroup/cgroup.procs": "", "sys/fs/cgroup/cgroup.controllers": ""})
    assert memory_group(77, root) is None


@pytest.mark.parametrize("stat", ["", "anon 5\n", "file_mapped 5\n", "anon x\nfile_mapped 1\n"])
def test_an_account_with_holes_is_unknown(tmp_path: Path, stat: str) -> None:
    (tmp_path / "memory.stat").write_text(stat)
    assert memory_in_use(Group(tmp_path, 2)) is None


def test_membership() -> None:
    text = "12:cpu,cpuacct:/a\n1:name=systemd:/b\n0::/c:d\n"
    assert parse_membership(text) == {"cpu": "/a", "cpuacct": "/a", "name=systemd": "/b", "": "/c:d"}


def test_a_real_account_is_near_pss_and_knows_no_cache(tmp_path: Path) -> None:
    """What the design was made from: anonymous, shared and mapped memory count, a file that was read does not."""
    (tmp_path / "mapped").write_bytes(os.urandom(1 << 20) * 40)
    (tmp_path / "read").write_bytes(os.urandom(1 << 20) * 100)
    code = ("import mmap, sys\nown = bytearray(b'x' * (50 << 20)); shared = mmap.mmap(-1, 30 << 20)\n"
            "shared.write(b's' * (30 << 20)); stream = open('mapped', 'rb')\n"
            "file = mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ)\n"
            "sum(file[i] for i in range(0, len(file), 4096))\n"
            "open('read', 'rb').read(); print('up', flush=True); sys.stdin.read()")
    for name in ("mapped", "read"):  # not in our own account, else the group is never charged for it
        with open(tmp_path / name, "rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with groups.memory_limited(1000) as place, subprocess.Popen(
            [*groups.joined(place), sys.executable, "-c", code], cwd=tmp_path, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdin is not None
        child.stdout.readline()
        group = memory_group(child.pid)
        assert group is not None and group.directory == place
        used = memory_in_use(group)
        info = read_process(child.pid)
        assert info is not None
        own = MemorySampler(tmp_path)
        own.sample([info])
        by_group = MemorySampler(tmp_path)
        by_group.sample([info], (used or 0) // 1024)
        child.stdin.close()
        child.wait(60)
    assert used is not None and 80 << 20 < used < 200 << 20
    assert abs(used - own.last.pss * 1024) < 40 << 20
    assert by_group.last.pss == used // 1024 and by_group.last.source == BY_GROUP


# --- the checks -------------------------------------------------------------------------------------------------------


def look(peak: int | None, source: str = BY_PSS, processes: Any = ()) -> Look:
    use = None if peak is None else MemoryUse((1, 2, 3, peak), (1, 1, 1, 1), source=source)
    return Look(0.0, 60.0, processes, 1.0, 1.0, use)


BOUND = MemoryBound(1000, "SCORE (server) 1 MB/core x 1 x grace 1")


def check(bound: Any = BOUND) -> MemoryLimit:
    return MemoryLimit(60.0, "subresource=SCORE, corecount=1", lambda: bound)


def test_breach_says_numbers_source_and_origin() -> None:
    assert check().look(look(1000)) is None
    breach = check().look(look(1001, BY_MONITOR))
    assert breach is not None and breach.code == 1235
    assert breach.text == ("job has exceeded the memory limit 1001 kB > 1000 kB (subresource=SCORE, corecount=1;"
                           " PSS by prmon; SCORE (server) 1 MB/core x 1 x grace 1)")


def test_without_a_limit_nothing_is_checked() -> None:
    assert check(None).look(look(None)) is None


@pytest.mark.parametrize("memory", [None, MemoryUse()])
def test_a_check_that_cannot_measure_says_so(memory: Any) -> None:
    with pytest.raises(Blind, match="neither a memory monitor nor /proc"):
        check().look(look(None)._replace(memory=memory))


def test_evidence_names_the_largest_processes(crowd: list[ProcInfo], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    one = check()
    gone = crowd[0]._replace(pid=2**22 + 1, rss=10**6)
    breach = one.look(look(5000, processes=[*crowd, gone]))
    assert breach is not None
    one.evidence(breach)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 5 and "PSS unknown" in lines[0] and "anon " in lines[1] and "shmem " in lines[1]


def test_processes_are_counted_to_their_maximum(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    environ: dict[str, str] = {}
    one = ProcessCount(300, "77", environ)
    for count in (3, 7, 5):
        assert one.look(look(None, processes=[None] * count)) is None
    assert environ == {MAXNPROC: "7"} and "job 77: the payload has 5 processes, at most 7 so far" in caplog.text
    environ[MAXNPROC] = "rubbish"
    one.look(look(None, processes=[None]))
    assert environ == {MAXNPROC: "1"}


