"""Everything a dialect needs to answer: jobs, identities, credentials, counters."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, List, Mapping, Optional, Set

from sandbox.core import Core
from sandbox.creds import Credentials
from sandbox.identity import Authenticator

RESOURCE_TYPES: List[Mapping[str, Any]] = [
    {"resource_name": "SCORE", "mincore": 1, "maxcore": 1, "minrampercore": None, "maxrampercore": 2000},
    {"resource_name": "SCORE_HIMEM", "mincore": 1, "maxcore": 1, "minrampercore": 2001, "maxrampercore": None},
    {"resource_name": "MCORE", "mincore": 2, "maxcore": None, "minrampercore": None, "maxrampercore": 2000},
    {"resource_name": "MCORE_HIMEM", "mincore": 2, "maxcore": None, "minrampercore": 2001, "maxrampercore": None},
]
NO_ROLE = "no production/pilot role in VOMS FQANs or non pilot owner"
WORKER_STATES = ("started", "finished")
BAD_WORKER_STATE = f"Invalid worker state. The worker state has to be in {WORKER_STATES}"


@dataclass
class State:
    """The server behind the dialects."""

    core: Core
    auth: Authenticator = field(default_factory=Authenticator)
    creds: Credentials = field(default_factory=Credentials)
    workers_killed: int = 0
    unknown_parameters: Set[str] = field(default_factory=set)

    def worker_status(self, harvester: Any, worker: Any, status: str, node: Optional[str]) -> None:
        """Note a pilot's start or end; unknown workers count as success (server-api.md 8.2)."""
        with self.core._change() as db:
            db.execute("INSERT INTO workers VALUES (?,?,?,?,?)", (str(harvester), str(worker), status, node,
                                                                 self.core.now()))

    def worker_node(self, params: Mapping[str, Any], gpu: bool) -> None:
        """Keep the description of a worker node or of its GPUs; the slot is stripped from the name."""
        host = str(params["host_name"]).rpartition("@")[2]
        with self.core._change() as db:
            db.execute("INSERT OR REPLACE INTO nodes VALUES (?,?,?,?)", (params["site"], host, int(gpu),
                                                                         json.dumps(dict(params))))

    def set_secret(self, owner: str, key: Optional[str], value: Optional[str]) -> None:
        """Set or delete a user's secret (memory only)."""
        if key is None:
            self.core.secrets.pop(owner, None)
        elif value is None:
            self.core.secrets.get(owner, {}).pop(key, None)
        else:
            self.core.secrets.setdefault(owner, {})[key] = value

    def get_secrets(self, owner: str, keys: Optional[List[str]]) -> Mapping[str, str]:
        """A user's secrets, all of them or the named ones."""
        found = self.core.secrets.get(owner, {})
        return {key: value for key, value in found.items() if not keys or key in keys}
