"""Downloads from a store that speaks S3: pieces of one version of an object, side by side, summed on the way."""

from __future__ import annotations

import zlib
from functools import partial
from typing import Any, Mapping

from pilot.copytool.worker.main import Call, Refused
from pilot.copytool.worker.parts import BLOCK, Job, Target, adler32_of, spans
from pilot.copytool.worker.s3_store import ATTEMPTS, THREADS, client_of, code_of, head_of, signed_request, told

PART = 16 << 20
"""Bytes of a piece."""


def download(call: Call) -> Mapping[str, Any]:
    """Fetch an object to ``local``; ``size`` is the expected one, 0 = unknown. Returns size and adler32."""
    args = call.args
    job = Job(call, int(args.get("size") or 0))

    def body() -> Mapping[str, Any]:
        try:
            target = Target(args["local"])
            if args.get("signed"):
                return _fetch_signed(job, args, target)
            return _fetch_all(job, args, client_of(args), target)
        except BaseException as exc:
            raise told(args, exc) from exc

    return job.run(body)


def _fetch_all(job: Job, args: Mapping[str, Any], client: Any, target: Target) -> Mapping[str, Any]:
    """Without a size the first piece tells it."""
    versions: set[str] = set()

    def fetch(span: tuple[int, int]) -> tuple[int, int, int]:
        return _fetch(job, args, client, target, span, versions)

    try:
        known = spans(job.size, PART) if job.size else [(0, PART)]
        done = job.side_by_side(known, fetch, THREADS)
        total = done[0][2]
        rest = [span for span in spans(total, PART) if span[0] >= PART] if not job.size and total > PART else []
        done += job.side_by_side(rest, fetch, THREADS) if rest else []
    except Exception as exc:
        if code_of(exc) != "InvalidRange":  # an empty object, or one that is shorter than expected
            raise
        return {"size": head_of(client, args)["ContentLength"], "adler32": "00000001"}
    return {"size": total, "adler32": adler32_of([(adler, length) for adler, length, _ in done])}


def _fetch(
    job: Job, args: Mapping[str, Any], client: Any, target: Target, span: tuple[int, int], versions: set[str]
) -> tuple[int, int, int]:
    """Fetch one piece; a broken connection costs what is missing only. Returns adler32, length, size of the object."""
    from botocore.exceptions import HTTPClientError, IncompleteReadError, ResponseStreamingError

    position, end = span[0], span[0] + span[1]
    adler, total, attempt = 1, 0, 0
    while True:
        attempt += 1
        more = {"IfMatch": min(versions)} if versions else {}
        answer = client.get_object(
            Bucket=args["bucket"], Key=args["key"], Range=f"bytes={position}-{end - 1}", **more
        )
        versions.add(answer["ETag"])
        if len(versions) > 1:
            raise Refused(f"the object {args['bucket']}/{args['key']} was replaced while it was read")
        total = int(str(answer.get("ContentRange", "")).rpartition("/")[2] or answer["ContentLength"])
        end = min(end, total)
        try:
            while position < end:
                job.check()
                data = answer["Body"].read(min(BLOCK, end - position))
                if not data:
                    break
                target.write(data, position)
                adler = zlib.adler32(data, adler)
                position += len(data)
                job.count(len(data))
        except (HTTPClientError, IncompleteReadError, ResponseStreamingError) as exc:
            if attempt == ATTEMPTS:
                raise Refused(f"connection error while reading {args['bucket']}/{args['key']}: {exc}") from exc
        finally:
            answer["Body"].close()
        if position >= end:
            return adler, end - span[0], total
        if attempt == ATTEMPTS:
            raise Refused(f"connection error: {args['bucket']}/{args['key']} ends at {position} of {end} B")
        job.wait(0.5 * attempt)


def _fetch_signed(job: Job, args: Mapping[str, Any], target: Target) -> Mapping[str, Any]:
    answer = signed_request(args, "GET")
    position, adler = 0, 1
    for data in iter(partial(answer.read, BLOCK), b""):
        job.check()
        target.write(data, position)
        adler = zlib.adler32(data, adler)
        position += len(data)
        job.count(len(data))
    return {"size": position, "adler32": f"{adler:08x}"}
