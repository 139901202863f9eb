"""A store that speaks S3: boto3 clients, signed URLs, and what went wrong, in the pilot's words."""

from __future__ import annotations

import errno
import threading
from typing import Any, Mapping

from pilot.copytool.worker.main import Refused
from pilot.copytool.worker.parts import Stopped

ATTEMPTS = 3
THREADS = 4
"""Requests at the same time for one file."""
CONNECT_LIMIT, READ_LIMIT = 20, 60
"""Seconds."""

NUMBERS = {
    "NoSuchKey": errno.ENOENT, "404": errno.ENOENT, "AccessDenied": errno.EACCES, "403": errno.EACCES,
    "InvalidAccessKeyId": errno.EACCES, "SignatureDoesNotMatch": errno.EACCES, "ExpiredToken": errno.EACCES,
    "SlowDown": errno.ECONNREFUSED, "ServiceUnavailable": errno.ECONNREFUSED, "503": errno.ECONNREFUSED,
    "InternalError": errno.ECONNREFUSED, "500": errno.ECONNREFUSED, "502": errno.ECONNREFUSED,
    "RequestTimeout": errno.ETIMEDOUT, "504": errno.ETIMEDOUT, "QuotaExceeded": errno.ENOSPC,
    "XMinioStorageFull": errno.ENOSPC, "InsufficientStorage": errno.ENOSPC, "507": errno.ENOSPC,
}  # fmt: skip
"""What a store answered -> errno."""


# --- clients ---------------------------------------------------------------------------------------------------------

_clients: dict[tuple[str, ...], Any] = {}
_lock = threading.Lock()
UNCONDITIONAL: set[str] = set()
"""Endpoints that know no conditions."""


def client_of(args: Mapping[str, Any]) -> Any:
    """Return the client of an endpoint and its keys: making one takes longer than moving a small file."""
    names = ("endpoint", "access_key", "secret_key", "profile", "addressing", "ca_bundle")
    key = tuple(str(args.get(name) or "") for name in names)
    with _lock:
        if key not in _clients:
            _clients[key] = _made(args)
        return _clients[key]


def _made(args: Mapping[str, Any]) -> Any:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import ProfileNotFound

    try:
        session = boto3.session.Session(profile_name=args.get("profile") or None)
    except ProfileNotFound as exc:
        raise Refused(f"Unable to locate credentials: {exc}") from exc
    more: dict[str, Any] = {}
    if "request_checksum_calculation" in Config.OPTION_DEFAULTS:
        # what newer versions do of their own accord many stores do not understand; Content-MD5 they all do
        more = {"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"}
    config = Config(
        connect_timeout=CONNECT_LIMIT, read_timeout=READ_LIMIT, max_pool_connections=32, tcp_keepalive=True,
        retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
        # every body has its MD5: no need to read it once more for a signature
        s3={"addressing_style": args.get("addressing") or "path", "payload_signing_enabled": False}, **more,
    )  # fmt: skip
    return session.client(
        "s3", endpoint_url=args.get("endpoint") or None, aws_access_key_id=args.get("access_key") or None,
        aws_secret_access_key=args.get("secret_key") or None, verify=args.get("ca_bundle") or None, config=config,
    )  # fmt: skip


def refused(exc: BaseException, args: Mapping[str, Any]) -> BaseException:
    """Say in the pilot's words what the library raised."""
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        ConnectTimeoutError,
        NoCredentialsError,
        ReadTimeoutError,
    )

    where = f"{args.get('bucket')}/{args.get('key')}"
    if isinstance(exc, ClientError):
        error = exc.response.get("Error", {})
        code, status = str(error.get("Code", "")), exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        number = NUMBERS.get(code) or (NUMBERS.get(str(status)) if code != "NoSuchBucket" else None) or 0
        text = f"S3 ClientError: {code}: {error.get('Message', '')} ({exc.operation_name} of {where})"
        return Refused(text, errno=number, missing=number == errno.ENOENT, code=code)
    if isinstance(exc, BotoCoreError):
        cause = exc.kwargs.get("error") if hasattr(exc, "kwargs") else None
        text = f"exception caught in s3_client: {exc}" + (f" ({cause})" if cause and str(cause) not in str(exc) else "")
        if isinstance(exc, (ConnectTimeoutError, ReadTimeoutError)):
            return Refused(text, errno=errno.ETIMEDOUT)
        credentials = isinstance(exc, NoCredentialsError)
        return Refused(text, errno=0 if credentials else network_errno(str(cause or exc)))
    return exc


def network_errno(text: str) -> int:
    lowered = text.lower()
    if "resolve" in lowered or "resolution" in lowered:
        return errno.ENETUNREACH
    return errno.ECONNREFUSED if "refused" in lowered else errno.ECONNRESET


def told(args: Mapping[str, Any], exc: BaseException) -> BaseException:
    """Return what is to be raised for ``exc``: itself where it says enough already."""
    return exc if isinstance(exc, (Refused, Stopped, OSError)) else refused(exc, args)


def code_of(exc: BaseException) -> str:
    """Return the store's error code, empty when it is something else."""
    response = getattr(exc, "response", None)
    if not isinstance(response, dict):
        return ""
    code = str(response.get("Error", {}).get("Code", ""))
    status = str(response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
    return {"412": "PreconditionFailed", "409": "ConditionalRequestConflict", "501": "NotImplemented",
            "416": "InvalidRange"}.get(status, code)  # fmt: skip


def head_of(client: Any, args: Mapping[str, Any]) -> Mapping[str, Any]:
    """Ask for size, ETag and notes of an object."""
    answer: Mapping[str, Any] = client.head_object(Bucket=args["bucket"], Key=args["key"])
    return answer


# --- signed URLs -----------------------------------------------------------------------------------------------------


def signed_request(args: Mapping[str, Any], method: str, **more: Any) -> Any:
    """One request to a signed URL; what it says of itself is never repeated."""
    import urllib3

    limit = urllib3.Timeout(connect=CONNECT_LIMIT, read=READ_LIMIT)
    pool = urllib3.PoolManager(ca_certs=args.get("ca_bundle") or None)
    try:
        answer = pool.request(method, args["url"], timeout=limit, retries=False, preload_content=False, **more)
    except urllib3.exceptions.HTTPError as exc:
        reason = getattr(exc, "reason", None) or exc
        timed_out = isinstance(exc, urllib3.exceptions.TimeoutError)
        text = type(reason).__name__ if args["url"].partition("?")[2] in str(reason) else str(reason)
        raise Refused(f"signed URL: {text}", errno=errno.ETIMEDOUT if timed_out else network_errno(text)) from None
    if answer.status >= 300:
        answer.drain_conn()
        raise Refused(f"signed URL: HTTP status {answer.status} {answer.reason or ''}",
                      errno=NUMBERS.get(str(answer.status), 0), missing=answer.status == 404)  # fmt: skip
    return answer
