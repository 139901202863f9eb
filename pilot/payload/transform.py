"""Gets a transform that is given as a URL: allowed base, download with retries, checks, made executable."""

from __future__ import annotations

import logging
import os
import shutil
import stat
from collections.abc import Callable, Mapping, Sequence
from glob import escape, glob
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pilot.common.errorcodes import ELSEWHERE, NEVER, SAME, SITE, USER, ErrorCodes
from pilot.common.exception import CommunicationFailure, PilotException, TrfDownloadFailure
from pilot.util.backoff import Backoff
from pilot.util.cancel import CancelToken
from pilot.util.safepath import UnsafePath, check_name

logger = logging.getLogger(__name__)

GENERIC_BASES = (
    "https://storage.googleapis.com/drp-us-central1-containers",
    "https://pandaserver-doma.cern.ch/trf/user",
)
"""Bases below which the generic experiment may download (payload.md 5)."""

TRIALS = 3
_BACKOFF_BASE = 1.0
_BACKOFF_MAX = 8.0

Fetch = Callable[[str], bytes]
"""Returns the document behind a URL; raises CommunicationFailure (``pilot.util.fetch.FetchError``) or OSError."""


def allowed_bases(option: str | Sequence[str] | None, environ: Mapping[str, str], default: Sequence[str]) -> list[str]:
    """Return the allowed bases: option ``-g``, else env PANDA_BASE_URLS (comma lists), else the experiment's list."""
    for source in (option, environ.get("PANDA_BASE_URLS", "")):
        items = source.split(",") if isinstance(source, str) else list(source or ())
        bases = [item.strip() for item in items if item.strip()]
        if bases:
            return bases
    return list(default)


def is_allowed(url: str, bases: Sequence[str]) -> bool:
    """True when ``url`` lies below one of the bases.

    The host is compared exactly, so ``pandaserver.cern.ch.evil.org`` does not pass; any port is right unless the base
    names one (typical URLs have ``:25080``, the bases have none); the path must continue at a slash. A base without
    scheme allows http and https.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    segments = unquote(parts.path).split("/")
    if parts.scheme not in ("http", "https") or "@" in parts.netloc or "\\" in url or ".." in segments:
        return False
    for base in bases:
        try:
            allowed = urlsplit(base if "://" in base else f"//{base}")
            allowed_port = allowed.port
        except ValueError:
            continue
        path = allowed.path.rstrip("/")
        if (
            parts.hostname == allowed.hostname
            and parts.hostname
            and allowed.scheme in ("", parts.scheme)
            and allowed_port in (None, port)
            and (not path or parts.path == path or parts.path.startswith(path + "/"))
        ):
            return True
    return False


def transform_name(url: str) -> str:
    """Return the file name of a transform: the last component of the URL's path.

    Raises:
        TrfDownloadFailure: it is no harmless file name.
    """
    name = unquote(urlsplit(url).path.rsplit("/", 1)[-1])
    try:
        return check_name(name)
    except UnsafePath as error:
        raise TrfDownloadFailure(f"invalid transform name in {url}: {error.detail}").advise(USER, NEVER) from None


def get_transform(
    url: str,
    workdir: Path,
    bases: Sequence[str],
    fetch: Fetch,
    *,
    environ: Mapping[str, str],
    token: CancelToken | None = None,
) -> str:
    """Put the transform behind ``url`` into the work directory and return its file name.

    A file of that name that is there already is used; with ``HARVESTER_WORKDIR`` it is copied from there.

    Args:
        url: the transformation.
        workdir: job work directory.
        bases: allowed bases.
        fetch: downloads one URL.
        environ: for HARVESTER_WORKDIR.
        token: cancels the waits between the tries.

    Raises:
        TrfDownloadFailure: 1149, the URL is not allowed or nothing usable was downloaded.
        PilotException: 1143, the file cannot be made executable.
        CancelledError: the token was cancelled.
    """
    name = transform_name(url)
    path = workdir / name
    harvester = environ.get("HARVESTER_WORKDIR", "")
    if harvester:
        _copy_from_harvester(Path(harvester), workdir, name)
    if not path.is_file():
        if not is_allowed(url, bases):
            raise TrfDownloadFailure(f"invalid base URL: {url}").advise(USER, NEVER)
        _write(path, _download(url, fetch, token or CancelToken()))
    make_executable(path)
    return name


def make_executable(path: Path) -> None:
    """Give ``path`` mode 0755.

    Raises:
        PilotException: 1143.
    """
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o555 != 0o555:
            path.chmod(0o755)
    except OSError as error:
        raise PilotException(f"{path.name}: {error.strerror}", code=ErrorCodes.CHMODTRF) from None


def _copy_from_harvester(source: Path, workdir: Path, name: str) -> None:
    """Copy the transform and the job options archives that Harvester has prepared."""
    candidates = [Path(item) for item in sorted(glob(f"{escape(str(source))}/jobO.*.tar.gz"))]
    for item in [*candidates, source / name]:
        target = workdir / item.name
        if item.is_file() and not target.exists():
            try:
                shutil.copyfile(item, target)
            except OSError as error:
                raise TrfDownloadFailure(f"cannot copy {item} to the work directory: {error.strerror}") from None


def _download(url: str, fetch: Fetch, token: CancelToken) -> bytes:
    """Return the checked content, after up to three tries."""
    backoff = Backoff(_BACKOFF_BASE, _BACKOFF_MAX)
    reason, advice = "", (USER, SAME)
    for trial in range(1, TRIALS + 1):
        token.check()
        try:
            content = fetch(url)
            reason, advice = _defect(content), (USER, SAME)
            if not reason:
                logger.info("downloaded transform %s (%d bytes)", url, len(content))
                return content
        except (CommunicationFailure, OSError) as error:
            reason = str(getattr(error, "reason", "") or getattr(error, "detail", "") or error)
            status, advice = getattr(error, "status", None), (SITE, ELSEWHERE)
            if isinstance(status, int) and 400 <= status < 500 and status not in (408, 425, 429):
                advice = USER, NEVER  # the server is well, the name is wrong
                break
        logger.warning("download of %s, try %d of %d: %s", url, trial, TRIALS, reason)
        if trial < TRIALS and token.wait(backoff.next()):
            token.check()
    raise TrfDownloadFailure(f"no data was downloaded from {url}: {reason}").advise(*advice)


def _defect(content: bytes) -> str:
    """Return what is wrong with a downloaded transform, empty when it is a script, an ELF program or a zip archive."""
    if content.startswith((b"#!", b"\x7fELF", b"PK\x03\x04")):
        return ""
    if not content:
        return "the server sent an empty file"
    if content.lstrip()[:1] == b"<":
        return "the server sent a web page in place of the transform"
    return "the content is no program (no #!, ELF or zip at its start)"


def _write(path: Path, content: bytes) -> None:
    """Write under a temporary name and rename: a failed try leaves nothing that looks like the transform."""
    temporary = path.with_name(f".{path.name[:200]}.part")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o755)
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise TrfDownloadFailure(f"cannot write {path.name} to the work directory: {error.strerror}") from None
