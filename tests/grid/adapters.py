"""What the conformance suite has to know of a copytool and of the storage it is tried with.

To have another tool tested, write an ``Adapter`` for it, give it out by a fixture called ``adapter``, and let the test
class inherit the cases of ``tests/grid/conformance.py`` that make sense for it.
"""

from __future__ import annotations

import os
import zlib
from abc import ABC, abstractmethod
from dataclasses import replace
from hashlib import md5
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Optional, Tuple, cast

from pilot.copytool.base import CopyTool, Direction, Outcome, ToolConfig, Transfer, TransferResult
from pilot.copytool.registry import load_tool
from pilot.util.cancel import CancelToken
from pilot.util.helper import HelperPool
from tests.grid.testbed.gcs import Gcs
from tests.grid.testbed.s3 import S3
from tests.grid.testbed.xrootd import GsiXRootD, XRootD

SMALL = b"forty-two bytes that travel over the wire.\n"


def adler32(content: bytes) -> str:
    """The checksum as the file lists have it."""
    return f"{zlib.adler32(content):08x}"


def checksums(content: bytes, *kinds: str) -> Dict[str, str]:
    """``{kind: hex}``, adler32 when no kind is named."""
    known = {"adler32": adler32, "md5": lambda data: md5(data).hexdigest()}
    return {kind: known[kind](content) for kind in kinds or ("adler32",)}


class Adapter(ABC):
    """One copytool with one real storage.

    Args:
        workdir: empty directory of this test; the job's directory in it is ``local``.
        helpers: for tools with a client library.
    """

    tool_name = ""
    """As in the queue's ``copytools``."""
    impossible: Tuple[str, ...] = ()
    """Characters of a file name that the protocol has no way to say; the tool must refuse, not store another name."""
    denied = {"in": (1338,), "out": (1383,)}
    """Pilot error codes for a storage that refuses."""
    scope = "user.tester"

    def __init__(self, workdir: Path, helpers: HelperPool) -> None:
        self.workdir = workdir
        self.helpers = helpers
        self.local = workdir / "job dir"
        self.local.mkdir()
        self.variables: Dict[str, str] = {}
        """Environment variables on top of those of the storage."""

    # --- the storage, behind the tool's back -------------------------------------------------------------------------

    @abstractmethod
    def url_for(self, name: str, port: int = 0) -> str:
        """The URL of a file, not percent-encoded, as the pilot builds it; ``port``: of a door before the storage."""

    @abstractmethod
    def put(self, name: str, content: bytes) -> None:
        """Store a file."""

    @abstractmethod
    def get(self, name: str) -> bytes:
        """Read a stored file."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Whether there is a file of this name, complete or not."""

    def identity(self, name: str) -> object:
        """Something that changes when the file is written again."""
        raise NotImplementedError

    def deny(self, name: str) -> None:
        """Make the storage refuse to read or write this file."""
        raise NotImplementedError

    @property
    def server(self) -> Tuple[str, int]:
        """Where the storage listens for the bytes: a ``Gate`` is put in front of it."""
        raise NotImplementedError

    def kill_server(self) -> None:
        """SIGKILL; only storages that belong to one test alone."""
        raise NotImplementedError

    def start_server(self) -> None:
        """Have it back at the same address."""
        raise NotImplementedError

    # --- the tool ----------------------------------------------------------------------------------------------------

    def environ(self) -> Dict[str, str]:
        """Environment of commands and helpers."""
        return {"PATH": os.environ["PATH"], "HOME": str(self.workdir.parent), "RES_OPTIONS": "timeout:1 attempts:1",
                "XRD_CONNECTIONWINDOW": "5", "XRD_CONNECTIONRETRY": "1"}

    def options(self) -> Mapping[str, object]:
        """The queue's settings for the tool."""
        return {}

    def config(self, **changes: Any) -> ToolConfig:
        """Surroundings of the tool."""
        environ = {**self.environ(), **self.variables}
        given: Dict[str, Any] = {"options": self.options(), "workdir": self.local, "environ": environ,
                                 "helpers": self.helpers}
        return ToolConfig(**{**given, **changes})

    def tool(self, **changes: Any) -> CopyTool:
        """A new instance."""
        return load_tool(self.tool_name, self.config(**changes))

    def order(self, direction: Direction, name: str, **changes: Any) -> Transfer:
        """An order for the file ``name``."""
        lfn = name.rpartition("/")[2]
        given: Dict[str, Any] = {"direction": direction, "lfn": lfn, "local": self.local / lfn, "scope": self.scope,
                                 "url": self.url_for(name), "endpoint": "TEST_DISK", "timeout": 100.0}
        return Transfer(**{**given, **changes})

    def download(self, name: str, content: Optional[bytes] = None, **changes: Any) -> Transfer:
        """The order to fetch ``name``, with the size and checksum of ``content`` when given."""
        if content is not None:
            changes = {"size": len(content), "checksum": checksums(content), **changes}
        return self.order(Direction.IN, name, **changes)

    def upload(self, name: str, content: bytes, **changes: Any) -> Transfer:
        """The order to store ``name``; the local file is written here."""
        transfer = self.order(Direction.OUT, name, **changes)
        transfer.local.write_bytes(content)
        return transfer


def move(
    tool: CopyTool, transfer: Transfer, token: Optional[CancelToken] = None, progress: Any = None
) -> TransferResult:
    """Carry out one order as the planner does; raises what the tool raises."""
    token = token or CancelToken()
    progress = progress or (lambda _count: None)
    tool.prepare([transfer])
    if tool.features.bulk:
        outcomes: list[Outcome] = []
        tool.copy_many([transfer], token, progress, lambda _transfer, outcome: outcomes.append(outcome))
        assert len(outcomes) == 1, f"one order, outcomes: {outcomes}"
        if isinstance(outcomes[0], Exception):
            raise outcomes[0]
        return outcomes[0]
    return (tool.copy_in if transfer.direction is Direction.IN else tool.copy_out)(transfer, token, progress)


class XRootDAdapter(Adapter):
    """Files of a testbed's XRootD server; its files are seen on disk."""

    web = False
    """Use http(s) in place of root."""
    command = False
    """Use the command even where the library is here."""

    def __init__(self, workdir: Path, helpers: HelperPool, storage: XRootD) -> None:
        super().__init__(workdir, helpers)
        self.storage = storage
        self.base = f"/{workdir.parent.name}/{workdir.name}"

    @property
    def server(self) -> Tuple[str, int]:
        """Of the protocol in use."""
        return ("127.0.0.1", self.storage.web_port if self.web else self.storage.port)

    def url_for(self, name: str, port: int = 0) -> str:
        """``root://host:port//path`` or ``http://host:port/path``."""
        path = f"{self.base}/{name}"
        scheme = self.scheme()
        return f"{scheme}://{self.storage.host}:{port or self.server[1]}{'' if self.web else '/'}{path}"

    def scheme(self) -> str:
        """As in the URL."""
        if not self.web:
            return "root"
        return "davs" if isinstance(self.storage, GsiXRootD) else "http"

    def environ(self) -> Dict[str, str]:
        """With the storage's own variables."""
        return {**super().environ(), **self.storage.env}

    def options(self) -> Mapping[str, object]:
        """Library or command."""
        return {"use": "command"} if self.command else {}

    def put(self, name: str, content: bytes) -> None:
        """Write it on the storage's disk."""
        self.storage.put(f"{self.base}/{name}", content)

    def path(self, name: str) -> Path:
        """Where the storage keeps it."""
        return self.storage.path(f"{self.base}/{name}")

    def get(self, name: str) -> bytes:
        """Read it from the storage's disk."""
        return self.path(name).read_bytes()

    def exists(self, name: str) -> bool:
        """Look on the storage's disk."""
        return self.path(name).exists()

    def identity(self, name: str) -> object:
        """Inode and change of the file."""
        status = self.path(name).stat()
        return status.st_ino, status.st_mtime_ns

    def deny(self, name: str) -> None:
        """Nobody but root may use the directory."""
        directory = self.storage.mkdir(str(Path(f"{self.base}/{name}").parent))
        if os.geteuid() == 0:
            os.chown(directory, 0, 0)
        directory.chmod(0o700 if os.geteuid() == 0 else 0)

    def kill_server(self) -> None:
        """SIGKILL."""
        for process in self.storage.processes:
            process.kill()
            process.wait()

    def start_server(self) -> None:
        """At the same ports."""
        self.storage.stop()
        self.storage.start()


class Xrdcp(XRootDAdapter):
    """xrdcp with the XRootD library."""

    tool_name = "xrdcp"
    impossible = ("?",)


class XrdcpCommand(Xrdcp):
    """The command xrdcp."""

    command = True


class GfalRoot(XRootDAdapter):
    """gfal2 and root://."""

    tool_name = "gfal"
    impossible = ("?",)


class GfalHttp(XRootDAdapter):
    """gfal2 and http:// or davs://."""

    tool_name = "gfal"
    impossible = ("?",)  # of XRootD's web door, which takes even an encoded one for the begin of options
    web = True


class GfalRootCommand(GfalRoot):
    """gfal-copy and root://."""

    command = True


class GfalHttpCommand(GfalHttp):
    """gfal-copy and http:// or davs://."""

    command = True


class S3Store(Adapter):
    """Objects of a testbed's store, by the tool s3."""

    tool_name = "s3"
    bucket = "conformance"

    def __init__(self, workdir: Path, helpers: HelperPool, store: S3) -> None:
        super().__init__(workdir, helpers)
        self.store = store
        self.client = store.client()
        self.client.create_bucket(Bucket=self.bucket)
        self.base = f"{workdir.parent.name}/{workdir.name}"

    @property
    def server(self) -> Tuple[str, int]:
        """The store's port."""
        return ("127.0.0.1", self.store.port)

    def url_for(self, name: str, port: int = 0) -> str:
        """``s3://host:port/bucket/key``."""
        return f"s3://127.0.0.1:{port or self.store.port}/{self.bucket}/{self.base}/{name}"

    def options(self) -> Mapping[str, object]:
        """The store has no TLS."""
        return {"is_secure": "False"}

    def environ(self) -> Dict[str, str]:
        """With keys; the address of the store comes from the URL."""
        keys = {name: value for name, value in self.store.env.items() if "ENDPOINT" not in name}
        return {**super().environ(), **keys}

    def put(self, name: str, content: bytes) -> None:
        """As another client does."""
        self.client.put_object(Bucket=self.bucket, Key=f"{self.base}/{name}", Body=content)

    def get(self, name: str) -> bytes:
        """As another client does."""
        content: bytes = self.client.get_object(Bucket=self.bucket, Key=f"{self.base}/{name}")["Body"].read()
        return content

    def exists(self, name: str) -> bool:
        """The object, or parts of it."""
        found = self.client.list_objects_v2(Bucket=self.bucket, Prefix=f"{self.base}/{name}")
        return bool(found["KeyCount"]) or self.parts(name) > 0

    def order_out(self, name: str, local: Path) -> Transfer:
        """The order to store a file that lies elsewhere."""
        return replace(self.order(Direction.OUT, name), local=local)

    def parts(self, name: str) -> int:
        """Uploads in parts that are neither complete nor given back."""
        uploads = self.client.list_multipart_uploads(Bucket=self.bucket).get("Uploads", [])
        return len([upload for upload in uploads if upload["Key"] == f"{self.base}/{name}"])

    def identity(self, name: str) -> object:
        """Time of the last change."""
        return self.client.head_object(Bucket=self.bucket, Key=f"{self.base}/{name}")["LastModified"]


class _Late:
    """A tool that is made when something is wanted of it."""

    def __init__(self, make: Callable[[], CopyTool]) -> None:
        self._make = make
        self._tool: Optional[CopyTool] = None

    def __getattr__(self, name: str) -> Any:
        self._tool = self._tool or self._make()
        return getattr(self._tool, name)


class GsStore(Adapter):
    """Objects of an imitated Google Cloud Storage."""

    tool_name = "gs"
    bucket = "conformance"

    def __init__(self, workdir: Path, helpers: HelperPool, store: Gcs) -> None:
        super().__init__(workdir, helpers)
        self.store = store
        self.port = store.port
        self.client = store.client()
        if self.client.lookup_bucket(self.bucket) is None:
            self.client.create_bucket(self.bucket)
        self.base = f"{workdir.parent.name}/{workdir.name}"

    @property
    def server(self) -> Tuple[str, int]:
        """The store's port."""
        return ("127.0.0.1", self.store.port)

    def url_for(self, name: str, port: int = 0) -> str:
        """``gs://bucket/key`` has no port: the next tool goes through that door."""
        self.port = port or self.port
        return f"gs://{self.bucket}/{self.base}/{name}"

    def environ(self) -> Dict[str, str]:
        """With the address of the store."""
        return {**super().environ(), **self.store.env_at(self.port)}

    def tool(self, **changes: Any) -> CopyTool:
        """Made with its first order, when it is known through which door that goes."""
        return cast(CopyTool, _Late(lambda: super(GsStore, self).tool(**changes)))

    def config(self, **changes: Any) -> ToolConfig:
        """The door counts for one tool."""
        config = super().config(**changes)
        self.port = self.store.port
        return config

    def _blob(self, name: str) -> Any:
        return self.client.bucket(self.bucket).blob(f"{self.base}/{name}")

    def put(self, name: str, content: bytes) -> None:
        """As another client does."""
        self._blob(name).upload_from_string(content)

    def get(self, name: str) -> bytes:
        """As another client does."""
        content: bytes = self._blob(name).download_as_bytes()
        return content

    def exists(self, name: str) -> bool:
        """Whether there is such an object."""
        return bool(self._blob(name).exists())

    def identity(self, name: str) -> object:
        """Time of the last change."""
        blob = self._blob(name)
        blob.reload()
        return blob.updated
