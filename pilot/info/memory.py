"""What is known of a payload's memory and I/O: one typed record, whoever has measured it.

::

    prmon, MemoryMonitor, or the pilot's own sampler
        memory_monitor_output.txt               one line per interval, columns by name      read_columns, use_of_columns
        memory_monitor_summary.json_snapshot    rewritten every interval                    use_of_summary
        memory_monitor_summary.json             at the end                                  use_of_summary

Memory in kB, I/O in bytes, times in s, as the monitors write them and as the server wants them. The files lie in the
payload's directory: they may be anything. Source: payload document 9, control-and-monitoring document 9.
"""

from __future__ import annotations

import json
import logging
import math
import os
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Optional

from pilot.util.checksum import open_regular

logger = logging.getLogger(__name__)

OUTPUT = "memory_monitor_output.txt"
SUMMARY = "memory_monitor_summary.json"
SNAPSHOT = f"{SUMMARY}_snapshot"
FILES = (OUTPUT, SUMMARY, SNAPSHOT)
"""Files of a memory monitor in the job's directory: no outputs, and no sign of life of a payload."""

_SUMMARY_LIMIT = 1 << 20
_TEXT_LIMIT = 4 << 20
"""Bytes of a text file that are read: a line a minute has some 150, so this is more than two weeks."""
_LARGEST = 10**18
"""What is beyond this (or negative, or no number) was not measured: the next power of 1000 is an exabyte."""

BY_MONITOR = "PSS by prmon"

MEMORY = ("rss", "vmem", "swap", "pss")
IO = ("rchar", "wchar", "read_bytes", "write_bytes")
_IO_FIELDS = ("RCHAR", "WCHAR", "RBYTES", "WBYTES")
_OLD_IO = ("rchar", "wchar", "rbytes", "wbytes")
_OLD_COLUMNS = {"rbytes": "read_bytes", "wbytes": "write_bytes"}
_OLD_MAX = ("maxRSS", "maxVMEM", "maxSwap", "maxPSS")
_OLD_AVG = ("avgRSS", "avgVMEM", "avgSwap", "avgPSS")

Columns = Mapping[str, Sequence[float]]
"""Column name in lower case (``time``, ``pss``, ``swap``, ...) -> one value per line of the text file."""

_UNKNOWN = (-1, -1, -1, -1)


class MemoryUse(NamedTuple):
    """Maxima and averages of a payload. ``peak`` and ``average`` in the order RSS, VMEM, swap, PSS (kB); -1 in all of
    them: a monitor has run, but its summary lacks one. ``totals`` and ``rates`` (B, B/s) in the order rchar, wchar,
    read_bytes, write_bytes; None when unknown.
    """

    peak: tuple[int, ...] = _UNKNOWN
    average: tuple[int, ...] = _UNKNOWN
    totals: Optional[tuple[int, ...]] = None
    rates: Optional[tuple[int, ...]] = None
    utime: float = 0.0
    """CPU seconds in user mode."""
    stime: float = 0.0
    """CPU seconds in the kernel."""
    seconds: float = 0.0
    """How long was measured."""
    gpu_name: str = ""
    """Name of the first GPU, blanks as ``_``."""
    ngpu: int = 0
    source: str = ""
    """What stands for PSS, and who has measured it."""

    @property
    def known(self) -> bool:
        """False for the -1 of a broken summary."""
        return self.peak != _UNKNOWN

    @property
    def max_rss(self) -> int:
        """Largest RSS of the payload's processes together, kB; -1 = unknown."""
        return self.peak[0]

    @property
    def max_pss(self) -> int:
        """Largest PSS (shared pages counted once) of the payload's processes together, kB; -1 = unknown."""
        return self.peak[3]

    def update_fields(self) -> dict[str, float]:
        """Return the fields of a job update (maxRSS, avgPSS, totRCHAR, rateWBYTES, ...)."""
        fields: dict[str, float] = {}
        for index, name in enumerate(MEMORY):
            fields[f"max{name.upper()}"] = self.peak[index]
            fields[f"avg{name.upper()}"] = self.average[index]
        for prefix, values in (("tot", self.totals), ("rate", self.rates)):
            if values is not None:
                fields.update((f"{prefix}{name}", value) for name, value in zip(_IO_FIELDS, values))
        return fields

    def joined(self, later: MemoryUse) -> MemoryUse:
        """Return what both say together: of two turns of a payload, of a monitor that was started again."""
        if not later.known or not self.known:
            return self if self.known else later
        whole = self.seconds + later.seconds

        def mean(first: Sequence[int], second: Sequence[int]) -> tuple[int, ...]:
            if whole <= 0:
                return tuple((a + b) // 2 for a, b in zip(first, second))
            return tuple(int((a * self.seconds + b * later.seconds) / whole) for a, b in zip(first, second))

        def both(first: Optional[tuple[int, ...]], second: Optional[tuple[int, ...]], *, add: bool
                 ) -> Optional[tuple[int, ...]]:
            if first is None or second is None:
                return first if second is None else second
            return tuple(a + b for a, b in zip(first, second)) if add else mean(first, second)

        return MemoryUse(
            tuple(max(pair) for pair in zip(self.peak, later.peak)), mean(self.average, later.average),
            both(self.totals, later.totals, add=True), both(self.rates, later.rates, add=False),
            self.utime + later.utime, self.stime + later.stime, whole, later.gpu_name or self.gpu_name,
            max(self.ngpu, later.ngpu), later.source)


# --- what is where ----------------------------------------------------------------------------------------------------


def read_memory_use(workdir: Path, home: Optional[Path] = None) -> Optional[MemoryUse]:
    """Return what the monitor's files say: summary of the job's directory, its copy in ``home`` (PILOT_HOME), snapshot,
    text file; None when there is nothing that can be used."""
    for path in (workdir / SUMMARY, *((home / SUMMARY,) if home else ()), workdir / SNAPSHOT):
        use = use_of_summary(_read(path, _SUMMARY_LIMIT), path.name)
        if use is not None:
            return use._replace(source=BY_MONITOR)
    use = use_of_columns(time_series(workdir))
    return use._replace(source=BY_MONITOR) if use is not None else None


def read_summary(workdir: Path) -> bytes:
    """Return the summary as it stands in the job's directory, empty when there is none."""
    return _read(workdir / SUMMARY, _SUMMARY_LIMIT)


def prmon_line(pid: int, program: str = "prmon") -> str:
    """Return the shell line of prmon for a process (and all that descends from it)."""
    return f"{program} --pid {pid} --filename {OUTPUT} --json-summary {SUMMARY} --interval 60"


def time_series(workdir: Path) -> Columns:
    """Return the columns of the monitor's text file, for fits and plots; empty when there is none that can be used."""
    content = _read(workdir / OUTPUT, _TEXT_LIMIT)
    return parse_columns(content) if content else {}


def _read(path: Path, limit: int) -> bytes:
    """Return the first ``limit`` bytes of a regular file, empty when there is none; links are not followed."""
    try:
        handle = open_regular(path, links=False)
    except OSError:
        return b""
    try:
        with os.fdopen(handle, "rb") as stream:
            return stream.read(limit)
    except OSError as exc:
        logger.warning("%s cannot be read: %s", path.name, exc.strerror or exc)
        return b""


# --- the text file ----------------------------------------------------------------------------------------------------


def parse_columns(content: bytes) -> Columns:
    """Return the columns of a text file of prmon or MemoryMonitor by lower-case name.

    The first line has the names in any order. A line that is cut, has another number of values, or a value that is no
    finite number (a monitor that was killed, a full disk, NaN) is left out whole, so that all columns have one length.
    """
    lines = content.split(b"\n")
    names = [word.decode("utf-8", "replace").strip().lower() for word in _words(lines[0])]
    names = [_OLD_COLUMNS.get(name, name) for name in names]
    if "time" not in names or len(set(names)) != len(names):
        return {}
    columns = {name: array("d") for name in names}
    for line in lines[1:]:
        words = _words(line)
        row = [_number(word) for word in words] if len(words) == len(names) else [None]
        if None not in row:
            for column, value in zip(columns.values(), row):
                column.append(value or 0.0)
    return columns if columns["time"] else {}


def _words(line: bytes) -> list[bytes]:
    return line.rstrip(b"\r").split(b"\t") if b"\t" in line else line.split()


def _number(value: object) -> Optional[float]:
    """Return a number that can have been measured, else None."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)  # type: ignore[arg-type]  # whatever it is
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and 0 <= number < _LARGEST else None


def use_of_columns(columns: Columns) -> Optional[MemoryUse]:
    """Return maxima and averages of a time series; None when it lacks one of the memory columns. Totals and rates are
    left to the summary, as in the reference."""
    if not all(columns.get(name) for name in MEMORY):
        return None
    last = {name: values[-1] for name, values in columns.items() if values}
    times = columns["time"]
    return MemoryUse(
        tuple(int(max(columns[name])) for name in MEMORY),
        tuple(int(sum(columns[name]) / len(columns[name])) for name in MEMORY),
        utime=last.get("utime", 0.0), stime=last.get("stime", 0.0),
        seconds=last.get("wtime", 0.0) or max(0.0, times[-1] - times[0]))


# --- summaries --------------------------------------------------------------------------------------------------------


def use_of_summary(content: bytes, name: str = SUMMARY) -> Optional[MemoryUse]:
    """Return what a summary (or snapshot) of prmon or of the old MemoryMonitor says.

    None when it is no JSON object with ``Max`` and ``Avg`` (there is none yet, it is cut, it is something else); with
    these but without one of the memory values all eight are -1, as the server expects it.
    """
    if not content:
        return None
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as exc:
        logger.warning("%s is not valid JSON: %s", name, exc)
        return None
    if not isinstance(data, dict):
        return None
    largest, mean = data.get("Max"), data.get("Avg")
    if not isinstance(largest, dict) or not isinstance(mean, dict):
        return None
    if "maxRSS" in largest:
        use = _use_of(largest, mean, (_OLD_MAX, _OLD_AVG), (tuple(f"tot{io}" for io in _IO_FIELDS),
                                                            tuple(f"rate{io}" for io in _IO_FIELDS)))
    else:
        use = _use_of(largest, mean, (MEMORY, MEMORY), (IO, IO))
    if not use.known:
        logger.warning("%s lacks memory values: -1 is reported", name)
    gpu_name, ngpu = _gpu(data.get("HW"))
    return use._replace(gpu_name=gpu_name, ngpu=ngpu)


def _use_of(
    largest: Mapping[str, object], mean: Mapping[str, object], memory: Sequence[Sequence[str]],
    io: Sequence[Sequence[str]],
) -> MemoryUse:
    peak, average = _values(largest, memory[0]), _values(mean, memory[1])
    known = peak is not None and average is not None
    return MemoryUse(
        peak if peak is not None and known else _UNKNOWN, average if average is not None and known else _UNKNOWN,
        _values(largest, io[0]), _values(mean, io[1]), _number(largest.get("utime")) or 0.0,
        _number(largest.get("stime")) or 0.0, _number(largest.get("wtime")) or 0.0)


def _values(data: Mapping[str, object], names: Sequence[str]) -> Optional[tuple[int, ...]]:
    numbers = [_number(data.get(name)) for name in names]
    return None if None in numbers else tuple(int(number or 0) for number in numbers)


def _gpu(hardware: object) -> tuple[str, int]:
    """Return (name of the first GPU, number of GPUs)."""
    gpus = hardware.get("gpu") if isinstance(hardware, dict) else None
    if not isinstance(gpus, dict):
        return "", 0
    first = gpus.get("gpu_0")
    name = first.get("name") if isinstance(first, dict) else ""
    number = _number(gpus.get("nGPU"))
    return "_".join(str(name or "").split())[:100], int(number or 0)
