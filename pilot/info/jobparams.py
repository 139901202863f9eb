"""Rewriting of the job parameters: what is addressed to the pilot is taken out, the rest goes to the payload.

Source: job definition document, section 5 (steps 1 to 6; step 7 is in ``writetofile``). All scans are linear in the
length of the text (jobPars may have 10 MB and are written by users), nothing raises on unbalanced quotes.

Where we differ from Pilot 2/3 on purpose: the text is split and joined again by shell rules only when one of the two
override options is really present; both options and ``--containerImage`` are found at any place and in the ``=`` form
too; override values may be JSON. ``compat_requote=True`` brings the reference's quoting back.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from typing import NamedTuple, Optional

from pilot.info.encoding import MAX_LITERAL, parse_literal, show

logger = logging.getLogger(__name__)

_QUEUE = "--overwriteQueueData"
_STORAGE = "--overwriteStorageData"
_OLD_OPTION = "--overwriteQueuedata={"
_ATHENAOPTS = re.compile(r""" (--athenaopts "?'?[^"]+"?'?)""")
_IMAGE = re.compile(r"(?:(?<=\s)|^)--containerImage(?:=[ \t]*|[ \t]+)(\S+)")
_FLAG = re.compile(r"""(?:(?<=\s)|^)(--useTestASetup|--useTestXRootD)(?=\s|$)""")
_PLAIN = re.compile(r"""[^ \t\r\n'"\\]+""")
_BLANK_RUN = re.compile(r"[ \t\r\n]*")
_BRACES_OR_QUOTES = re.compile(r"""[{}'"]""")
_IN_DOUBLE_QUOTES = re.compile(r'[^"\\]+')
_BLANKS = " \t\r\n"


@dataclass(frozen=True)
class JobParameters:
    """What the job parameters say: ``text`` for the payload, everything else for the pilot."""

    text: str
    overwrite_queuedata: dict[str, object] = field(default_factory=dict)
    overwrite_storagedata: dict[str, object] = field(default_factory=dict)
    zipmap: str = ""
    imagename: str = ""
    accessmode: str = ""
    """``copy`` or ``direct`` for all inputs of the job, empty when the parameters do not say."""
    usetestasetup: bool = False
    """``--useTestASetup`` was given: run with ALRB_asetupVersion=testing."""
    usetestxrootd: bool = False
    """``--useTestXRootD`` was given: run with ALRB_xrootdVersion=testing."""


class Word(NamedTuple):
    """A word of a shell line: where it stands in the text, and its value without quotes."""

    start: int
    end: int
    value: str


def rewrite_job_parameters(text: str, *, compat_requote: bool = False) -> JobParameters:
    """Take the pilot's own options out of ``jobPars``.

    Args:
        text: the field as sent.
        compat_requote: split and join again by shell rules whenever there is any option, as the reference does:
            double quotes become single ones, repeated blanks one, and ``$X`` in double quotes is not expanded any more.
    """
    text = _drop_old_option(text)
    overrides: dict[str, dict[str, object]] = {_QUEUE: {}, _STORAGE: {}}
    if compat_requote:
        text, kept = _protect_athenaopts(text)
        text = _requote_like_reference(_take_overrides(text, overrides))
    else:
        kept = []
        text = _take_overrides(text, overrides)
    text, zipmap = _take_zip_map(text)
    text, image = _take_image(text)
    text, flags = _take_flags(text)
    text = _restore(text, kept)
    return JobParameters(
        text=text,
        overwrite_queuedata=overrides[_QUEUE],
        overwrite_storagedata=overrides[_STORAGE],
        zipmap=zipmap,
        imagename=image,
        accessmode=_access_mode(text),
        usetestasetup="--useTestASetup" in flags,
        usetestxrootd="--useTestXRootD" in flags,
    )


def split_words(text: str) -> Optional[list[Word]]:
    """Split a line by shell rules (those of ``shlex.split``), None when its quotes are not balanced.

    ``shlex`` itself needs quadratic time for long words, and does not say where a word stood.
    """
    words: list[Word] = []
    position, size = 0, len(text)
    while True:
        position = _end(_BLANK_RUN, text, position)
        if position == size:
            return words
        start, parts = position, []
        while position < size and text[position] not in _BLANKS:
            piece = _next_piece(text, position)
            if piece is None:
                return None
            part, position = piece
            parts.append(part)
        words.append(Word(start, position, "".join(parts)))


def _next_piece(text: str, position: int) -> Optional[tuple[str, int]]:
    """Return the value and the end of the plain, escaped or quoted piece that begins at ``position``."""
    char = text[position]
    if char == "\\":
        return (text[position + 1], position + 2) if position + 1 < len(text) else None
    if char == "'":
        end = text.find("'", position + 1)
        return None if end < 0 else (text[position + 1 : end], end + 1)
    if char == '"':
        return _double_quoted(text, position + 1)
    end = _end(_PLAIN, text, position)
    return text[position:end], end


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return position if match is None else match.end()


def _double_quoted(text: str, position: int) -> Optional[tuple[str, int]]:
    parts: list[str] = []
    while position < len(text):
        char = text[position]
        if char == '"':
            return "".join(parts), position + 1
        if char == "\\":
            following = text[position + 1 : position + 2]
            parts.append(following if following in ('"', "\\") else "\\" + following)
            position += 2
            continue
        end = _end(_IN_DOUBLE_QUOTES, text, position)
        parts.append(text[position:end])
        position = end
    return None


def cut(text: str, spans: list[tuple[int, int]]) -> str:
    """Remove spans together with the blanks in front of them (behind them at the beginning of the text)."""
    pieces: list[str] = []
    position = 0
    for start, end in spans:
        piece = text[position:start].rstrip(_BLANKS)
        pieces.append(piece)
        position = end
    pieces.append(text[position:])
    result = "".join(pieces)
    return result.lstrip(_BLANKS) if spans and not text[: spans[0][0]].strip(_BLANKS) else result


def _drop_old_option(text: str) -> str:
    """Step 2: delete ``--overwriteQueuedata={...}`` up to the first closing brace."""
    spans: list[tuple[int, int]] = []
    position = 0
    while True:
        start = text.find(_OLD_OPTION, position)
        end = text.find("}", start) if start >= 0 else -1
        if end < 0:
            return cut(text, spans) if spans else text
        spans.append((start, end + 1))
        position = end + 1


def _override(option: str, value: str) -> dict[str, object]:
    """Evaluate the value of an override option; one that cannot be read is ignored, with a word in the log."""
    data = parse_literal(value)
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        logger.warning("%s is ignored, its value is no dictionary: %s", option, show(value))
        return {}
    if option == _STORAGE and not all(isinstance(item, dict) for item in data.values()):
        logger.warning("%s is ignored, it does not map endpoints to dictionaries: %s", option, show(value))
        return {}
    return data


def _evaluate(values: dict[str, str], overrides: dict[str, dict[str, object]]) -> None:
    """Evaluate the last value of each option: only that one counts."""
    for option, value in values.items():
        overrides[option] = _override(option, value)


def _take_overrides(text: str, overrides: dict[str, dict[str, object]]) -> str:
    """Step 3: take the override options out; nothing else changes when there are none.

    When there is one, the rest is joined again with each word quoted for the shell, as the reference does, except the
    value of ``--athenaopts``, which stays as it is (step 1 of the reference protects it).
    """
    if _QUEUE not in text and _STORAGE not in text:
        return text
    words = split_words(text)
    if words is None:
        logger.warning("quotes of the job parameters are not balanced: overrides in them are ignored")
        return text
    braces = _Braces(text, words)
    kept: list[str] = []
    values: dict[str, str] = {}
    index = 0
    while index < len(words):
        word = words[index]
        option, separator, value = word.value.partition("=")
        if option not in overrides or (separator and not value):
            kept.append(_quoted(text, words, index))
            index += 1
            continue
        index += 1
        if separator:
            start = text.find("=", word.start) + 1
            value, index = braces.take(index - 1, start) or (value, index)
        elif index < len(words) and not words[index].value.startswith("-"):
            value, index = braces.take(index, words[index].start) or (words[index].value, index + 1)
        values[option] = value
    _evaluate(values, overrides)
    return " ".join(kept) if values else text


class _Braces:
    """Finds unquoted ``{...}`` values: the shell would take their inner quotes away, but people write them."""

    def __init__(self, text: str, words: list[Word]) -> None:
        self.text = text
        self.words = words
        self.attempts = 8
        """Searches left: each may cost MAX_LITERAL characters, and a hostile text asks for a million of them."""

    def take(self, index: int, start: int) -> Optional[tuple[str, int]]:
        """Return the braces that begin at ``start`` in word ``index``, and the index of the word behind them."""
        if self.text[start : start + 1] != "{" or not self.attempts:
            return None
        self.attempts -= 1
        end = self._closing(start)
        while index < len(self.words) and self.words[index].end < end:
            index += 1
        if end < 0 or index == len(self.words) or self.words[index].end != end:
            return None
        return self.text[start:end], index + 1

    def _closing(self, start: int) -> int:
        depth, position, limit = 0, start, min(len(self.text), start + MAX_LITERAL)
        while True:
            match = _BRACES_OR_QUOTES.search(self.text, position, limit)
            if match is None:
                return -1
            char, position = match.group(), match.end()
            if char in "'\"":
                position = self.text.find(char, position) + 1
                if position == 0:
                    return -1
                continue
            depth += 1 if char == "{" else -1
            if depth == 0:
                return position


def _quoted(text: str, words: list[Word], index: int) -> str:
    import shlex

    if index and words[index - 1].value == "--athenaopts":
        return text[words[index].start : words[index].end]
    return shlex.quote(words[index].value)


def _requote_like_reference(text: str) -> str:
    """Step 3 as Pilot 2/3 do it: any option at all makes the whole text be quoted anew."""
    import shlex

    words = split_words(text)
    if words is None or not any(word.value.startswith("-") for word in words):
        return text
    return " ".join(shlex.quote(word.value) for word in words)


def _protect_athenaopts(text: str) -> tuple[str, list[str]]:
    """Step 1 of the reference: replace quoted athena options by place holders."""
    kept: list[str] = []

    def replace(match: re.Match[str]) -> str:
        kept.append(match.group(1))
        return f" TOBEREPLACED{len(kept)} "

    return _ATHENAOPTS.sub(replace, text), kept


def _restore(text: str, kept: list[str]) -> str:
    """Step 6: put the protected texts back."""
    if not kept:
        return text

    def replace(match: re.Match[str]) -> str:
        number = int(match.group(1))
        return kept[number - 1] if 0 < number <= len(kept) else match.group(0)

    return re.sub(r"TOBEREPLACED([0-9]{1,8})", replace, text)


def _take_zip_map(text: str) -> tuple[str, str]:
    """Step 4: take ``<ZIP_MAP>...</ZIP_MAP>`` out, with the quotes around it; several maps are joined by blanks."""
    spans: list[tuple[int, int]] = []
    maps: list[str] = []
    position = 0
    while True:
        start = text.find("<ZIP_MAP>", position)
        end = text.find("</ZIP_MAP>", start) if start >= 0 else -1
        if end < 0:
            return (cut(text, spans), " ".join(maps)) if spans else (text, "")
        maps.append(text[start + len("<ZIP_MAP>") : end])
        end += len("</ZIP_MAP>")
        if start > position and text[start - 1] in "'\"" and text[end : end + 1] == text[start - 1]:
            start, end = start - 1, end + 1
        spans.append((start, end))
        position = end


def _take_image(text: str) -> tuple[str, str]:
    """Step 5: take ``--containerImage <image>`` out; the last one wins.

    An option in the middle of somebody's quoted argument (its word ends with a lone quote) belongs to the payload.
    """
    spans, image = [], ""
    for match in _IMAGE.finditer(text) if "--containerImage" in text else ():
        word = match.group(1)
        if len(word) > 2 and word[0] == word[-1] and word[0] in "'\"":
            word = word[1:-1]
        if "'" in word or '"' in word or word.startswith("-"):
            continue
        spans.append(match.span())
        image = word
    return (cut(text, spans), image) if spans else (text, "")


def _take_flags(text: str) -> tuple[str, set[str]]:
    """Take ``--useTestASetup`` and ``--useTestXRootD`` out (payload document, 3: no transform knows them)."""
    if "--useTest" not in text:
        return text, set()
    matches = list(_FLAG.finditer(text))
    if not matches:
        return text, set()
    return cut(text, [match.span() for match in matches]), {match.group(1) for match in matches}


def _access_mode(text: str) -> str:
    """Access mode that the parameters ask for: plain substrings, ``copy`` wins (job definition document, 4.3)."""
    if "--accessmode=copy" in text or "--useLocalIO" in text:
        return "copy"
    return "direct" if "--accessmode=direct" in text else ""
