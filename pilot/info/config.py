"""What the information service needs to know of settings, options and environment, in one small object."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Mapping, Optional, Protocol

from pilot.common.exception import PilotException

if TYPE_CHECKING:
    from pilot.settings import Settings

_CVMFS_ETC = "atlas.cern.ch/repo/sw/local/etc"


class SourceOptions(Protocol):
    """The command line options that name sources."""

    @property
    def url(self) -> str:
        """PanDA server."""

    @property
    def port(self) -> int:
        """Its port, unless ``url`` has one."""

    @property
    def queuedata_url(self) -> str:
        """URL or file of the queue description."""

    @property
    def storagedata_url(self) -> str:
        """URL or file of the endpoint descriptions."""


@dataclass(frozen=True)
class SourceConfig:
    """URLs, files and limits; build it with ``from_settings``."""

    cache_dir: Path
    """Where cache files and ``queuedata.json`` are kept: setting ``information.cache_dir``, else PILOT_HOME."""
    home: Optional[Path] = None
    """PILOT_HOME, where runcontainer and the wrapper look for ``queuedata.json``; None = ``cache_dir``."""
    local_dirs: tuple[Path, ...] = ()
    """Where pre-placed files are looked for, in order: the cache directory, PILOT_HOME, launch dir, PILOT_WORK_DIR."""
    queuedata_option_url: str = ""
    storages_option_url: str = ""
    server_base: str = ""
    """Scheme, host and port of ``--url``; empty when that was not given."""
    queuedata_url: str = ""
    queuedata_cvmfs: str = ""
    queuedata_cache: str = "queuedata.json"
    queues_url: str = ""
    queues_cvmfs: str = ""
    queues_cache: str = "cric_pandaqueues.json"
    storages_url: str = ""
    storages_cvmfs: str = ""
    storages_cache: str = "cric_ddmendpoints.json"
    storages_local_only: bool = False
    local_schedconf: str = ""
    sw_base: str = "/cvmfs"
    acopytools: Mapping[str, Any] = field(default_factory=dict)
    """Operator's override of the queue's copytools."""
    timeout: float = 20.0
    """s for one fetch."""
    budget: float = 600.0
    """s that retries may take altogether when no source has the queue: setting ``server.start_patience``."""
    endpoints_budget: float = 120.0
    """The same for the endpoints, s: a job waits for them."""
    retry_base: float = 1.0
    """s before the first retry: setting ``server.retry_base``."""
    retry_cap: float = 15.0
    """s, the longest pause between retries: 15, or setting ``server.retry_max`` where that is less."""

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        *,
        options: SourceOptions | None = None,
        environ: Mapping[str, str] | None = None,
        pilot_home: Path | None = None,
        launch_dir: Path | None = None,
    ) -> SourceConfig:
        """Collect the configuration.

        Args:
            settings: sections ``information`` and ``server``.
            options: command line.
            environ: QUEUEDATA_SERVER_URL, STORAGEDATA_SERVER_URL (for API users; the options win), ATLAS_SW_BASE,
                LOCAL_AGIS_SCHEDCONF, PILOT_HOME, PILOT_SOURCE_DIR, PILOT_WORK_DIR, PILOT_QUEUE.
            pilot_home: main work dir; default ``$PILOT_HOME``, else the current directory.
            launch_dir: where the pilot was started; default ``$PILOT_SOURCE_DIR``, else the current directory.
        """
        env = os.environ if environ is None else environ
        info = settings.information
        home = pilot_home or Path(env.get("PILOT_HOME") or ".")
        launch = launch_dir or Path(env.get("PILOT_SOURCE_DIR") or ".")
        cache_dir = Path(info.cache_dir) if info.cache_dir else home
        work = env.get("PILOT_WORK_DIR")
        return cls(
            cache_dir=cache_dir,
            home=home,
            local_dirs=(cache_dir, home, launch, *([Path(work)] if work else [])),
            queuedata_option_url=_anchored(
                (options.queuedata_url if options else "") or env.get("QUEUEDATA_SERVER_URL", ""), launch
            ),
            storages_option_url=_anchored(
                (options.storagedata_url if options else "") or env.get("STORAGEDATA_SERVER_URL", ""), launch
            ),
            server_base=server_base(options.url, options.port) if options and options.url else "",
            queuedata_url=info.queuedata_url,
            queuedata_cvmfs=info.queuedata_cvmfs,
            queuedata_cache=info.queuedata_cache,
            queues_url=info.queues_url,
            queues_cvmfs=info.queues_cvmfs,
            queues_cache=info.queues_cache,
            storages_url=info.storages_url,
            storages_cvmfs=info.storages_cvmfs,
            storages_cache=info.storages_cache,
            storages_local_only=env.get("PILOT_QUEUE") == "GOOGLE_DASK",
            local_schedconf=env.get("LOCAL_AGIS_SCHEDCONF", ""),
            sw_base=env.get("ATLAS_SW_BASE") or "/cvmfs",
            acopytools=info.acopytools or {},
            budget=settings.server.start_patience,
            endpoints_budget=min(120.0, settings.server.start_patience),
            retry_base=max(settings.server.retry_base, 0.01),
            retry_cap=max(min(15.0, settings.server.retry_max), 0.01),
        )

    def queuedata_urls(self, queue: str) -> tuple[str, ...]:
        """Return where the PanDA server's description of ``queue`` is: the option alone, else server, then setting."""
        if self.queuedata_option_url:
            return (self.fill(self.queuedata_option_url, queue),)
        urls = []
        if self.server_base:
            urls.append(f"{self.server_base}/cache/schedconfig/{{pandaqueue}}.all.json")
        if self.queuedata_url:
            urls.append(self.queuedata_url)
        return tuple(dict.fromkeys(self.fill(url, queue) for url in urls))

    def awaited_urls(self, queue: str) -> tuple[str, ...]:
        """Return those of ``queuedata_urls`` that the operator named: the option, else the server of ``--url``.

        A pilot cannot work without that server, so one that is down is worth waiting for; the built-in addresses of
        one experiment are not.
        """
        return self.queuedata_urls(queue)[:1] if self.queuedata_option_url or self.server_base else ()

    @staticmethod
    def fill(url: str, queue: str) -> str:
        """Put the queue's name in the place of ``{pandaqueue}``."""
        if "{pandaqueue}" not in url:
            return url
        if url.startswith(("http://", "https://")):
            from urllib.parse import quote

            queue = quote(queue, safe="")
        return url.replace("{pandaqueue}", queue)

    def expand_cvmfs(self, setting: str, default_name: str) -> str:
        """Return the path with ``CVMFS_PATH`` replaced; an empty setting means the usual place."""
        return (setting or f"CVMFS_PATH/{_CVMFS_ETC}/{default_name}").replace("CVMFS_PATH", self.sw_base)


def server_base(url: str, port: int | str) -> str:
    """Return ``scheme://host:port[/path]`` of a server URL; https by default, a port in the URL wins.

    Raises PilotException when ``url`` has no host or a port that is no number.
    """
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url if "://" in url else f"https://{url}")
        host, own_port = parts.hostname, parts.port
    except ValueError:
        host = own_port = None
    if not host:
        raise PilotException(f"--url {url} is no server URL, expected e.g. https://panda.example.org:25443")
    path = parts.path.rstrip("/")  # of a gate in front of several servers
    if path.endswith("/server/panda"):  # the address of the API as clients of the server are configured
        path = path[: -len("/server/panda")]
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{own_port or port}{path}"


def _anchored(url: str, launch_dir: Path) -> str:
    """Make a relative path absolute: it was meant from where the pilot was started, which is no longer the cwd."""
    if not url or "://" in url or os.path.isabs(url):
        return url
    return os.path.abspath(launch_dir / url)
