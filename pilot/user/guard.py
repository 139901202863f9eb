"""Stands between the core and a plug-in: a hook that raises or answers nonsense becomes one error with clear words.

``guard(plugin)`` puts a checked version of every hook over the plug-in's own. What a hook may return is read from the
annotations of ``pilot.user.base.Experiment``, so a new hook is checked without a line here. The core then has to expect
one kind of error from a plug-in, ``PilotException``, and values of the right type.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Callable

from pilot.common.exception import PilotException
from pilot.user.base import Experiment

logger = logging.getLogger(__name__)

_OF_THE_PILOT = frozenset({"sanity_check", "verify_proxy", "pilot_proxy_role", "allow_timefloor"})
"""Hooks that are called for no job: their faults end the pilot (1301, exit code 70)."""
_DEPTH = 6


class PluginFault(PilotException):
    """A hook of an experiment has raised something unexpected, or returned what it must not."""

    default_code = 1319


def guard(plugin: Experiment) -> Experiment:
    """Return the plug-in with all its hooks checked.

    Raises:
        TypeError: an attribute (name, base URLs, patterns, ...) has the wrong type.
    """
    for name, wanted in attributes().items():
        if not fits(getattr(plugin, name), wanted):
            raise TypeError(f"{name} is {getattr(plugin, name)!r}, wanted {wanted}")
    for name, wanted in hooks().items():
        own = getattr(plugin, name)
        if not callable(own):
            raise TypeError(f"{name} is {own!r}, wanted a method")
        setattr(plugin, name, _checked(plugin, name, own, wanted))
    return plugin


def hooks() -> dict[str, str]:
    """Return the hooks of the interface: name -> annotation of what it returns."""
    return {name: str(member.__annotations__.get("return", "Any")) for name, member in vars(Experiment).items()
            if callable(member) and not name.startswith("_")}


def attributes() -> dict[str, str]:
    """Return the attributes of the interface: name -> annotation."""
    return {name: str(wanted) for name, wanted in Experiment.__annotations__.items() if not name.startswith("_")}


def _checked(plugin: Experiment, name: str, own: Callable[..., Any], wanted: str) -> Callable[..., Any]:
    kind = type(plugin)
    where = f"hook {name} of experiment {plugin.name} ({kind.__module__}:{kind.__qualname__})"
    code = 1301 if name in _OF_THE_PILOT else 1319

    @functools.wraps(own)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            answer = own(*args, **kwargs)
        except PilotException:
            raise
        except (Exception, SystemExit) as exc:
            raise PluginFault(f"{where} failed: {type(exc).__name__}: {_text_of(exc)}{_place(exc)}", code=code) from exc
        if not _is_good(answer, wanted):
            shown = repr(answer) if isinstance(answer, (str, int, float, type(None))) else f"a {type(answer).__name__}"
            raise PluginFault(f"{where} returned {shown[:100]}, wanted {wanted}", code=code)
        return answer

    return call


def _is_good(answer: object, wanted: str) -> bool:
    try:
        return fits(answer, wanted)
    except Exception:  # noqa: BLE001 - an object that cannot even be looked at
        return False


def _text_of(exc: BaseException) -> str:
    try:
        return str(exc)
    except Exception:  # noqa: BLE001 - its text fails, too
        return "no text"


def _place(exc: BaseException) -> str:
    """Return where it was raised: people who write plug-ins want the line, nobody wants the traceback in a report."""
    frame = exc.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return f" ({Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno})" if frame is not None else ""


# --- types ------------------------------------------------------------------------------------------------------------


def fits(value: Any, wanted: str, depth: int = _DEPTH) -> bool:
    """Return True when ``value`` is what the annotation ``wanted`` says.

    Known are str, bool, int, float, None, Path, Any, object; Sequence, list, tuple, Mapping, dict, Optional and
    Callable of those; any other name is that of a class, whose annotated fields are looked at, too.
    """
    wanted = wanted.strip().strip("\"'")
    alternatives = _split(wanted, "|")
    if len(alternatives) > 1:
        return any(fits(value, part, depth) for part in alternatives)
    name, _, rest = wanted.partition("[")
    inner = _split(rest[:-1], ",") if rest else []
    if name == "Optional":
        return value is None or fits(value, inner[0], depth)
    if name in ("Sequence", "list", "Iterable"):
        return _is_list(value) and all(fits(item, inner[0], depth - 1) for item in value) if inner else _is_list(value)
    if name == "tuple" and inner and inner[-1].strip() != "...":
        return _is_list(value) and len(value) == len(inner) and all(
            fits(item, kind, depth - 1) for item, kind in zip(value, inner))
    if name in ("Mapping", "dict"):
        return isinstance(value, Mapping) and (not inner or all(
            fits(key, inner[0], depth - 1) and fits(item, inner[1], depth - 1) for key, item in value.items()))
    return _is_simple(value, name, depth)


def _is_simple(value: Any, name: str, depth: int) -> bool:
    if name in ("Any", "object"):
        return True
    if name == "None":
        return value is None
    if name == "Callable":
        return callable(value)
    if name == "bool":
        return isinstance(value, bool)
    if name in ("int", "float"):
        return isinstance(value, (int,) if name == "int" else (int, float)) and not isinstance(value, bool)
    if not any(kind.__name__ == name for kind in type(value).__mro__):
        return isinstance(value, Path) if name == "Path" else False
    annotations: Mapping[str, Any] = {} if name == "str" else getattr(type(value), "__annotations__", {})
    return depth <= 0 or all(
        fits(getattr(value, field, None), _text(wanted), depth - 1) for field, wanted in annotations.items()
        if "ClassVar" not in _text(wanted))


def _text(annotation: object) -> str:
    """Return an annotation as text: of plug-ins' own classes it may be a class, of NamedTuples it is a ForwardRef."""
    if isinstance(annotation, str):
        return annotation
    return str(getattr(annotation, "__forward_arg__", "") or getattr(annotation, "__name__", "Any"))


def _is_list(value: object) -> Any:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _split(text: str, mark: str) -> list[str]:
    """Split at ``mark`` outside of brackets."""
    parts, depth = [""], 0
    for char in text:
        depth += (char == "[") - (char == "]")
        if char == mark and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts]
