"""Speed of local stage-in and stage-out, as ratios to the tools that everybody has.

    python benchmarks/copy_speed.py [--size MiB] [--dir DIR] [--rounds N]

Large file: our copy with adler32 against ``cp`` plus one separate adler32 pass over the file.
Small files: 100 inputs and 10 outputs of 64 KiB with the mv copytool, in seconds.
Everything is warm (page cache); each figure is the median of the rounds. Peak memory is that of this process.
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
from typing import Callable

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pilot.info.filespec import FileSpec
from pilot.info.job import Job
from pilot.info.queuedata import QueueData
from pilot.options import Options
from pilot.settings import default_settings
from pilot.staging.context import StagingContext
from pilot.staging.stagein import stage_in
from pilot.staging.stageout import stage_out
from pilot.util.cancel import CancelToken
from pilot.util.checksum import file_checksums
from pilot.util.copying import copy_file, copy_with_checksum


def median(rounds: int, action: Callable[[], object], reset: Callable[[], object]) -> float:
    """Median wall time of ``action`` in s; ``reset`` runs before each round, outside the clock."""
    times = []
    for _ in range(rounds):
        reset()
        began = time.monotonic()
        action()
        times.append(time.monotonic() - began)
    return statistics.median(times)


def large(directory: Path, size: int, rounds: int) -> None:
    source, target = directory / "source", directory / "target"
    block = os.urandom(1 << 20)
    with open(source, "wb") as out:
        for _ in range(size):
            out.write(block)

    def reset() -> None:
        target.unlink(missing_ok=True)

    def cp() -> None:
        subprocess.run(["cp", str(source), str(target)], check=True)

    def plain_adler() -> None:
        value = 1
        with open(source, "rb", buffering=0) as data:
            while chunk := data.read(1 << 20):
                value = zlib.adler32(chunk, value)

    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    t_cp, t_sum = median(rounds, cp, reset), median(rounds, plain_adler, lambda: None)
    t_ours = median(rounds, lambda: copy_with_checksum(source, target), reset)
    t_kernel = median(rounds, lambda: copy_file(source, target), reset)
    t_only = median(rounds, lambda: file_checksums(source), lambda: None)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    print(f"{size} MiB: cp {t_cp:.3f} s, adler32 {t_sum:.3f} s, together {t_cp + t_sum:.3f} s")
    print(f"  copy with adler32   {t_ours:.3f} s   ratio to cp + adler32  {t_ours / (t_cp + t_sum):.2f}   (limit 1.25)")
    print(f"  copy by the kernel  {t_kernel:.3f} s   ratio to cp            {t_kernel / t_cp:.2f}")
    print(f"  adler32 alone       {t_only:.3f} s   ratio to plain adler32 {t_only / t_sum:.2f}")
    print(f"  memory: peak grew by {grown} kB")


def small(directory: Path, rounds: int, kind_in: str, kind_out: str) -> None:
    home, data = directory / "home", os.urandom(65536)
    workdir = home / "PanDA_Pilot-1"
    checksum = f"{zlib.adler32(data):08x}"
    copytools = {"mv": {"copy_in": kind_in, "copy_out": kind_out}}
    queue = QueueData.from_raw({"nickname": "Q", "acopytools": {"default": ["mv"]}, "copytools": copytools})
    job = Job(jobid="1", workdir=workdir)
    settings = default_settings(**{"limits.reserve_space": 0})
    context = StagingContext(settings, Options(), queue, home, directory)

    def reset() -> None:
        shutil.rmtree(home, ignore_errors=True)
        workdir.mkdir(parents=True)
        job.indata = [FileSpec(f"in.{n}", filesize=65536, checksum={"adler32": checksum}) for n in range(100)]
        job.outdata = [FileSpec(f"out.{n}", "output") for n in range(10)]
        for spec in job.indata:
            (home / spec.lfn).write_bytes(data)
        for spec in job.outdata:
            (workdir / spec.lfn).write_bytes(data)

    t_in = median(rounds, lambda: stage_in(job, context, CancelToken()), reset)
    t_out = median(rounds, lambda: stage_out(job, job.outdata, context, CancelToken(), log=False), reset)
    print(f"100 inputs by {kind_in}: {t_in:.3f} s, 10 outputs by {kind_out}: {t_out:.3f} s   (limit 0.3, aim 0.1 s)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024, help="of the large file, MiB")
    parser.add_argument("--dir", default=None, help="where the files are written (default: the temporary directory)")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(dir=options.dir) as name:
        for kinds in (("symlink", "mv"), ("cp", "cp"), ("mv", "mv")):
            small(Path(name), options.rounds, *kinds)
        large(Path(name), options.size, options.rounds)


if __name__ == "__main__":
    main()
