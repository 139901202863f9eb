"""Turn the raw values of queue and storage descriptions into typed ones; a bad value gives the default and a warning.

Source of the rules: information service document, section 4. Nothing here raises for bad data: a typing error of one
operator in one field must not stop a queue.
"""

from __future__ import annotations

import copy
import json
import logging
from typing import Any, Mapping, Optional, Sequence

logger = logging.getLogger(__name__)

Raw = Mapping[str, Any]

_TRUE = frozenset({"true", "yes", "1"})
_FALSE = frozenset({"", "none", "false", "no", "0"})


def parse_literal(text: str) -> Any:
    """Return the value of a Python or JSON literal; raises ValueError when it is neither."""
    import ast  # only the rare textual dict needs it

    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return json.loads(text)


def deep_merge(*layers: object) -> dict[str, Any]:
    """Merge mappings, later ones on top: dicts recursively, everything else is replaced; what is no mapping is skipped.

    The result shares nothing with the layers.
    """
    result: dict[str, Any] = {}
    for layer in layers:
        if not isinstance(layer, Mapping):
            continue
        for key, value in layer.items():
            if isinstance(value, Mapping):
                result[key] = deep_merge(result.get(key), value)
            else:
                result[key] = copy.deepcopy(value)
    return result


class Cleaner:
    """Reads typed values out of one raw description.

    Args:
        raw: the description, with external names.
        owner: whose it is, for the warnings (``queue X``).
    """

    def __init__(self, raw: Raw, owner: str) -> None:
        self._raw = raw
        self._owner = owner

    def value(self, *names: str) -> Any:
        """Return the first value that is not None, else None."""
        return next((self._raw[name] for name in names if self._raw.get(name) is not None), None)

    def warn(self, name: str, value: object, default: object) -> None:
        """Say that ``value`` of field ``name`` cannot be used."""
        logger.warning("%s: field %s has unusable value %.80r, using %r", self._owner, name, value, default)

    def integer(self, *names: str, default: int = 0) -> int:
        """Return an int; text is stripped, ``NULL`` (any case) means the default."""
        value = self.value(*names)
        if value is None:
            return default
        if isinstance(value, str):
            value = value.strip()
            if value.upper() == "NULL":
                return default
        try:
            return int(value)
        except (TypeError, ValueError, OverflowError):
            self.warn(names[0], value, default)
            return default

    def text(self, *names: str, default: str = "") -> str:
        """Return a str; text is not stripped."""
        value = self.optional_text(*names)
        return default if value is None else value

    def optional_text(self, *names: str) -> str | None:
        """Return a str, or None when no name has a value."""
        value = self.value(*names)
        return value if value is None or isinstance(value, str) else str(value)

    def boolean(self, *names: str, default: bool = False) -> bool:
        """Return a bool; ``true yes 1`` and ``false no 0 none`` (any case) and the empty text are understood."""
        return bool(self._boolean(names, default))

    def optional_boolean(self, *names: str) -> bool | None:
        """Return a bool, or None when no name has a value (or one that says neither yes nor no)."""
        return self._boolean(names, None)

    def _boolean(self, names: Sequence[str], default: bool | None) -> bool | None:
        value = self.value(*names)
        if value is None or isinstance(value, bool):
            return default if value is None else value
        word = str(value).strip().lower()
        if word in _TRUE:
            return True
        if word in _FALSE:
            return False
        self.warn(names[0], value, default)
        return default

    def mapping(self, *names: str) -> dict[str, Any]:
        """Return a dict (a copy); text is read as a Python or JSON literal, the empty text and ``NULL`` as empty."""
        value = self.value(*names)
        if isinstance(value, str):
            if value.strip().lower() in ("", "null", "none"):
                return {}
            try:
                value = parse_literal(value)
            except (ValueError, RecursionError):
                self.warn(names[0], value, {})
                return {}
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self.warn(names[0], value, {})
            return {}
        return {str(key): copy.deepcopy(item) for key, item in value.items()}

    def lists(self, *names: str) -> dict[str, list[str]]:
        """Return a dict of lists of str (``acopytools``, ``astorages``); a single str counts as a list at commas."""
        result = {}
        for key, item in self.mapping(*names).items():
            words = str_list(item)
            if words is None:
                self.warn(names[0], {key: item}, {key: []})
            result[key] = words or []
        return result

    def grace(self, name: str, default: float) -> float:
        """Return the factor ``1 + x/100`` of a field in per cent."""
        value = self.value(name)
        try:
            percent = default if value is None else float(str(value).strip().rstrip("%"))
            if not -100.0 <= percent < 1e6:  # also refuses nan
                raise ValueError(percent)
        except ValueError:
            self.warn(name, value, default)
            percent = default
        return 1.0 + percent / 100.0


def str_list(value: object) -> Optional[list[str]]:
    """Return a list of non-empty str out of a list or a text with commas; None when it is neither."""
    if value is None:
        return []
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, (list, tuple)):
        return None
    return [text for item in value if item is not None and (text := str(item).strip())]
