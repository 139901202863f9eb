"""What an experiment is told when a payload is prepared, and what it answers with.

The experiment makes texts (``Experiment.payload_command``, ``contain``, ``utility``); the core writes files, starts,
watches and ends processes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Mapping, NamedTuple, Sequence

from pilot.info.images import job_image

if TYPE_CHECKING:
    from pilot.info.job import Job
    from pilot.info.queuedata import QueueData
    from pilot.options import Options
    from pilot.settings import Settings


@dataclass(frozen=True)
class PayloadTask:
    """One payload that is to be prepared."""

    job: Job
    queue: QueueData
    """Queue data with what this job overwrites."""
    options: Options
    settings: Settings
    environ: Mapping[str, str]
    """Environment that the payload inherits: the pilot's variables without its secrets, and those of the job."""
    home: Path
    """PILOT_HOME."""
    parameters: str
    """jobPars: writeToFile lists are written, names of remote inputs replaced where the experiment wants it."""
    transformation: Callable[[], str]
    """Shell words that start the transformation as a generic job does it; a URL is downloaded.

    Raises PilotException: 1346 nothing to run; 1149, 1143 no download."""
    download: Callable[[str], str]
    """Put the script behind a URL into the job's directory, executable; returns its file name.

    Raises PilotException: 1149, 1143."""
    withheld: Sequence[str] = ()
    """Names of variables of the pilot that the payload does not inherit: its identity towards the server."""
    pid: int = 0
    """Process that a utility beside the payload is to watch: the payload's shell, or the one in its container that has
    ``export PandaID=<id>`` in its arguments; 0 while there is none."""

    @property
    def workdir(self) -> Path:
        """Directory of the job."""
        return self.job.workdir

    @property
    def proxy(self) -> str:
        """Path of the proxy that the payload uses; '' for none."""
        return self.environ.get("X509_USER_PROXY", "")

    @property
    def image(self) -> str:
        """Container image of the job, '' for none; the site's unpacked copy where there is one (IMAGE_BASE)."""
        return job_image(self.job, self.queue, self.environ)


class FileText(NamedTuple):
    """A file for the job's directory."""

    text: str
    mode: int = 0o644


@dataclass(frozen=True)
class PayloadCommand:
    """How a payload is run."""

    line: str
    """Shell line, run by ``/bin/bash -c`` in the job's directory."""
    setup: str = ""
    """What stands in the line before the transformation, in front of pre- and postprocess, too; ends with ``;`` or is
    empty."""
    files: Mapping[str, FileText] = field(default_factory=dict)
    """Name -> content of files that the line needs."""
    environ: Mapping[str, str] = field(default_factory=dict)
    """Variables beside those of the task; '' removes one."""
    container: str = ""
    """Image or platform of the container in which the payload runs; '' = none."""
    alrb: str = ""
    """The part of the line that sets up ALRB, as it stands there; a container of ALRB brings that along."""
    asetup: str = ""
    """The part of the line that sets up the release, its ``;`` included, as it stands there."""
    proxy_export: str = ""
    """The part of the line that exports X509_USER_PROXY, as it stands there."""
    masked: Sequence[str] = ()
    """Secrets in the line, which the log must not show."""


class Moment(Enum):
    """When a utility runs."""

    BEFORE_STAGEIN = "before stage-in"
    BEFORE_PAYLOAD = "before the payload"
    WITH_PAYLOAD = "beside the payload, from its start"
    AFTER_PAYLOAD_STARTED = "beside the payload, once its process is known"
    AFTER_PAYLOAD_STARTED2 = "beside the payload, second round"
    AFTER_PAYLOAD_FINISHED = "after the payload"
    AFTER_PAYLOAD_FINISHED2 = "after the payload, second round"


@dataclass(frozen=True)
class UtilityCommand:
    """A process beside, before or after the payload."""

    label: str
    """Short lower-case name: ``preprocess``; ``memorymonitor`` is for the payload's memory monitor, which is started
    again when it dies, and only started where ``pilot.utility_after_payload_started`` names one. Output goes to
    ``<label>_stdout.txt``, ``<label>_stderr.txt``."""
    line: str
    """Shell line, run by ``/bin/bash -c`` in the job's directory, outside of the payload's container."""
    error_code: int = 0
    """Pilot error code when it ends with another exit code than 0; 0 = that is only noted in the log."""
    signal: int = 15
    """What asks it to end, for one beside the payload."""
    patience: float = 10.0
    """s that it gets for that before it is killed."""
    harmless: Sequence[int] = ()
    """Exit codes that are no failure."""
    timeout: float = 0.0
    """s that one before or after something may take before it is killed; 0 = as long as the job may run."""
    daemon: bool = False
    """What it leaves running (a cache) is ended with the payload, not with itself."""
