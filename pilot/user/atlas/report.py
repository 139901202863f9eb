"""What ATLAS makes of job reports (payload document 14.2, 15)."""

from __future__ import annotations

from pilot.info.job import Job
from pilot.info.jobreportdata import ReportPolicy

NEEDS_NO_REPORT = "Archive_tf.py"


def report_policy(job: Job) -> ReportPolicy:
    """Production depends on its job report; that of a user job counts where it says something."""
    production = not job.is_analysis
    transform = job.transformation.rsplit("/", 1)[-1]
    return ReportPolicy(
        judges=True, lists_outputs=True, demands_outputs=production,
        required=production and transform != NEEDS_NO_REPORT and not job.is_eventservice,
        old_files=True, compact=True)
