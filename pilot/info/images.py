"""Which container image a job runs in: a site may keep unpacked copies of images below one directory.

``IMAGE_BASE``, in the environment or as ``IMAGE_BASE=<dir>`` in the queue's ``catchall``, names that directory (payload
document, section 3).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Mapping

if TYPE_CHECKING:
    from pilot.info.job import Job
    from pilot.info.queuedata import QueueData

UNPACKED = "ALRB_CONT_UNPACKEDDIR"
"""Variable that tells ALRB, too."""
_EMPTY = ("", "null", "none")


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
    for candidate in (os.path.basename(name), name.lstrip("/")) if base else ():
        path = os.path.join(base, candidate)
        if candidate and ".." not in candidate.split("/") and os.path.exists(path):
            return path
    return name


def missing_image(job: Job, queue: QueueData, environ: Mapping[str, str]) -> list[tuple[int, str]]:
    """Return (1360, text) when the image is a path that is not there, for ``Experiment.verify_job``."""
    name = job_image(job, queue, environ)
    if name.startswith("/") and not os.path.exists(name):
        return [(1360, f"the container image {name} does not exist on this node (CVMFS mounted, name right?)")]
    return []
