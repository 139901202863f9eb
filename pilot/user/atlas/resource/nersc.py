"""NERSC: as ``manytoone``, with the conditions data on CVMFS and the proxy of the centre."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pilot.user.atlas.resource.manytoone import harvester_setup

if TYPE_CHECKING:
    from pilot.info.payloadtask import PayloadTask
    from pilot.user.atlas.asetup import Setup

CONDITIONS = "export ATLAS_POOLCOND_PATH=/cvmfs/atlas-condb.cern.ch/repo/conditions"
FRONTIER = ('export FRONTIER_SERVER="(serverurl=http://atlasfrontier-ai.cern.ch:8000/atlr)'
            '(proxyurl=http://frontiercache.nersc.gov:3128)"')
"""CERN's servers of ATLAS conditions through the proxy of NERSC."""


def setup(task: PayloadTask) -> Setup:
    """Return Harvester's set-up with the centre's own conditions and proxy."""
    return harvester_setup(task, f"{CONDITIONS};{FRONTIER}")
