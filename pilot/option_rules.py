"""Small pure rules on options: booleans, workflows, job label, Harvester mode, server URL, real-time log server."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, Optional

if TYPE_CHECKING:
    from pilot.options import Options
    from pilot.settings import Settings

_TRUE, _FALSE = ("yes", "true", "t", "y", "1"), ("no", "false", "f", "n", "0")

# Union of what Pilot 2 and 3 accept; the value is the workflow that is really started.
_WORKFLOW_NAMES = {
    "generic": "generic", "generic_hpc": "generic_hpc", "production": "generic", "production_hpc": "generic",
    "analysis": "generic", "analysis_hpc": "generic", "eventservice_hpc": "eventservice_hpc", "stager": "stager",
    "stagein": "stager",
}
WORKFLOWS = tuple(_WORKFLOW_NAMES)

_REALTIME = re.compile(
    r"(?P<type>[\w-]+)(?:;(?P<protocol>[a-z]\w*)://|:)(?P<host>\[[0-9A-Fa-f:.]+\]|[\w.-]+):(?P<port>\d+)/?"
)


def str2bool(text: str) -> bool:
    """Return the truth value of ``yes|true|t|y|1`` or ``no|false|f|n|0`` in any case; ValueError for all else."""
    lowered = text.strip().lower()
    if lowered in _TRUE:
        return True
    if lowered in _FALSE:
        return False
    raise ValueError(f"boolean value expected (yes/no, true/false, t/f, y/n, 1/0), got {text!r}")


def canonical_workflow(name: str) -> str:
    """Return the workflow that ``-w name`` starts; ValueError with a clear text when there is none."""
    if name == "payload_stageout":
        raise ValueError("workflow payload_stageout was announced but never existed; generic stages out as well")
    if name not in _WORKFLOW_NAMES:
        raise ValueError(f"unknown workflow {name!r} (choose from {', '.join(WORKFLOWS)})")
    return _WORKFLOW_NAMES[name]


class RealtimeServer(NamedTuple):
    """Where real-time log lines go; its text is ``<type>;<protocol>://<host>:<port>``."""

    type: str
    protocol: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"file;{self.host}" if self.type == "file" else f"{self.type};{self.protocol}://{self.host}:{self.port}"


def realtime_server(text: str) -> Optional[RealtimeServer]:
    """Parse ``[logserver=]<type>;<protocol>://<host>:<port>`` or ``<type>:<host>:<port>`` (http); None for empty text.

    ``file;<path>`` is a file of the site: type ``file``, its path as host.

    Raises:
        ValueError: any other form.
    """
    bare = text.strip().strip("'\"")
    if bare.startswith("logserver="):
        bare = bare[len("logserver="):].strip("'\"")
    if not bare:
        return None
    path = re.fullmatch(r"file[;:](?:file://)?(/.+)", bare)
    if path is not None:
        return RealtimeServer("file", "file", path[1], 0)
    match = _REALTIME.fullmatch(bare)
    if match is None:
        raise ValueError(f"{text!r} is neither type;protocol://host:port, nor type:host:port, nor file;/path")
    return RealtimeServer(match["type"], match["protocol"] or "http", match["host"], int(match["port"]))


def job_label(options: Options, queue_status: str) -> str:
    """Return the prodSourceLabel for getJob (cli-config 2.2); the first rule that fits wins.

    Args:
        options: ``-i`` and ``-j``.
        queue_status: the queue's ``status`` field, e.g. ``online`` or ``test``.
    """
    tag, label = options.version_tag, options.job_label
    if tag == "RC" and label in ("rc_test2", "ptest"):
        return label
    if tag == "RCM" and label == "ptest":
        return "rcm_test2"
    if tag == "ALRB":
        return "rc_alrb"
    if queue_status == "test" and label != "ptest":
        return "test"
    return label


def is_harvester_mode(options: Options, environ: Mapping[str, str]) -> bool:
    """Return True when Harvester drives the pilot through files (cli-config 2.3)."""
    files = (
        options.harvester_workdir, options.harvester_datadir, options.harvester_eventstatusdump,
        options.harvester_workerattributes,
    )
    if any(files) and not options.update_server:
        return True
    known = "HARVESTER_ID" in environ or "HARVESTER_WORKER_ID" in environ
    return known and options.harvester_submitmode.lower() == "push"


def server_base_url(options: Options, settings: Settings) -> str:
    """Return the PanDA server's URL (cli-config 2.4): scheme https unless given, port of the URL before ``-p``.

    ``--url`` wins over the setting ``pilot.pandaserver``; ``-p`` belongs to ``--url`` only. A path stays; a slash at
    the end goes. IPv6 literals keep (or get) their brackets.
    """
    if options.url.strip():
        return compose_url(options.url, options.port)
    return compose_url(settings.pilot.pandaserver, None)


def compose_url(url: str, port: Optional[int]) -> str:
    """Return ``url`` with scheme (https) and ``port`` filled in where absent."""
    scheme, separator, rest = url.strip().partition("://")
    if not separator:
        scheme, rest = "https", url.strip()
    authority, slash, path = rest.partition("/")
    userinfo, at, host = authority.rpartition("@")
    if host.count(":") > 1 and not host.startswith("["):
        host = f"[{host}]"  # a bare IPv6 literal; it cannot carry a port
    has_port = re.search(r":\d+$", host if not host.startswith("[") else host.rpartition("]")[2])
    host = host.rstrip(":")
    if port is not None and not has_port:
        host = f"{host}:{port}"
    return f"{scheme.lower()}://{userinfo}{at}{host}{slash}{path}".rstrip("/")


def traces_wanted(options: Options, environ: Mapping[str, str]) -> bool:
    """Return False when ``--use-rucio-traces`` or PILOT_USE_RUCIO_TRACES switches the Rucio traces off."""
    return options.use_rucio_traces and environ.get("PILOT_USE_RUCIO_TRACES", "").strip().lower() not in _FALSE
