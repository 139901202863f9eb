"""EIC: as generic, on the container platform that the site's environment names."""

from __future__ import annotations

from collections.abc import Mapping

from pilot.info.job import Job
from pilot.user.generic import GenericExperiment


class EicExperiment(GenericExperiment):
    """Source: environment document 4.1, plug-in interface 9."""

    name = "eic"

    def complete_job(self, job: Job, environ: Mapping[str, str]) -> None:
        """Jobs without a platform or an image of their own run on ALRB_USER_PLATFORM."""
        super().complete_job(job, environ)
        if not job.alrbuserplatform and job.imagename in ("", "NULL"):
            job.alrbuserplatform = environ.get("ALRB_USER_PLATFORM", "")


EXPERIMENT = EicExperiment
