"""Which batch system runs the pilot, and under which id."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from typing import NamedTuple

logger = logging.getLogger(__name__)

# The first variable that is present wins (server-api.md 6.3, cli-config.md 4.1).
_VARIABLES = (
    ("QSUB_REQNAME", "BQS"),
    ("BQSCLUSTER", "BQS"),
    ("PBS_JOBID", "Torque"),
    ("LSB_JOBID", "LSF"),
    ("JOB_ID", "Grid Engine"),
    ("clusterid", "Condor"),
    ("SLURM_JOB_ID", "SLURM"),
    ("K8S_JOB_ID", "Kubernetes"),
)
_GLOBAL_JOB_ID = re.compile(r'^\s*GlobalJobId\s*=\s*"([^"]*)"', re.MULTILINE | re.IGNORECASE)
_AD_LIMIT = 1 << 20
_SHORT_ID = 31


class BatchSystem(NamedTuple):
    """Type (``SLURM``) and id of the batch job; both empty when unknown.

    The server guards a job with its batchID: determine it once per job and never change it (server-api.md 6.3).
    """

    type: str = ""
    id: str = ""


def find_batch_system(environ: Mapping[str, str]) -> BatchSystem:
    """Return the batch system from the environment, else from HTCondor's job ClassAd file (``_CONDOR_JOB_AD``)."""
    for name, kind in _VARIABLES:
        if name in environ:
            return BatchSystem(kind, environ[name])
    return BatchSystem("Condor", identity) if (identity := condor_job_id(environ)) else BatchSystem()


def condor_short_id(environ: Mapping[str, str]) -> str:
    """Return the variable HTCondor_Job_ID: ``<host>_<process>_<jobid>``, its last 31 characters; '' without a ClassAd.

    These are the three parts of GlobalJobId, between ``#`` there: 31 characters is what a monitor's column holds.
    """
    return condor_job_id(environ).replace("#", "_")[-_SHORT_ID:]


def condor_job_id(environ: Mapping[str, str]) -> str:
    """Return GlobalJobId of ``$_CONDOR_JOB_AD``, empty when there is none."""
    path = environ.get("_CONDOR_JOB_AD", "")
    if not path or not os.path.isfile(path):
        return ""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            found = _GLOBAL_JOB_ID.search(stream.read(_AD_LIMIT))
    except OSError as error:
        logger.warning("cannot read the job ClassAd %s: %s", path, error.strerror)
        return ""
    return found.group(1) if found else ""
