"""What an experiment needs of CVMFS: made by the hook ``cvmfs_tree``, looked at by ``monitoring/cvmfs.py``."""

from __future__ import annotations

from typing import NamedTuple


class CvmfsTree(NamedTuple):
    """Places below ``base`` that have to be there before a job is asked for."""

    base: str
    """Root of all repositories: ``/cvmfs``, or where CVMFSExec has it."""
    present: tuple[str, ...]
    """Directories or files, relative to ``base``, that must exist."""
    opened: tuple[str, ...] = ()
    """Files, relative to ``base``, that must open and be readable."""
    update_file: str = ""
    """One of them whose first line says when the repository was last updated: epoch s, behind the second ``|``."""
    commands: tuple[tuple[str, ...], ...] = ()
    """What is run for the log when something is wrong."""
