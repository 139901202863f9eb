"""The settings of a pilot: packaged defaults under four layers of overrides, validated once at start, then frozen.

    default.yaml < experiment's file < site's file(s) < environment < options

Every value keeps its origin, so that the log can say who changed what. A site's file is YAML (``--config FILE``) or the
INI that ``HARVESTER_PILOT_CONFIG`` names (spec cli-config section 3; a difference to the reference: the INI is laid
over the defaults and need not be complete). Sizes like ``2 GB`` become bytes here and nowhere else; kB, MB, GB,
TB are powers of 1024, as in the PanDA protocol.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional

from pilot.common.exception import PilotException
from pilot.settings_files import Problems, read_ini, read_yaml, suggestion
from pilot.settings_sections import (
    SECTIONS,
    WITHOUT_EFFECT,
    ContainerSection,
    FileSection,
    HarvesterSection,
    HpcSection,
    InformationSection,
    JobsSection,
    LimitsSection,
    MessageBrokerSection,
    MonitorSection,
    PayloadSection,
    PilotSection,
    PluginsSection,
    RucioSection,
    ServerSection,
    ShutdownSection,
    TelemetrySection,
    TokenSection,
    TransfersSection,
    WorkernodeSection,
)

if TYPE_CHECKING:
    from pilot.options import Options

DEFAULT_FILE = Path(__file__).with_name("default.yaml")
GENERIC_PREFIX = "PANDA_PILOT_"

# Variables that the reference reads for a value that is a setting of ours (spec cli-config 4.1).
_ENVIRONMENT_KEYS = {
    "PILOT_ENABLE_DELAY_TO_GET_JOB": "pilot.enable_delay_to_get_job",
    "PILOT_LOAD_FACTOR": "pilot.load_factor",
}
# Options that replace a setting when they are not empty.
_OPTION_KEYS = {
    "queuedata_url": ("--queuedata-url", "information.queuedata_url"),
    "rucio_host": ("--rucio-host", "rucio.host"),
    "server_api": ("--server-api", "server.api"),
    "log_format": ("--log-format", "pilot.log_format"),
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])i?)?b?", re.IGNORECASE)
_SIZE_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_TRUE, _FALSE = {"true", "yes", "t", "y", "1", "on"}, {"false", "no", "f", "n", "0", "off"}


class SettingsError(PilotException):
    """The settings are not usable; ``problems`` lists every reason, one line each."""

    default_code = 1008

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, repr=False)
class Settings:
    """All settings, one attribute per section: ``settings.pilot.heartbeat``."""

    pilot: PilotSection
    information: InformationSection
    payload: PayloadSection
    container: ContainerSection
    harvester: HarvesterSection
    hpc: HpcSection
    file: FileSection
    rucio: RucioSection
    message_broker: MessageBrokerSection
    token: TokenSection
    workernode: WorkernodeSection
    server: ServerSection
    transfers: TransfersSection
    shutdown: ShutdownSection
    limits: LimitsSection
    jobs: JobsSection
    monitor: MonitorSection
    telemetry: TelemetrySection
    plugins: PluginsSection
    origins: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """``section.key`` -> who set it; keys with their default are absent."""
    warnings: tuple[str, ...] = field(default=(), repr=False, compare=False)
    """What the log is to say about the files and variables that were read."""
    changes: tuple[str, ...] = field(default=(), repr=False, compare=False)

    def get(self, key: str) -> Any:
        """Return the value of ``section.key``; KeyError when there is none."""
        _schema_of(key)
        section, _, name = key.partition(".")
        return getattr(getattr(self, section), name)

    def origin(self, key: str) -> str:
        """Return who set ``section.key``: ``default``, ``experiment``, ``site file <path>``, ``environment <NAME>``
        or ``option <name>``; KeyError when there is no such key."""
        _schema_of(key)
        return self.origins.get(key, "default")

    def values(self) -> dict[str, Any]:
        """Return every value as ``section.key`` -> what JSON can hold; ``restored_settings`` is the way back."""
        return {key: _plain(self.get(key)) for key in _SCHEMA}

    def describe_changes(self) -> list[str]:
        """Return a line ``section.key = value (default ..., set by origin)`` per value that is not its default; it
        also says so where nothing in this version acts on the value."""
        return list(self.changes)


class _Layer(NamedTuple):
    origin: str
    values: Mapping[str, Any]
    """Flat: ``section.key`` -> raw value."""
    strict: bool = True
    """An unknown key is an error, not a warning."""


def all_keys() -> Iterator[tuple[str, Field[Any]]]:
    """Yield (``section.key``, dataclass field) for every setting; the field's metadata has doc, unit and bounds."""
    for section, cls in SECTIONS.items():
        for item in fields(cls):
            yield f"{section}.{item.name}", item


_SCHEMA: dict[str, Field[Any]] = dict(all_keys())


def _schema_of(key: str) -> Field[Any]:
    if key not in _SCHEMA:
        raise KeyError(f"no setting {key!r}")
    return _SCHEMA[key]


def load_settings(
    options: Optional[Options], environ: Mapping[str, str], experiment_file: Optional[Path] = None
) -> Settings:
    """Read all layers, convert and validate.

    Args:
        options: the command line; None for use as a library (no site file from ``--config``, no ``--set``).
        environ: the environment, for HARVESTER_PILOT_CONFIG and the overrides.
        experiment_file: the experiment's YAML file, if it has one.

    Raises:
        SettingsError: a file that cannot be read, an unknown key, a value of the wrong type or out of bounds.
    """
    problems = Problems()
    layers: list[_Layer] = []
    if experiment_file is not None:
        layers.append(_Layer("experiment", read_yaml(experiment_file, environ, problems)))
    layers.extend(_site_layers(options, environ, problems))
    layers.extend(_environment_layers(environ))
    if options is not None:
        layers.extend(_option_layers(options, problems))
    return _build(layers, problems)


def default_settings(**overrides: object) -> Settings:
    """Return the packaged defaults, for tests and API use; ``default_settings(**{"pilot.heartbeat": 5})`` overrides."""
    return _build([_Layer("argument", overrides)], Problems())


def restored_settings(values: Mapping[str, Any]) -> Settings:
    """Return the settings whose ``values()`` another process has handed over; no file is read.

    Raises:
        SettingsError: a key is missing or a value is of the wrong type.
    """
    problems = Problems()
    problems.errors.extend(f"handed over settings: no {key}" for key in _SCHEMA if key not in values)
    converted = {key: _convert(key, values[key], "handed over settings", problems) for key in _SCHEMA if key in values}
    if problems.errors:
        raise SettingsError(problems.errors)
    return Settings(**_sections(converted))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _sections(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: cls(**{item.name: values[f"{name}.{item.name}"] for item in fields(cls)})
        for name, cls in SECTIONS.items()
    }


def _build(layers: list[_Layer], problems: Problems) -> Settings:
    raw = read_yaml(DEFAULT_FILE, {}, problems)
    values: dict[str, Any] = {key: _convert(key, value, "default", problems) for key, value in raw.items()}
    defaults = dict(values)
    origins: dict[str, str] = {}
    for layer in layers:
        for key, value in layer.values.items():
            if key not in _SCHEMA:
                text = f"{layer.origin}: unknown setting {key!r}{suggestion(key, _SCHEMA)}"
                (problems.errors if layer.strict else problems.warnings).append(text)
                continue
            values[key] = _convert(key, value, layer.origin, problems)
            origins[key] = layer.origin
    if problems.errors:
        raise SettingsError(problems.errors)
    changes = tuple(
        f"{key} = {values[key]!r} (default {defaults[key]!r}, set by {origin})"
        + ("; it has no effect in this version" if key in WITHOUT_EFFECT else "")
        for key, origin in origins.items()
        if values[key] != defaults[key]
    )
    return Settings(**_sections(values), origins=origins, warnings=tuple(problems.warnings), changes=changes)


def _site_layers(options: Optional[Options], environ: Mapping[str, str], problems: Problems) -> Iterator[_Layer]:
    named = environ.get("HARVESTER_PILOT_CONFIG", "")
    if named:
        path = Path(named)
        if not path.is_file():
            problems.warnings.append(f"HARVESTER_PILOT_CONFIG names {named}, which is not a file: ignored")
        elif path.suffix in (".yaml", ".yml"):
            yield _Layer(f"site file {named}", read_yaml(path, environ, problems))
        else:
            yield _Layer(f"site file {named}", read_ini(path, environ, problems), strict=False)
    if options is not None and options.config:
        yield _Layer(f"site file {options.config}", read_yaml(Path(options.config), environ, problems))


def _environment_layers(environ: Mapping[str, str]) -> Iterator[_Layer]:
    for name, key in _ENVIRONMENT_KEYS.items():
        if environ.get(name):
            yield _Layer(f"environment {name}", {key: environ[name]})
    for name in sorted(environ):
        section, separator, key = name[len(GENERIC_PREFIX):].partition("__")
        if name.startswith(GENERIC_PREFIX) and separator:
            yield _Layer(f"environment {name}", {f"{section}.{key}".lower(): environ[name]})


def _option_layers(options: Options, problems: Problems) -> Iterator[_Layer]:
    for dest, (option, key) in _OPTION_KEYS.items():
        value = getattr(options, dest)
        if value:
            yield _Layer(f"option {option}", {key: value})
    for text in options.overrides:
        key, separator, value = text.partition("=")
        if not separator:
            problems.errors.append(f"option --set {text}: expected section.key=value")
        else:
            yield _Layer("option --set", {key.strip().lower(): value.strip()})


def _convert(key: str, value: Any, origin: str, problems: Problems) -> Any:
    """Return ``value`` as the type that the key asks for; what is wrong goes to ``problems``."""
    item = _schema_of(key)
    kind = str(item.type)
    unit, choices, minimum = item.metadata["unit"], item.metadata["choices"], item.metadata["minimum"]
    try:
        result = parse_size(value) if unit == "bytes" else _CONVERTERS[kind.partition("[")[0]](value)
    except (ValueError, TypeError, SyntaxError):
        expected = "a size such as 2 GB" if unit == "bytes" else kind
        problems.errors.append(f"{origin}: {key} = {value!r} is not {expected}")
        return value
    if choices and result not in choices:
        problems.errors.append(f"{origin}: {key} = {value!r} is not one of {', '.join(choices)}")
    if minimum is not None and not minimum <= result < float("inf"):
        problems.errors.append(f"{origin}: {key} = {value!r} is below the minimum {minimum} {unit}".rstrip())
    return result


def parse_size(value: object) -> int:
    """Return a size in bytes; a bare number is bytes, kB, MB, GB and TB are powers of 1024. ValueError otherwise."""
    if isinstance(value, bool):
        raise ValueError("a truth value is no size")
    match = _SIZE.fullmatch(str(value).strip())
    if match is None:
        raise ValueError(f"{value!r} is not a size")
    return int(float(match.group(1)) * 1024 ** _SIZE_POWER[(match.group(2) or "").lower()])


def _to_int(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError(value)
    return int(value)


def _to_float(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(value)
    return float(value)


def _to_bool(value: object) -> bool:
    text = str(value).strip().lower()
    if text not in _TRUE | _FALSE:
        raise ValueError(value)
    return text in _TRUE


def _to_str(value: object) -> str:
    if isinstance(value, (Mapping, list)):
        raise ValueError(value)
    return "" if value is None else str(value)


def _to_tuple(value: object) -> tuple[str, ...]:
    parts = value if isinstance(value, (list, tuple)) else str(value or "").split(",")
    return tuple(part for part in (str(item).strip() for item in parts) if part)


def _to_mapping(value: object) -> Mapping[str, Any]:
    if isinstance(value, str) and value.strip():
        import ast

        value = ast.literal_eval(value.strip())
    value = value or {}
    if not isinstance(value, Mapping):
        raise ValueError(value)
    return dict(value)


_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "int": _to_int, "float": _to_float, "bool": _to_bool, "str": _to_str, "tuple": _to_tuple, "Mapping": _to_mapping,
}
