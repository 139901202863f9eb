"""sPHENIX: transforms bring their own containers; mv stores in the storage's layout; a log server at SDCC."""

from __future__ import annotations

from pilot.info.job import Job
from pilot.info.queuedata import QueueData
from pilot.user.generic import GenericExperiment


class SphenixExperiment(GenericExperiment):
    """Source: payload document 22; plug-in interface 9.1, 9.2; copytools document 8."""

    name = "sphenix"
    mv_to_final_destination = True
    realtime_server = "logstash;http://splogstash.sdcc.bnl.gov:8080"
    realtime_tls = (False, False)

    def uses_container(self, job: Job, queue: QueueData) -> bool:
        """Never: an image in the job is for the transform, which starts it."""
        return False


EXPERIMENT = SphenixExperiment
