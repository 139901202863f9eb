"""The free text field ``catchall`` of a queue, read once into words and matched exactly.

Words are separated by commas and white space outside quotes. A word is a flag (``HPC_HPC``) or a pair
(``nopenfiles=2``). Source: information service document, section 5.3.
"""

from __future__ import annotations

import logging
import re
from functools import cached_property
from typing import Optional

logger = logging.getLogger(__name__)

_OPTIONS = re.compile(r"(?:singularity|apptainer)_options=(['\"]?)([^'\"]*)")
_NEGATIVE = frozenset({"false", "no", "0", "none"})


def split_words(text: str) -> list[str]:
    """Split at commas and white space; a quote opens at the start of a word or behind ``=`` and is removed."""
    words: list[str] = []
    word = ""
    quote = ""
    for char in text:
        if quote:
            if char == quote:
                quote = ""
            else:
                word += char
        elif char in "'\"" and (not word or word.endswith("=")):
            quote = char
        elif char == "," or char.isspace():
            words.append(word)
            word = ""
        else:
            word += char
    return [item for item in (*words, word) if item]


class CatchAll:
    """Flags and pairs of ``catchall``."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._flags: set[str] = set()
        self._pairs: dict[str, str] = {}
        for word in split_words(text):
            key, equals, value = word.partition("=")
            if equals:
                self._pairs.setdefault(key, value)
            else:
                self._flags.update(part for part in word.split(";") if part)

    def has(self, flag: str) -> bool:
        """Return True when the flag is there, bare or as ``flag=<anything but false, no, 0, none>``."""
        value = self._pairs.get(flag)
        return flag in self._flags or (value is not None and value.lower() not in _NEGATIVE)

    def value(self, key: str, default: str = "") -> str:
        """Return the value of ``key=value`` without quotes."""
        return self._pairs.get(key, default)

    def _value_any_case(self, key: str) -> str:
        return next((value for name, value in self._pairs.items() if name.lower() == key), "")

    @cached_property
    def container_options(self) -> str:
        """Text behind ``singularity_options=``, else ``apptainer_options=``, up to the next quote; may be empty."""
        found = {match.group(0).partition("_")[0]: match.group(2).strip() for match in _OPTIONS.finditer(self.text)}
        return found.get("singularity") or found.get("apptainer") or ""

    @property
    def no_token_renewal(self) -> bool:
        """The pilot does not renew OIDC tokens."""
        return self.has("no_token_renewal")

    @property
    def curl_getjob(self) -> bool:
        """``curlgetjob``: the reference asks for jobs with curl."""
        return self.has("curlgetjob")

    @property
    def set_debug_mode(self) -> bool:
        """``setdebugmode``: the pilot asks the server for debug mode for each job."""
        return self.has("setdebugmode")

    @property
    def realtime_logging(self) -> str:
        """``logging=<type>;<protocol>://<host>:<port>``; empty when there is none or it has no ``;``."""
        value = self.value("logging")
        return value if ";" in value else ""

    @property
    def realtime_logfile(self) -> str:
        """``loggingfile=<path>``: file to stream; its presence turns real-time logging on."""
        return self.value("loggingfile")

    @property
    def image_base(self) -> str:
        """``IMAGE_BASE=<dir>``: base directory of container images."""
        return self.value("IMAGE_BASE")

    @property
    def nopenfiles(self) -> int:
        """``nopenfiles=<n>``: threads of the remote file open test, 1 by default."""
        value = self._value_any_case("nopenfiles")
        if not value:
            return 1
        if not value.isdigit() or int(value) < 1:
            logger.warning("catchall: nopenfiles=%s is no positive number, using 1", value)
            return 1
        return int(value)

    @property
    def remoteio_test(self) -> bool:
        """False only for ``remoteio_test=false``: skip the remote file open test."""
        return self._value_any_case("remoteio_test").lower() != "false"

    @property
    def pipelining(self) -> Optional[bool]:
        """``pipelining``: the next job comes while the last one leaves; ``=false`` forbids it; None: not said."""
        return self.has("pipelining") if "pipelining" in self._flags | self._pairs.keys() else None

    @property
    def xcache(self) -> bool:
        """``pilotXcache``: start and stop Xcache around stage-in and payload."""
        return self.has("pilotXcache")

    @property
    def allow_wan_for_lib(self) -> bool:
        """Inputs with ``.lib.`` in the name may come over WAN."""
        return self.has("allow_wan_for_lib")

    @property
    def mv_final_destination(self) -> bool:
        """The mv copytool uses the storage path layout."""
        return self.has("mv_final_destination")

    @property
    def hpc(self) -> bool:
        """``HPC_HPC``: the core count is left alone, 0 if unset."""
        return self.has("HPC_HPC")

    @property
    def prmon_debug(self) -> bool:
        """``PRMON_DEBUG``."""
        return self.has("PRMON_DEBUG")

    @property
    def messaging(self) -> str:
        """``messaging=stomp``: read by the wrapper."""
        return self.value("messaging")
