"""The ``writeToFile`` field: the payload reads the names of its inputs from files.

Source: job definition document, section 5, step 7.
"""

from __future__ import annotations

import re

from pilot.info.encoding import show
from pilot.info.jobparams import cut

MAX_LISTS = 100
"""Most files that ``writeToFile`` may ask for: each costs a pass over the parameters."""


def parse_write_to_file(text: str) -> dict[str, list[str]]:
    """Split ``writeToFile`` (``<name>:<lfn>,<lfn>^<name2>:<lfn>``) into file name -> LFNs.

    Raises:
        ValueError: a part has no name or no colon.
    """
    result: dict[str, list[str]] = {}
    for part in text.split("^"):
        if not part:
            continue
        name, colon, lfns = part.partition(":")
        if not name or not colon:
            raise ValueError(f"has a part without a file name: {show(part)}")
        result.setdefault(name, []).extend(lfn for lfn in lfns.split(",") if lfn)
        if len(result) > MAX_LISTS:
            raise ValueError(f"names more than {MAX_LISTS} files")
    return result


def apply_write_to_file(text: str, files: dict[str, list[str]]) -> tuple[str, dict[str, str]]:
    """Step 7: let the payload read the names of its inputs from files.

    Args:
        text: job parameters.
        files: result of ``parse_write_to_file``.
    Returns:
        The new parameters, and the content of each file to be written in the job's work directory (``<name>.txt``): the
        option that takes the list, if one is found as ``<option>=@<name>``, then one LFN per line.
    """
    contents: dict[str, str] = {}
    for name, lfns in files.items():
        name_of_option = ""
        place = text.find(f"=@{name}")
        if place >= 0:
            start = place
            while start and not text[start - 1].isspace() and text[start - 1] not in "'\"=":
                start -= 1
            name_of_option = text[start:place]
            text = text[:start] + text[place + 1 :]
        text = re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w.-])", f"{name}.txt".replace("\\", r"\\"), text)
        contents[f"{name}.txt"] = "\n".join([name_of_option, *lfns] if name_of_option else lfns) + "\n"
    if files:
        option = re.compile(r"(?:(?<=\s)|^)--autoConfiguration=everything(?=\s|$)")
        text = cut(text, [match.span() for match in option.finditer(text)])
    return text, contents
