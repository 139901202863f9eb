"""Which container image a job runs in: a site may keep unpacked copies of images below one directory.

``IMAGE_BASE``, in the environment or as ``IMAGE_BASE=<dir>`` in the queue's ``catchall``, names that directory (payload
document, section 3).
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Mapping

from pilot.util.bounded import TookTooLong, bounded

if TYPE_CHECKING:
    from pilot.info.job import Job
    from pilot.info.queuedata import QueueData

UNPACKED = "ALRB_CONT_UNPACKEDDIR"
"""Variable that tells ALRB, too."""
PILOT_USER = "pilot"
"""Whose entry in the queue's ``container_type`` decides on payloads."""
_EMPTY = ("", "null", "none")
_NAME = re.compile(r"[\w./:@+=,~%#-]+", re.ASCII)
"""Names go into shell lines; what no name of an image has could end the word there."""
_PATIENCE = 60.0
"""s that a look at an image may take: /cvmfs may have to be mounted for it."""


def image_base(queue: QueueData, environ: Mapping[str, str]) -> str:
    """Return the directory of unpacked images, '' for none; the environment wins over the queue."""
    return environ.get("IMAGE_BASE", "") or queue.flags.image_base


def unpacked_directory(queue: QueueData, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variable that tells ALRB and runcontainer about the directory, empty when there is none."""
    base = image_base(queue, environ)
    return {UNPACKED: base} if base else {}


def job_image(job: Job, queue: QueueData, environ: Mapping[str, str]) -> str:
    """Return the image of the job, '' for none (``NULL``); its copy below IMAGE_BASE where that exists."""
    name = job.imagename.strip()
    if name.lower() in _EMPTY:
        return ""
    base = image_base(queue, environ)
    plain = name.partition("://")[2] or name
    for candidate in (os.path.basename(plain), plain.lstrip("/")) if base else ():
        path = os.path.join(base, candidate)
        if candidate and ".." not in candidate.split("/") and os.path.exists(path):
            return path
    return name


def has_image(job: Job) -> bool:
    """Return whether the job names an image."""
    return job.imagename.strip().lower() not in _EMPTY


def missing_image(job: Job, queue: QueueData, environ: Mapping[str, str]) -> list[tuple[int, str]]:
    """Return (1360, text) when the image is a path that is not there, or no name at all; called in validation.

    Raises:
        CancelledError: the job is to end.
    """
    if not has_image(job):
        return []
    if not _NAME.fullmatch(job.imagename.strip()) or job.imagename.startswith("-"):
        return [(1360, f"{job.imagename[:200]!r} is no name of a container image")]

    def look() -> str:
        name = job_image(job, queue, environ)
        return name if name.startswith("/") and not os.path.exists(name) else ""

    try:
        missing = bounded(look, _PATIENCE, job.cancel, "image")
    except TookTooLong as exc:
        return [(1360, f"the file system of the container image {job.imagename} hangs: {exc}")]
    if missing:
        return [(1360, f"the container image {missing} does not exist on this node (CVMFS mounted, name right?)")]
    return []


def no_container(queue: QueueData) -> list[tuple[int, str]]:
    """Return (1384, text) when the queue has no containers for payloads; called in validation of jobs that need one."""
    return [] if PILOT_USER in queue.container_type else [(1384, "container_type must be set in CRIC")]
