"""Rucio traces: what is said of one attempt to move (or open) one file. Pure functions.

A trace is made from the frozen base of its job and the record of the attempt, so that nothing of one file can get into
the trace of another. Fields, values and cases: data management document, section 10. ``hostname`` and ``ip`` are
completed by the sender, because names are looked up in the background only.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from hashlib import md5
from typing import Mapping, Optional
from urllib.parse import urlsplit

from pilot.info.job import Job
from pilot.staging.context import TransferRecord
from pilot.util.redact import redact

LONGEST_REASON = 1000
"""Characters of ``stateReason``: the start says what happened, more is in the log."""
_LONGEST_URL = 2000


@dataclass(frozen=True)
class TraceBase:
    """What all traces of one job have in common; field names are Rucio's in lower case."""

    suffix: str
    """``_a`` for user analysis, behind every event type."""
    version: str
    local_site: str
    """``RUCIO_LOCAL_SITE_ID``; empty = the RSE of each file."""
    user: str
    """prodUserID."""
    job_id: str
    task_id: str
    uuid: str
    host: str
    """This node as it calls itself; the sender makes ``hostname`` and ``ip`` of it."""
    queue: str
    started: float
    """Epoch s."""


def trace_base(
    job: Job, *, environ: Mapping[str, str], pilot_version: str, host: str, queue: str, started: float
) -> TraceBase:
    """Return the base for the traces of ``job``.

    Args:
        job: whose files are moved.
        environ: for RUCIO_LOCAL_SITE_ID and ATLAS_LOCAL_RUCIOCLIENTS_VERSION.
        pilot_version: of this pilot.
        host: PANDA_HOSTNAME or the node's name.
        queue: the queue's resource name.
        started: epoch s of now.
    """
    known = job.jobdefinitionid not in ("", "0", "NULL", "None")
    identity = _md5(f"ppilot_{job.jobdefinitionid}") if known else uuid.uuid1().hex
    return TraceBase(
        suffix="_a" if job.is_analysis else "",
        version=f"{pilot_version}+{environ.get('ATLAS_LOCAL_RUCIOCLIENTS_VERSION', '')}",
        local_site=environ.get("RUCIO_LOCAL_SITE_ID", ""),
        user=job.produserid,
        job_id=str(job.jobid),
        task_id=str(job.taskid),
        uuid=identity,
        host=host,
        queue=queue,
        started=started,
    )


def trace_of(base: TraceBase, record: TransferRecord) -> Optional[dict[str, object]]:
    """Return the trace of one attempt; None when there is none to be sent (tool without traces, RSE unknown)."""
    inward = record.direction == "stage-in"
    if not record.traced or not record.endpoint:
        return None
    local_url = record.local_url or record.url
    begun = record.transfer_start or record.started
    resolved = record.resolved or record.started
    return {
        "eventType": f"{'get' if inward else 'put'}_sm{base.suffix}",
        "eventVersion": base.version,
        "protocol": record.protocol or scheme(record.url) or None,
        "clientState": record.state or ("STAGEIN" if inward else "STAGEOUT") + "_ATTEMPT_FAILED",
        "localSite": base.local_site or record.endpoint,
        "remoteSite": record.endpoint,
        "timeStart": base.started,
        "catStart": resolved,
        "relativeStart": begun,
        "transferStart": begun,
        "validateStart": record.validated or resolved,
        "timeEnd": record.started + record.seconds,
        "dataset": record.dataset,
        "version": None,
        "duid": None,
        "filename": record.lfn,
        "guid": record.guid.replace("-", ""),
        "filesize": int(record.size),
        "usr": _md5(base.user),
        "appid": base.job_id,
        "hostname": base.host,
        "ip": "0.0.0.0",  # noqa: S104 - a value, nothing is bound to it
        "suspicious": "0",
        "usrdn": base.user,
        "url": redact((record.url if inward else local_url)[:_LONGEST_URL]) or None,
        "stateReason": reason(record.text),
        "uuid": base.uuid,
        "taskid": base.task_id,
        "pq": base.queue,
        "scope": record.scope,
        "transferId": record.transfer_id,
    }


def reason(text: str) -> str:
    """Return an error text as ``stateReason``: one line, secrets masked, no backslashes, bounded."""
    return " ".join(redact(text).replace("\\", "").split())[:LONGEST_REASON]


def scheme(url: str) -> str:
    """Return the scheme of a URL, empty for a path."""
    if "://" not in url:
        return ""
    try:
        return urlsplit(url).scheme
    except ValueError:  # an odd bracket behind the scheme
        return url.partition("://")[0]


def _md5(text: str) -> str:
    try:
        return md5(text.encode("utf-8", "backslashreplace"), usedforsecurity=False).hexdigest()
    except ValueError:  # a Python without MD5 (FIPS): Rucio does not look into it
        return "0" * 32
