"""Takes a payload's job report into the job: its own error, events, GUIDs, the list of outputs, metaData.

::

    take_report     before the diagnosis: the file is read, once; job.report, the payload's own error
    use_report      after it: events and GUIDs (metadata.xml and AthSummary* where there is no report), metaData, and
                    for a payload that is good so far the outputs that are missing, or may be
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, NamedTuple, Optional

from pilot.control.data import add_error
from pilot.info.job import Job
from pilot.info.jobreportdata import ReportPolicy
from pilot.payload.jobreport import (
    METADATA_LIMIT,
    JobReport,
    compact,
    read_job_report,
    replace_report,
    sendable,
    with_entries,
    without_surplus,
)
from pilot.payload.oldfiles import MetadataXML, events_of_summary, read_metadata_xml
from pilot.payload.reporterror import exe_error, is_harmless
from pilot.payload.reportoutputs import compare_outputs, usable_guids
from pilot.payload.textfiles import printable
from pilot.util.redact import redact
from pilot.util.safexml import UnsafeXML

if TYPE_CHECKING:
    from pilot.context import PilotContext

logger = logging.getLogger(__name__)

_NAMED = 5


class TakenReport(NamedTuple):
    """The report of a payload, and what its experiment makes of it."""

    policy: ReportPolicy
    report: Optional[JobReport]
    harmless: bool = False
    """It says that there was nothing left to do: whatever the exit code is, the payload is good."""


def take_report(ctx: PilotContext, job: Job) -> TakenReport:
    """Read the report; sets ``job.report``, the numbers in it, and the payload's own error."""
    names = ctx.settings.payload
    policy = ctx.experiment.report_policy(job)
    report = read_job_report(job.workdir, name=names.jobreport)
    job.report = data = report.data if report is not None else None
    if data is None:
        return TakenReport(policy, report)
    logger.info("job %s: job report%s: exit code %s%s, %d events, %s outputs", job.jobid,
                f" {printable(data.version)}" if data.version else "", data.exit_code,
                f" ({printable(data.acronym)})" if data.acronym else "", data.nevents,
                "no list of" if data.outputs is None else len(data.outputs))
    job.nevents = data.nevents or _entries(job)
    job.dbtime, job.dbdata, job.resimevents = data.db_time, data.db_data, data.resimevents
    if not policy.judges:
        return TakenReport(policy, report)
    if data.exit_code is None:
        logger.warning("job %s: the job report has no exit code", job.jobid)
    own = exe_error(data)
    harmless = is_harmless(job, data)
    if own.code and not harmless:
        job.exe_error_code, job.exe_error_diag = own.code, redact(printable(own.diag)).strip()
    return TakenReport(policy, report, harmless)


def use_report(ctx: PilotContext, job: Job, taken: TakenReport) -> None:
    """Fill what the final report and the stage-out take from the job report; a good job may fail here: 1165, 1187,
    1247, and what the experiment's ``judge_report`` says."""
    policy, report = taken.policy, taken.report
    xml, problem = _metadata_xml(ctx, job, policy)
    if policy.old_files and not job.nevents:
        job.nevents = xml.nevents if xml is not None else 0
        if not job.nevents:
            job.nevents, job.neventsw = events_of_summary(job.workdir)
    data = job.report
    if data is not None:
        job.reported_guids = usable_guids((file.name, file.guid) for file in data.outputs or ())
    elif xml is not None:
        job.reported_guids = usable_guids(xml.guids.items())
    job.metadata = _with_nodes(ctx, ctx.experiment.metadata(job, _metadata(ctx, job, taken, xml)))
    if job.exit_code != 0 or job.errors:
        return
    if job.payload_stopped:  # in the middle of its work: neither a report nor what it says of outputs is demanded
        job.exe_error_code, job.exe_error_diag = 0, ""
        return
    if problem and data is None:  # beside a report it is only counted from: not to know a number fails nothing
        add_error(ctx, job, 1247, problem)
    elif policy.required and data is None and xml is None:
        names = ctx.settings.payload
        add_error(ctx, job, 1187, f"{report.problem if report is not None else f'there is no {names.jobreport}'}"
                                  f" and no {names.metadata}")
    if policy.lists_outputs and not job.is_eventservice and ctx.options.executor_type != "raythena":
        _use_outputs(ctx, job, demanded=policy.demands_outputs)
    if data is not None:
        for code, text in ctx.experiment.judge_report(job, data):
            add_error(ctx, job, code, text)


def _entries(job: Job) -> int:
    """Events in the outputs that the job has; the report may list others."""
    defined = {spec.lfn for spec in job.outdata}
    files = job.report.outputs if job.report is not None else None
    return sum(file.nentries or 0 for file in files or () if file.name in defined)


def _metadata_xml(ctx: PilotContext, job: Job, policy: ReportPolicy) -> tuple[Optional[MetadataXML], str]:
    """Return metadata.xml where it is needed, and what is wrong with it."""
    if not policy.old_files or (job.report is not None and job.nevents):
        return None, ""
    try:
        return read_metadata_xml(job.workdir / ctx.settings.payload.metadata), ""
    except UnsafeXML as exc:
        logger.warning("job %s: %s", job.jobid, exc)
        return None, str(exc)


def _use_outputs(ctx: PilotContext, job: Job, *, demanded: bool) -> None:
    if job.report is None:
        return  # outputs that may be missing and are leave the list in the stage-out
    verdict = compare_outputs(job, job.report, demanded=demanded)
    if verdict.missing:
        more = f" and {len(verdict.missing) - _NAMED} more" if len(verdict.missing) > _NAMED else ""
        add_error(ctx, job, 1165, f"not in the job report: {', '.join(verdict.missing[:_NAMED])}{more}")
    dropped = set(verdict.dropped)
    job.outdata = [spec for spec in job.outdata if spec.lfn not in dropped]


# --- metaData ---------------------------------------------------------------------------------------------------------


def _metadata(ctx: PilotContext, job: Job, taken: TakenReport, xml: Optional[MetadataXML]) -> str:
    """Return the text that goes to the experiment's hook."""
    policy, report = taken.policy, taken.report
    text = ""
    if report is not None and report.tree is not None:
        tree = report.tree
        if policy.compact:
            tree, dropped = without_surplus(tree)
            text = compact(tree)
            if dropped:
                logger.info("job %s: %d warnings are left out of the job report", job.jobid, dropped)
                replace_report(job.workdir, ctx.settings.payload.jobreport, text)
        else:
            text = report.text if len(report.text) <= METADATA_LIMIT else compact(tree)
    elif report is not None and not policy.compact:
        text = sendable(report.text)
    if not text and policy.old_files and xml is not None:
        return xml.text
    if not text and report is not None and report.problem:
        return json.dumps({"pilotNote": report.problem})
    return text


def _with_nodes(ctx: PilotContext, text: str) -> str:
    """Add the node's description where the server does not get it by a call of its own (server updates are off)."""
    if ctx.server is not None or not ctx.experiment.sends_worker_node_map:
        return text
    site = ctx.queue.site or ""
    entries = {"worker_node": ctx.node.worker_node_map(site, ctx.options.queue),
               "worker_node_gpus": ctx.node.gpu_map(site)}
    return with_entries(text, {name: value for name, value in entries.items() if value})
