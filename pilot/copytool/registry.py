"""Find a copytool by the name that the queue uses; nothing is imported before it is asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Mapping, NamedTuple

from pilot.common.exception import MiddlewareImportFailure, PilotException
from pilot.copytool.base import CopyTool, ToolConfig

ENTRY_POINTS = "panda_pilot.copytool"


class UnknownCopyTool(PilotException):
    """No copytool of this name (1323)."""

    default_code = 1323


class _Alias(NamedTuple):
    """Another name of a tool, with settings that stand where the queue says nothing."""

    tool: str
    options: Mapping[str, str]


_BUILT_IN = {
    "mv": "pilot.copytool.mv:MoveTool",
    "rucio": "pilot.copytool.rucio:RucioTool",
    "gfal": "pilot.copytool.gfal:GfalTool",
    "xrdcp": "pilot.copytool.xrdcp:XrdcpTool",
    "lsm": "pilot.copytool.lsm:LsmTool",
    "s3": "pilot.copytool.s3:S3Tool",
    "objectstore": "pilot.copytool.objectstore:ObjectstoreTool",
    "gs": "pilot.copytool.gs:GsTool",
    "debug": "pilot.copytool.debug:DebugTool",
}

_ALIASES = {
    "cp": _Alias("mv", {"copy_in": "cp", "copy_out": "cp"}),
    "ln": _Alias("mv", {"copy_in": "symlink", "copy_out": "mv"}),
    "local": _Alias("mv", {}),
    "gfalcopy": _Alias("gfal", {}),
}

SUCCESSORS = {
    "aria2c": "gfal (https doors)",
    "bnldcache": "xrdcp or gfal",
    "castor": "xrdcp",
    "chirp": "s3, or lsm with the site's own commands",
    "curl": "gfal (https doors)",
    "dcache": "xrdcp or gfal (root doors of dCache)",
    "dccp": "xrdcp or gfal (root doors of dCache)",
    "fax": "rucio",
    "lcgcp": "gfal",
    "lcg-cp": "gfal",
    "lcgcr": "rucio",
    "lcg-cr": "rucio",
    "pandaproxy": "rucio",
    "srm": "gfal",
    "storm": "gfal (davs doors), or mv where the storage is mounted",
    "xrd": "xrdcp",
}
"""Tools of earlier pilots -> what does their work now; written in any case."""


def canonical_name(name: str) -> str:
    """Return the tool behind an alias (``gfalcopy`` -> ``gfal``); schemes of a queue are looked up by it."""
    alias = _ALIASES.get(name)
    return alias.tool if alias else name


def is_local(name: str) -> bool:
    """True for the built-in tool of mounted file systems, whatever the queue calls it."""
    return canonical_name(name) == "mv"


def tool_names() -> list[str]:
    """Return the names of the built-in tools, without aliases."""
    return list(_BUILT_IN)


def aliases_of(tool: str) -> list[str]:
    """Return the other names of a built-in tool."""
    return [name for name, alias in _ALIASES.items() if alias.tool == tool]


def known_names() -> list[str]:
    """Return the names that this version can load without plug-ins, aliases included."""
    names = set(_BUILT_IN) | {name for name, alias in _ALIASES.items() if alias.tool in _BUILT_IN}
    return sorted(names)


def load_tool(
    name: str, config: ToolConfig, plugins: Mapping[str, object] | None = None, *, queue: str = ""
) -> CopyTool:
    """Make the copytool ``name``.

    Args:
        name: as in the queue's ``copytools`` or ``acopytools``.
        config: surroundings; its ``options`` win over an alias's defaults.
        plugins: setting ``plugins.copytools``, name -> ``module:Class``; they win over everything built in.
        queue: name of the queue, for the message.

    Raises:
        UnknownCopyTool: 1323, no such tool; the text says what to use instead.
        MiddlewareImportFailure: 1342, the tool or a library of it is not installed.
        PilotException: 1341, a setting of the queue that the tool refuses.
    """
    plugin = (plugins or {}).get(name)
    if plugin is not None:
        return _construct(name, str(plugin), config)
    alias = _ALIASES.get(name)
    tool = alias.tool if alias else name
    if alias:
        given = {key: value for key, value in config.options.items() if value}
        config = replace(config, options={**alias.options, **given})
    if tool in _BUILT_IN:
        return _construct(name, _BUILT_IN[tool], config)
    target = _entry_point(tool)
    if target:
        return _construct(name, target, config)
    where = f" of queue {queue}" if queue else ""
    if name.lower() in SUCCESSORS:
        raise UnknownCopyTool(
            f"copytool {name!r}{where} is no longer supported: use {SUCCESSORS[name.lower()]} instead"
        )
    raise UnknownCopyTool(
        f"copytool {name!r}{where} is unknown; available: {', '.join(known_names())}, "
        f"plug-ins come through entry points {ENTRY_POINTS} or the setting plugins.copytools"
    )


def _entry_point(name: str) -> str:
    """Look the name up among installed plug-ins; the metadata of all packages is read only here."""
    from importlib import metadata

    points = metadata.entry_points()
    select = getattr(points, "select", None)
    group = select(group=ENTRY_POINTS) if select else dict(points).get(ENTRY_POINTS, ())  # Python 3.9 gives a dict
    return next((str(point.value) for point in group if point.name == name), "")


def _construct(name: str, target: str, config: ToolConfig) -> CopyTool:
    from importlib import import_module

    module_name, _, class_name = target.partition(":")
    try:
        factory = getattr(import_module(module_name), class_name)
    except (ImportError, AttributeError) as exc:
        raise MiddlewareImportFailure(f"copytool {name!r} ({target}) cannot be loaded: {exc}") from exc
    tool = factory(config)
    if not isinstance(tool, CopyTool):
        raise MiddlewareImportFailure(f"copytool {name!r} ({target}) is no CopyTool")
    return tool
