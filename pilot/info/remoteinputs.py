"""Job parameters of a job whose inputs stay remote: pure functions on text (data management document, 5.3).

```
 production   --inputEVNTFile=a.root,b.root  -->  --inputEVNTFile=root://se//x/a.root,b.root      b.root was copied
 analysis     ... --usePFCTurl --directIn  --inputGUIDs "['<guid of a>', '<guid of b>']"           ATLAS transforms only
```
A name counts as a whole word: neither ``xa.root`` nor ``dir/a.root`` nor ``a.root.1`` is ``a.root``. Parameters are
shell text and signed URLs are full of ``&``, so a URL is quoted as the place asks for where it is put in.
"""

from __future__ import annotations

import re
import shlex
from typing import Iterable, Mapping, Sequence

from pilot.info.filespec import FileSpec
from pilot.info.jobparams import split_words
from pilot.util.shellquotes import scan_quotes

_WORD = r"\w.+~%"
_BEFORE = rf"(?<![{_WORD}/:@-])"
_AFTER = rf"(?![{_WORD}/:@-])"
_PLAIN = re.compile(rf"[{_WORD}-]+")


def remote_names(files: Iterable[FileSpec]) -> dict[str, str]:
    """Return ``{LFN: TURL}`` of the inputs that the payload opens where they are."""
    return {spec.lfn: spec.physical_name for spec in files if spec.status == "remote_io"}


def replace_names(text: str, names: Mapping[str, str]) -> str:
    """Put TURLs in the place of LFNs in a shell line.

    Args:
        text: job parameters.
        names: LFN -> TURL.
    """
    if not names:
        return text
    pieces: list[str] = []
    position, quote = 0, ""
    for match in _names_pattern(names).finditer(text):
        between = text[position : match.start()]
        quote, _ = scan_quotes(between, quote)
        url = names.get(match.group())
        pieces += [between, match.group() if url is None else _quoted(url, quote)]
        position = match.end()
    return "".join([*pieces, text[position:]])


def replace_lines(text: str, names: Mapping[str, str]) -> str:
    """Put TURLs in the place of lines that are an LFN, or a path that ends with one (files of ``writeToFile``)."""
    lines = text.split("\n")
    return "\n".join(names.get(line.strip().rsplit("/", 1)[-1], line) for line in lines)


def with_options(text: str, options: Sequence[str]) -> str:
    """Append options that are not there yet."""
    words = text.split()
    return " ".join([text.strip(), *(option for option in options if option not in words)]).strip()


def with_input_guids(text: str, files: Iterable[FileSpec]) -> str:
    """Append ``--inputGUIDs "['guid', ...]"`` for the LFNs of ``-i "[lfn, ...]"``, in their order.

    Nothing is appended when there is no such option, when it is there already, or when a name is no input of the job.
    """
    words = split_words(text) or []
    if "--inputGUIDs" in (word.value for word in words):
        return text
    lfns = _listed_inputs([word.value for word in words])
    guids = {spec.lfn: spec.guid for spec in files}
    if not lfns or not all(guids.get(lfn) for lfn in lfns):
        return text
    return f'{text.rstrip()} --inputGUIDs "{[guids[lfn] for lfn in lfns]}"'


def _listed_inputs(words: Sequence[str]) -> list[str]:
    """Return the names in the value of ``-i``: a Python list, with or without quotes around the names."""
    for index, word in enumerate(words):
        value = words[index + 1] if word == "-i" and index + 1 < len(words) else word[2:] if word[:2] == "-i" else ""
        value = value.strip()
        if value.startswith("[") and value.endswith("]"):
            return [name.strip().strip("'\"") for name in value[1:-1].split(",")]
    return []


def _names_pattern(names: Iterable[str]) -> re.Pattern[str]:
    """Any word, or one of the names that have other characters: thousands of alternatives would take minutes."""
    odd = sorted((name for name in names if not _PLAIN.fullmatch(name)), key=len, reverse=True)
    return re.compile(f"{_BEFORE}(?:{'|'.join([*map(re.escape, odd), _PLAIN.pattern])}){_AFTER}")


def _quoted(url: str, quote: str) -> str:
    if quote == "'":
        return url.replace("'", "'\\''")
    if quote == '"':
        return re.sub(r'([\\"$`])', r"\\\1", url)
    return shlex.quote(url)
