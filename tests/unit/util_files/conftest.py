"""Disks that are full, read-only, or another file system than the rest."""

from __future__ import annotations

from tests.disks import other_disk, read_only_disk, small_disk

__all__ = ["other_disk", "read_only_disk", "small_disk"]
