"""An experiment whose jobs are commands, as the generic ones, and whose job reports mean what they mean to ATLAS."""

from __future__ import annotations

from pilot.info.job import Job
from pilot.info.jobreportdata import ReportPolicy
from pilot.user.atlas.report import report_policy
from pilot.user.generic import GenericExperiment


class Reporting(GenericExperiment):
    """See the ATLAS plug-in."""

    name = "reporting"
    sends_worker_node_map = True

    def report_policy(self, job: Job) -> ReportPolicy:
        return report_policy(job)

    def job_metrics(self, job: Job, *, final: bool) -> str:
        numbers = f"nEvents={job.nevents} nEventsW={job.neventsw} dbTime={job.dbtime:.2f} dbData={job.dbdata}"
        return f"{numbers} resimevents={job.resimevents}" if final else ""
