"""Do the inputs that the payload is to open remotely open at all? Found out here, in seconds.

Each file is opened and its first bytes are read, ``nopenfiles`` (catchall) at a time, each with its own time-out. A
replica that does not open is replaced by the next one that may be opened. What nothing here can open is not judged.
"""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import NamedTuple, Sequence

from pilot.common.exception import MiddlewareImportFailure, PilotException
from pilot.copytool.base import Replica
from pilot.info.filespec import FileSpec
from pilot.staging.context import StagingContext, TransferRecord
from pilot.staging.directaccess import mark_remote
from pilot.staging.replicas import scheme_of
from pilot.util.bounded import TookTooLong, bounded
from pilot.util.cancel import CancelledError, CancelToken
from pilot.util.copying import placed
from pilot.util.helper import HelperFailure
from pilot.util.logowner import owners
from pilot.util.redact import redact

logger = logging.getLogger(__name__)

TIMEOUT = 30
"""Seconds per file."""
FIRST_BYTES = 1024


class RemoteFileFailure(PilotException):
    """A remote input does not open (1361)."""

    default_code = 1361


class Opened(NamedTuple):
    """Result of one try; ``ok`` None = nothing here can open such a URL."""

    ok: bool | None
    text: str
    seconds: float


def verify_remote_files(
    files: Sequence[FileSpec], spare: dict[str, list[Replica]], ctx: StagingContext, token: CancelToken
) -> None:
    """Open all remote files of the job.

    Args:
        files: inputs with status ``remote_io``; ``turl`` and ``ddmendpoint`` change to a spare replica that opens.
        spare: LFN -> other replicas that may be opened remotely, best first.
        ctx: for the settings, the queue's catchall and the environment.
        token: breaks the test off.

    Raises:
        RemoteFileFailure: 1361, with the names.
        CancelledError: the token was cancelled.
    """
    from concurrent.futures import ThreadPoolExecutor  # few jobs come here

    results: dict[str, bool] = {}
    lines: list[str] = []

    def verify(spec: FileSpec) -> tuple[FileSpec, Opened]:
        while True:
            began = time.time()
            opened = open_remote(spec.turl, ctx, token)
            if opened.ok is not None:
                results[spec.turl] = opened.ok
            word = {True: "opened", False: "NOT opened", None: "not tested"}[opened.ok]
            lines.append(f"{word} in {opened.seconds:.2f} s: {redact(spec.turl)}: {opened.text}")
            _record(spec, opened, began, ctx)
            others = spare.get(spec.lfn) or []
            if opened.ok is not False or not others or token.cancelled:
                return spec, opened
            other = others.pop(0)
            logger.warning("%s does not open at %s (%s), trying %s", spec.lfn, spec.ddmendpoint, opened.text, other.url)
            mark_remote(spec, other, ctx.environ)

    ours = owners.for_the_same_job(lambda: None)  # the lines of the threads belong into this job's log
    with ThreadPoolExecutor(min(len(files), ctx.queue.flags.nopenfiles), "open-test", ours) as pool:
        outcomes = list(pool.map(verify, files))
    token.check()
    _write(ctx, results, lines)
    bad = [f"{spec.lfn} at {spec.ddmendpoint} ({opened.text})" for spec, opened in outcomes if opened.ok is False]
    for spec, opened in outcomes:
        if opened.ok is False:
            spec.status, spec.status_code = "failed", 1361
    if bad:
        raise RemoteFileFailure(f"Remote file(s) could not be opened: [{'; '.join(bad)}]")


def open_remote(turl: str, ctx: StagingContext, token: CancelToken) -> Opened:
    """Open one URL (variables expanded) and read its first bytes, within ``TIMEOUT``."""
    url = os.path.expandvars(turl)
    began = time.monotonic()
    limited = CancelToken(token)
    try:
        text = bounded(lambda: _open(url, ctx, limited), TIMEOUT, token, "open-test")
        return Opened(True, text, time.monotonic() - began)
    except CancelledError:
        return Opened(False, "broken off", time.monotonic() - began)
    except MiddlewareImportFailure as exc:
        logger.warning("%s cannot be tested here: %s", redact(url), exc.detail)
        return Opened(None, exc.detail, time.monotonic() - began)
    except (TookTooLong, HelperFailure, PilotException, OSError) as exc:
        text = getattr(exc, "detail", "") or str(exc)
        return Opened(False, " ".join(redact(text).split()), time.monotonic() - began)
    finally:
        limited.cancel(1368, "the open test has no more time")
        limited.detach()


def _open(url: str, ctx: StagingContext, token: CancelToken) -> str:
    scheme = scheme_of(url)
    env = ctx.transfer_environment(outward=True)  # the payload opens with the same proxy as outputs are written with
    if scheme in ("root", "roots", "xroot", "xroots"):
        order = {"url": url, "timeout": TIMEOUT, "bytes": FIRST_BYTES}
        result = ctx.helpers.call("xrootd", "open", order, env=env, token=token)
        return f"{result['bytes']} B read"
    if scheme in ("https", "http", "davs", "dav"):
        return _open_http(f"http{'s' if scheme in ('https', 'davs') else ''}{url[len(scheme):]}", env)
    if scheme == "file" or url.startswith("/"):
        with open(_path_of(url), "rb") as stream:
            return f"{len(stream.read(FIRST_BYTES))} B read"
    raise MiddlewareImportFailure(f"no test for {scheme} URLs")


def _path_of(url: str) -> str:
    """``file:///a``, ``file://localhost/a``, ``file:/a`` and ``/a`` are ``/a``."""
    path = url.partition(":")[2] if url.startswith("file:") else url
    if path.startswith("//"):
        path = path[2:].partition("/")[2]
    return f"/{path.lstrip('/')}"


def _open_http(url: str, env: dict[str, str]) -> str:
    import requests

    from pilot.util.fetch import no_netrc

    proxy = env.get("X509_USER_PROXY", "")
    authorities = env.get("X509_CERT_DIR", "")
    try:
        # no Range: XRootD's web door breaks off when the file has fewer bytes than are asked for
        answer = requests.get(
            url, stream=True, timeout=(TIMEOUT, TIMEOUT), auth=no_netrc,
            cert=proxy if url.startswith("https") and proxy and os.access(proxy, os.R_OK) else None,
            verify=authorities if os.path.isdir(authorities) else True,
        )  # fmt: skip
        with answer:
            if answer.status_code != 200:
                raise RemoteFileFailure(f"HTTP {answer.status_code} {answer.reason}")
            return f"{len(next(answer.iter_content(FIRST_BYTES), b''))} B read"
    except requests.RequestException as exc:
        raise RemoteFileFailure(f"{type(exc).__name__}: {exc}") from exc


def _record(spec: FileSpec, opened: Opened, began: float, ctx: StagingContext) -> None:
    from pilot.staging.transferid import transfer_id

    number = ctx.tries[("in", spec.lfn)] = ctx.tries.get(("in", spec.lfn), 0) + 1
    good = opened.ok is not False
    record = TransferRecord(
        direction="stage-in", lfn=spec.lfn, tool="direct", endpoint=spec.ddmendpoint, url=spec.turl,
        size=spec.filesize, started=began, seconds=opened.seconds, code=0 if good else 1361,
        state="FOUND_ROOT" if good else "FAILED_REMOTE_OPEN", text="direct_access" if good else opened.text,
        transfer_id=transfer_id(ctx.job_id, ctx.attempt_nr, "in", spec.lfn, number), attempt=number, scope=spec.scope,
        dataset=spec.dataset, guid=spec.guid, protocol=scheme_of(os.path.expandvars(spec.turl)), resolved=began,
        validated=began, transfer_start=began,
    )  # fmt: skip
    try:
        ctx.record(record)
    except Exception as exc:  # noqa: BLE001 - book-keeping never costs a job
        logger.warning("the opening of %s could not be recorded: %s", spec.lfn, exc)


def record_unverified(spec: FileSpec, ctx: StagingContext) -> None:
    """Record a file that is read directly and was not tested (the test is switched off)."""
    _record(spec, Opened(None, "not tested", 0.0), time.time(), ctx)


def _write(ctx: StagingContext, results: dict[str, bool], lines: Sequence[str]) -> None:
    """Leave the result and the log of the test in the job's directory."""
    names = ctx.settings.pilot
    directory = ctx.workdir or Path()
    for name, text in (
        (names.remotefileverification_dictionary, json.dumps({redact(url): ok for url, ok in results.items()})),
        (names.remotefileverification_log, "".join(f"{line}\n" for line in lines)),
    ):
        if not name:
            continue
        try:
            with placed(directory / name) as part:
                part.write_text(text, encoding="utf-8")
        except OSError as exc:
            logger.warning("cannot write %s: %s", name, exc.strerror or exc)
