"""The transfer id: one name for one attempt to move one file of one job, in log, trace, PilotDB and report."""

from __future__ import annotations


def transfer_id(job_id: str, attempt_nr: int, way: str, lfn: str, attempt: int) -> str:
    """Return ``<PandaID>.<attemptNr>.<in|out|log>.<LFN>.<try>``.

    Args:
        job_id, attempt_nr: of the job.
        way: ``in``, ``out`` or ``log``.
        lfn: the file.
        attempt: number of the try, from 1, over all replicas, tools and repetitions.
    """
    return f"{job_id}.{attempt_nr}.{way}.{lfn}.{attempt}"
