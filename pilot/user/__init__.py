"""Experiments: each plug-in holds only what differs from :class:`pilot.user.base.Experiment`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pilot.common.exception import PilotException
from pilot.user.base import Experiment
from pilot.user.guard import guard

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINT_GROUP = "panda_pilot.experiment"


class UnknownExperiment(PilotException):
    """``--pilot-user`` names an experiment that is not there."""

    default_code = 1008


def load_experiment(name: str, plugins: Mapping[str, object] | None = None) -> Experiment:
    """Return the plug-in for ``--pilot-user NAME`` (any case).

    Looked for in this order: a dotted path ``package.module:Class``, the setting ``plugins.experiments``,
    ``pilot/user/<name>``, the entry points of group ``panda_pilot.experiment``.

    Args:
        name: what was given on the command line.
        plugins: setting ``plugins.experiments``: name -> ``module:Class``.

    Raises:
        UnknownExperiment: nothing of that name, or it cannot be imported (the text says which and why).
    """
    import importlib

    wanted = name.lower()
    path = name if ":" in name else str((plugins or {}).get(wanted, ""))
    if path:
        module_name, _, class_name = path.partition(":")
        try:
            return _checked(getattr(importlib.import_module(module_name), class_name), name)
        except UnknownExperiment:
            raise
        except Exception as exc:
            raise UnknownExperiment(f"--pilot-user {name} ({path}): {_reason(exc)}") from exc
    if wanted in _builtin():
        return _checked(importlib.import_module(f"pilot.user.{wanted}").EXPERIMENT, name)
    for found, target in _entry_points():
        if found.lower() == wanted:
            try:
                plugin = target.load()
            except Exception as exc:
                raise UnknownExperiment(
                    f"--pilot-user {name} ({target.value}): the plug-in cannot be imported: {_reason(exc)}") from exc
            return _checked(plugin, name)
    known = ", ".join(sorted({*_builtin(), *(found for found, _ in _entry_points())}))
    raise UnknownExperiment(f"--pilot-user {name}: no such experiment plug-in; known: {known}")


def _builtin() -> set[str]:
    from pathlib import Path

    here = Path(__file__).parent
    return {entry.name for entry in here.iterdir() if (entry / "__init__.py").is_file()}


def _entry_points() -> list[tuple[str, EntryPoint]]:
    from importlib.metadata import entry_points

    found: Any = entry_points()
    selected = found.select(group=ENTRY_POINT_GROUP) if hasattr(found, "select") else found.get(ENTRY_POINT_GROUP, [])
    return [(point.name, point) for point in selected]


def _checked(plugin: object, name: str) -> Experiment:
    if not (isinstance(plugin, type) and issubclass(plugin, Experiment)):
        raise UnknownExperiment(f"--pilot-user {name}: {plugin!r} is not a subclass of pilot.user.base.Experiment")
    try:
        return guard(plugin())
    except Exception as exc:
        raise UnknownExperiment(f"--pilot-user {name}: {plugin.__name__} cannot be used: {_reason(exc)}") from exc


def _reason(exc: Exception) -> str:
    """Return an import's own words; of any other error the kind, too: its text alone may say nothing."""
    return str(exc) if isinstance(exc, (ImportError, AttributeError)) else f"{type(exc).__name__}: {exc}"
