"""What every copytool is: a few methods, a description of what it can do, and the orders and results that pass.

A copytool moves one file per call (a bulk tool: some files) and knows nothing of jobs, threads and queues; who calls
it decides how many run side by side, which replica or tool comes next after a failure, and what the job makes of it.

```
 stage-in   Transfer(IN)  --> tool.copy_in  --> TransferResult   file lies at transfer.local, verified
 stage-out  Transfer(OUT) --> tool.copy_out --> TransferResult   url, endpoint, size, checksum for the server
                              raises PilotException (1099/1137 or narrower), nothing half-written left behind
```
"""

from __future__ import annotations

import errno
import os
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, ClassVar, Mapping, Optional, Sequence, Union

from pilot.common.exception import PilotException
from pilot.util.cancel import CancelToken
from pilot.util.checksum import KNOWN_ALGORITHMS, Progress, UnknownChecksumType, file_checksums, same_checksum
from pilot.util.copying import free_bytes
from pilot.util.helper import HelperPool

if TYPE_CHECKING:
    from pilot.info.storage import StorageData


class Direction(Enum):
    """Which way a file goes."""

    IN = "stage-in"
    OUT = "stage-out"


class TransferFailure(PilotException):
    """A transfer that failed.

    Args:
        *details: what, from where, to where, why.
        code: pilot error code.
        state: ``clientState`` of the Rucio trace (data management document 10.3).
    """

    default_code = 1099

    remains = False
    """Stage-out: a partial file of ours may lie at the destination: the next attempt may replace it."""
    untried = False
    """Another file of the same ``copy_many`` was broken off before this one was begun: it is ordered again as it is."""

    def __init__(self, *details: object, code: Optional[int] = None, state: str = "COPY_ERROR") -> None:
        super().__init__(*details, code=code)
        self.state = state


@dataclass(frozen=True)
class Features:
    """What a tool can do and needs; the callers ask this instead of asking for names."""

    schemes: tuple[str, ...] = ()
    """URL schemes in the order of preference; empty = any (the queue's ``acopytools_schemas`` overrides)."""
    checksums: tuple[str, ...] = ("adler32", "md5")
    """Checksum types that are verified on the way in."""
    bulk: bool = False
    """Several files in one call are cheaper than one by one: ``copy_many`` is called instead of the other two."""
    needs_replicas: bool = False
    """Stage-in: look the replicas up in the catalogue first."""
    needs_protocols_in: bool = False
    """Stage-in: build the URL from the endpoint's protocols."""
    needs_protocols_out: bool = True
    """Stage-out: build the URL from the endpoint's protocols, fail when there are none."""
    needs_endpoint: bool = True
    """Stage-out: a file without a storage endpoint cannot be stored (1133)."""
    needs_proxy: bool = False
    """Works with an X.509 proxy: a refused login without one is 1163."""
    needs_token: bool = False
    """Works with a bearer token."""
    reports_progress: bool = False
    """``progress`` is called at least every few MB: a copy without a moved byte for ``transfers.no_progress_timeout``
    is broken off. A tool that cannot tell gets the order's ``timeout`` for the whole copy."""
    abortable: bool = True
    """A running transfer ends within about a second of the token's cancellation."""
    writes_locally: bool = True
    """Stage-in fills the local disk (False: links)."""
    direct_access: bool = True
    """Inputs may be left where they are for the payload to open."""
    third_party: bool = False
    """Runs processes that are not the pilot's: a client's command, a site's script."""
    traced: bool = True
    """Each attempt is reported to Rucio as a trace."""


@dataclass(frozen=True)
class Replica:
    """One place where an input may be read."""

    url: str
    endpoint: str = ""
    domain: str = ""


@dataclass(frozen=True)
class Transfer:
    """The order to move one file.

    ``size`` (bytes, 0 = unknown) and ``checksum`` (``{adler32|md5: hex}``, empty = unknown) are the catalogue's on the
    way in, those of the local file, when they are known already, on the way out.
    """

    direction: Direction
    lfn: str
    local: Path
    """Where the input is put, or the output lies."""
    scope: str = ""
    dataset: str = ""
    guid: str = ""
    size: int = 0
    checksum: Mapping[str, str] = field(default_factory=dict)
    endpoint: str = ""
    """Storage endpoint (RSE) that is tried."""
    url: str = ""
    """URL to read from or write to; empty = the tool finds out."""
    replicas: tuple[Replica, ...] = ()
    path: str = ""
    """Deterministic path of the file below an endpoint's prefix."""
    protocol_id: int = 0
    """Id of the endpoint's protocol in ``url`` (keys of object stores)."""
    direct_access: bool = False
    """The queue and the job ask for this input to be opened remotely."""
    is_log: bool = False
    timeout: float = 0.0
    """Seconds that the transfer may take; 0 = no limit of its own."""
    overwrite: bool = False
    """Stage-out: another content at the destination may be replaced (setting, or the remains of an attempt of ours)."""
    attempt: int = 1
    """Number of this try of the file, over all replicas, tools and repetitions."""
    pause: float = 0.0
    """Seconds to wait before this attempt: the last one has just failed."""
    transfer_id: str = ""
    """Joins log, trace, PilotDB and report."""


@dataclass(frozen=True)
class FilePlace:
    """What the URL of a file at an endpoint depends on."""

    lfn: str
    scope: str
    dataset: str
    path: str
    """Deterministic path."""
    protocol_id: int


@dataclass(frozen=True)
class TransferResult:
    """What became of a successful transfer; size in bytes."""

    size: int
    checksum: Mapping[str, str] = field(default_factory=dict)
    url: str = ""
    endpoint: str = ""
    linked: bool = False
    """The input is a link: it takes no space in the work directory."""
    verified: bool = True
    """False when nothing was known to compare with."""
    protocol: str = ""
    """Scheme that was really used, where the tool chose it."""
    existed: bool = False
    """Stage-out: the same content lay at the destination already."""
    log_url: str = ""
    """Stage-out of a log: where a browser finds the pilot's log, when it was stored as a file of its own."""


def _no_keys(_public: str, _private: str) -> tuple[str, str]:
    return "", ""


@dataclass(frozen=True)
class ToolConfig:
    """What the surroundings tell a tool.

    ``options`` is the tool's entry in the queue's ``copytools``; directories are absolute.
    """

    options: Mapping[str, object] = field(default_factory=dict)
    pilot_home: Path = Path()
    launch_dir: Path = Path()
    input_dir: Optional[Path] = None
    output_dir: Optional[Path] = None
    input_destination_dir: Optional[Path] = None
    final_destination: bool = False
    checksum_type: str = "adler32"
    chunk: int = 1 << 20
    fsync: bool = False
    workdir: Path = Path()
    """The job's directory: where commands run and leave their logs."""
    environ: Mapping[str, str] = field(default_factory=dict)
    """Complete environment of commands and helper processes; holds the proxy of this direction."""
    helpers: HelperPool = field(default_factory=HelperPool)
    """Processes for client libraries."""
    storage: Callable[[list[str]], Mapping[str, StorageData]] = field(default=lambda _names: {})
    """Endpoint descriptions by name (space tokens, types, keys)."""
    key_pair: Callable[[str, str], tuple[str, str]] = _no_keys
    """(public key name, private key name) -> the keys of an object store, from the PanDA server; empty = none."""
    rucio_host: str = ""
    job_id: str = ""
    queue: str = ""
    parallel: int = 1
    """Files that are moved at the same time."""

    @property
    def proxy(self) -> str:
        """Path of the X.509 proxy of this direction, empty = none."""
        return self.environ.get("X509_USER_PROXY", "")

    def has_credential(self) -> bool:
        """True when there is a proxy file or a token to log in with."""
        if self.environ.get("BEARER_TOKEN"):
            return True
        names = (self.proxy, self.environ.get("BEARER_TOKEN_FILE", ""))
        return any(name and os.access(name, os.R_OK) for name in names)

    def credential_trouble(self) -> str:
        """Say what is wrong with the proxy or token, for the text of a refused log-in; empty = nothing to be seen."""
        if not self.has_credential():
            return "there is no proxy and no token here"
        from pilot.util.x509 import valid_until

        end = valid_until(self.proxy) if self.proxy else None
        if end is None or end > time.time():
            return ""
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(end))
        return f"the proxy {self.proxy} expired on {when} UTC"

    def option(self, name: str, default: str = "") -> str:
        """Return a text of the queue's settings for this tool."""
        value = self.options.get(name)
        return default if value in (None, "") else str(value)


Outcome = Union[TransferResult, PilotException]


class CopyTool(ABC):
    """One way to move files. Instances belong to one group of files; ``copy_*`` run in several threads at once."""

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    """One line for the table of tools in the documentation."""
    library: ClassVar[str] = ""
    """What has to be installed, for the same table."""

    def __init__(self, config: ToolConfig) -> None:
        """Keep ``config``. May raise MiddlewareImportFailure (1342) or 1341 for a wrong queue setting."""
        self.config = config

    @property
    @abstractmethod
    def features(self) -> Features:
        """What this tool, configured like this, can do."""

    def prepare(self, transfers: Sequence[Transfer]) -> None:  # noqa: B027 - a hook with a default
        """Look at all orders before the first copy; called once. An exception fails all of them for this tool."""

    def destination_url(self, place: FilePlace, storage: StorageData, endpoint: str, prefix: str) -> Optional[str]:
        """Return the URL of a file where the tool has path rules of its own (object stores), else None.

        Args:
            place: the file.
            storage: the endpoint's description.
            endpoint: of the chosen protocol (``s3://host:port``).
            prefix: path of the chosen protocol.
        """
        return None

    def copy_in(self, transfer: Transfer, token: CancelToken, progress: Progress) -> TransferResult:
        """Bring one input to ``transfer.local`` and verify it."""
        raise NotImplementedError

    def copy_out(self, transfer: Transfer, token: CancelToken, progress: Progress) -> TransferResult:
        """Store one output and verify it."""
        raise NotImplementedError

    def copy_many(
        self,
        transfers: Sequence[Transfer],
        token: CancelToken,
        progress: Progress,
        done: Callable[[Transfer, Outcome], None],
    ) -> None:
        """Move several files of one direction; tell each outcome as soon as it is known (``Features.bulk``).

        What is raised here counts for all files that have no outcome yet.
        """
        raise NotImplementedError

    def finish(self, done: Sequence[tuple[Transfer, TransferResult]]) -> None:  # noqa: B027 - a hook with a default
        """Called once after the last copy with what succeeded."""


ToolFactory = Callable[[ToolConfig], CopyTool]


def check_size(transfer: Transfer, size: int, source: object) -> None:
    """Compare with the catalogue's size, when there is one.

    Raises:
        TransferFailure: 1099 with both sizes.
    """
    if transfer.size and size != transfer.size:
        raise TransferFailure(
            f"size mismatch for {transfer.lfn}: catalog={transfer.size} B local={size} B ({source})", code=1099
        )


def check_checksum(transfer: Transfer, local: Mapping[str, str]) -> bool:
    """Compare each sum that both sides have; False when there is none to compare.

    Raises:
        TransferFailure: 1171 (adler32) or 1145 (md5) at stage-in, 1172 or 1141 at stage-out.
    """
    common = [name for name in ("adler32", "md5") if transfer.checksum.get(name) and local.get(name)]
    for name in common:
        if same_checksum(transfer.checksum[name], local[name]):
            continue
        inward = transfer.direction is Direction.IN
        code = {("adler32", True): 1171, ("md5", True): 1145, ("adler32", False): 1172, ("md5", False): 1141}
        raise TransferFailure(
            f"checksum verification failed for LFN={transfer.lfn}: "
            f"checksum (catalog)={transfer.checksum[name]} != checksum (local)={local[name]}",
            code=code[name, inward],
            state="AD_MISMATCH" if name == "adler32" else "MD5_MISMATCH",
        )
    return bool(common)


def byte_events(progress: Progress) -> Callable[[Mapping[str, Any]], None]:
    """Return a listener for a helper's events ``{"bytes": done so far}`` that tells ``progress`` each step."""
    moved = 0

    def tell(event: Mapping[str, Any]) -> None:
        nonlocal moved
        done = int(event.get("bytes", moved))
        progress(max(0, done - moved))
        moved = done

    return tell


def wanted_checksum(transfer: Transfer) -> tuple[str, ...]:
    """Return the one checksum of the catalogue to compare with (adler32 before md5, it is faster), or nothing.

    Raises:
        UnknownChecksumType: 1314, the catalogue has sums, but of no type that is known here.
    """
    given = [name for name, value in transfer.checksum.items() if value]
    for name in KNOWN_ALGORITHMS:
        if name in given:
            return (name,)
    if given:
        raise UnknownChecksumType(
            f"checksum type {', '.join(given)} of {transfer.lfn}, known are {', '.join(KNOWN_ALGORITHMS)}"
        )
    return ()


def verify_local(
    transfer: Transfer, path: Path, token: CancelToken, progress: Progress
) -> tuple[int, dict[str, str], bool]:
    """Compare what has arrived with the catalogue: size first, then one checksum.

    Returns:
        size (bytes), the checksums that were computed, and whether there was one to compare with.

    Raises:
        TransferFailure: 1099 (size), 1171 (adler32), 1145 (md5).
        UnknownChecksumType: 1314, nothing that is known here to compare with.
        ChecksumFailure: 1366, the file cannot be read.
        OSError: it is not there.
    """
    size = os.stat(path).st_size
    if size < transfer.size:
        _check_room(transfer, size, path)
    check_size(transfer, size, path)
    wanted = wanted_checksum(transfer)
    if not wanted:
        return size, {}, False
    size, sums = file_checksums(path, wanted, token, progress)
    check_size(transfer, size, path)
    check_checksum(transfer, sums)
    return size, sums, True


def _check_room(transfer: Transfer, size: int, path: Path) -> None:
    """Some clients (xrdcp) do not notice that the disk was full."""
    free = free_bytes(path.parent)
    if free < transfer.size - size:
        raise TransferFailure(
            f"no space left on device: {transfer.lfn}: {size} of {transfer.size} B arrived at {path}, free: {free} B",
            code=1098, state="NO_SPACE",
        )  # fmt: skip


_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def failure_of(exc: OSError, transfer: Transfer, target: Path | None = None) -> TransferFailure:
    """Turn an error of the operating system into the code of the direction (copytools document 2.2).

    Args:
        exc: the error; its ``filename`` says which side failed.
        transfer: the order.
        target: where was written, for the free space in the text.
    """
    inward = transfer.direction is Direction.IN
    where = exc.filename or transfer.local
    both = f"{where} -> {exc.filename2}" if exc.filename2 else where  # rename and symlink name two files
    text = f"{transfer.lfn}: {exc.strerror or exc}: {both}"
    if exc.errno in _NO_SPACE:
        return TransferFailure(
            f"{text} (free: {_free(target or Path(str(where)))})", code=1098 if inward else 1333, state="NO_SPACE"
        )
    if exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
        return TransferFailure(text, code=1331 if inward else 1103, state="MISSING_INPUT" if inward else "NO_FILE")
    if exc.errno == errno.EEXIST:
        return TransferFailure(text, code=1221, state="FILE_EXISTS")
    if exc.errno == errno.ETIMEDOUT:
        return TransferFailure(text, code=1151 if inward else 1152, state="CP_TIMEOUT")
    if exc.errno in (errno.EIO, errno.ESTALE) and str(where) != str(target):
        return TransferFailure(f"unreadable: {text}", code=1366, state="CHECKSUMCALCULATIONFAILURE")
    return TransferFailure(text, code=1099 if inward else 1137)


def _free(path: Path) -> str:
    try:
        return f"{free_bytes(path if path.is_dir() else path.parent)} B"
    except OSError:
        return "unknown"
