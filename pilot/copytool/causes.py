"""From what a tool or library said to the pilot's error code, trace state and text (copytools document 2.2 and 2.3).

The more exact witness is heard first: XRootD's error number, then errno or exit code, then the text.
"""

from __future__ import annotations

import errno
import re
from typing import NamedTuple, Optional, Pattern

from pilot.copytool.base import Direction, TransferFailure
from pilot.util.redact import redact


class _Kind(NamedTuple):
    """Codes of one kind of failure; state of the Rucio trace; what stands before the tool's own text."""

    code_in: int
    code_out: int
    state: str
    prefix: str = ""


_TIMEOUT = _Kind(1151, 1152, "CP_TIMEOUT", "copy command timed out: ")
_ADLER = _Kind(1171, 1172, "AD_MISMATCH")
_MD5 = _Kind(1145, 1141, "MD5_MISMATCH")
_GLOBUS = _Kind(1180, 1181, "GLOBUS_FAIL", "Globus system error: ")
_EXISTS = _Kind(1221, 1221, "FILE_EXISTS", "File already exists in the destination: ")
_MISSING_IN = _Kind(1331, 1103, "MISSING_INPUT")
_MISSING_OUT = _Kind(1331, 1103, "NO_FILE")
_NO_SUM = _Kind(1242, 1242, "CHKSUM_NOTSUP")
_CONTEXT = _Kind(
    1163, 1163, "CONTEXT_FAIL", "Could not establish context: Proxy / VO extension of proxy has probably expired: "
)
_SPACE = _Kind(1098, 1333, "NO_SPACE", "No available space left on disk: ")
_SERVICE = _Kind(1324, 1324, "SERVICE_ERROR")
_NETWORK = _Kind(1327, 1327, "NETWORK_UNREACHABLE")
_XRDCP = _Kind(1362, 1362, "XRDCP_ERROR")
_KEYS = _Kind(1364, 1364, "S3_ERROR")
_RUCIO = _Kind(1316, 1316, "SERVICE_ERROR")
_LOGIN = _Kind(1338, 1383, "COPY_ERROR")
_DENIED = _Kind(1338, 1383, "COPY_ERROR")
_OTHER = _Kind(1099, 1137, "COPY_ERROR")

_XROOTD = {
    3003: _EXISTS, 3009: _SPACE, 3010: _DENIED, 3011: _MISSING_IN, 3014: _SERVICE, 3018: _EXISTS, 3019: _ADLER,
    3021: _SPACE, 3024: _SERVICE, 3030: _MISSING_IN, 3031: _LOGIN,
}  # fmt: skip
"""Error number in an XRootD server's answer (``[3011]``) -> kind."""

_ERRNO = {
    errno.ENOENT: _MISSING_IN, errno.EEXIST: _EXISTS, errno.EACCES: _DENIED, errno.EPERM: _DENIED,
    errno.EBADE: _LOGIN, errno.ENOSPC: _SPACE, errno.EDQUOT: _SPACE, errno.ETIMEDOUT: _TIMEOUT,
    errno.ETIME: _TIMEOUT, errno.ECONNREFUSED: _SERVICE, errno.EHOSTDOWN: _SERVICE, errno.ECONNRESET: _SERVICE,
    errno.ENETUNREACH: _NETWORK, errno.EHOSTUNREACH: _NETWORK,
}  # fmt: skip

_TEXTS: tuple[tuple[Pattern[str], _Kind], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), kind)
    for pattern, kind in (
        (r"failed xrdadler32", _ADLER),
        (r"does not match the checksum(?=.*adler32)|adler32.*does not match the checksum", _ADLER),
        (r"does not match the checksum", _MD5),
        (r"checksum error|checksum mismatch|checksum validation failed|checksums? .*do not match", _ADLER),
        (r"filesize mismatch", _OTHER),
        (r"globus_xio:", _GLOBUS),
        (r"file exists|SRM_FILE_BUSY|file already exists", _EXISTS),
        (r"query chksum is not supported|unable to checksum|checksum calculation for \w+ not supported"
         r"|destination checksum .*\b(405|501)\b", _NO_SUM),
        (r"could not establish context", _CONTEXT),
        (r"no space left on device|disk quota exceeded", _SPACE),
        (r"no such file or directory|source file not found|result http 404|file not found", _MISSING_IN),
        (r"service is not available at the moment|connection refused|could not connect to server"
         r"|connection error|socket error|503 service", _SERVICE),
        (r"network is unreachable|no route to host|invalid address|name or service not known"
         r"|could not resolve host|unable to resolve", _NETWORK),
        (r"auth failed|cannot authenticate|\b401\b|signaturedoesnotmatch|invalidaccesskeyid", _LOGIN),
        (r"permission denied|is disallowed|access denied|permission refused|\b403\b", _DENIED),
        (r"unable to locate credentials", _KEYS),
        (r"run: \[error\] server responded with an error", _XRDCP),
        (r"\btime[d\- ]*out|timeout expired|operation expired", _TIMEOUT),
    )
)  # fmt: skip
"""First match wins. Time-outs come last: the word also stands in texts about other things (``timeout=3600``)."""

_BRACKET = re.compile(r"\[(3[0-9]{3})\]")
_DETAILS = re.compile(r"^\s*details\s*:\s*(.+)$", re.IGNORECASE | re.MULTILINE)


def transfer_failure(
    direction: Direction,
    text: str,
    *,
    about: str = "",
    number: int = 0,
    xrootd: int = 0,
    no_credential: bool = False,
) -> TransferFailure:
    """Make the error for one failed transfer.

    Args:
        direction: in or out: most kinds have a code for each.
        text: what the tool or library said.
        about: what stands before it: which file, from where to where, with which tool.
        number: errno (libraries; gfal-copy's exit code), 0 = unknown.
        xrootd: number in an XRootD server's answer, 0 = look for it in the text.
        no_credential: there is no proxy or token at all: a refused login is 1163 then.
    """
    if not xrootd:
        found = _BRACKET.search(text)
        xrootd = int(found.group(1)) if found else 0
    kind = _XROOTD.get(xrootd) or _by_text(text, number) or _ERRNO.get(number) or (_XRDCP if xrootd else _OTHER)
    inward = direction is Direction.IN
    if kind is _MISSING_IN and not inward:
        kind = _MISSING_OUT
    code = kind.code_in if inward else kind.code_out
    if kind is _LOGIN and no_credential:
        code = 1163
    details = _DETAILS.findall(text)
    said = details[-1] if details else text
    if "service_unavailable" in text.lower():
        code, said = 1316, "service_unavailable"
    said = " ".join(redact(said).split()) or "no text"
    prefix = "" if kind.prefix.lower() in said.lower() else kind.prefix
    return TransferFailure(f"{redact(about)}{': ' if about else ''}{prefix}{said}", code=code, state=kind.state)


def _by_text(text: str, number: int) -> Optional[_Kind]:
    """The text decides unless errno is one of the clear ones."""
    clear = _ERRNO.get(number)
    for pattern, kind in _TEXTS:
        if pattern.search(text):
            # 'Could not stat the source: ... (Connection refused)' comes with a vague errno; a clear one stays
            vague = kind is _TIMEOUT or kind is _DENIED or (kind is _LOGIN and clear is not _DENIED)
            return clear if clear is not None and vague else kind
    return clear
