"""Speed of stage-in from real servers on this machine, as ratios to the client's own commands.

    python benchmarks/grid_speed.py [--size MiB] [--files N] [--rounds N] [--dir DIR]

Large file: stage-in with verification by each tool against ``xrdcp --cksum``; the pilot's own CPU and memory.
Small files of 100 kB: stage-in against one ``xrdcp`` per file, and against one ``xrdcp`` with a list of files.
Replicas: one look-up for all files, CPU of the pilot's process. Everything is warm; medians of the rounds. The
directory should be in memory (default: /dev/shm), else the disk is measured.
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Callable, Mapping

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pilot.info.filespec import FileSpec
from pilot.info.job import Job
from pilot.info.queuedata import QueueData
from pilot.options import Options
from pilot.settings import default_settings
from pilot.staging.context import StagingContext
from pilot.staging.replicas import look_up
from pilot.staging.stagein import stage_in
from pilot.util.cancel import CancelToken
from pilot.util.helper import HelperPool
from tests.grid.testbed.names import use_local_names
from tests.grid.testbed.rucio import Rucio
from tests.grid.testbed.testbed import Testbed

SCOPE = "mc23"
SMALL = 100_000
"""Bytes."""
Sums = Mapping[str, tuple[int, str]]
"""Name -> size and adler32."""


def timed(rounds: int, action: Callable[[], object], reset: Callable[[], object]) -> float:
    """Median wall time of ``action`` in s; ``reset`` runs before each round, outside the clock."""
    times = []
    for _ in range(rounds):
        reset()
        began = time.monotonic()
        action()
        times.append(time.monotonic() - began)
    return statistics.median(times)


class Bench:
    """Files in the storage, and a job that wants them."""

    def __init__(self, services: Testbed, place: Path) -> None:
        self.rucio: Rucio = services.rucio
        self.storage = services.xrootd
        self.work = place / "work"
        self.env = {**os.environ, **self.rucio.env}
        self.pool = HelperPool(place)

    def store(self, names: list[str], size: int) -> Sums:
        """Put files on TB_XROOTD and register them."""
        files = {}
        for name in names:
            content = os.urandom(min(size, 1 << 20)) * (size // (1 << 20) or 1)
            pfn = self.rucio.call("lfns2pfns", "TB_XROOTD", [f"{SCOPE}:{name}"], operation="write")
            url = next(iter(pfn.values()))
            self.storage.put(url.split("//", 2)[2], content)
            files[name] = (len(content), f"{zlib.adler32(content):08x}", url)
        rows = [{"scope": SCOPE, "name": name, "bytes": length, "adler32": adler}
                for name, (length, adler, _) in files.items()]
        self.rucio.call("add_replicas", "TB_XROOTD", rows)
        self.urls = {name: url for name, (_, _, url) in files.items()}
        return {name: (size, adler) for name, (size, adler, _) in files.items()}

    def reset(self) -> None:
        """Empty the work directory."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)

    def context(self, tool: str, options: Mapping[str, object], parallel: int = 4) -> StagingContext:
        """Surroundings of a queue that reads from TB_XROOTD with one tool."""
        raw = {"nickname": "Q", "atlas_site": "TESTBED", "acopytools": {"default": [tool]},
               "copytools": {tool: options}, "astorages": {"read_lan": ["TB_XROOTD"]}}
        settings = default_settings(**{"limits.reserve_space": 0, "transfers.parallel": parallel})
        return StagingContext(settings, Options(), QueueData.from_raw(raw), self.work, self.work, environ=self.env,
                              workdir=self.work, helpers=self.pool, job_id="1")

    def specs(self, sums: Sums, *, known: bool) -> list[FileSpec]:
        """Inputs; ``known``: the replicas need no look-up."""
        found = [FileSpec(name, scope=SCOPE, filesize=size, checksum={"adler32": adler}, ddmendpoint="TB_XROOTD")
                 for name, (size, adler) in sums.items()]
        for spec in found:
            if known:
                spec.replicas = [{"pfn": self.urls[spec.lfn], "ddmendpoint": "TB_XROOTD", "domain": "lan"}]
        return found

    def stage(self, sums: Sums, tool: str, options: Mapping[str, object], *, known: bool = True) -> Callable[[], None]:
        """An action that stages all files in."""

        def action() -> None:
            job = Job(jobid="1", workdir=self.work)
            job.indata = self.specs(sums, known=known)
            stage_in(job, self.context(tool, options), CancelToken())
            assert all(spec.status == "transferred" for spec in job.indata)

        return action

    def run(self, *argv: str) -> Callable[[], object]:
        """An action that runs a command."""
        return lambda: subprocess.run(argv, check=True, env=self.env, stdout=subprocess.DEVNULL,
                                      stderr=subprocess.DEVNULL)


def large(bench: Bench, size: int, rounds: int) -> None:
    """One file of ``size`` MiB."""
    sums = bench.store(["large.root"], size << 20)
    url, adler = bench.urls["large.root"], sums["large.root"][1]
    target = str(bench.work / "large.root")
    command = ["xrdcp", "--nopbar", "--silent", "--cksum", f"adler32:{adler}", url, target]
    reference = timed(rounds, bench.run(*command), bench.reset)
    plain = timed(rounds, bench.run("xrdcp", "--nopbar", "--silent", url, target), bench.reset)
    print(f"{size} MiB: xrdcp --cksum {reference:.2f} s, xrdcp without {plain:.2f} s")
    for tool, options, limit in (
        ("xrdcp", {}, 1.15), ("xrdcp", {"use": "command"}, 1.15), ("gfal", {}, 1.3), ("rucio", {}, 1.3),
    ):
        before = resource.getrusage(resource.RUSAGE_SELF)
        seconds = timed(rounds, bench.stage(sums, tool, options), bench.reset)
        after = resource.getrusage(resource.RUSAGE_SELF)
        cpu = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / rounds
        kind = "command" if options else "library"
        print(f"  {f'{tool} ({kind})':17} {seconds:.2f} s   "
              f"ratio to xrdcp --cksum {seconds / reference:.2f} (limit {limit}); "
              f"pilot's CPU {cpu:.2f} s, peak memory grew by {after.ru_maxrss - before.ru_maxrss} kB")


def small(bench: Bench, count: int, rounds: int) -> None:
    """Many files of 100 kB."""
    sums = bench.store([f"small.{number}.root" for number in range(count)], SMALL)
    urls = [bench.urls[name] for name in sums]
    sample = urls[:: max(1, count // 50)]

    def one_by_one() -> None:
        for url in sample:
            adler = sums[url.rsplit("/", 1)[1]][1]
            bench.run("xrdcp", "--nopbar", "--silent", "--cksum", f"adler32:{adler}", url, str(bench.work))()

    single = timed(1, one_by_one, bench.reset) * count / len(sample)
    names = bench.work.parent / "list"
    names.write_text("\n".join(urls) + "\n")
    command = ("xrdcp", "--nopbar", "--silent", "--infiles", str(names), str(bench.work))
    listed = timed(rounds, bench.run(*command), bench.reset)
    print(f"{count} files of 100 kB: one xrdcp each {single:.2f} s (from {len(sample)}), with a list {listed:.2f} s")
    for tool in ("xrdcp", "gfal", "rucio"):
        seconds = timed(rounds, bench.stage(sums, tool, {}), bench.reset)
        print(f"  {tool:8} {seconds:.2f} s   {single / seconds:.1f} times as fast as one command per file (aim 5), "
              f"ratio to the list {seconds / listed:.2f} (limit 1.5)")
    replicas(bench, sums)


def replicas(bench: Bench, sums: Sums) -> None:
    """The look-up: wall time, and CPU in this process."""
    context = bench.context("rucio", {})
    with bench.pool.session():
        look_up(bench.specs(dict(list(sums.items())[:1]), known=False), context, (), CancelToken())
        files = bench.specs(sums, known=False)
        began, cpu = time.monotonic(), time.process_time()
        look_up(files, context, (), CancelToken())
        print(f"replicas of {len(files)} files: {time.monotonic() - began:.3f} s, "
              f"CPU here {1000 * (time.process_time() - cpu):.1f} ms (limit 20)")
    assert all(spec.replicas for spec in files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024, help="of the large file, MiB")
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--dir", default="/dev/shm" if os.path.isdir("/dev/shm") else None)
    options = parser.parse_args()
    if options.quick:
        options.rounds = 1
    logging.basicConfig(level=logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="pilot-grid-bench-", dir=options.dir) as name:
        place = Path(name)
        place.chmod(0o755)
        use_local_names(place)
        services = Testbed(place / "services")
        try:
            bench = Bench(services, place)
            large(bench, options.size, options.rounds)
            small(bench, options.files, options.rounds)
            bench.pool.close(at_once=True)
        finally:
            services.stop()


if __name__ == "__main__":
    main()
