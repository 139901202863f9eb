"""Object stores that speak S3, through boto3 in a helper process.

Signed URLs (``signed``) are used as they are, without keys.
"""

from __future__ import annotations

from typing import Mapping

from pilot.copytool.worker.main import Call, Operation
from pilot.copytool.worker.parts import Job
from pilot.copytool.worker.s3_get import download
from pilot.copytool.worker.s3_put import upload
from pilot.copytool.worker.s3_store import client_of, head_of, told


def load() -> dict[str, Operation]:
    """Import the library."""
    import boto3  # noqa: F401

    return {"download": download, "upload": upload, "stat": stat, "remove": remove}


def stat(call: Call) -> Mapping[str, object]:
    """Size, ETag and the note of adler32 of an object."""

    def body() -> Mapping[str, object]:
        try:
            head = head_of(client_of(call.args), call.args)
        except BaseException as exc:
            raise told(call.args, exc) from exc
        noted = head.get("Metadata", {}).get("adler32", "")
        return {"size": head["ContentLength"], "etag": str(head["ETag"]).strip('"'), "adler32": noted}

    return Job(call).run(body)


def remove(call: Call) -> Mapping[str, object]:
    """Delete an object."""

    def body() -> Mapping[str, object]:
        try:
            client_of(call.args).delete_object(Bucket=call.args["bucket"], Key=call.args["key"])
        except BaseException as exc:
            raise told(call.args, exc) from exc
        return {}

    return Job(call).run(body)
