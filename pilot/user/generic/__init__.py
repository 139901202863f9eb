"""The generic experiment: commands or downloaded transformations, no set-up, no experiment software."""

from __future__ import annotations

from collections.abc import Sequence

from pilot.user.base import Experiment


class GenericExperiment(Experiment):
    """Source of the base URLs: the list that the generic plug-in of the existing pilots carries."""

    name = "generic"
    transform_base_urls: Sequence[str] = (
        "https://storage.googleapis.com/drp-us-central1-containers",
        "https://pandaserver-doma.cern.ch/trf/user",
    )


EXPERIMENT = GenericExperiment
