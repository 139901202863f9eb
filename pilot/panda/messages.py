"""Builds the heartbeat and the final report from a Job: one dictionary with legacy names, whatever the dialect.

The dialects rename, cast and cut it (``values.py``). Unknown fields are left out, never null (server-api.md 6.2).
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from pilot.common.errorcodes import format_diagnosis
from pilot.info.filespec import FileSpec
from pilot.info.job import Job
from pilot.panda.names import FINAL_STATES, REDUCIBLE_UPDATE, UPDATE_FIELDS, update_field
from pilot.panda.values import cast

State = Literal["starting", "running", "finished", "failed", "holding", "transferring"]

UNKNOWN_FAILURE = 1220
"""Code of a failed job that has none of its own: without one the server invents ddmErrorCode 200."""

SIGTERM, PREEMPTION = 1201, 1379

_MAX_CPU_SECONDS = 10**9
_TIME_STAMP = re.compile(r"\s*\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:[.,]\d+)?\s*")
_METRICS = frozenset(
    field.legacy for field in UPDATE_FIELDS if field.legacy[:3] in ("max", "avg", "tot") or field.legacy[:4] == "rate"
)


class ReportEnvironment(NamedTuple):
    """What a report says of pilot and node; the same for all reports of a pilot.

    ``gtag`` (GTAG: URL of the batch log), ``scheduler_id`` (PANDA_JSID), ``version_tag`` (``-i``), ``pilot_version``,
    ``node`` (``slot@host``), ``cpu_consumption_unit`` (``s+<model>[+AVX2]``), ``cpu_architecture_level``
    (``x86_64-v3``), ``kubernetes`` (K8S_JOB_ID is set), ``pilot_timing_fields`` (5 or 6).
    """

    site_name: str
    node: str
    pilot_version: str
    version_tag: str = "PR"
    gtag: str = "unknown"
    scheduler_id: str = "unknown"
    cpu_consumption_unit: str = ""
    cpu_architecture_level: str = ""
    source_site: str = ""
    destination_site: str = ""
    kubernetes: bool = False
    pilot_timing_fields: int = 5

    def pilot_id(self, batch_type: str) -> str:
        """Return ``<GTAG>|<batch system>|<version tag>|<pilot version>``, without the second when it is unknown."""
        return "|".join(part for part in (self.gtag, batch_type, self.version_tag, self.pilot_version) if part)


def build_update(
    job: Job,
    state: State,
    env: ReportEnvironment,
    now: float,
    *,
    metrics: Mapping[str, float] | None = None,
    job_metrics: str = "",
    stdout: str = "",
) -> dict[str, object]:
    """Return the message (legacy names) for one update of ``job``.

    Args:
        job: read only; ``batch_id`` must have been set once by its owner.
        state: as the server knows it; ``finished`` and ``failed`` make a final report with the final-only fields. A job
            with errors is reported ``failed`` whatever was asked for.
        env: what is the same for all reports.
        now: wall clock, epoch s.
        metrics: memory and I/O numbers by legacy name (maxRSS ... in kB, totRCHAR ... in bytes, rate... in bytes/s)
            that go over those of ``job.memory``.
        job_metrics: text of ``jobMetrics``, made by the experiment.
        stdout: output of debug mode, the last 2048 bytes are kept.
    """
    if state == "finished" and job.errors:
        state = "failed"
    message: dict[str, object] = {
        "jobId": int(job.jobid),
        "state": state,
        "attemptNr": job.attemptnr,
        "timestamp": local_time(now),
        "siteName": env.site_name,
        "node": env.node,
        "schedulerID": env.scheduler_id,
        "pilotID": env.pilot_id(job.batch_type),
        "batchID": job.batch_id,
        "startTime": server_time(job.start_time),
        "jobMetrics": job_metrics,
        "stdout": stdout,
        "cpuConsumptionUnit": env.cpu_consumption_unit,
        "cpu_architecture_level": env.cpu_architecture_level,
        "source_site": env.source_site,
        "destination_site": env.destination_site,
    }
    message.update(_measured(job, metrics or {}))
    if state in FINAL_STATES:
        message.update(_final_fields(job, state, env, now))
    return _sendable(message)


def _measured(job: Job, metrics: Mapping[str, float]) -> dict[str, object]:
    measured = {**(job.memory.update_fields() if job.memory is not None else {}), **metrics}
    fields: dict[str, object] = {name: value for name, value in measured.items() if name in _METRICS}
    if job.corecount > 0:
        fields["coreCount"] = job.corecount
    mean_cores = sum(job.core_counts) / len(job.core_counts) if job.core_counts else 0.0
    if mean_cores >= 0.5:  # whole cores on the wire: a payload that sleeps would be said to have had none
        fields["meanCoreCount"] = mean_cores
    if job.nevents:
        fields["nEvents"] = job.nevents
    seconds = round(job.cpu_seconds)  # rounded as in the reference (payload.md 1), not cut
    if 0 < seconds <= _MAX_CPU_SECONDS:
        fields["cpuConsumptionTime"] = seconds
        fields["cpuConversionFactor"] = 1.0
    return fields


def _final_fields(job: Job, state: str, env: ReportEnvironment, now: float) -> dict[str, object]:
    code, diagnosis = reported_error(job, state, env)
    fields: dict[str, object] = {
        "endTime": server_time(job.end_time or now),
        "pilotErrorCode": code,
        "pilotErrorDiag": diagnosis,
        "exeErrorCode": job.exe_error_code,
        "exeErrorDiag": job.exe_error_diag,
        "transExitCode": job.exit_code if job.trans_exit_code is None else job.trans_exit_code,
        "pilotTiming": pilot_timing(job, env.pilot_timing_fields),
    }
    if job.indata:
        fields["nInputFiles"] = len(job.indata)
    report = build_output_report(job)
    if report or job.outdata or job.logdata:
        fields["xml"] = json.dumps(report)
    if state == "finished":
        # The server keeps the first metaData that it sees, and drops that of failed jobs.
        fields["metaData"] = job.metadata
    else:
        fields["pilotLog"] = job.pilot_log_extract
    return fields


def reported_error(job: Job, state: str, env: ReportEnvironment) -> tuple[int, str]:
    """Return (code, diagnosis) of the root cause, (0, "") for a finished job.

    Time stamps are taken out: texts that change break the grouping in the monitor. A SIGTERM on Kubernetes is a
    preemption. A failed job always has a code.
    """
    reported = job.errors.reported(job.payload_succeeded)
    if reported is None:
        if state != "failed":
            return 0, ""
        return UNKNOWN_FAILURE, format_diagnosis(UNKNOWN_FAILURE, _exit_text(job))
    code, diagnosis = reported
    if code == SIGTERM and env.kubernetes:
        return PREEMPTION, format_diagnosis(PREEMPTION)
    return code or UNKNOWN_FAILURE, without_time_stamps(diagnosis)


def _exit_text(job: Job) -> str:
    return "the payload did not end" if job.exit_code is None else f"payload exit code {job.exit_code}"


def without_time_stamps(text: str) -> str:
    """Return ``text`` without ``YYYY-MM-DD HH:MM:SS[,mmm]``."""
    return _TIME_STAMP.sub(" ", text).strip()


def build_output_report(job: Job) -> dict[str, dict[str, object]]:
    """Return the output report (``xml``): by LFN, only outputs and logs that were transferred (server-api.md 6.7).

    An LFN that the server does not expect fails the job, so nothing else is listed. Unknown keys are left out.
    """
    specs = (*job.outdata, *job.logdata)
    return {spec.lfn: _report_entry(spec) for spec in specs if spec.status == "transferred"}


def _report_entry(spec: FileSpec) -> dict[str, object]:
    entry: dict[str, object] = {"guid": spec.guid, "fsize": spec.filesize}
    if spec.checksum.get("adler32"):
        entry["adler32"] = spec.checksum["adler32"]
    elif spec.checksum.get("md5"):
        entry["md5sum"] = spec.checksum["md5"]
    for name, value in (("surl", spec.turl or spec.surl), ("endpoint", spec.ddmendpoint)):
        if value:
            entry[name] = value
    return entry


def pilot_timing(job: Job, fields: int = 5) -> str:
    """Return ``getjob|stagein|payload|stageout|total_setup`` in whole s; with 6 fields ``...|initial_setup|setup``.

    The stage-out includes the log's creation and transfer; ``initial`` is the pilot's own start-up before getJob.
    """
    seconds = job.timing.seconds
    head = [seconds("getjob"), seconds("stagein"), seconds("payload"), seconds("stageout") + seconds("log")]
    initial, setup = seconds("initial"), seconds("setup")
    return "|".join(str(value) for value in (*head, *((initial, setup) if fields == 6 else (initial + setup,))))


def server_time(epoch: float) -> str:
    """Return ``YYYY-MM-DD HH:MM:SS`` in UTC, the only form that the server reads; "" for 0 (unknown)."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(epoch)) if epoch > 0 else ""


def local_time(epoch: float) -> str:
    """Return local ISO-8601 time with the offset that is in force then: ``2026-05-04T13:22:01+02:00``."""
    local = time.localtime(epoch)
    sign, minutes = ("-" if local.tm_gmtoff < 0 else "+"), abs(local.tm_gmtoff) // 60
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', local)}{sign}{minutes // 60:02d}:{minutes % 60:02d}"


_SENT_WHEN_EMPTY = frozenset({"pilotErrorCode", "pilotErrorDiag", "exeErrorCode", "exeErrorDiag", "transExitCode"})


def _sendable(message: Mapping[str, object]) -> dict[str, object]:
    """Return the known fields, cast and within their limits, so that what is stored is what will be sent."""
    result: dict[str, object] = {}
    for name, value in message.items():
        field = update_field(name)
        if field is None or value is None or (value == "" and name not in _SENT_WHEN_EMPTY):
            continue
        sendable = cast(field, value)
        if sendable is not None:
            result[name] = sendable
    return result


def reduced(message: Mapping[str, object], extra: Sequence[str] = ()) -> dict[str, object]:
    """Return ``message`` without what a report can do without; to be sent after the second StatusCode 30."""
    return {name: value for name, value in message.items() if name not in REDUCIBLE_UPDATE and name not in extra}
