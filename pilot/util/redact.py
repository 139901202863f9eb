"""Masks secrets in text: tokens, keys, passwords, proxies and signatures become ``********``.

Used for every log line, and for whatever else shows text to people (log extracts, reports). A line without one of the
tell-tale words costs a few substring searches, about a microsecond.
"""

from __future__ import annotations

import logging
import re
from threading import Lock

MASK = "********"
_SHORTEST_SECRET = 6
"""A registered value below this many characters is not masked: it would blot out ordinary words."""

# Cheap look before the expensive ones: lower case, one of them is in every text that _mask_patterns can change.
_TELL_TALES = (
    "token", "secret", "userproxy", "passw", "passphrase", "bearer", "authorization", "eyj", "signature", "sig=",
    "sig\"", "credential", "access_key", "accesskey", "private", "-----begin", "authz", "remote login", "api_key",
    "apikey", "cookie", "@",
)

_PEM = re.compile(r"-----BEGIN [A-Z0-9 ]+-----.*?(?:-----END [A-Z0-9 ]+-----|\Z)", re.DOTALL)
_BEARER = re.compile(r"(\bbearer(?:\s|%20)+)(?!\*{8})[\w.~+/=%-]{8,}", re.IGNORECASE)
_AUTHORIZATION = re.compile(
    r"((?<![\w-])(?:proxy-)?authorization\\{0,15}[\"']?\s*[:=]\s*\\{0,15}[\"']?(?:(?:bearer|basic|token)\s+)?)"
    r"(?!(?:bearer|basic|token)\s|\*{8})[^\s\"'\\,]+",
    re.IGNORECASE,
)
_COOKIE = re.compile(
    r"((?<![\w-])(?:set-)?cookie\\{0,15}[\"']?\s*[:=]\s*\\{0,15}[\"']?)(?!\*{8})[^\s\"'\\][^\r\n\"'\\]*",
    re.IGNORECASE,
)
_JWT = re.compile(r"(?<![\w-])eyJ[\w-]{5,}\.[\w-]{5,}(?:\.[\w-]*)*")
_USERINFO = re.compile(r"(\w://[^\s/:@\"']*:)[^\s/@\"']+(@)")
_LOGIN = re.compile(
    r"(\b(?:remote|registry)\s+login\b[^\n;|&]{0,300}?\s(?:-p|--password)(?:\s+|=))(\"[^\"]*\"|'[^']*'|\S+)",
    re.IGNORECASE,
)
_LOGIN_STUCK = re.compile(r"(\b(?:remote|registry)\s+login\b[^\n;|&]{0,300}?\s-p)([^\s=-]\S*)", re.IGNORECASE)
_OPTION = re.compile(r"(--(?:password|token|secret|secret-key|access-key)[ =])(\"[^\"]*\"|'[^']*'|\S+)", re.IGNORECASE)

# Repeats are bounded here and above: payloads choose what is logged, and open ones would cost quadratic time.
# Names whose value is secret whatever stands before them (S3_SECRET_KEY, x-amz-security-token, aws_session_token, ...).
_SECRET_SUFFIX = (
    r"secret[_-]?(?:access[_-]?)?key|password|passwd|passphrase|client[_-]?secret|private[_-]?key|"
    r"session[_-]?token|security[_-]?token|amz-signature|amz-credential|goog-signature|goog-credential|api[_-]?key"
)
# Names that are secret only as whole words: PANDA_AUTH_TOKEN is the name of a file, PROXY a host.
_SECRET_WORD = (
    r"pilot_?secrets?|panda_?secrets?|user_?proxy|secrets?|token_?key|(?:access|refresh|id|bearer|auth)_?token|token|"
    r"signature|sig|(?:aws_?)?access_?key(?:_?id)?|public_?key|authz|credentials?"
)
_NAME = rf"(?:(?<![A-Za-z0-9])[\w.-]{{0,40}}(?:{_SECRET_SUFFIX})|(?<![\w-])(?:{_SECRET_WORD}))"
_QUOTED_NAME = re.compile(rf"(\\{{0,15}}[\"'])(?:{_NAME})\1\s*:\s*", re.IGNORECASE)
_PLAIN_NAME = re.compile(rf"{_NAME}(?:=|%3D)", re.IGNORECASE)
# ``name: value`` is often prose (token: expired), so only names that no prose has.
_HEADER = re.compile(
    rf"((?<![\w\"'/-])(?:[\w.-]{{0,40}}(?:{_SECRET_SUFFIX})|pilot_?secrets|panda_?secrets|user_?proxy|token_key|"
    r"(?:access|refresh)_token)\s*:\s+)(?!\*{8})([^\s,;\"']+)",
    re.IGNORECASE,
)
_QUOTE = re.compile(r"b?(\\{0,15}[\"'])")
_PLAIN_VALUE = re.compile(r"[^\s&;,\"'<>)\]}\\]+")
_NOTHING = re.compile(r"(?:None|null|true|false|True|False)\b|\*{8}")
_CLOSERS = {"{": "}", "[": "]", "(": ")"}

_registered: dict[str, None] = {}
_registered_pattern: re.Pattern[str] | None = None
_lock = Lock()


def register_secret(value: str) -> None:
    """Mask ``value`` (and its URL-quoted and JSON-escaped forms) in every text from now on; short values are ignored.

    Each longer line of a value of several lines is masked too, because logs and tracebacks show lines.
    """
    global _registered_pattern
    import json
    from urllib.parse import quote

    value = value.strip()
    forms = {value, quote(value), quote(value, safe=""), json.dumps(value)[1:-1], repr(value)[1:-1]}
    if "\n" in value:
        forms.update(line.strip() for line in value.splitlines() if len(line.strip()) >= 4 * _SHORTEST_SECRET)
    with _lock:
        _registered.update((form, None) for form in forms if len(form) >= _SHORTEST_SECRET)
        if _registered:
            longest_first = sorted(_registered, key=len, reverse=True)
            _registered_pattern = re.compile("|".join(map(re.escape, longest_first)))


def redact(text: str) -> str:
    """Return ``text`` with its secrets replaced by ``********``; the same object when there is none."""
    pattern = _registered_pattern
    if pattern is not None:
        text = pattern.sub(MASK, text)
    lowered = text.lower()
    for word in _TELL_TALES:
        if word in lowered:
            return _mask_patterns(text)
    return text


def _mask_patterns(text: str) -> str:
    text = _PEM.sub(MASK, text)
    text = _mask_values(text, _QUOTED_NAME)
    text = _mask_values(text, _PLAIN_NAME)
    text = _HEADER.sub(rf"\g<1>{MASK}", text)
    text = _AUTHORIZATION.sub(rf"\g<1>{MASK}", text)
    text = _COOKIE.sub(rf"\g<1>{MASK}", text)
    text = _BEARER.sub(rf"\g<1>{MASK}", text)
    text = _JWT.sub(MASK, text)
    text = _USERINFO.sub(rf"\g<1>{MASK}\g<2>", text)
    text = _LOGIN.sub(rf"\g<1>{MASK}", text)
    text = _LOGIN_STUCK.sub(rf"\g<1>{MASK}", text)
    return _OPTION.sub(rf"\g<1>{MASK}", text)


def _mask_values(text: str, names: re.Pattern[str]) -> str:
    """Replace the value behind each name that ``names`` finds: quoted, nested in brackets, or a bare word."""
    parts: list[str] = []
    done = 0
    while True:
        match = names.search(text, done)
        if match is None:
            break
        parts.append(text[done:match.end()])
        done = match.end()
        if _NOTHING.match(text, done):
            continue
        start, end = _value_span(text, done)
        if end > start:
            parts.append(text[done:start] + MASK)
            done = end
    if not parts:
        return text
    return "".join(parts) + text[done:]


def _value_span(text: str, start: int) -> tuple[int, int]:
    """Return where the secret part of the value at ``start`` begins and ends; quotes stay outside, brackets inside."""
    quote = _QUOTE.match(text, start)
    if quote is not None:
        return quote.end(), _closing_quote(text, quote.end(), quote.group(1))
    if text[start:start + 1] in _CLOSERS:
        return start, _closing_bracket(text, start)
    plain = _PLAIN_VALUE.match(text, start)
    return start, plain.end() if plain else start


def _closing_quote(text: str, start: int, delimiter: str) -> int:
    """Return the position of the delimiter that ends a string; one behind more backslashes belongs to the string."""
    position = text.find(delimiter, start)
    while position > start and text[position - 1] == "\\":
        position = text.find(delimiter, position + len(delimiter))
    return len(text) if position < 0 else position


def _closing_bracket(text: str, start: int) -> int:
    """Return the position behind the bracket that closes the one at ``start``; brackets in strings do not count."""
    expected: list[str] = []
    position = start
    while position < len(text):
        char = text[position]
        if char in _CLOSERS:
            expected.append(_CLOSERS[char])
        elif char in "\"'":
            position = _closing_quote(text, position + 1, char)
        elif expected and char == expected[-1]:
            expected.pop()
            if not expected:
                return position + 1
        position += 1
    return len(text)


class RedactingFilter(logging.Filter):
    """Masks a record in place, for handlers whose formatter is not ours (real-time loggers)."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Replace message and arguments by the masked text when there is something to mask; always True."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):  # arguments that do not fit; the formatter will show them
            message = f"{record.msg!r} {record.args!r}"
        masked = redact(message)
        if masked is not message and masked != message:
            record.msg, record.args = masked, ()
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = redact(record.exc_text)
        return True
