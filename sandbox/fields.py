"""The fields of a job update: both names, v1 type, what the server cuts and what its columns refuse.

Source: server-api.md 6.2 and 6.4. The sandbox keeps every message under its *legacy* names.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Mapping, Optional, Tuple

NUMBER = (int, float)


def words(text: str) -> Tuple[str, ...]:
    """The words of a text, for tables of names."""
    return tuple(text.split())



@dataclass(frozen=True)
class UpdateField:
    """One field of updateJob / update_job.

    v1: v1 name, empty when v1 does not have it.  types, default: as v1 declares them.
    cut: characters kept by the server (None: no cut).  limit: bytes of the text column, checked after the cut.
    below: numbers must be smaller than this in absolute value.
    """

    legacy: str
    v1: str
    types: Tuple[type, ...] = (str,)
    default: Any = None
    cut: Optional[int] = None
    limit: Optional[int] = None
    below: Optional[int] = None


F = UpdateField
TEN_DIGITS = 10**10

UPDATE_FIELDS: Tuple[UpdateField, ...] = (
    F("jobId", "job_id", (int,)),
    F("state", "job_status"),
    F("attemptNr", "attempt_nr", (int,)),
    F("siteName", "site_name"),
    F("node", "node", cut=128),
    F("schedulerID", "scheduler_id", limit=128),
    F("pilotID", "pilot_id", cut=200),
    F("batchID", "batch_id", cut=80),
    F("startTime", "start_time"),
    F("endTime", "end_time"),
    F("jobMetrics", "job_metrics", cut=500, limit=500),
    F("xml", "job_output_report", default=""),
    F("metaData", "meta_data", default=""),
    F("stdout", "stdout", default=""),
    F("coreCount", "core_count", (int,), below=10**6),
    F("meanCoreCount", "mean_core_count", (int,), below=10**6),
    F("nEvents", "n_events", (int,), below=TEN_DIGITS),
    F("nInputFiles", "n_input_files", (int,), below=10**5),
    F("cpuConsumptionTime", "cpu_consumption_time", (int,), below=10**9 + 1),
    F("cpuConversionFactor", "cpu_conversion_factor", NUMBER, below=10**5),
    F("cpuConsumptionUnit", "cpu_consumption_unit", limit=128),
    F("cpu_architecture_level", "cpu_architecture_level", cut=20),
    F("maxRSS", "max_rss", NUMBER, below=TEN_DIGITS),
    F("maxVMEM", "max_vmem", NUMBER, below=TEN_DIGITS),
    F("maxSWAP", "max_swap", NUMBER, below=TEN_DIGITS),
    F("maxPSS", "max_pss", NUMBER, below=TEN_DIGITS),
    F("avgRSS", "avg_rss", NUMBER, below=TEN_DIGITS),
    F("avgVMEM", "avg_vmem", NUMBER, below=TEN_DIGITS),
    F("avgSWAP", "avg_swap", NUMBER, below=TEN_DIGITS),
    F("avgPSS", "avg_pss", NUMBER, below=TEN_DIGITS),
    F("totRCHAR", "tot_rchar", NUMBER),
    F("totWCHAR", "tot_wchar", NUMBER),
    F("totRBYTES", "tot_rbytes", NUMBER),
    F("totWBYTES", "tot_wbytes", NUMBER),
    F("rateRCHAR", "rate_rchar", NUMBER, below=TEN_DIGITS),
    F("rateWCHAR", "rate_wchar", NUMBER, below=TEN_DIGITS),
    F("rateRBYTES", "rate_rbytes", NUMBER, below=TEN_DIGITS),
    F("rateWBYTES", "rate_wbytes", NUMBER, below=TEN_DIGITS),
    F("pilotTiming", "pilot_timing", limit=100),
    F("pilotErrorCode", "pilot_error_code", (int,), below=10**7),
    F("pilotErrorDiag", "pilot_error_diag", cut=500, limit=500),
    F("exeErrorCode", "exe_error_code", (int,), below=10**7),
    F("exeErrorDiag", "exe_error_diag", cut=500, limit=500),
    F("transExitCode", "trans_exit_code", (int,)),
    F("pilotLog", "pilot_log", default="", cut=4000),
    F("jobSubStatus", "job_sub_status", cut=80),
    F("corruptedFiles", "corrupted_files"),
    F("grid", "grid", cut=50),
    F("source_site", "source_site", cut=36),
    F("destination_site", "destination_site", cut=36),
)

LEGACY_NAME: Mapping[str, str] = {f.v1: f.legacy for f in UPDATE_FIELDS}
FIELD: Mapping[str, UpdateField] = {f.legacy: f for f in UPDATE_FIELDS}
# The legacy server slices these: anything but text is an exception there, hence HTTP 500 (server-api.md 6.2).
LEGACY_SLICED = ("node", "pilotErrorDiag", "jobMetrics", "pilotID", "batchID", "exeErrorDiag", "stdout", "pilotLog")

_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$")


class ColumnError(Exception):
    """A value does not fit its data base column: the whole update is refused with StatusCode 30."""


def stored_values(message: Mapping[str, Any]) -> dict[str, Any]:
    """What the server would write for ``message`` (legacy names): cut, converted, without empty values.

    Raises ColumnError for a value that the data base refuses (server-api.md 6.4).
    """
    values: dict[str, Any] = {}
    for name, value in message.items():
        field = FIELD.get(name)
        if field is None or value is None or name in ("jobId", "state", "attemptNr", "xml", "metaData"):
            continue
        if field.types == (str,):
            if name in ("startTime", "endTime"):
                # a float (the reference sends an epoch) is ignored silently
                if isinstance(value, str) and _TIME.match(value):
                    values[name] = value
                continue
            text = str(value)[: field.cut]
            if field.limit is not None and len(text.encode()) > field.limit:
                raise ColumnError(f"value too large for column {name} ({len(text.encode())} > {field.limit})")
            if text:
                values[name] = text
        else:
            number = _number(name, value)
            if number is not None:
                if field.below is not None and abs(number) >= field.below:
                    raise ColumnError(f"value larger than specified precision allowed for column {name}")
                values[name] = number
    return values


def _number(name: str, value: Any) -> Optional[float]:
    if isinstance(value, str):
        value = value.strip()
        if value in ("", "NULL", "None"):
            return None
        # The server turns the negative code of a recoverable user error into a positive one, on text only (6.9).
        if name == "pilotErrorCode":
            value = value.lstrip("-")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ColumnError(f"invalid number for column {name}: {value!r}") from None
    if not math.isfinite(number):
        raise ColumnError(f"invalid number for column {name}: {value!r}")
    return int(number) if number == int(number) else number
