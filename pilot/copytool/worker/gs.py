"""Google Cloud Storage, through its client library in a helper process.

The store compares the MD5 of what arrives with that of the file, and takes a new object only on condition that nothing
(or what we have seen) lies under its name.
"""

from __future__ import annotations

import errno
import zlib
from base64 import b64encode
from contextlib import contextmanager
from queue import Empty, LifoQueue
from typing import Any, Iterator, Mapping, Optional

from pilot.copytool.worker.main import Call, Operation, Refused
from pilot.copytool.worker.parts import Job, Slice, Stopped, Target

CHUNK = 8 << 20
"""Bytes per request of an upload; smaller files go in one."""
LIMITS = (20, 60)
"""Seconds for a connection, and for the server's next word."""
PATIENCE = 10.0
"""Seconds in which the library repeats what failed."""
ATTEMPTS = 3

_NUMBERS = {404: errno.ENOENT, 403: errno.EACCES, 401: errno.EACCES, 429: errno.ECONNREFUSED, 500: errno.ECONNREFUSED,
            502: errno.ECONNREFUSED, 503: errno.ECONNREFUSED, 504: errno.ETIMEDOUT, 408: errno.ETIMEDOUT}  # fmt: skip
"""HTTP status -> errno."""


def load() -> dict[str, Operation]:
    """Import the library."""
    from google.cloud import storage  # noqa: F401

    return {"download": download, "upload": upload}


# --- client ----------------------------------------------------------------------------------------------------------

_idle: LifoQueue[Any] = LifoQueue()


@contextmanager
def _client() -> Iterator[Any]:
    """Lend a client; each is used by one thread at a time."""
    from google.cloud import storage

    try:
        client = _idle.get_nowait()
    except Empty:
        client = storage.Client()
    yield client
    _idle.put(client)  # not after an error: its connection may be in the middle of an answer


def _options() -> dict[str, Any]:
    from google.cloud.storage.retry import DEFAULT_RETRY

    return {"timeout": LIMITS, "retry": DEFAULT_RETRY.with_timeout(PATIENCE)}


def _told(args: Mapping[str, Any], exc: BaseException) -> BaseException:
    """Say in the pilot's words what the library raised."""
    from google.api_core.exceptions import GoogleAPICallError, RetryError
    from google.auth.exceptions import GoogleAuthError, TransportError

    if isinstance(exc, (Refused, Stopped)):
        return exc
    where = f"gs://{args['bucket']}/{args['key']}"
    if isinstance(exc, RetryError) and exc.cause is not None:
        return _told(args, exc.cause)
    if isinstance(exc, GoogleAPICallError):
        number = _NUMBERS.get(int(exc.code or 0), 0)
        if number == errno.ENOENT and "bucket" in str(exc.message).lower():
            number = 0
        text = f"{type(exc).__name__}: {_short(exc.message)} (HTTP status {exc.code}, {where})"
        return Refused(text, errno=number, missing=number == errno.ENOENT)
    if isinstance(exc, GoogleAuthError) and not isinstance(exc, TransportError):
        return Refused(f"Unable to locate credentials: {_short(exc)}")
    text = f"{type(exc).__name__}: {_short(exc)}"
    return Refused(text, errno=_errno_of(exc, text))


def _errno_of(exc: BaseException, text: str) -> int:
    number = int(getattr(exc, "errno", None) or 0)
    lowered = text.lower()
    if number:
        return number
    if "timed out" in lowered or "timeout" in lowered:
        return errno.ETIMEDOUT
    if "refused" in lowered:
        return errno.ECONNREFUSED
    if "resolve" in lowered or "resolution" in lowered:
        return errno.ENETUNREACH
    return errno.ECONNRESET if "connection" in lowered else 0


def _short(text: object) -> str:
    """The library repeats whole requests."""
    return " ".join(str(text).split())[:400]


# --- download --------------------------------------------------------------------------------------------------------


class _Sink:
    """Where the library writes: the local file, summed on the way. It may be rewound after a broken connection."""

    def __init__(self, path: str, job: Job) -> None:
        self._target, self._job = Target(path), job
        self.position, self.adler = 0, 1

    def write(self, data: bytes) -> int:
        """Write the next bytes."""
        self._job.check()
        self._target.write(data, self.position)
        self.position += len(data)
        self.adler = zlib.adler32(data, self.adler)
        self._job.count(len(data))
        return len(data)

    def tell(self) -> int:
        """Position, bytes."""
        return self.position

    def flush(self) -> None:
        """Nothing is held back."""


def download(call: Call) -> Mapping[str, Any]:
    """Fetch an object to ``local``; returns size and adler32."""
    args = call.args
    job = Job(call, int(args.get("size") or 0))

    def body() -> Mapping[str, Any]:
        try:
            with _client() as client:
                return _fetch(job, args, client.bucket(args["bucket"]))
        except BaseException as exc:
            raise _told(args, exc) from exc

    return job.run(body)


def _fetch(job: Job, args: Mapping[str, Any], bucket: Any) -> Mapping[str, Any]:
    """One stream; a broken connection costs what is missing only, as long as the object is the same."""
    found = bucket.get_blob(args["key"], **_options())
    if found is None:
        raise Refused(f"NotFound: there is no object gs://{args['bucket']}/{args['key']}", errno=errno.ENOENT,
                      missing=True)  # fmt: skip
    sink = _Sink(args["local"], job)
    size = int(found.size or 0)
    blob = bucket.blob(args["key"], generation=found.generation)  # this version, at the address that we were given
    for attempt in range(1, ATTEMPTS + 1):
        if sink.position >= size:
            break
        try:
            # as stored (nothing is unpacked); compared by us with the catalogue
            blob.download_to_file(sink, start=sink.position, raw_download=True, checksum=None, **_options())
        except OSError as exc:
            # of the network (requests' errors are OSErrors without a number), and some of the file arrived
            if exc.errno or attempt == ATTEMPTS:
                raise
            job.wait(0.5 * attempt)
    if sink.position != size:
        raise Refused(f"connection error: gs://{args['bucket']}/{args['key']} ends at {sink.position} of {size} B")
    return {"size": size, "adler32": f"{sink.adler:08x}"}


# --- upload ----------------------------------------------------------------------------------------------------------


def upload(call: Call) -> Mapping[str, Any]:
    """Store ``local`` (``size`` bytes, ``adler32``); ``overwrite``: another content may be replaced."""
    args = call.args
    job = Job(call, int(args["size"]))
    stream = open(args["local"], "rb", buffering=0)  # noqa: SIM115 - a thread that was left may still read

    def body() -> Mapping[str, Any]:
        try:
            piece = Slice(stream.fileno(), 0, job.size, job)
            adler, digest = piece.sums()
            if f"{adler:08x}" != str(args["adler32"]).lower().zfill(8):
                raise Refused(f"checksum mismatch: the local file has adler32 {adler:08x} now, not {args['adler32']}",
                              mismatch=f"{adler:08x}")  # fmt: skip
            with _client() as client:
                return _store(job, args, client.bucket(args["bucket"]), piece, b64encode(digest).decode())
        except BaseException as exc:
            raise _told(args, exc) from exc

    return job.run(body)


def _store(job: Job, args: Mapping[str, Any], bucket: Any, piece: Slice, digest: str) -> Mapping[str, Any]:
    from google.api_core.exceptions import PreconditionFailed

    for attempt in range(1, ATTEMPTS + 1):
        there = bucket.get_blob(args["key"], **_options())
        if there is not None:
            if _is_ours(there, args, job.size, digest):
                return {"existed": True}
            if not args.get("overwrite"):
                raise Refused(
                    f"file exists: gs://{args['bucket']}/{args['key']} holds another content: {there.size} B, "
                    f"MD5 {there.md5_hash}", errno=errno.EEXIST,
                )  # fmt: skip
        blob = bucket.blob(args["key"], chunk_size=CHUNK)
        blob.metadata = {"adler32": args["adler32"]}
        blob.md5_hash = digest  # the store refuses another content
        piece.seek(0)
        try:
            blob.upload_from_file(
                piece, size=job.size, content_type=args.get("content_type") or "application/octet-stream",
                if_generation_match=_generation(there), **_options(),
            )  # fmt: skip
        except PreconditionFailed:  # another one was faster, or it was us and the answer was lost
            if attempt == ATTEMPTS:
                raise
            continue
        if blob.md5_hash not in (None, digest):
            blob.delete(**_options())
            raise Refused(f"checksum mismatch: MD5 {blob.md5_hash} of the stored object, {digest} of the local file",
                          mismatch=str(blob.md5_hash))  # fmt: skip
        return {"existed": False}
    raise AssertionError


def _is_ours(blob: Any, args: Mapping[str, Any], size: int, digest: str) -> bool:
    if int(blob.size or 0) != size:
        return False
    if blob.md5_hash:
        return bool(blob.md5_hash == digest)
    return bool((blob.metadata or {}).get("adler32") == args["adler32"])  # composed objects have no MD5


def _generation(there: Optional[Any]) -> int:
    """0 = there must be none."""
    return int(there.generation) if there is not None else 0


