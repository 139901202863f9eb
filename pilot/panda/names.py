"""The names that the two server dialects use for one thing, with types and limits (server-api.md 5.1, 6.2, 6.4).

Servers and their data base depend on every string in here: an unknown name kills the request, a wrong type is
refused by v1, and a text that is too long for an unprotected column loses the whole update.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["int", "str", "number", "float", "bool"]
Cut = Literal["head", "tail", "words"]


class Field(NamedTuple):
    """One message field: its name in each dialect ("" = unknown there), type, and limit.

    ``limit`` is bytes of UTF-8 for texts and the first forbidden value for numbers; 0 = none.
    """

    legacy: str
    v1: str
    kind: Kind
    limit: float = 0
    cut: Cut = "head"


_TEN_DIGITS = 10**10
# The server divides these by 1024 before it stores ten digits.
_TEN_DIGITS_KB = 1024 * 10**10

UPDATE_FIELDS = (
    Field("jobId", "job_id", "int"),
    Field("state", "job_status", "str"),
    Field("attemptNr", "attempt_nr", "int"),
    Field("timestamp", "", "str"),
    Field("siteName", "site_name", "str"),
    Field("node", "node", "str", 128),
    Field("schedulerID", "scheduler_id", "str", 128),
    Field("pilotID", "pilot_id", "str", 200),
    Field("batchID", "batch_id", "str", 80),
    Field("startTime", "start_time", "str"),
    Field("endTime", "end_time", "str"),
    Field("jobMetrics", "job_metrics", "str", 500, "words"),
    Field("xml", "job_output_report", "str"),
    Field("metaData", "meta_data", "str"),
    Field("stdout", "stdout", "str", 2048, "tail"),
    Field("coreCount", "core_count", "int", _TEN_DIGITS),
    Field("meanCoreCount", "mean_core_count", "int", 10**6),
    Field("nEvents", "n_events", "int", _TEN_DIGITS),
    Field("nInputFiles", "n_input_files", "int", 10**5),
    Field("cpuConsumptionTime", "cpu_consumption_time", "int", 10**9 + 1),
    Field("cpuConversionFactor", "cpu_conversion_factor", "number", 10**5),
    Field("cpuConsumptionUnit", "cpu_consumption_unit", "str", 128),
    Field("cpu_architecture_level", "cpu_architecture_level", "str", 20),
    *(
        Field(f"{a}{b}", f"{a}_{b.lower()}", "int", _TEN_DIGITS)
        for a in ("max", "avg")
        for b in ("RSS", "VMEM", "SWAP", "PSS")
    ),
    *(Field(f"tot{b}", f"tot_{b.lower()}", "int", _TEN_DIGITS_KB) for b in ("RCHAR", "WCHAR", "RBYTES", "WBYTES")),
    *(Field(f"rate{b}", f"rate_{b.lower()}", "int", _TEN_DIGITS) for b in ("RCHAR", "WCHAR", "RBYTES", "WBYTES")),
    Field("pilotTiming", "pilot_timing", "str", 100),
    Field("pilotErrorCode", "pilot_error_code", "int", 10**7),
    Field("pilotErrorDiag", "pilot_error_diag", "str", 500),
    Field("exeErrorCode", "exe_error_code", "int", 10**7),
    Field("exeErrorDiag", "exe_error_diag", "str", 500),
    Field("transExitCode", "trans_exit_code", "int", _TEN_DIGITS),
    Field("pilotLog", "pilot_log", "str", 1024),
    Field("jobSubStatus", "job_sub_status", "str", 80),
    Field("corruptedFiles", "corrupted_files", "str"),
    Field("grid", "grid", "str", 50),
    Field("source_site", "source_site", "str", 36),
    Field("destination_site", "destination_site", "str", 36),
)
"""Fields of updateJob / update_job. The unit of each is in the message builder."""

GETJOB_FIELDS = (
    Field("siteName", "site_name", "str"),
    Field("computingElement", "computing_element", "str"),
    Field("prodSourceLabel", "prod_source_label", "str"),
    Field("diskSpace", "disk_space", "int"),
    Field("mem", "memory", "int"),
    Field("cpu", "", "number"),
    Field("node", "node", "str", 128),
    Field("workingGroup", "", "str"),
    Field("countryGroup", "", "str"),
    Field("allowOtherCountry", "", "str"),
    Field("jobType", "job_type", "str"),
    Field("prodUserID", "prod_user_id", "str"),
    Field("taskID", "task_id", "int"),
    Field("viaTopic", "via_topic", "bool"),
    Field("resourceType", "resource_type", "str"),
    Field("harvester_id", "harvester_id", "str"),
    Field("worker_id", "worker_id", "int"),
    # Legacy servers before 2025 end the request with 500 on this name; those that know it have v1 as well.
    Field("", "remaining_time", "int"),
    Field("nJobs", "n_jobs", "int"),
)
"""Fields of getJob / acquire_jobs; diskSpace and mem in MB, cpu in MHz, remaining_time in s."""

REQUIRED_UPDATE = frozenset({"jobId", "state", "attemptNr", "pilotErrorCode", "xml", "transExitCode"})
"""Legacy names that are never dropped from an update: without them it would say something else."""

SELECTING_GETJOB = frozenset(
    {"siteName", "prodSourceLabel", "diskSpace", "mem", "prodUserID", "taskID", "resourceType", "jobType", "nJobs"}
)
"""Legacy names that choose the job: dropping one could bring a job that must not run here."""

REDUCIBLE_UPDATE = frozenset(
    {
        "jobMetrics",
        "metaData",
        "stdout",
        "pilotLog",
        "nEvents",
        "nInputFiles",
        "meanCoreCount",
        "cpuConversionFactor",
        "cpu_architecture_level",
        "source_site",
        "destination_site",
        "jobSubStatus",
        "pilotTiming",
    }
) | {field.legacy for field in UPDATE_FIELDS if field.legacy[:3] in ("max", "avg", "tot") or field.legacy[:4] == "rate"}
"""Legacy names that a report can do without, left out after the second StatusCode 30 (server-api.md 10)."""

FINAL_STATES = ("finished", "failed")

_UPDATE_BY_LEGACY = {field.legacy: field for field in UPDATE_FIELDS}
_LEGACY_OF_V1 = {field.v1: field.legacy or field.v1 for field in (*GETJOB_FIELDS, *UPDATE_FIELDS) if field.v1}


def update_field(name: str) -> Field | None:
    """Return the update field with the legacy ``name``, or None."""
    return _UPDATE_BY_LEGACY.get(name)


def legacy_name(name: str) -> str:
    """Return the legacy name of a v1 argument; names that are no v1 argument come back unchanged."""
    return _LEGACY_OF_V1.get(name, name)
