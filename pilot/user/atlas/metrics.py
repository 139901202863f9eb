"""``jobMetrics`` of ATLAS jobs: ``name=value`` in the order of control and monitoring document, section 11.

What a payload writes is read with bounds and believed only where it looks right.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Iterator

from pilot.info.memory import IO, MemoryUse, read_memory_use, time_series
from pilot.user.atlas.leak import leak_fit
from pilot.util.checksum import open_regular
from pilot.util.features import MACHINE, feature

if TYPE_CHECKING:
    from pilot.info.job import Job

EVENT_LOOP = "eventLoopHeartBeat.txt"
READ_BYTES = IO.index("read_bytes")
_EVENT = re.compile(rb" done processing event #(\d{1,18}),")


def job_metrics(job: Job, environ: Mapping[str, str], *, final: bool) -> str:
    """Return the metrics of a job.

    Args:
        job: it and its directory.
        environ: for MACHINEFEATURES.
        final: the update is the last one.
    """
    return " ".join(f"{name}={value}" for name, value in _pairs(job, environ, final) if value)


def _pairs(job: Job, environ: Mapping[str, str], final: bool) -> Iterator[tuple[str, str]]:
    use = job.memory or read_memory_use(job.workdir) or MemoryUse()
    yield "actualCoreCount", actual_cores(job, use)
    yield "nEvents", str(job.nevents or "")
    yield "nEventsW", str(job.neventsw or "")
    yield "dbTime", f"{job.dbtime:.2f}" if job.dbtime else ""
    yield "dbData", str(job.dbdata or "")
    yield "resimevents", "" if job.resimevents is None else str(job.resimevents)
    yield "workDirSize", str(job.workdir_size or "") if final else ""
    yield "hs06", hs06(job.corecount, environ)
    yield from _leak(job.workdir, final)
    yield "eventnumber", event_number(job.workdir)
    yield from _addresses(job)
    yield "readbyterate", read_byte_rate(job, use)
    yield "GPU_name", use.gpu_name
    yield "nGPU", str(use.ngpu or "")


def actual_cores(job: Job, use: MemoryUse) -> str:
    """Return CPU time by wall time of the payload, '' while that is not known.

    The time is the memory monitor's, which has seen every process, else the pilot's own measurement.
    """
    seconds = job.timing.spans.get("payload", 0.0)
    used = use.utime + use.stime or job.cpu_seconds
    if used > 0 and seconds > 0:
        return f"{used / seconds:.2f}"
    return f"{sum(job.core_counts) / len(job.core_counts):.2f}" if job.core_counts else ""


def hs06(cores: int, environ: Mapping[str, str]) -> str:
    """Return the benchmark of the job's cores from the directory $MACHINEFEATURES, '' when the site has none."""
    total, power = (feature(environ, MACHINE, name, urls=False) for name in ("total_cpu", "hs06"))
    return f"{power * cores / total:.2f}" if total and power else ""


def event_number(workdir: Path) -> str:
    """Return the event that the last line of the event loop's file names."""
    lines = _tail(workdir / EVENT_LOOP, 4096).rstrip().splitlines()
    found = _EVENT.search(lines[-1]) if lines else None
    return found.group(1).decode() if found else ""


def _addresses(job: Job) -> Iterator[tuple[str, str]]:
    """Dask and Jupyter, when both addresses are there; blanks would break the text."""
    values = [str(job.definition.get(name) or "") for name in ("scheduler_ip", "session_ip")]
    if all(value and not re.search(r"\s", value) for value in values):
        yield "schedulerIP", values[0]
        yield "sessionIP", values[1]


def read_byte_rate(job: Job, use: MemoryUse) -> str:
    """Return bytes read from disk by bytes of input (libraries do not count), '' when either is not known."""
    size = sum(spec.filesize for spec in job.indata if ".lib." not in spec.lfn and spec.filesize > 0)
    read = use.totals[READ_BYTES] if use.totals is not None else 0
    return f"{read / size:.2f}" if read and size else ""


def _leak(workdir: Path, final: bool) -> Iterator[tuple[str, str]]:
    columns = time_series(workdir)
    if not {"time", "pss", "swap"} <= set(columns):
        return
    memory = [pss + swap for pss, swap in zip(columns["pss"], columns["swap"])]
    fit = leak_fit(columns["time"], memory, final=final)
    if fit is not None and all(math.isfinite(value) for value in fit):
        yield "leak", f"{fit.slope:.2f}"
        yield "chi2", f"{fit.chi2:.2f}"
        yield "intersect", f"{fit.intersect:.2f}"


def _tail(path: Path, limit: int) -> bytes:
    """Return the last ``limit`` bytes of a regular file, nothing of anything else."""
    try:
        descriptor = open_regular(path, links=False)
    except OSError:
        return b""
    with os.fdopen(descriptor, "rb") as stream:
        try:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - limit))
            return stream.read(limit)
        except OSError:
            return b""
