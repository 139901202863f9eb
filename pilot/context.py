"""The pilot's context: what every component needs, passed, never global."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Optional

from pilot.monitoring.leaveby import LeaveBy
from pilot.monitoring.pulse import Pulse
from pilot.panda.keypairs import KeyPairs
from pilot.util.cancel import CancelToken
from pilot.util.helper import HelperPool

if TYPE_CHECKING:
    from pilot.control.instructions import Instructions
    from pilot.control.road import Road
    from pilot.control.shutdown import Shutdown
    from pilot.control.traces import Transfers
    from pilot.control.watch.blackhole import BlackHole
    from pilot.info.infoservice import InfoService
    from pilot.info.queuedata import QueueData
    from pilot.info.resourcetypes import ResourceTypes
    from pilot.monitoring.batch import BatchSystem
    from pilot.monitoring.node import NodeDescription
    from pilot.options import Options
    from pilot.panda.credentials import Credentials
    from pilot.panda.outbox import Reporter
    from pilot.panda.server import PandaServer
    from pilot.payload.process import Supervisor
    from pilot.settings import Settings
    from pilot.store.pilotdb import OwnerLock, PilotDB
    from pilot.telemetry.exporter import Telemetry
    from pilot.user.base import Experiment


@dataclass
class PilotContext:
    """Everything that lives as long as the pilot process."""

    options: Options
    settings: Settings
    environ: Mapping[str, str]
    """The environment at start-up (what the pilot exports itself is in os.environ)."""
    launch_dir: Path
    """Directory in which the wrapper started the pilot."""
    home: Path
    """Main work directory, PILOT_HOME."""
    token: str
    """Random name of this pilot process; marks its payloads' environment."""
    experiment: Experiment
    store: PilotDB
    lock: OwnerLock
    shutdown: Shutdown
    supervisor: Supervisor
    node: NodeDescription
    batch: BatchSystem
    harvester: bool = False
    kubernetes: bool = False
    started: float = 0.0
    """Monotonic time of the pilot's start."""
    helpers: HelperPool = field(default_factory=HelperPool)
    """Helper processes of client libraries."""
    credentials: Optional[Credentials] = None
    server: Optional[PandaServer] = None
    """None with ``-z``: the pilot then never talks to the server."""
    pulse: Pulse = field(default_factory=lambda: Pulse(600.0))
    """Knows of suspensions of the pilot."""
    key_pairs: KeyPairs = field(default_factory=KeyPairs)
    """Keys of object stores."""
    info: InfoService = field(init=False)
    queue: QueueData = field(init=False)
    reporter: Reporter = field(init=False)
    road: Road = field(init=False)
    transfers: Transfers = field(init=False)
    blackhole: BlackHole = field(init=False)
    instructions: Optional[Instructions] = None
    """What a message broker tells (``--subscribe-to-msgsvc``); None: nobody listens."""
    telemetry: Optional[Telemetry] = None
    """Exports traces and metrics; None unless ``telemetry.otlp_endpoint`` is set."""
    resource_types: Optional[ResourceTypes] = None
    """The server's, once a payload has run long enough to need them."""
    leave: LeaveBy = field(default_factory=LeaveBy)
    """The one time by which the pilot has to leave, from everything that may end its slot."""
    lookups: CancelToken = field(default_factory=CancelToken)
    """Breaks off downloads of queue and storage descriptions. Not the token of the pilot's end: the last job's log
    needs its storage's description after the signal, too."""
    finished: Event = field(default_factory=Event)
    """Set when the pilot's work is over: background threads end."""
    exit_error: int = 0
    """Pilot error code that decides the exit code (trouble of the pilot or the site, never a job's own)."""

    @property
    def leave_by(self) -> float:
        """Monotonic time at which the pilot must begin to leave."""
        return self.leave.now.at

    @property
    def job_label(self) -> str:
        """prodSourceLabel for getJob (needs the queue's status)."""
        from pilot.option_rules import job_label

        return job_label(self.options, self.queue.status)

    def verify_tls(self) -> bool | str:
        """CA directory (or file) for downloads, True for the system's, False when verification is switched off."""
        if not self.settings.server.verify_tls:
            return False
        return (self.credentials.ca_path() if self.credentials is not None else "") or True

    def secret_files(self) -> tuple[str, ...]:
        """Paths and names of files with the pilot's own secrets: they never go into an archive."""
        names = (self.environ.get(name, "") for name in (
            "X509_USER_PROXY", "OIDC_AUTH_TOKEN", "PANDA_AUTH_TOKEN", "PANDA_AUTH_TOKEN_KEY", "BEARER_TOKEN_FILE"))
        return tuple(name for name in (*names, os.environ.get("OIDC_REFRESHED_AUTH_TOKEN", "")) if name)
