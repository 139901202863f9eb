"""``jobMetrics`` of ATLAS jobs: ``name=value`` in the order of control and monitoring document, section 11.

What a payload writes (memory monitor, event loop) is read with bounds and believed only where it looks right.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator, Optional

from pilot.user.atlas.leak import leak_fit
from pilot.util.checksum import open_regular

if TYPE_CHECKING:
    from pilot.info.job import Job

SUMMARY = "memory_monitor_summary.json"
SAMPLES = "memory_monitor_output.txt"
EVENT_LOOP = "eventLoopHeartBeat.txt"
_MOST_BYTES = 8 << 20
_EVENT = re.compile(rb" done processing event #(\d{1,18}),")
_COLUMNS = (("Time", "pss", "swap"), ("Time", "PSS", "Swap"))
"""Names of prmon, and of its predecessor."""


def job_metrics(job: Job, environ: Mapping[str, str], *, final: bool) -> str:
    """Return the metrics of a job.

    Args:
        job: it and its directory.
        environ: for MACHINEFEATURES.
        final: the update is the last one.
    """
    return " ".join(f"{name}={value}" for name, value in _pairs(job, environ, final) if value)


def _pairs(job: Job, environ: Mapping[str, str], final: bool) -> Iterator[tuple[str, str]]:
    summary = memory_summary(job.workdir)
    yield "actualCoreCount", actual_cores(job)
    yield "nEvents", str(job.nevents or "")
    yield "nEventsW", str(job.neventsw or "")
    yield "dbTime", f"{job.dbtime:.2f}" if job.dbtime else ""
    yield "dbData", str(job.dbdata or "")
    yield "resimevents", "" if job.resimevents is None else str(job.resimevents)
    yield "hs06", hs06(job.corecount, environ)
    yield from _leak(job.workdir, final)
    yield "eventnumber", event_number(job.workdir)
    yield from _addresses(job)
    yield "readbyterate", read_byte_rate(job, summary)
    yield from _gpu(summary)


def actual_cores(job: Job) -> str:
    """Return CPU time by wall time of the payload, '' while that is not known."""
    seconds = job.timing.spans.get("payload", 0.0)
    if job.cpu_seconds > 0 and seconds > 0:
        return f"{job.cpu_seconds / seconds:.2f}"
    return f"{sum(job.core_counts) / len(job.core_counts):.2f}" if job.core_counts else ""


def hs06(cores: int, environ: Mapping[str, str]) -> str:
    """Return the benchmark of the job's cores from the directory $MACHINEFEATURES, '' when the site has none."""
    place = environ.get("MACHINEFEATURES", "")
    if not place.startswith("/"):
        return ""
    total, power = (_number(_head(Path(place) / name, 100)) for name in ("total_cpu", "hs06"))
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


def read_byte_rate(job: Job, summary: Mapping[str, Any]) -> str:
    """Return bytes read from disk by bytes of input (libraries do not count), '' when either is not known."""
    size = sum(spec.filesize for spec in job.indata if ".lib." not in spec.lfn and spec.filesize > 0)
    most = _section(summary, "Max")
    read = _number(most.get("read_bytes", most.get("totRBYTES")))
    return f"{read / size:.2f}" if read and size else ""


def _gpu(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    gpu = _section(_section(summary, "HW"), "gpu")
    name = _section(gpu, "gpu_0").get("name")
    number = _number(gpu.get("nGPU"))
    if isinstance(name, str) and name.strip():
        yield "GPU_name", "_".join(name.split())[:80]
    if number:
        yield "nGPU", str(int(number))


def memory_summary(workdir: Path) -> Mapping[str, Any]:
    """Return the memory monitor's summary: the final one, else the last snapshot; empty when there is none."""
    for name in (SUMMARY, f"{SUMMARY}_snapshot"):
        text = _head(workdir / name, 1 << 20)
        try:
            tree = json.loads(text) if text else None
        except (ValueError, RecursionError):
            continue
        if isinstance(tree, dict):
            return tree
    return {}


def _leak(workdir: Path, final: bool) -> Iterator[tuple[str, str]]:
    times, memory = memory_samples(_head(workdir / SAMPLES, _MOST_BYTES))
    fit = leak_fit(times, memory, final=final)
    if fit is not None and all(math.isfinite(value) for value in fit):
        yield "leak", f"{fit.slope:.2f}"
        yield "chi2", f"{fit.chi2:.2f}"
        yield "intersect", f"{fit.intersect:.2f}"


def memory_samples(text: bytes) -> tuple[list[float], list[float]]:
    """Return times (s) and pss + swap (kB) of the memory monitor's samples; lines that are no numbers are left out."""
    lines = text.splitlines()
    names = lines[0].decode("ascii", "replace").split() if lines else []
    columns = next((wanted for wanted in _COLUMNS if set(wanted) <= set(names)), None)
    times: list[float] = []
    memory: list[float] = []
    if columns is None:
        return times, memory
    places = [names.index(name) for name in columns]
    for line in lines[1:]:
        words = line.split()
        values = [_number(words[place]) for place in places] if len(words) == len(names) else []
        if values and None not in values:
            times.append(values[0] or 0.0)
            memory.append((values[1] or 0.0) + (values[2] or 0.0))
    return times, memory


def _section(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = tree.get(name)
    return value if isinstance(value, dict) else {}


def _number(value: object) -> Optional[float]:
    """Return a finite number that is not negative, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str, bytes)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if 0 <= number < 1e18 else None


def _head(path: Path, limit: int) -> bytes:
    return _read(path, limit, from_end=False)


def _tail(path: Path, limit: int) -> bytes:
    return _read(path, limit, from_end=True)


def _read(path: Path, limit: int, *, from_end: bool) -> bytes:
    """Return up to ``limit`` bytes of a regular file, nothing of anything else."""
    try:
        descriptor = open_regular(path, links=False)
    except OSError:
        return b""
    with os.fdopen(descriptor, "rb") as stream:
        try:
            if from_end:
                stream.seek(max(0, os.fstat(stream.fileno()).st_size - limit))
            return stream.read(limit)
        except OSError:
            return b""
