"""Transfers in a process of their own: what an experiment is told, and the command that it answers with.

Queue data ``container_type`` has for the user ``middleware`` one of the two modes: ``bash``, a process without a
container, or ``container``. The experiment decides how its middleware is set up (``Experiment.middleware_command``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Mapping, Optional, Sequence

if TYPE_CHECKING:
    from pilot.info.queuedata import QueueData
    from pilot.settings_sections import ContainerSection

MODES = ("container", "bash")
INSIDE = Path("/srv")
"""Name of the job's directory in a container, as ALRB has it."""


@dataclass(frozen=True)
class MiddlewareTask:
    """One stage-in or stage-out that is to be run by a script.

    The script lies in ``workdir``, is executable, and reads what it has to do from a file; ``options`` are all that
    belongs behind its name. It uses its standard input: the command must pass that on.
    """

    mode: str
    """``container`` or ``bash``."""
    label: str
    """``stage-in`` or ``stage-out``."""
    script: str
    """File name of the script."""
    options: Sequence[str]
    workdir: Path
    """Directory of the job: where the command starts; ALRB shows it as ``/srv`` inside of a container."""
    queue: QueueData
    container: ContainerSection
    """Settings of that section."""
    environ: Mapping[str, str]
    """Environment that the command gets: proxy, ``PILOT_RUCIO_SITENAME``, the pairs of the queue's ``environ``."""
    binds: Sequence[Path] = ()
    """Directories and files that have to be visible inside under their own names."""


@dataclass(frozen=True)
class MiddlewareCommand:
    """How the experiment runs the script."""

    argv: Sequence[str]
    files: Mapping[str, str] = field(default_factory=dict)
    """Name -> text of further files for the job's directory (``stagein.sh``)."""
    inside: Optional[Path] = None
    """Name of the job's directory in the container; None = the same as outside."""
    environ: Mapping[str, str] = field(default_factory=dict)
    """Variables beside those of the task (``APPTAINERENV_...``)."""
