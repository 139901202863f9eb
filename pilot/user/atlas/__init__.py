"""The ATLAS experiment: releases by asetup from CVMFS, transforms, user jobs of runGen, runAthena and runcontainer."""

from __future__ import annotations

from collections.abc import Sequence

from pilot.info.diagnosis import Rule
from pilot.info.job import Job
from pilot.info.middleware import MiddlewareCommand, MiddlewareTask
from pilot.info.payloadtask import PayloadCommand, PayloadTask
from pilot.user.alrb import alrb_middleware_command
from pilot.user.alrbpayload import alrb_contain
from pilot.user.atlas.diagnosis import RULES
from pilot.user.base import Experiment


class Atlas(Experiment):
    """Source: payload document, what is marked [A] there."""

    name = "atlas"
    transform_base_urls = (
        "www.usatlas.bnl.gov",
        "pandaserver.cern.ch",
        "pandaserver-tb.cern.ch",
        "atlpan.web.cern.ch/atlpan",
        "classis01.roma1.infn.it",
        "atlas-install.roma1.infn.it",
    )
    sends_worker_node_map = True

    def middleware_command(self, task: MiddlewareTask) -> MiddlewareCommand:
        """ALRB sets the middleware up."""
        return alrb_middleware_command(task)

    def contain(self, task: PayloadTask, command: PayloadCommand) -> PayloadCommand:
        """ALRB starts the container."""
        return alrb_contain(task, command)

    def diagnosis_rules(self, job: Job) -> Sequence[Rule]:
        """Texts of asetup and of the set-up scripts."""
        return RULES


EXPERIMENT = Atlas
