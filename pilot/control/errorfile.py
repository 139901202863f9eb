"""The errors of a job as a file in its log archive: what the diagnosis has no room for."""

from __future__ import annotations

import json
import logging
import os

from pilot.common.errorcodes import ERROR_TABLE
from pilot.info.job import Job

logger = logging.getLogger(__name__)

ERROR_FILE = "pilot_errors.json"


def error_document(job: Job) -> dict[str, object]:
    """Return what is known of the job's failure: what is reported, and every error in the order of time."""
    code, diagnosis = job.errors.reported(job.payload_succeeded) or (0, "")
    return {
        "PandaID": job.jobid, "attemptNr": job.attemptnr, "pilotErrorCode": code, "pilotErrorDiag": diagnosis,
        "transExitCode": job.exit_code, "exeErrorCode": job.exe_error_code, "exeErrorDiag": job.exe_error_diag,
        "errors": [{
            "code": error.code, "name": ERROR_TABLE[error.code].name if error.code in ERROR_TABLE else "",
            "diagnosis": error.diagnosis, "who": error.who, "retry": error.retry, "evidence": error.evidence,
        } for error in job.errors],
    }


def write_error_file(job: Job) -> None:
    """Write ``pilot_errors.json`` into the work directory of a job with errors; what prevents it goes to the log.

    What happens later (the log itself cannot leave) is in the pilot log and the PilotDB only.
    """
    if not job.errors or not job.workdir.is_dir():
        return
    path = job.workdir / ERROR_FILE
    text = json.dumps(error_document(job), indent=1, ensure_ascii=False) + "\n"
    try:
        # never through a link of the payload's, nor into a pipe of its
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        with open(os.open(path, flags, 0o644), "w", encoding="utf-8", errors="replace") as stream:
            stream.write(text)
    except OSError as exc:
        logger.warning("job %s: %s cannot be written: %s", job.jobid, ERROR_FILE, exc.strerror or exc)
