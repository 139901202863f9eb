"""SKA: as generic."""

from __future__ import annotations

from pilot.user.generic import GenericExperiment


class SkaExperiment(GenericExperiment):
    """Nothing differs (payload document 22)."""

    name = "ska"


EXPERIMENT = SkaExperiment
