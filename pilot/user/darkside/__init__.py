"""DarkSide: as generic."""

from __future__ import annotations

from pilot.user.generic import GenericExperiment


class DarksideExperiment(GenericExperiment):
    """Nothing differs (payload document 22)."""

    name = "darkside"


EXPERIMENT = DarksideExperiment
