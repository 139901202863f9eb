"""How values of a job definition are spelled on the wire, and how they become Python values.

Source: job definition document, section 1. A job comes as JSON or as a URL-encoded query string; in the latter every
value is text and ``None``, ``False``, lists and dicts appear as Python reprs. One normalisation step (``defined``)
turns all spellings of "not set" into None before anything else looks at a value.
"""

from __future__ import annotations

import json
import re
from typing import Mapping, Optional, Union

from pilot.common.exception import PilotException

MAX_LITERAL = 1 << 20
"""Longest text (characters) that is read as a Python literal; JSON has no such limit."""
MAX_DEPTH = 50
"""Deepest nesting of a Python literal."""
MAX_LIST = 100_000
"""Most elements that a comma separated list may have."""
MAX_NUMBER = 10**15
"""Largest number that a field may hold (1 PB when it counts bytes)."""

_UNDEFINED = frozenset(("", "NULL", "null", "None"))
_TRUE = frozenset(("true", "yes", "1"))
_FALSE = frozenset(("false", "no", "0", "none", ""))
_INTEGER = re.compile(r"[+-]?[0-9]{1,20}", re.ASCII)
_PANDA_ID = re.compile(r"0*([1-9][0-9]{0,17})", re.ASCII)
_LITERAL_TOKEN = re.compile(
    r"""[\s,:]+|(?P<open>[\[{(])|(?P<close>[\]})])|True|False|None"""
    r"""|-?[0-9]{1,20}(?:\.[0-9]{0,20})?(?:[eE][+-]?[0-9]{1,3})?|'[^'\\\n]*(?:\\.[^'\\\n]*)*'|"[^"\\\n]*(?:\\.[^"\\\n]*)*\""""
)


class JobRefused(PilotException):
    """A job definition that cannot be attributed to any job: no usable PandaID, or text that is no job at all."""

    default_code = 1302


class BadValue(ValueError):
    """A value that does not fit its field; the text says what is wrong, and starts with a verb ("is ...")."""


def show(value: object, limit: int = 60) -> str:
    """Return ``value`` for a diagnosis: one line, printable, at most ``limit`` characters (plus quotes)."""
    if isinstance(value, (list, tuple, dict, set)):
        return f"a {type(value).__name__} of {len(value)} elements"
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 128:
        return "a huge integer"
    text = value if isinstance(value, str) else str(value)
    cut = ascii(text[:limit])
    return cut if len(text) <= limit else f"{cut}... ({len(text)} characters)"


def defined(value: object) -> object:
    """Return ``value``, or None for every spelling of "not set" (``NULL``, ``null``, ``None``, blank, null)."""
    if isinstance(value, str) and (len(value) <= 8 or value.isspace()) and value.strip() in _UNDEFINED:
        return None
    return value


def panda_id(raw: Mapping[str, object]) -> str:
    """Return the job id of a definition as a string of digits without leading zeros.

    Args:
        raw: the definition; the field is ``PandaID``, or ``jobid`` in repacked Harvester files.
    Raises:
        JobRefused: missing, not a number > 0 of at most 18 digits, or two fields that contradict each other.
    """
    found = {name: defined(raw.get(name)) for name in ("PandaID", "jobid")}
    ids: set[str] = set()
    for name, value in found.items():
        if value is None:
            continue
        match = None
        if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() <= 64:
            match = _PANDA_ID.fullmatch(str(value))
        elif isinstance(value, str):
            match = _PANDA_ID.fullmatch(value)
        if match is None:
            raise JobRefused(f"{name} is {show(value)}: a number > 0 of at most 18 digits is needed; job refused")
        ids.add(match.group(1))
    if not ids:
        raise JobRefused("the job definition has no PandaID; job refused")
    if len(ids) > 1:
        raise JobRefused(f"PandaID and jobid contradict each other ({', '.join(sorted(ids))}); job refused")
    return ids.pop()


def to_int(value: object, default: int = 0, *, maximum: int = MAX_NUMBER) -> int:
    """Return a whole number >= 0; ``default`` when not set.

    Raises:
        BadValue: not a whole number, negative, or above ``maximum``.
    """
    value = defined(value)
    if value is None:
        return default
    if isinstance(value, float) and value == value and abs(value) <= MAX_NUMBER and value == int(value):
        value = int(value)
    if isinstance(value, str) and _INTEGER.fullmatch(value.strip(" ")):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadValue(f"is {show(value)}, not a whole number")
    if value < 0:
        raise BadValue(f"is negative ({show(value)})")
    if value > maximum:
        raise BadValue(f"is absurdly large ({show(value)}, limit {maximum})")
    return value


def to_bool(value: object, default: bool = False) -> bool:
    """Return a truth value: true/yes/1 or false/no/0/none in any case; ``default`` when not set.

    Raises:
        BadValue: anything else.
    """
    value = defined(value)
    if value is None:
        return default
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower() if isinstance(value, (int, str)) and len(show(value)) < 12 else "?"
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise BadValue(f"is {show(value)}, neither true nor false")


def to_text(value: object) -> str:
    """Return text; empty when not set, digits for a number.

    Raises:
        BadValue: a list, a dict or a truth value where text belongs.
    """
    value = defined(value)
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadValue(f"is {show(value)} ({type(value).__name__}), not a text")
    if isinstance(value, int) and value.bit_length() > 64:
        raise BadValue("is a huge integer, not a text")
    return str(value)


def to_list(value: object) -> list[Optional[str]]:
    """Split a comma separated, positional list; an undefined element is None, an unset field the empty list.

    ``NULL`` alone is one undefined element: old clients send it where there are no files.

    Raises:
        BadValue: not a list of texts, or more than 100,000 elements.
    """
    if value is None or value == "":
        return []
    if isinstance(value, str):
        if value.count(",") >= MAX_LIST:
            raise BadValue(f"has {value.count(',') + 1} elements, limit {MAX_LIST}")
        parsed = parse_literal(value) if value[0] == "[" and value[-1] == "]" else None
        items: list[object] = list(parsed) if isinstance(parsed, list) else list(value.split(","))
    elif isinstance(value, (list, tuple)):
        items = list(value)
    else:
        items = [to_text(value)]
    if len(items) > MAX_LIST:
        raise BadValue(f"has {len(items)} elements, limit {MAX_LIST}")
    result: list[Optional[str]] = []
    for item in items:
        text = item if isinstance(item, str) else to_text(item)
        text = text.strip(" ")
        result.append(None if text in _UNDEFINED else text)
    return result


def to_dict(value: object) -> dict[str, object]:
    """Return a dict with text keys from a dict, JSON text or a Python repr; empty when not set.

    Raises:
        BadValue: anything else. The text never contains the value, which may be secret.
    """
    value = defined(value)
    if value is None:
        return {}
    if isinstance(value, str):
        value = parse_literal(value)
        if value is None:
            raise BadValue("is neither a JSON object nor a Python dict")
    if not isinstance(value, Mapping):
        raise BadValue(f"is a {type(value).__name__}, not a dict")
    if not all(isinstance(key, str) for key in value):
        raise BadValue("has a key that is not a text")
    return dict(value)


def parse_literal(text: str) -> Optional[object]:
    """Return the value of a JSON or Python literal, None when it is neither.

    JSON comes first, since secrets hold ``null`` and ``true``. A Python literal is checked to consist of plain literal
    tokens before it is evaluated: deeply nested hostile text would overflow the interpreter's stack.
    """
    try:
        value: object = json.loads(text)
        return value
    except (ValueError, RecursionError):
        pass
    if len(text) > MAX_LITERAL or not _is_plain_literal(text):
        return None
    import ast

    try:
        literal: object = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return literal


def _is_plain_literal(text: str) -> bool:
    position = depth = 0
    while position < len(text):
        token = _LITERAL_TOKEN.match(text, position)
        if token is None:
            return False
        if token.lastgroup == "open":
            depth += 1
            if depth > MAX_DEPTH:
                return False
        elif token.lastgroup == "close":
            depth -= 1
        position = token.end()
    return depth == 0


def decode_base64_parameters(text: str) -> Optional[str]:
    """Return the plain text of base64 job parameters, None when they are not surely base64.

    No field says that ``jobPars`` are encoded (job definition document, 2.5), so an experiment that uses this must want
    it: the length is a multiple of 4, the round trip is identical, and the result is printable.
    """
    import base64
    import binascii

    if not text or len(text) % 4 or not text.isascii():
        return None
    try:
        data = base64.b64decode(text, validate=True)
        plain = data.decode("utf-8")
    except (binascii.Error, ValueError):
        return None
    if base64.b64encode(data).decode("ascii") != text:
        return None
    return plain if all(char.isprintable() or char in "\n\t" for char in plain) else None


def decode_job_text(text: Union[str, bytes], json_form: bool = False) -> list[dict[str, object]]:
    """Return the job definitions in the text of a job file or of a server's answer.

    Accepted: one JSON job, ``{"<PandaID>": {...}, ...}`` (Harvester), ``{"StatusCode": 0, "jobs": [...]}`` (with or
    without the envelope of the v1 API), and a URL-encoded query string. Bytes that are not UTF-8 survive as lone
    surrogates, which ``parse_job`` turns into a defect of the job that has them.

    Args:
        text: the whole text.
        json_form: the writer is known to write JSON (Harvester, pod): then the diagnosis of garbage is that of the JSON
            parser. Both forms are recognised in either case, Harvester itself writes both.
    Raises:
        JobRefused: the text is no job definition.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    text = text.lstrip("\ufeff").strip()
    if not text:
        raise JobRefused("the job definition is empty")
    if text[0] in "{[":
        return _jobs_of(_decode_json(text))
    if json_form and "=" not in text:
        raise JobRefused(f"the job definition is not JSON: it begins with {show(text, 40)}")
    return _jobs_of(_decode_form(text))


def _decode_json(text: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=_unambiguous)
    except RecursionError:
        raise JobRefused("the job definition is nested too deeply to be read") from None
    except ValueError as exc:
        raise JobRefused(f"the job definition is not valid JSON: {str(exc)[:120]}") from None


def _decode_form(text: str) -> dict[str, object]:
    from urllib.parse import parse_qsl

    if "=" not in text:
        raise JobRefused(f"the job definition is neither JSON nor a query string: it begins with {show(text, 40)}")
    pairs = parse_qsl(text, keep_blank_values=True, encoding="utf-8", errors="surrogateescape")
    return _unambiguous(list(pairs))


def _unambiguous(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Make a dict; the same field twice with different values is a contradiction that nobody can resolve."""
    result: dict[str, object] = {}
    for name, value in pairs:
        if name in result and result[name] != value:
            raise JobRefused(f"the job definition has the field {show(name, 40)} twice, with different values")
        result[name] = value
    return result


def _jobs_of(value: object) -> list[dict[str, object]]:
    """Find the jobs in a decoded text: first take off the envelopes of the v1 API and of a bulk answer."""
    if isinstance(value, dict) and "success" in value and isinstance(value.get("data"), dict):
        value = value["data"]
    if isinstance(value, dict) and "jobs" in value and "PandaID" not in value:
        jobs = value["jobs"]
        value = parse_literal(jobs) if isinstance(jobs, str) else jobs
    if isinstance(value, list) and value and all(isinstance(job, dict) for job in value):
        return list(value)
    if not isinstance(value, dict):
        raise JobRefused(f"the text holds no job but {show(value)}")
    if "PandaID" in value or "jobid" in value:
        return [value]
    if value and all(isinstance(job, dict) and re.fullmatch(r"[0-9]+", key) for key, job in value.items()):
        return [{**job, "jobid": key} for key, job in value.items()]
    code = defined(value.get("StatusCode"))
    if code is not None and str(code) != "0":
        raise JobRefused(f"the text holds no job: StatusCode is {show(code)}")
    raise JobRefused(f"the text holds no job: no PandaID among its {len(value)} fields")
