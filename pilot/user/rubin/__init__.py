"""Rubin Observatory: transforms bring their own containers; one job per pushed pilot; links to logs name the job."""

from __future__ import annotations

import re

from pilot.info.job import Job
from pilot.info.queuedata import QueueData
from pilot.user.generic import GenericExperiment


class RubinExperiment(GenericExperiment):
    """Source: payload document 5, 6, 22; plug-in interface 9.1."""

    name = "rubin"
    transform_base_urls = (
        "https://storage.googleapis.com/drp-us-central1-containers",
        "pandaserver-doma.cern.ch",
        "pandaserver.cern.ch",
    )
    looping_exclusions = (*GenericExperiment.looping_exclusions, "memory_*")

    def allow_timefloor(self, submit_mode: str) -> bool:
        """A pushed pilot belongs to its one job."""
        return submit_mode != "push"

    def pilot_id(self, gtag: str, job_id: str) -> str:
        """The batch system names the log after the first job: the number behind ``PandaJob_`` becomes this job's."""
        return re.sub(r"(?<=PandaJob_)\d+", job_id, super().pilot_id(gtag, job_id))

    def uses_container(self, job: Job, queue: QueueData) -> bool:
        """Never: an image in the job is for the transform, which starts it."""
        return False


EXPERIMENT = RubinExperiment
