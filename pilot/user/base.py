"""What may differ from experiment to experiment, each hook with its sensible default.

The core knows an experiment only through this class. A new experiment overrides what differs and nothing else; it is
found by its folder name below ``pilot/user``, through the entry point group ``panda_pilot.experiment``, or by a dotted
path on the command line (``--pilot-user my.package:MyExperiment``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from pilot.info.job import Job
    from pilot.info.queuedata import QueueData


class Experiment:
    """Base class; every method says when it is called and what the default does."""

    name = "base"
    """Lower-case name, as in ``--pilot-user``."""

    transform_base_urls: Sequence[str] = ()
    """Base URLs from which transformations may be downloaded when neither ``-g`` nor PANDA_BASE_URLS is given."""

    settings_file: Optional[Path] = None
    """YAML file whose values go over the packaged defaults (below the site's file)."""

    mv_to_final_destination = False
    """True: the mv copytool uses the deterministic path layout of the storage (queue flag ``mv_final_destination``)."""

    sends_worker_node_map = False
    """True: the worker node's description is sent to the server at start-up."""

    redundant_files: Sequence[str] = ()
    """Patterns, relative to the job work directory, of files that do not belong into the log archive."""

    def sanity_check(self) -> tuple[int, str]:
        """Called once before the first job; (pilot error code, text), code 0 = all is well."""
        return 0, ""

    def verify_proxy(self, *, at_start: bool) -> tuple[int, str]:
        """Called before each getJob unless ``-t`` was given; (pilot error code, text), code 0 = valid.

        The default accepts everything: experiments without grid proxies are the rule outside of the LHC.
        """
        return 0, ""

    def allow_timefloor(self, submit_mode: str) -> bool:
        """May a pilot take several jobs (``timefloor``)? ``submit_mode`` is ``pull`` or ``push``."""
        return True

    def verify_job(self, job: Job, queue: QueueData) -> list[tuple[int, str]]:
        """Called in validation; (pilot code, text) of each reason why this job cannot run here."""
        return []

    def transfers_input(self, lfn: str) -> bool:
        """False for inputs that are not to be transferred (they count as present)."""
        return True

    def pilot_id(self, gtag: str, job_id: str) -> str:
        """First part of ``pilotID``: a URL of the batch log (environment variable GTAG)."""
        return gtag or "unknown"

    def payload_environment(self, job: Job) -> Mapping[str, str]:
        """Variables for the payload beside those that every experiment gets."""
        return {}

    def job_metrics(self, job: Job, *, final: bool) -> str:
        """``jobMetrics`` of an update: blank separated ``name=value``; '' sends none."""
        return ""

    def metadata(self, job: Job, report_text: str) -> str:
        """``metaData`` of the final report, made from the text of jobReport.json ('' when there is none)."""
        return report_text

    def judge_report(self, job: Job, report_text: str) -> list[tuple[int, str]]:
        """(pilot code, text) of what jobReport.json says against the job; the default does not judge by it."""
        return []

    def cpu_architecture_level(self) -> str:
        """``cpu_architecture_level`` of updates, e.g. ``x86_64-v3``; '' sends none."""
        return ""
