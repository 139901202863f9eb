"""The information service: one queue and the storage endpoints, from the first source that has them.

Layers of a queue's description, later ones on top: schedconfig base, queuedata, what the job overrides, what the
operator's settings override. They are merged with their external names, then parsed. Endpoints are loaded when
somebody asks for the first one, and shared by all jobs.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from functools import partial
from threading import RLock
from typing import Any, Iterable, Optional

from pilot.common.exception import NotDefined, PilotException, QueuedataFailure, QueuedataNotOK
from pilot.info.cleaning import deep_merge
from pilot.info.config import SourceConfig
from pilot.info.endpoints import Endpoints
from pilot.info.job import Job
from pilot.info.queuedata import OpenQueueData, QueueData
from pilot.info.sources import (
    THREE_HOURS,
    AllSourcesFailed,
    CacheFile,
    Loaded,
    Loader,
    pick_queue,
    queue_sources,
    schedconf_sources,
)
from pilot.info.storage import StorageData
from pilot.util.cancel import CancelToken
from pilot.util.fetch import Fetcher, fetch

logger = logging.getLogger(__name__)

RawRecord = dict[str, Any]


@dataclass(frozen=True)
class JobInfoProvider:
    """Names the job whose overrides a job-level service applies (interface that scripts know)."""

    job: Job


@dataclass(frozen=True)
class _Queue:
    """A loaded queue: merged external data, parsed data, and where the master record came from."""

    raw: RawRecord
    data: QueueData
    source: str
    origin: str
    mtime_ns: int = 0
    """Modification time of a pre-placed file."""


class InfoService:
    """Queue and storage descriptions; thread-safe.

    Args:
        config: sources; default: built from the default settings and the environment when first needed.
        fetcher: reads one URL, with the pilot's certificates and User-Agent bound to it; default: plain ``fetch``.
        token: interrupts waits and fetches.
    """

    cache_time = 60
    """s; kept for scripts that read it."""

    def __init__(
        self, config: SourceConfig | None = None, *, fetcher: Fetcher | None = None, token: CancelToken | None = None
    ) -> None:
        self._config = config
        self._fetcher: Fetcher = fetcher or fetch
        self._token = token or CancelToken()
        self._lock = RLock()
        self._queues: dict[str, _Queue] = {}
        self._open: dict[str, tuple[_Queue, OpenQueueData]] = {}
        """Queue -> what scripts may change, and what it was copied from."""
        self._endpoints: Optional[Endpoints] = None
        self.pandaqueue = ""
        self.confinfo: Optional[InfoService] = None
        self.extinfo: Optional[InfoService] = None
        self.jobinfo: Optional[JobInfoProvider] = None

    # --- queue -----------------------------------------------------------------------------------------------------
    def load_queue(self, name: str) -> QueueData:
        """Load the description of queue ``name`` and make it this service's queue.

        Raises:
            QueuedataFailure: (1116) no source could be read, or none knows the queue.
            QueuedataNotOK: (1117) what was found is malformed or describes another queue.
        """
        if not name:
            raise PilotException("failed to initialize InfoService: panda queue name is not set")
        with self._lock:
            queue = self._load(name, primary=True, rounds=True)
            self._queues[name] = queue
            self.pandaqueue = name
        logger.info("queue %s: description from %s (%s)", name, queue.source, queue.origin)
        logger.debug("queue data: %r", queue.data)
        return queue.data

    def refresh_if_stale(self) -> QueueData:
        """Look between jobs whether the queue has changed, e.g. was set offline; a failed look changes nothing.

        A description that was downloaded more than 3 h ago is downloaded again (one round, no waiting for servers that
        are down); a pre-placed file is read again when it was modified.
        """
        with self._lock:
            queue = self._current("refresh_if_stale")
            config = self._sources_config()
            if queue.source == "LOCAL":
                stale = _mtime_ns(queue.origin) != queue.mtime_ns
            else:
                stale = self._queue_cache(config).age() >= THREE_HOURS
            if stale:
                try:
                    new = self._load(self.pandaqueue, primary=True, rounds=False)
                except (QueuedataFailure, QueuedataNotOK) as error:
                    logger.warning("queue %s: keeping the old description: %s", self.pandaqueue, error.detail)
                else:
                    if new.data != queue.data:
                        logger.info("queue %s: description has changed (%s)", self.pandaqueue, new.source)
                    self._queues[self.pandaqueue] = queue = new
            return queue.data

    @property
    def queuedata(self) -> QueueData:
        """The queue for scripts, with the overrides of the job when the service was initialised for one.

        Without a job its fields may be set (``infosys.queuedata.direct_access_lan = False``): that lasts until the
        description is loaded anew, and nothing of the pilot's own looks at it.
        """
        queue = self._current("queuedata")
        if self.jobinfo:
            return self.queue_for(self.jobinfo.job)
        with self._lock:
            source, copy = self._open.get(self.pandaqueue, (None, None))
            if copy is None or source is not queue:
                copy = OpenQueueData.copy_of(queue.data)
                self._open[self.pandaqueue] = queue, copy
            return copy

    @property
    def queues_info(self) -> dict[str, QueueData]:
        """All queues that were asked for."""
        return {name: queue.data for name, queue in self._queues.items()}

    def queue_for(self, job: Job) -> QueueData:
        """Return the queue as ``job`` is to see it.

        ``job.platform`` replaces ``cmtconfig``, then ``job.overwrite_queuedata`` (external names) goes on top, then the
        operator's ``information.acopytools``.
        """
        raw = self._current("queue_for").raw
        platform = {"cmtconfig": job.platform} if job.platform else None
        return QueueData.from_raw(deep_merge(raw, platform, job.overwrite_queuedata, self._operator_layer()))

    def resolve_queuedata(self, pandaqueue: str) -> QueueData | None:
        """Return the description of any queue, None when it cannot be found."""
        with self._lock:
            if pandaqueue not in self._queues:
                try:
                    self._queues[pandaqueue] = self._load(pandaqueue, primary=False, rounds=False)
                except (QueuedataFailure, QueuedataNotOK) as error:
                    logger.warning("%s", error.detail)
                    return None
            return self._queues[pandaqueue].data

    def _load(self, name: str, *, primary: bool, rounds: bool) -> _Queue:
        config = self._sources_config()
        loader = self._loader(config, config.budget)
        accept = partial(pick_queue, queue=name)
        try:
            master = loader.first(
                queue_sources(config, name, cached=primary), accept, render=_pretty, rounds=rounds
            )
        except AllSourcesFailed as error:
            invalid = any(failure.invalid for failure in error.failures)
            kind = QueuedataNotOK if invalid else QueuedataFailure
            raise kind(f"failed to resolve queuedata for queue={name}, wrong PandaQueue name? {error}") from None
        base = self._base_layer(loader, config, name, master)
        raw = deep_merge(base, master.value)
        if primary:
            self._publish(config, master)
        data = QueueData.from_raw(deep_merge(raw, self._operator_layer()))
        return _Queue(raw, data, master.source, master.origin, _mtime_ns(master.origin))

    def _base_layer(
        self, loader: Loader, config: SourceConfig, name: str, master: Loaded[RawRecord]
    ) -> RawRecord | None:
        """Return the schedconfig record below the master one.

        The PanDA server and CRIC give complete records, so CVMFS and CRIC are asked only for a partial one (a few lines
        placed by hand); a local schedconfig file always counts.
        """
        record = master.value
        partial_record = not (record.get("state") and (record.get("copytools") or record.get("acopytools")))
        if master.source == "LOCAL schedconfig":
            return None
        sources = schedconf_sources(config, name, remote=partial_record and master.source in ("LOCAL", "PANDA"))
        if not sources:
            return None
        try:
            return loader.first(sources, partial(pick_queue, queue=name), rounds=False).value
        except AllSourcesFailed as error:
            logger.info("queue %s: no base description: %s", name, error)
            return None

    def _publish(self, config: SourceConfig, master: Loaded[RawRecord]) -> None:
        """Keep ``queuedata.json`` in PILOT_HOME, one key per line: payload tools and the wrapper read it there, also
        when the cache of queue descriptions is elsewhere."""
        cache = self._queue_cache(config)
        in_place = master.source == "PANDA" or master.origin == str(cache.path.absolute())
        if not in_place:
            cache.write(_pretty(master.value), master.origin)
        copy = CacheFile((config.home or config.cache_dir) / "queuedata.json", shared=True)
        if str(copy.path.absolute()) not in (str(cache.path.absolute()), master.origin):
            copy.write(_pretty(master.value), master.origin)

    @staticmethod
    def _queue_cache(config: SourceConfig) -> CacheFile:
        return CacheFile(config.cache_dir / config.queuedata_cache, shared=True)

    def _operator_layer(self) -> RawRecord | None:
        overrides = self._sources_config().acopytools
        return {"acopytools": dict(overrides)} if overrides else None

    # --- storage ---------------------------------------------------------------------------------------------------
    def storage(self, names: Iterable[str] | str | None = None, *, strict: bool = True) -> dict[str, StorageData]:
        """Return the storage endpoints ``names``; None or nothing = all. Loaded on first use.

        Raises:
            PilotException: (1133) an endpoint is missing, unless ``strict`` is False: then it is just left out.
        """
        return self._shared_endpoints().get(names, strict=strict)

    def storage_for(
        self, job: Job, names: Iterable[str] | str | None = None, *, strict: bool = True
    ) -> dict[str, StorageData]:
        """Return endpoints as ``job`` is to see them: ``job.overwrite_storagedata`` goes on top before parsing.

        Raises:
            PilotException: (1133) an endpoint is missing, unless ``strict`` is False.
        """
        return self._shared_endpoints().get(names, overrides=job.overwrite_storagedata, strict=strict)

    def _shared_endpoints(self) -> Endpoints:
        with self._lock:
            if self._endpoints is None:
                config = self._sources_config()
                self._endpoints = Endpoints(config, self._loader(config, config.endpoints_budget))
            return self._endpoints

    @property
    def storages_info(self) -> dict[str, StorageData]:
        """All endpoints."""
        return self.storage()

    def resolve_storage_data(self, ddmendpoints: Iterable[str] | str | None = None) -> dict[str, StorageData]:
        """Return endpoints by name, all of them by default; interface that scripts know."""
        return self.storage_for(self.jobinfo.job, ddmendpoints) if self.jobinfo else self.storage(ddmendpoints)

    @property
    def storage_id2ddmendpoint(self) -> dict[int, str]:
        """Storage id (or bucket id) -> endpoint name."""
        endpoints = self.storage()
        by_bucket = {data.bucket_id: name for name, data in endpoints.items() if data.bucket_id is not None}
        return {**by_bucket, **{data.pk: name for name, data in endpoints.items() if data.pk}}

    @property
    def ddmendpoint2storage_id(self) -> dict[str, int]:
        """Endpoint name -> storage id."""
        return {name: data.pk for name, data in self.storage().items()}

    def get_storage_id(self, ddmendpoint: str) -> int:
        """Return the storage id of an endpoint; raises NotDefined (1311)."""
        data = self.storage([ddmendpoint], strict=False).get(ddmendpoint)
        if data is None:
            raise NotDefined(f"cannot find storage id for ddmendpoint={ddmendpoint}: unknown endpoint")
        return data.pk

    def get_ddmendpoint(self, storage_id: int | str) -> str:
        """Return the endpoint of a storage id or bucket id; raises NotDefined (1311)."""
        try:
            return self.storage_id2ddmendpoint[int(storage_id)]
        except (KeyError, ValueError):
            raise NotDefined(f"cannot find ddmendpoint for storage_id={storage_id}") from None

    # --- interface that scripts and Harvester know -----------------------------------------------------------------
    def init(
        self,
        pandaqueue: str,
        confinfo: InfoService | None = None,
        extinfo: InfoService | None = None,
        jobinfo: JobInfoProvider | None = None,
    ) -> None:
        """Load the queue, or share everything that the service ``extinfo`` has loaded and add a job's overrides."""
        parent = extinfo or confinfo
        if parent is not None and parent is not self:
            self._config, self._fetcher, self._token = parent._config, parent._fetcher, parent._token
            self._lock, self._queues = parent._lock, parent._queues
            self._endpoints = parent._shared_endpoints()
        self.confinfo = self.extinfo = parent or self
        self.jobinfo = jobinfo
        if pandaqueue and pandaqueue in self._queues:
            self.pandaqueue = pandaqueue
        else:
            self.load_queue(pandaqueue)

    def resolve_schedconf_sources(self) -> None:
        """Return None: the order of the sources is the built-in one; interface that scripts know."""

    def _current(self, caller: str) -> _Queue:
        if not self.pandaqueue:
            raise PilotException(
                f"failed to call {caller}(): InfoService instance is not initialized. Call init() first!"
            )
        return self._queues[self.pandaqueue]

    def _sources_config(self) -> SourceConfig:
        if self._config is None:
            from pilot.settings import default_settings

            self._config = SourceConfig.from_settings(default_settings())
        return self._config

    def _loader(self, config: SourceConfig, budget: float) -> Loader:
        return Loader(
            self._fetcher, self._token, budget=budget, timeout=config.timeout, retry_base=config.retry_base,
            retry_cap=config.retry_cap)


def _pretty(record: RawRecord) -> bytes:
    return (json.dumps(record, indent=4, sort_keys=True) + "\n").encode()


def _mtime_ns(path: str) -> int:
    if "://" in path:
        return 0
    import os

    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0
