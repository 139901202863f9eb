"""All storage endpoints of one pilot: loaded when the first one is wanted, parsed once, shared by all jobs."""

from __future__ import annotations

import logging
import time
from functools import partial
from threading import RLock
from typing import Any, Iterable, Mapping

from pilot.common.errorcodes import ErrorCodes
from pilot.common.exception import PilotException
from pilot.info.cleaning import deep_merge
from pilot.info.config import SourceConfig
from pilot.info.sources import AllSourcesFailed, ContentError, Loader, storage_sources
from pilot.info.storage import EXTERNAL_FIELDS, StorageData

logger = logging.getLogger(__name__)

RawRecord = dict[str, Any]

_ASK_AGAIN_AFTER = 600.0  # s; not for each file of each job, but a pilot lives for days and CRIC comes back


class Endpoints:
    """Endpoint descriptions by name; thread-safe. Two threads that want some at the same time load them once."""

    def __init__(self, config: SourceConfig, loader: Loader) -> None:
        self._config = config
        self._loader = loader
        self._lock = RLock()
        self._raw: dict[str, RawRecord] = {}
        self._parsed: dict[str, StorageData] = {}
        self._absent: dict[str, float] = {}  # name -> monotonic time until which nobody is asked for it

    def get(
        self, names: Iterable[str] | str | None, *, overrides: Mapping[str, object] | None = None, strict: bool = True
    ) -> dict[str, StorageData]:
        """Return endpoints by name.

        Args:
            names: wanted ones; None or nothing = all that the first source has. A name that this source lacks is
                looked for in the next ones.
            overrides: raw fields by name that go on top of what the sources say.
            strict: raise when one is missing, instead of leaving it out.

        Raises:
            PilotException: (1133) an endpoint is missing and ``strict`` is set.
        """
        wanted = _names(names)
        layers = {name: raw for name, raw in (overrides or {}).items() if isinstance(raw, Mapping)}
        with self._lock:
            problem = self._provide(wanted)
            known = wanted or list(dict.fromkeys((*self._raw, *layers)))
            result = {name: self._one(name, layers.get(name)) for name in known if name in self._raw or name in layers}
        missing = [name for name in wanted if name not in result]
        if missing and strict:
            text = f"internal error: Failed to load storage details for ddms={missing}"
            raise PilotException(f"{text}: {problem or 'no source has them'}", code=ErrorCodes.NOSTORAGE)
        return result

    def _one(self, name: str, override: Mapping[str, object] | None) -> StorageData:
        if override:
            return StorageData.from_raw(name, deep_merge(self._raw.get(name), override))
        if name not in self._parsed:
            self._parsed[name] = StorageData.from_raw(name, self._raw[name])
        return self._parsed[name]

    def _provide(self, wanted: list[str]) -> str:
        """Load until all of ``wanted`` are known; returns the reasons when some are not."""
        now = time.monotonic()
        missing = [name for name in wanted if name not in self._raw and self._absent.get(name, 0.0) <= now]
        if not missing and (wanted or self._raw):
            return ""
        sources = storage_sources(self._config)
        while sources:
            try:
                loaded = self._loader.first(sources, partial(_pick_endpoints, names=missing))
            except AllSourcesFailed as error:
                self._absent.update(dict.fromkeys(missing, time.monotonic() + _ASK_AGAIN_AFTER))
                return str(error)
            for name, raw in loaded.value.items():
                self._raw.setdefault(name, raw)
            logger.info("%d storage endpoints from %s (%s)", len(loaded.value), loaded.source, loaded.origin)
            missing = [name for name in missing if name not in self._raw]
            if not missing:
                return ""
            last = next(number for number, source in enumerate(sources) if source.name == loaded.source)
            sources = sources[last + 1 :]
        self._absent.update(dict.fromkeys(missing, time.monotonic() + _ASK_AGAIN_AFTER))
        return "no source has them"


def _names(names: Iterable[str] | str | None) -> list[str]:
    if not names:
        return []
    return list(dict.fromkeys([names] if isinstance(names, str) else names))


def _pick_endpoints(data: object, names: list[str]) -> dict[str, RawRecord]:
    """Return the records of all endpoints, cut down to what is used (CRIC's have many more fields).

    Raises ContentError when none of ``names`` is there.
    """
    if not isinstance(data, dict):
        raise ContentError("not a JSON object")
    result = {
        name: {key: raw[key] for key in EXTERNAL_FIELDS if key in raw}
        for name, raw in data.items()
        if isinstance(raw, dict)
    }
    if not result:
        raise ContentError("no endpoint descriptions in it")
    if names and not any(name in result for name in names):
        raise ContentError(f"has no endpoint {', '.join(names)}", invalid=False)
    return result
