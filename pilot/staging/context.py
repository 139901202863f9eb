"""What stage-in and stage-out need to know beside the job itself."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Mapping, NamedTuple, Optional, Sequence

from pilot.info.middleware import MODES
from pilot.util.helper import HelperPool

if TYPE_CHECKING:
    from pilot.info.middleware import MiddlewareCommand, MiddlewareTask
    from pilot.info.queuedata import QueueData
    from pilot.info.storage import StorageData
    from pilot.options import Options
    from pilot.settings import Settings
    from pilot.store.viewrows import Moving


logger = logging.getLogger(__name__)


class TransferRecord(NamedTuple):
    """One attempt to move one file, successful or not: what the store and the traces keep."""

    direction: str
    """``stage-in`` or ``stage-out``."""
    lfn: str
    tool: str
    endpoint: str
    url: str
    size: int
    """Bytes."""
    started: float
    """Wall clock, epoch s."""
    seconds: float
    code: int = 0
    """Pilot error code, 0 = done."""
    state: str = "DONE"
    """``clientState`` of the Rucio trace."""
    text: str = "OK"
    transfer_id: str = ""
    """Joins log, trace, PilotDB and report (``pilot.staging.transferid``)."""
    attempt: int = 1
    """Number of this try of the file, over all replicas, tools and repetitions."""
    scope: str = ""
    dataset: str = ""
    guid: str = ""
    protocol: str = ""
    """Scheme really used; empty = that of ``url``."""
    resolved: float = 0.0
    """Epoch s at which the place of the file was known (``catStart`` of the trace)."""
    validated: float = 0.0
    """Epoch s at which the verification began (``validateStart``)."""
    transfer_start: float = 0.0
    """Epoch s at which the transfers of the group began."""
    traced: bool = True
    """The tool's attempts are reported to Rucio."""
    is_log: bool = False
    local_url: str = ""
    """Stage-out: path of the local file."""


def _no_storage(_names: Sequence[str]) -> dict[str, StorageData]:
    return {}


def _unrecorded(_record: TransferRecord) -> None:
    return


def _unshown(_direction: str, _copies: Sequence[Moving]) -> None:
    return


def _no_keys(_public: str, _private: str) -> tuple[str, str]:
    return "", ""


_PANDA_TOKENS = ("OIDC_AUTH_TOKEN", "PANDA_AUTH_TOKEN", "OIDC_REFRESHED_AUTH_TOKEN", "PANDA_AUTH_TOKEN_KEY")
"""For the PanDA server only: no storage and no client library gets them."""


@dataclass
class StagingContext:
    """Surroundings of the transfers of one job.

    ``storage`` fetches endpoint data when the first file needs it; a queue that only moves local files never asks.
    """

    settings: Settings
    options: Options
    queue: QueueData
    """Of this job: overrides of the job are applied."""
    pilot_home: Path
    launch_dir: Path
    storage: Callable[[list[str]], Mapping[str, StorageData]] = _no_storage
    mv_to_final_destination: bool = False
    """The experiment lets mv use the storage path layout."""
    record: Callable[[TransferRecord], None] = _unrecorded
    """Told of each attempt; called from transfer threads."""
    show: Callable[[str, Sequence[Moving]], None] = _unshown
    """Told every few s how far the long copies of a direction have come; empty = none runs any more."""
    job_id: str = ""
    attempt_nr: int = 0
    use_vp: bool = False
    """The job runs on a virtual placement: root replicas on disk, wherever they are."""
    workdir: Optional[Path] = None
    """Of the job: where commands run."""
    helpers: HelperPool = field(default_factory=HelperPool)
    """Helper processes for client libraries; a session of theirs is open while files move."""
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    """Environment for commands and helpers."""
    key_pair: Callable[[str, str], tuple[str, str]] = _no_keys
    """Keys of an object store, from the PanDA server."""
    middleware: Optional[Callable[[MiddlewareTask], MiddlewareCommand]] = None
    """Makes the command of a transfer script where the queue wants one (``container_type``); None = transfers are
    always made in this process."""
    tries: dict[tuple[str, str], int] = field(default_factory=dict)
    """(``in``, ``out`` or ``log``; LFN) -> attempts so far: an alternative stage-out goes on counting."""
    secret_files: Sequence[str] = ()
    """Names or paths of files with secrets (proxy, tokens) that must never be archived."""
    redundant_patterns: Sequence[str] = ()
    """The experiment's file name patterns that are not worth archiving (relative to the work directory)."""
    archive_extras: Sequence[str] = field(
        default=("pilotlog.txt", "pilot_heartbeat.json", "workernode_map.json", "gpu_map.json")
    )
    """Files of the pilot's directory that go into the log archive when they exist."""
    own_log: Optional[Path] = None
    """The log of this job, when the pilot log may already be the next job's."""
    payload_logs: Sequence[str] = ("payload.stdout", "payload.stderr")
    """Names of the payload's output in the work directory: what a reduced archive keeps."""

    @property
    def rucio_host(self) -> str:
        """``--rucio-host``, else the setting ``rucio.host``; empty = what the client's own configuration says."""
        return self.options.rucio_host or self.settings.rucio.host

    def transfer_environment(self, outward: bool) -> dict[str, str]:
        """Return the complete environment of commands and helpers of one direction.

        ``X509_UNIFIED_DISPATCH`` names the proxy that writes and opens remote files (data management document 7.2); it
        is given to the transfers only, so that log and outputs travel with the same one and nothing has to be restored.
        """
        environ = {name: value for name, value in self.environ.items() if name not in _PANDA_TOKENS}
        environ.update(self.queue.environment())
        dispatch = environ.pop("X509_UNIFIED_DISPATCH", "")
        if outward and dispatch and os.path.isfile(dispatch):
            environ["X509_USER_PROXY"] = dispatch
        if not environ.get("X509_USER_PROXY"):
            proxy = f"/tmp/x509up_u{os.getuid()}"
            if os.path.isfile(proxy):
                environ["X509_USER_PROXY"] = proxy
        environ.setdefault("PILOT_RUCIO_SITENAME", self.queue.site or "unknown")
        return environ

    @property
    def output_dir(self) -> Optional[Path]:
        """``--output-dir``, or None."""
        return absolute(self.options.output_dir)

    @property
    def input_dir(self) -> Optional[Path]:
        """``--input-dir``, or None."""
        return absolute(self.options.input_dir)

    @property
    def input_destination_dir(self) -> Optional[Path]:
        """``--input-destination-dir`` when it exists, else None."""
        path = absolute(self.options.input_destination_dir)
        return path if path is not None and path.is_dir() else None

    @property
    def final_destination(self) -> bool:
        """True when mv uses the storage path layout: experiment, or ``mv_final_destination`` in the catchall."""
        return self.mv_to_final_destination or self.queue.flags.mv_final_destination


def absolute(name: object) -> Optional[Path]:
    """Return an option that names a directory as an absolute path; empty = None."""
    return Path(str(name)).absolute() if name else None


def middleware_mode(ctx: StagingContext) -> str:
    """Return ``container``, ``bash``, or nothing: the transfers are the pilot's own."""
    if ctx.middleware is None:
        return ""
    mode = ctx.queue.container_type.get("middleware", "")
    if mode and mode not in MODES:
        logger.warning("queue %s: container_type %s:middleware is not known (container or bash): the transfers run in "
                       "the pilot", ctx.queue.name, mode)
        return ""
    return mode
