"""What stage-in and stage-out need to know beside the job itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Mapping, NamedTuple, Optional, Sequence

if TYPE_CHECKING:
    from pilot.info.queuedata import QueueData
    from pilot.info.storage import StorageData
    from pilot.options import Options
    from pilot.settings import Settings


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


def _no_storage(_names: Sequence[str]) -> dict[str, StorageData]:
    return {}


def _unrecorded(_record: TransferRecord) -> None:
    return


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
    secret_files: Sequence[str] = ()
    """Names or paths of files with secrets (proxy, tokens) that must never be archived."""
    redundant_patterns: Sequence[str] = ()
    """The experiment's file name patterns that are not worth archiving (relative to the work directory)."""
    archive_extras: Sequence[str] = field(
        default=("pilotlog.txt", "pilot_heartbeat.json", "workernode_map.json", "gpu_map.json")
    )
    """Files of the pilot's directory that go into the log archive when they exist."""
    payload_logs: Sequence[str] = ("payload.stdout", "payload.stderr")
    """Names of the payload's output in the work directory: what a reduced archive keeps."""

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
