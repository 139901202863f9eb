"""What a job report, or metadata.xml, says about the outputs: GUIDs, and which of them there are."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import NamedTuple

from pilot.info.filespec import FileSpec
from pilot.info.job import Job
from pilot.info.jobreportdata import JobReportData, ReportedFile

logger = logging.getLogger(__name__)

_GUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_NIL = "00000000-0000-0000-0000-000000000000"


class OutputVerdict(NamedTuple):
    """``dropped``: outputs that are not there, which the job allows; ``missing``: those that ought to be."""

    dropped: list[str]
    missing: list[str]


def usable_guids(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return {LFN: GUID} of those that are GUIDs, each for one file only: storages and catalogues take nothing else."""
    found: dict[str, str] = {}
    owners: dict[str, str] = {}
    for name, guid in pairs:
        key = guid.upper()
        if not guid:
            continue
        if not _GUID.fullmatch(guid) or guid == _NIL:
            logger.warning("%s has no valid GUID (%.60r): it gets a new one", name, guid)
        elif owners.setdefault(key, name) != name:
            logger.warning("%s has the GUID of %s (%s): it gets a new one", name, owners[key], guid)
        else:
            found[name] = guid
    return found


def compare_outputs(job: Job, data: JobReportData, *, demanded: bool) -> OutputVerdict:
    """Compare what the job shall make with what the report says that there is (data management document 7.1).

    ``demanded``: an output that the job does not allow to be missing has to be in the report. Outputs that stand for
    many files (patterns, steps of a hyper-parameter optimisation) are not looked up. Empty lists when the report
    has no list of outputs.
    """
    if data.outputs is None:
        return OutputVerdict([], [])
    if not data.outputs and not job.allownooutput and job.outdata:
        logger.warning("job %s: the job report has an empty list of outputs", job.jobid)
    reported = {file.name: file for file in data.outputs}
    defined = {spec.lfn for spec in (*job.outdata, *job.logdata)}
    for name in list(reported)[:20]:
        if name not in defined and not (_is_part(name) and name.rpartition("._")[0] in defined):
            logger.warning("job %s: the job report has the output %.250r, which the job does not: ignored", job.jobid,
                           name)
    parts = {name.rpartition("._")[0]: file for name, file in reported.items() if _is_part(name)}
    dropped, missing = [], []
    for spec in job.outdata:
        if spec.pattern or spec.lfn.startswith("regex|") or job.is_hpo or not spec.require_transfer():
            continue
        file = reported.get(spec.lfn) or parts.get(spec.lfn)
        if _may_be_missing(spec, job):
            if file is None or file.empty:
                logger.info("job %s: output %s is not stored: %s, which the job allows (allowNoOutput)", job.jobid,
                            spec.lfn, _why(file))
                dropped.append(spec.lfn)
        elif file is None and demanded:
            missing.append(spec.lfn)
        elif file is None:
            logger.warning("job %s: output %s is not in the job report", job.jobid, spec.lfn)
    return OutputVerdict(dropped, missing)


def _why(file: ReportedFile | None) -> str:
    return "it is not in the job report" if file is None else "it has no entries"


def _is_part(name: str) -> bool:
    """``x.root._1`` is a part of ``x.root``."""
    head, mark, tail = name.rpartition("._")
    return bool(head and mark) and tail.isdecimal()


def _may_be_missing(spec: FileSpec, job: Job) -> bool:
    return spec.may_be_missing or spec.lfn in job.allownooutput
