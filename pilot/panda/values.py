"""Casts and cuts that make a value acceptable to the server: types, byte limits, no NaN (server-api.md 0.3, 6.4)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Union

from pilot.panda.names import Field

Wire = Union[int, float, str, bool]


def clean_text(text: str) -> str:
    """Return ``text`` without what no data base column takes: NUL, and half characters (surrogates) from file names."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")


def cut_head(text: str, limit: int) -> str:
    """Return the first ``limit`` bytes of UTF-8 of ``text``, never half a character."""
    raw = text.encode("utf-8")
    return text if len(raw) <= limit else raw[:limit].decode("utf-8", "ignore")


def cut_tail(text: str, limit: int) -> str:
    """Return the last ``limit`` bytes of UTF-8 of ``text``, never half a character."""
    raw = text.encode("utf-8")
    return text if len(raw) <= limit else raw[-limit:].decode("utf-8", "ignore")


def cut_words(text: str, limit: int) -> str:
    """Return ``text`` within ``limit`` bytes; on overflow the last, perhaps cut, word goes (jobMetrics)."""
    head = cut_head(text, limit)
    if head == text:
        return text
    if text[len(head)].isspace():
        return head.rstrip()
    return head.rpartition(" ")[0].rstrip()


_CUTTERS = {"head": cut_head, "tail": cut_tail, "words": cut_words}


def cast(field: Field, value: object) -> Wire | None:
    """Return ``value`` in the type of ``field`` and within its limit, None when it has no meaning there.

    None, NaN, infinities, numbers beyond the column's size and texts where a number belongs are all 'no meaning':
    such a value is better left out than the whole message refused.
    """
    if value is None:
        return None
    if field.kind == "str":
        text = clean_text(str(value))
        return _CUTTERS[field.cut](text, int(field.limit)) if field.limit else text
    if field.kind == "bool":
        return str(value).lower() in ("true", "1")
    return _number(field, value)


def _number(field: Field, value: object) -> Wire | None:
    try:
        # Integers do not pass through float: PandaIDs beyond 2**53 would change.
        number = value if isinstance(value, (int, float)) else _parsed(str(value))
        if not math.isfinite(number) or (field.limit and abs(number) >= field.limit):
            return None
    except (ValueError, OverflowError):
        return None
    if field.kind == "float":
        return float(number)
    if field.kind == "number":
        return number
    return int(number) if isinstance(number, int) else round(number)


def _parsed(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def to_v1(fields: Iterable[Field], message: Mapping[str, object]) -> dict[str, Wire]:
    """Return the v1 arguments of ``message`` (legacy names): renamed, cast, cut, and only what v1 knows."""
    return _translated(((field, field.v1) for field in fields), message)


def to_legacy(fields: Iterable[Field], message: Mapping[str, object]) -> dict[str, Wire]:
    """Return the legacy arguments of ``message``: cast, cut, and only what the legacy dialect knows."""
    return _translated(((field, field.legacy) for field in fields), message)


def _translated(pairs: Iterable[tuple[Field, str]], message: Mapping[str, object]) -> dict[str, Wire]:
    result: dict[str, Wire] = {}
    for field, name in pairs:
        key = field.legacy or field.v1
        if name and key in message:
            value = cast(field, message[key])
            if value is not None:
                result[name] = value
    return result
