"""Reads the files that settings come from, YAML and the reference's INI, flattened to ``section.key`` -> raw value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pilot.settings_sections import SECTIONS

# Old spellings, lower case as configparser gives them.
_INI_ALIASES = {
    "harvester.workerattributesfile": "harvester.workerattributes_file",
    "harvester.stageoutnfile": "harvester.stageoutn_file",
}
# Keys of the reference's file that nothing reads (any more): sites carry them, nobody needs a warning.
_INI_UNUSED = {
    "experiment.name", "pilot.iddsserver", "pilot.output_verification_time", "pilot.error_log",
    "pilot.utility_before_payload", "pilot.utility_with_payload", "pilot.utility_with_stagein", "payload.checks",
    "payload.memory_limits", "container.pid_file",
}
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


class Problems:
    """Collects what is wrong, so that one start shows all of it."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []


def read_yaml(path: Path, environ: Mapping[str, str], problems: Problems) -> dict[str, Any]:
    """Return a YAML file flattened to ``section.key``; what is wrong goes to ``problems``."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        document = yaml.load(path.read_bytes(), Loader=loader)  # noqa: S506 - both loaders are safe ones
    except OSError as exc:
        problems.errors.append(f"{path}: cannot be read ({exc.strerror})")
        return {}
    except (yaml.YAMLError, UnicodeError) as exc:
        problems.errors.append(f"{path}: not valid YAML ({' '.join(str(exc).split())})")
        return {}
    flat: dict[str, Any] = {}
    if document is None:
        return flat
    if not isinstance(document, dict):
        problems.errors.append(f"{path}: expected sections with keys, found a {type(document).__name__}")
        return flat
    for section, content in document.items():
        if content is None:
            continue
        if not isinstance(content, dict):
            problems.errors.append(f"{path}: section {section!r} must hold keys{suggestion(str(section), SECTIONS)}")
            continue
        for key, value in content.items():
            flat[f"{section}.{key}".lower()] = _expand(value, environ, f"{path}: {section}.{key}", problems)
    return flat


def read_ini(path: Path, environ: Mapping[str, str], problems: Problems) -> dict[str, Any]:
    """Return an INI file flattened to ``section.key``, converted by the rules of cli-config 3.1."""
    import configparser

    parser = configparser.ConfigParser(interpolation=None, strict=False, allow_no_value=True)
    try:
        parser.read_string(path.read_text(encoding="utf-8"), source=str(path))
    except OSError as exc:
        problems.errors.append(f"{path}: cannot be read ({exc.strerror})")
    except (configparser.Error, UnicodeError) as exc:
        problems.errors.append(f"{path}: not a valid INI file ({' '.join(str(exc).split())})")
    flat: dict[str, Any] = {}
    for section in parser.sections():
        for name, text in parser.items(section):
            key = f"{section}.{name}".lower()
            key = _INI_ALIASES.get(key, key)
            if key not in _INI_UNUSED:
                flat[key] = _ini_value(_expand(text or "", environ, f"{path}: [{section}] {name}", problems))
    return flat


def _ini_value(text: str) -> object:
    lowered = text.lower()
    if lowered in ("true", "false", "none"):
        return {"true": True, "false": False, "none": None}[lowered]
    return int(text) if text.isascii() and text.isdigit() else text


def _expand(value: Any, environ: Mapping[str, str], where: str, problems: Problems) -> Any:
    """Replace ``$NAME`` or ``${NAME}`` at the beginning of a string by the environment variable."""
    match = _VARIABLE.match(value) if isinstance(value, str) else None
    if match is None:
        return value
    name = match.group(1) or match.group(2)
    if name not in environ:
        problems.errors.append(f"{where}: the environment has no variable {name}, which the value {value!r} names")
        return value
    return environ[name] + value[match.end():]


def suggestion(word: str, known: Mapping[str, Any]) -> str:
    """Return ``, did you mean 'x'?`` for the known word nearest to ``word``, else an empty string."""
    import difflib

    wanted = word.lower()
    # The right key in the wrong section, or else the nearest spelling.
    near = [name for name in known if "." in wanted and name.rpartition(".")[2] == wanted.rpartition(".")[2]]
    near = near or difflib.get_close_matches(wanted, list(known), n=1, cutoff=0.6)
    return f", did you mean {near[0]!r}?" if near else ""
