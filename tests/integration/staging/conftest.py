"""Bad disks and the surroundings of the unit tests."""

from __future__ import annotations

from tests.disks import other_disk, read_only_disk, small_disk
from tests.unit.staging.conftest import make_site, site

__all__ = ["make_site", "other_disk", "read_only_disk", "site", "small_disk"]
