"""EIC: as generic, in ALRB's containers, on the platform that the site's environment names."""

from __future__ import annotations

from collections.abc import Mapping

from pilot.info.job import Job
from pilot.info.payloadtask import PayloadCommand, PayloadTask
from pilot.user.alrbpayload import alrb_contain
from pilot.user.generic import GenericExperiment


class EicExperiment(GenericExperiment):
    """Source: environment document 4.1, plug-in interface 9."""

    name = "eic"

    def complete_job(self, job: Job, environ: Mapping[str, str]) -> None:
        """Jobs without a platform or an image of their own run on ALRB_USER_PLATFORM."""
        super().complete_job(job, environ)
        if not job.alrbuserplatform and job.imagename in ("", "NULL"):
            job.alrbuserplatform = environ.get("ALRB_USER_PLATFORM", "")

    def contain(self, task: PayloadTask, command: PayloadCommand) -> PayloadCommand:
        """ALRB starts the container: the platform is a name that ALRB knows."""
        return alrb_contain(task, command)


EXPERIMENT = EicExperiment
