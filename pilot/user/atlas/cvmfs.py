"""What ATLAS jobs need of CVMFS. Source: control-and-monitoring document 7.12."""

from __future__ import annotations

from collections.abc import Mapping

from pilot.info.cvmfs import CvmfsTree
from pilot.user.atlas.asetup import cvmfs_base

_UPDATE_FILE = "sft.cern.ch/lcg/lastUpdate"


def tree(environ: Mapping[str, str]) -> CvmfsTree:
    """Return the places below ``$ATLAS_SW_BASE``, else /cvmfs."""
    base = cvmfs_base(environ)
    return CvmfsTree(
        base,
        present=("atlas.cern.ch/repo/sw",),
        opened=(
            "atlas.cern.ch/repo/ATLASLocalRootBase/logDir/lastUpdate",
            "atlas-condb.cern.ch/repo/conditions/logDir/lastUpdate",
            "atlas-nightlies.cern.ch/repo/sw/logs/lastUpdate",
            _UPDATE_FILE,
            "unpacked.cern.ch/logDir/lastUpdate",
            "sft-nightlies.cern.ch/lcg/lastUpdate",
        ),
        update_file=_UPDATE_FILE,
        commands=(
            ("cvmfs_config", "stat", "atlas.cern.ch"),
            ("attr", "-g", "revision", f"{base}/atlas.cern.ch"),
        ),
    )
