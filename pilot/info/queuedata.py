"""A PanDA queue as schedconfig (CRIC) describes it, typed and cleaned.

External names, types and defaults: information service document, section 5; cleaning: section 4.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Mapping, NamedTuple, Optional, Sequence, cast

from pilot.common.errorcodes import ErrorCodes
from pilot.common.exception import PilotException
from pilot.info.catchall import CatchAll
from pilot.info.cleaning import Cleaner, str_list

CopyIn = Literal["symlink", "cp", "mv"]
CopyOut = Literal["mv", "cp"]


class MvSettings(NamedTuple):
    """How the mv copytool moves files: ``copytools: {"mv": {"copy_in": ..., "copy_out": ...}}``."""

    copy_in: CopyIn = "symlink"
    copy_out: CopyOut = "mv"


@dataclass(frozen=True)
class QueueData:
    """One queue. Field names are the pilot's; the external name stands in the comment when it differs."""

    name: str  # nickname
    resource: str = ""  # panda_resource; the name when empty, because the server gives jobs to nobody without a name
    site: Optional[str] = None  # atlas_site, then gstat
    state: Optional[str] = None
    status: str = ""
    type: Optional[str] = None
    resource_type: str = ""
    timefloor: int = 0
    """s (external: minutes): further jobs may start until then; 0 = one job per pilot."""
    maxtime: int = 0
    """s: longest life of the pilot; 0 = not set."""
    maxwdir: int = 0
    """MB; 0 = no limit."""
    maxinputsize: int = 0
    """MB; -1 = no check of the size of the inputs."""
    maxrss: int = 0
    """MB; 0 = no limit."""
    memkillgrace: int = 100
    corecount: int = 1
    pledgedcpu: int = 0
    es_stageout_gap: int = 0
    """s between uploads of event service outputs (external: zip_time_gap)."""
    copytools: dict[str, Any] = field(default_factory=dict)
    acopytools: dict[str, list[str]] = field(default_factory=dict)
    acopytools_schemas: dict[str, Any] = field(default_factory=dict)
    astorages: dict[str, list[str]] = field(default_factory=dict)
    aprotocols: dict[str, Any] = field(default_factory=dict)
    allow_lan: bool = True
    allow_wan: bool = False
    direct_access_lan: bool = False
    direct_access_wan: bool = False
    use_pcache: bool = False
    is_cvmfs: bool = True
    appdir: str = ""
    platform: str = ""  # cmtconfig
    container_type: dict[str, str] = field(default_factory=dict)
    """User (``pilot``, ``wrapper``, ``middleware``) -> container (``apptainer``, ``container``, ``bash``)."""
    container_options: str = ""
    catchall: str = ""
    environ: str = ""
    params: dict[str, Any] = field(default_factory=dict)
    # derived from params
    altstageout: Optional[bool] = None
    """True/False forces or forbids alternative stage-out, None leaves it to the job."""
    pilot_walltime_grace: float = 1.0
    """Factor on the time limit of a running job."""
    pilot_rss_grace: float = 2.0
    """Factor on the memory limit."""
    pilot_maxwdir_grace: float = 1.2
    """Factor on the work directory limit."""
    looping_limit: int = 0
    """s without any activity of the payload (``params.looping_limit``); 0 = not set."""
    job_maxwalltime: bool = False
    """Use the job's maxwalltime instead of ``maxtime`` for the limit of the running time."""
    internet_protocol_version: str = "IPv6"
    pipelining: Optional[bool] = None
    """The next job may come while the last one leaves (``params.pipelining``, else a word in ``catchall``); None leaves
    it to the pilot's settings."""

    verify_setup: Optional[bool] = None
    """Payload set-up is tried alone first (``params.verify_setup``); None leaves it to the pilot's settings."""

    @classmethod
    def from_raw(cls, raw: Mapping[str, Any]) -> QueueData:
        """Parse a description with external names. Bad values become defaults with one warning each; never raises."""
        clean = Cleaner(raw, f"queue {raw.get('nickname') or '?'}")
        name = clean.text("nickname")
        params = clean.mapping("params")
        pledgedcpu = clean.integer("pledgedcpu")
        return cls(
            name=name,
            resource=clean.text("panda_resource") or name,
            site=clean.optional_text("atlas_site", "gstat"),
            state=clean.optional_text("state"),
            status=clean.text("status"),
            type=clean.optional_text("type"),
            resource_type=clean.text("resource_type"),
            timefloor=clean.integer("timefloor") * 60,
            maxtime=clean.integer("maxtime"),
            maxwdir=clean.integer("maxwdir"),
            maxinputsize=clean.integer("maxinputsize"),
            maxrss=clean.integer("maxrss"),
            memkillgrace=clean.integer("memkillgrace", default=100),
            corecount=max(1, clean.integer("corecount", default=1)),
            pledgedcpu=pledgedcpu,
            # 0 means: soon on opportunistic resources (-1), where the pilot may vanish any time, else every two hours
            es_stageout_gap=clean.integer("zip_time_gap") or (600 if pledgedcpu == -1 else 7200),
            copytools=clean.mapping("copytools"),
            acopytools=clean.lists("acopytools"),
            acopytools_schemas=clean.mapping("acopytools_schemas"),
            astorages=clean.lists("astorages"),
            aprotocols=clean.mapping("aprotocols"),
            allow_lan=clean.boolean("allow_lan", default=True),
            allow_wan=clean.boolean("allow_wan"),
            direct_access_lan=clean.boolean("direct_access_lan"),
            direct_access_wan=clean.boolean("direct_access_wan"),
            use_pcache=clean.boolean("use_pcache"),
            is_cvmfs=clean.boolean("is_cvmfs", default=True),
            appdir=clean.text("appdir"),
            platform=clean.text("cmtconfig"),
            container_type=_container_type(clean),
            container_options=_container_options(clean),
            catchall=clean.text("catchall"),
            environ=_environ(clean),
            params=params,
            **_derived(Cleaner(params, f"queue {name} params"), CatchAll(clean.text("catchall"))),
        )

    @cached_property
    def flags(self) -> CatchAll:
        """Flags in ``catchall``."""
        return CatchAll(self.catchall)

    @property
    def is_unified(self) -> bool:
        """True for queues of type ``unified`` (production and analysis)."""
        return self.type == "unified"

    @property
    def is_hpc(self) -> bool:
        """True for resource type ``hpc`` (any case)."""
        return self.resource_type.lower() == "hpc"

    def refusal(self) -> tuple[int, str] | None:
        """Return (pilot code, text) when the queue takes no jobs now, else None. The pilot ends with that code."""
        if self.state != "ACTIVE":
            shown = "no state" if self.state is None else f'state "{self.state}"'
            return ErrorCodes.PANDAQUEUENOTACTIVE, f"queue {self.name} has {shown}, it must be ACTIVE (set in CRIC)"
        if self.status.strip().lower() == "offline":
            return ErrorCodes.PANDAQUEUENOTONLINE, f'queue {self.name} has status "{self.status}" (set in CRIC)'
        return None

    def copytools_for(self, activities: Sequence[str]) -> list[str]:
        """Return the tools to try, in order: the first activity with tools, then ``default``, then ``rucio``.

        A queue without ``acopytools`` uses the names in ``copytools`` for everything.
        """
        table = self.acopytools or {"default": list(self.copytools)}
        found = next((tools for name in (*activities, "default") if (tools := table.get(name))), None)
        return list(found) if found else ["rucio"]

    def all_copytools(self) -> list[str]:
        """Return every tool that the queue names for whatever activity."""
        return list(dict.fromkeys([*self.copytools, *(name for tools in self.acopytools.values() for name in tools)]))

    def storages_for(self, activities: Sequence[str]) -> list[str]:
        """Return the endpoint names of the first activity that has any, else an empty list."""
        return next((list(names) for name in activities if (names := self.astorages.get(name))), [])

    def schemas_for(self, tool: str, activities: Sequence[str] | str) -> list[str]:
        """Return the URL schemas that ``tool`` may use, best first; empty = the tool's own.

        Args:
            tool: module name of the copytool (``gfal``, not ``gfalcopy``).
            activities: names to look up in order; ``default`` comes last.
        """
        names = (activities,) if isinstance(activities, str) else activities
        for name in (*names, "default"):
            value = self.acopytools_schemas.get(name)
            if isinstance(value, Mapping):
                value = value.get(tool) or value.get("default")
            if schemas := str_list(value):
                return schemas
        return []

    def copytool_settings(self, *names: str) -> dict[str, Any]:
        """Return ``copytools[name]``, e.g. ``{"setup": path}``, of the first of ``names`` that has settings."""
        found = (value for name in names if isinstance(value := self.copytools.get(name), Mapping) and value)
        return dict(next(found, {}))

    def mv_settings(self) -> MvSettings:
        """Return how mv moves files; raises PilotException (1341) for a value that it does not know."""
        settings = self.copytool_settings("mv")
        copy_in = _choice(settings, "copy_in", ("symlink", "cp", "mv"))
        copy_out = _choice(settings, "copy_out", ("mv", "cp"))
        return MvSettings(cast(CopyIn, copy_in), cast(CopyOut, copy_out))

    def workdir_limit(self, job_cores: int) -> int:
        """Return the limit of a job's work directory in MB, grace included; 0 = no limit.

        A single-core job gets its share of the queue's cores.
        """
        if self.maxwdir <= 0:
            return 0
        base = self.maxwdir // self.corecount if job_cores == 1 else self.maxwdir
        return round(base * self.pilot_maxwdir_grace)

    def environment(self) -> dict[str, str]:
        """Return the pairs in ``environ`` (``KEY=VALUE KEY2='a b'``); what is no pair is left out."""
        if not self.environ:
            return {}
        import shlex

        try:
            words = shlex.split(self.environ)
        except ValueError:
            words = self.environ.split()
        pairs = (word.partition("=") for word in words if word != "export")
        return {key: value for key, equals, value in pairs if equals and key.isidentifier()}


class OpenQueueData(QueueData):
    """A queue whose fields other programs may change for themselves (Harvester switches direct access off)."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute that is there."""
        if name not in self.__dataclass_fields__:
            raise AttributeError(f"a queue has no attribute {name!r}")
        object.__setattr__(self, name, value)

    @classmethod
    def copy_of(cls, queue: QueueData) -> OpenQueueData:
        """Return a copy that may be changed."""
        return cls(**{name: getattr(queue, name) for name in queue.__dataclass_fields__})


def stagein_activities(queue: QueueData, job_is_analysis: bool) -> list[str]:
    """Return the activities for inputs, first one with a value wins: new names, then the old ``pr``."""
    special = ["read_lan_analysis"] if queue.is_unified and job_is_analysis else []
    return [*special, "read_lan", "pr"]


def output_activities(queue: QueueData, job_is_analysis: bool) -> list[str]:
    """Return the activities for outputs: new names, then the old ``pw`` and ``w``."""
    special = ["write_lan_analysis"] if queue.is_unified and job_is_analysis else []
    return [*special, "write_lan", "pw", "w"]


def log_activities(queue: QueueData, job_is_analysis: bool) -> list[str]:
    """Return the activities for the log: ``pl``, then those for outputs."""
    return ["pl", *output_activities(queue, job_is_analysis)]


def _choice(settings: Mapping[str, Any], key: str, allowed: tuple[str, ...]) -> str:
    value = str(settings.get(key) or allowed[0]).strip().lower()
    if value not in allowed:
        raise PilotException(
            f'bad queue configuration - copytools.mv.{key} is "{value}", it must be one of {", ".join(allowed)}',
            code=ErrorCodes.BADQUEUECONFIGURATION,
        )
    return value


def _container_type(clean: Cleaner) -> dict[str, str]:
    """``<container>:<user>;...`` -> {user: container}; items without exactly one colon are ignored."""
    value = clean.value("container_type")
    if isinstance(value, Mapping):
        return {str(user): str(container) for user, container in value.items()}
    items = [item.split(":") for item in str(value or "").split(";")]
    return {item[1].strip(): item[0].strip() for item in items if len(item) == 2}


def _container_options(clean: Cleaner) -> str:
    options = clean.text("container_options")
    if options.strip().lower() == "none":
        options = ""
    options = options or CatchAll(clean.text("catchall")).container_options
    if options.strip().lower() == "none":
        return ""
    before, contained, _ = options.partition(" --contain")
    if contained and "${workdir}" not in options:
        # it goes on with a list of binds; behind anything else it would become part of that
        words = before.split()
        in_list = words and (words[-1].startswith(("--bind=", "-B/")) or words[-2:-1] in (["-B"], ["--bind"]))
        options = f"{before}{',' if in_list else ' -B '}${{workdir}}{options[len(before):]}"
    return options


def _environ(clean: Cleaner) -> str:
    text = clean.text("environ")
    return "" if text.strip().lower() == "none" else text  # CRIC may hold the text None


def _derived(params: Cleaner, flags: CatchAll) -> dict[str, Any]:
    """Fields that come out of ``params`` (section 5.4); of our own are ``pipelining``, also a word of catchall, and
    ``verify_setup``."""
    version = params.text("internet_protocol_version", default="IPv6").strip()
    if version.lower() not in ("ipv4", "ipv6"):
        params.warn("internet_protocol_version", version, "IPv6")
        version = "IPv6"
    return {
        "altstageout": params.optional_boolean("allow_altstageout"),
        "pilot_walltime_grace": params.grace("pilot_walltime_grace", 0),
        "pilot_rss_grace": params.grace("pilot_rss_grace", 100),
        "pilot_maxwdir_grace": params.grace("pilot_maxwdir_grace", 20),
        "looping_limit": params.integer("looping_limit"),
        "job_maxwalltime": params.boolean("job_maxwalltime", "use_job_maxwalltime"),
        "internet_protocol_version": "IPv4" if version.lower() == "ipv4" else "IPv6",
        "verify_setup": params.optional_boolean("verify_setup"),
        "pipelining": flags.pipelining if (word := params.optional_boolean("pipelining")) is None else word,
    }
