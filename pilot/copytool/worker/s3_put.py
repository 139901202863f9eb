"""Uploads to a store that speaks S3: a look at the destination, then one request, or parts side by side.

```
 HEAD: our content there? ──► PUT, or parts; each body with its Content-MD5: the store refuses what changed on its way
      ──► adler32 of what was sent as expected? ──► complete, if nobody was faster ──► ETag as expected?
 failed or broken off: the parts are given back, nothing is to be seen under the key
```
"""

from __future__ import annotations

import errno
import threading
from base64 import b64encode
from hashlib import md5
from typing import Any, Mapping, Optional

from pilot.copytool.worker.main import Call, Refused
from pilot.copytool.worker.parts import Job, Slice, adler32_of, spans
from pilot.copytool.worker.s3_store import (
    ATTEMPTS,
    THREADS,
    UNCONDITIONAL,
    client_of,
    code_of,
    head_of,
    signed_request,
    told,
)  # fmt: skip

PART = 16 << 20
"""Bytes of a part; files up to this size go in one request. A store takes 10 000 parts at most."""
MOST_PARTS = 9000
ABORT_PAUSE = 0.3
"""Seconds after which the parts of a broken-off upload are given back once more: one may have come in between."""


def upload(call: Call) -> Mapping[str, Any]:
    """Store ``local`` (``size`` bytes, ``adler32``); ``overwrite``: another content may be replaced."""
    args = call.args
    put = _Put(Job(call, int(args["size"])), args)

    def body() -> Mapping[str, Any]:
        try:
            return put.signed() if args.get("signed") else put.all()
        except BaseException as exc:
            raise told(args, exc) from exc

    return put.job.run(body, put.give_back_twice)


class _Put:
    """One upload."""

    def __init__(self, job: Job, args: Mapping[str, Any]) -> None:
        self.job = job
        self.args = args
        self.size = job.size
        self.part = max(PART, -(-self.size // MOST_PARTS))
        self.place = {"Bucket": args.get("bucket"), "Key": args.get("key")}
        self.about = {"Metadata": {"adler32": args["adler32"]}}
        if args.get("content_type"):
            self.about["ContentType"] = args["content_type"]
        self._upload_id = ""
        self._file = open(args["local"], "rb", buffering=0)  # noqa: SIM115 - threads that were left may still read
        self._sums: Optional[list[tuple[int, bytes]]] = None

    def all(self) -> Mapping[str, Any]:
        """Look at the destination, store, and see who was faster."""
        self.client = client_of(self.args)
        condition: dict[str, str] = {"IfNoneMatch": "*"} if self._conditional() else {}
        if self._occupied():
            return {"existed": True}
        if self._other_there:
            condition = {}
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return {"existed": False, "etag": self._store(condition)}
            except Exception as exc:
                code = code_of(exc)
                if code == "NotImplemented" and condition:
                    UNCONDITIONAL.add(str(self.args.get("endpoint")))
                    condition = {}
                elif code == "NoSuchUpload" or (code == "PreconditionFailed" and condition):
                    if self._occupied():  # another one was faster; or it was us, and the answer was lost
                        return {"existed": True}
                elif code != "ConditionalRequestConflict" or not condition:
                    raise
                if attempt == ATTEMPTS:
                    raise
            self.job.wait(0.3 * attempt)
        raise AssertionError

    def _conditional(self) -> bool:
        if str(self.args.get("endpoint")) in UNCONDITIONAL:
            return False
        shape = self.client.meta.service_model.operation_model("PutObject").input_shape
        return "IfNoneMatch" in shape.members  # not in older versions of the library

    # --- what is there already ---------------------------------------------------------------------------------------

    def _occupied(self) -> bool:
        """True when our content lies there already.

        Raises:
            Refused: another one does, and it must stay.
        """
        self._other_there = False
        try:
            head = head_of(self.client, self.args)
        except Exception as exc:
            if code_of(exc) in ("404", "NoSuchKey"):
                return False
            raise
        if self._is_ours(head):
            return True
        if not self.args.get("overwrite"):
            raise Refused(
                f"file exists: {self.args['bucket']}/{self.args['key']} holds another content: "
                f"{head['ContentLength']} B, ETag {head['ETag']}", errno=errno.EEXIST,
            )  # fmt: skip
        self._other_there = True
        return False

    def _is_ours(self, head: Mapping[str, Any]) -> bool:
        """Compare with what a store keeps of a content: our own note of adler32, or the ETag where it is a digest."""
        if int(head["ContentLength"]) != self.size:
            return False
        noted = str(head.get("Metadata", {}).get("adler32", ""))
        if noted:
            return noted.lower().lstrip("0") == str(self.args["adler32"]).lower().lstrip("0")
        etag = str(head["ETag"]).strip('"')
        if "-" not in etag:
            return etag == Slice(self._file.fileno(), 0, self.size, self.job).sums()[1].hex()
        return etag == self._etag([digest for _, digest in self._digests()])

    # --- storing -----------------------------------------------------------------------------------------------------

    def _digests(self) -> list[tuple[int, bytes]]:
        if self._sums is None:
            self._sums = [self._slice(span).sums() for span in spans(self.size, self.part)]
        return self._sums

    def _slice(self, span: tuple[int, int]) -> Slice:
        return Slice(self._file.fileno(), span[0], span[1], self.job)

    def _check(self, sums: list[tuple[int, int]]) -> None:
        """What is sent must be what was summed before."""
        local = adler32_of(sums)
        if local != str(self.args["adler32"]).lower().zfill(8):
            raise Refused(f"checksum mismatch: the local file has adler32 {local} now, not {self.args['adler32']}",
                          mismatch=local)  # fmt: skip

    def _store(self, condition: Mapping[str, str]) -> str:
        if self.size <= self.part:
            body = self._slice((0, self.size))
            adler, digest = body.sums()
            self._check([(adler, self.size)])
            self.job.check()
            answer = self.client.put_object(
                **self.place, **self.about, **condition, Body=body if self.size else b"", ContentLength=self.size,
                ContentMD5=b64encode(digest).decode(),
            )  # fmt: skip
            return self._compared(answer, digest.hex())
        return self._store_parts(condition)

    def _store_parts(self, condition: Mapping[str, str]) -> str:
        self._upload_id = self.client.create_multipart_upload(**self.place, **self.about)["UploadId"]
        try:
            self.job.check()
            pieces = list(enumerate(spans(self.size, self.part), 1))
            parts = self.job.side_by_side(pieces, self._store_part, THREADS)
            self._check([(adler, span[1]) for (_, span), (_, adler, _) in zip(pieces, parts)])
            listed = [{"PartNumber": number, "ETag": etag} for (number, _), (etag, _, _) in zip(pieces, parts)]
            self.job.check()
            answer = self.client.complete_multipart_upload(
                **self.place, **condition, UploadId=self._upload_id, MultipartUpload={"Parts": listed}
            )
        except BaseException:
            self.give_back()
            raise
        self._upload_id = ""
        return self._compared(answer, self._etag([digest for _, _, digest in parts]))

    def _store_part(self, piece: tuple[int, tuple[int, int]]) -> tuple[str, int, bytes]:
        number, span = piece
        body = self._slice(span)
        adler, digest = body.sums()
        answer = self.client.upload_part(
            **self.place, UploadId=self._upload_id, PartNumber=number, Body=body, ContentLength=span[1],
            ContentMD5=b64encode(digest).decode(),
        )  # fmt: skip
        return str(answer["ETag"]), adler, digest

    @staticmethod
    def _etag(digests: list[bytes]) -> str:
        return f"{md5(b''.join(digests), usedforsecurity=False).hexdigest()}-{len(digests)}"

    def _compared(self, answer: Mapping[str, Any], expected: str) -> str:
        """The ETag is a digest of the content, except where the store encrypts with keys of its own."""
        etag = str(answer.get("ETag") or "").strip('"').lower()
        encrypted = "kms" in str(answer.get("ServerSideEncryption")) or answer.get("SSECustomerAlgorithm")
        if encrypted or len(etag) != len(expected) or etag == expected:
            return etag
        if not self.args.get("signed"):
            self.client.delete_object(**self.place)
        raise Refused(f"checksum mismatch: ETag {etag} of the stored object, {expected} of the local file",
                      mismatch=etag)  # fmt: skip

    # --- taking back -------------------------------------------------------------------------------------------------

    def give_back(self) -> None:
        """Have the store forget the parts."""
        if not self._upload_id:
            return
        try:
            self.client.abort_multipart_upload(**self.place, UploadId=self._upload_id)
        except Exception:  # noqa: BLE001 - a failure is on its way already; the store's own rules remove old parts
            return

    def give_back_twice(self) -> None:
        """After an abort: a part that was on its way may have come in."""
        self.give_back()
        threading.Event().wait(ABORT_PAUSE if self._upload_id else 0)
        self.give_back()

    def signed(self) -> Mapping[str, Any]:
        """Store by a signed URL: one request, no look at what is there."""
        body = self._slice((0, self.size))
        adler, digest = body.sums()
        self._check([(adler, self.size)])
        headers = {"Content-Length": str(self.size)}
        if "x-amz-signature" in str(self.args["url"]).lower():  # an older kind of signature would not hold with it
            headers["Content-MD5"] = b64encode(digest).decode()
        answer = signed_request(self.args, "PUT", body=body if self.size else b"", headers=headers)
        answer.drain_conn()
        return {"existed": False, "etag": self._compared(answer.headers, digest.hex())}
