"""Local files: inputs are linked, copied or moved into the job's directory, outputs moved or copied out of it.

The queue chooses with ``copytools: {"mv": {"copy_in": "symlink|cp|mv", "copy_out": "mv|cp"}}``; default is symlink in,
mv out. Used by ARC (which finds what to upload in ``output.list``), by sites with a shared file system (final
destination mode: storage path layout), and on one's own machine.

A name that exists at the destination: same size and checksum is success (an earlier attempt got that far). Different:
replaced in ``--output-dir`` and where ``output.list`` says that we delivered it; refused (1221) elsewhere, for the
storage layout and the pilot's own directory hold files that are not ours to overwrite.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from pathlib import Path
from threading import Lock
from typing import ClassVar, Sequence

from pilot.common.exception import MKDirFailure
from pilot.copytool.base import (
    CopyTool,
    Direction,
    Features,
    ToolConfig,
    Transfer,
    TransferFailure,
    TransferResult,
    check_checksum,
    check_size,
    failure_of,
    wanted_checksum,
)
from pilot.util.cancel import CancelToken
from pilot.util.checksum import Progress, file_checksums, open_regular, same_checksum
from pilot.util.copying import copy_with_checksum, free_bytes, placed
from pilot.util.safepath import UnsafePath, inside

OUTPUT_LIST = "output.list"
"""Read by the ARC CE after the job: one line ``<lfn> <url>:checksumtype=<type>:checksumvalue=<value>`` per file."""

logger = logging.getLogger(__name__)

_output_list_lock = Lock()


class MoveTool(CopyTool):
    """Move, copy or link on locally mounted file systems."""

    name: ClassVar[str] = "mv"
    summary = "mounted file systems: link, copy or move"

    def __init__(self, config: ToolConfig) -> None:
        """Check the kinds of copy that the queue asks for (1341 when unknown)."""
        super().__init__(config)
        self.kind_in = self._kind("copy_in", ("symlink", "cp", "mv"))
        self.kind_out = self._kind("copy_out", ("mv", "cp"))
        self._delivered: frozenset[str] = frozenset()

    def _kind(self, option: str, allowed: tuple[str, ...]) -> str:
        kind = str(self.config.options.get(option) or allowed[0])
        if kind not in allowed:
            raise TransferFailure(
                f"bad queue configuration - copytool mv: {option}={kind!r}, allowed are {', '.join(allowed)}", code=1341
            )
        return kind

    @property
    def features(self) -> Features:
        """Any scheme, no storage data needed unless files go to their final destination."""
        return Features(
            needs_protocols_out=self.config.final_destination and self.config.output_dir is None,
            needs_endpoint=False,
            reports_progress=True,
            writes_locally=self.kind_in != "symlink",
            direct_access=False,
            traced=False,
        )

    def prepare(self, transfers: Sequence[Transfer]) -> None:
        """Refuse direct access (1341), and read what ``output.list`` says of earlier deliveries."""
        if any(transfer.direct_access for transfer in transfers):
            raise TransferFailure("bad queue configuration - mv does not support direct access", code=1341)
        if any(transfer.direction is Direction.OUT for transfer in transfers):
            self._delivered = frozenset(_read_output_list(self.config.pilot_home / OUTPUT_LIST))

    # --- stage-in ----------------------------------------------------------------------------------------------------

    def copy_in(self, transfer: Transfer, token: CancelToken, progress: Progress) -> TransferResult:
        """Find the input, compare size and checksum with the catalogue, put it at ``transfer.local``."""
        source = self._find_input(transfer)
        target = transfer.local
        try:
            info = os.stat(source)
            check_size(transfer, info.st_size, source)
            if target.exists() and os.path.samestat(info, os.stat(target)) and not target.is_symlink():
                return self._verify_in_place(transfer, source, target, token, progress, linked=False)
            if self.kind_in == "symlink":
                result = self._verify_in_place(transfer, source, source, token, progress, linked=True)
                with placed(target) as part:
                    os.symlink(source, part)
                return result
            if self.kind_in == "mv" and info.st_dev == os.stat(target.parent).st_dev:
                result = self._verify_in_place(transfer, source, source, token, progress, linked=False)
                if _renamed(source, target):
                    return result
            result = self._copy_in(transfer, source, target, info.st_size, token, progress)
            if self.kind_in == "mv":
                os.unlink(source)
            return result
        except OSError as exc:
            raise failure_of(exc, transfer, target) from exc

    def _find_input(self, transfer: Transfer) -> Path:
        """Return the real path of the input; looks in ``--input-dir``, the pilot's directory, the launch directory."""
        config = self.config
        looked: list[Path] = []
        candidates: list[Path] = []
        if config.final_destination and config.input_destination_dir and transfer.path:
            candidates.append(inside(config.input_destination_dir, transfer.path))
        if config.final_destination and transfer.url.startswith("file:"):
            candidates.append(path_of_url(transfer.url))
        for directory in (config.input_dir, config.pilot_home, config.launch_dir):
            if directory is not None:
                candidates.append(inside(directory, transfer.lfn))
        for candidate in candidates:
            if candidate in looked or candidate == transfer.local:
                continue
            looked.append(candidate)
            try:
                mode = os.stat(candidate).st_mode
            except OSError as exc:
                if exc.errno in (errno.ENOENT, errno.ENOTDIR) and not candidate.is_symlink():
                    continue
                raise failure_of(exc, transfer) from exc
            if not stat.S_ISREG(mode):
                raise TransferFailure(f"input {candidate} is no regular file", code=1331, state="MISSING_INPUT")
            return Path(os.path.realpath(candidate))
        raise TransferFailure(
            f"input {transfer.lfn} not found, looked for {', '.join(map(str, looked))}",
            code=1331,
            state="MISSING_INPUT",
        )

    @staticmethod
    def _verify_in_place(
        transfer: Transfer, source: Path, place: Path, token: CancelToken, progress: Progress, *, linked: bool
    ) -> TransferResult:
        """Read the file once for the catalogue's checksum; a catalogue without one gives the size alone."""
        wanted = wanted_checksum(transfer)
        sums: dict[str, str] = {}
        size = os.stat(place).st_size
        if wanted:
            size, sums = file_checksums(place, wanted, token, progress)
            check_size(transfer, size, place)
            check_checksum(transfer, sums)
        return TransferResult(size, sums, f"file://localhost{source}", transfer.endpoint, linked, bool(wanted))

    def _copy_in(
        self, transfer: Transfer, source: Path, target: Path, size: int, token: CancelToken, progress: Progress
    ) -> TransferResult:
        free = free_bytes(target.parent)
        if size > free:
            raise TransferFailure(
                f"not enough local space for {transfer.lfn} in {target.parent} (need {size} B, but only have {free} B)",
                code=1098,
                state="NO_SPACE",
            )
        wanted = wanted_checksum(transfer)
        with placed(target) as part:
            done, sums = copy_with_checksum(
                source, part, wanted, token, progress, chunk=self.config.chunk, fsync=self.config.fsync
            )
            check_size(transfer, done, source)
            _check_complete(transfer, done, size, source)
            check_checksum(transfer, sums)
        return TransferResult(done, sums, f"file://localhost{source}", transfer.endpoint, False, bool(wanted))

    # --- stage-out ---------------------------------------------------------------------------------------------------

    def copy_out(self, transfer: Transfer, token: CancelToken, progress: Progress) -> TransferResult:
        """Bring one output to its place and say where that is."""
        source = Path(os.path.realpath(transfer.local))
        target = self._destination(transfer)
        try:
            info = os.stat(source)
            if target.exists() and os.path.samestat(info, os.stat(target)):  # the log archive is made in its place
                size, sums = self._sums(transfer, source, info.st_size, token, progress)
                return self._result(transfer, target, size, sums)
            self._make_directory(target.parent)
            if target.exists() or target.is_symlink():
                settled = self._settle_existing(transfer, source, target, info.st_size, token, progress)
                if settled is not None:
                    return settled
            if self.kind_out == "mv" and info.st_dev == os.stat(target.parent).st_dev:
                size, sums = self._sums(transfer, source, info.st_size, token, progress)
                if _renamed(source, target):
                    return self._result(transfer, target, size, sums)
            size, sums = self._copy_out(transfer, source, target, info.st_size, token, progress)
            if self.kind_out == "mv":
                os.unlink(source)
            return self._result(transfer, target, size, sums)
        except OSError as exc:
            raise failure_of(exc, transfer, target) from exc

    def _destination(self, transfer: Transfer) -> Path:
        config = self.config
        if config.final_destination and config.output_dir is None:
            return path_of_url(transfer.url)
        if config.final_destination and config.output_dir is not None and transfer.path:
            return inside(config.output_dir, transfer.path)
        if config.output_dir is None and transfer.lfn == OUTPUT_LIST:
            raise UnsafePath(f"an output must not be called {OUTPUT_LIST}: the computing element reads that file")
        return inside(config.output_dir or config.pilot_home, transfer.lfn)

    @staticmethod
    def _make_directory(directory: Path) -> None:
        try:
            os.makedirs(directory, exist_ok=True)
        except OSError as exc:
            raise MKDirFailure(f"cannot create {directory}: {exc.strerror}") from exc

    def _settle_existing(
        self, transfer: Transfer, source: Path, target: Path, size: int, token: CancelToken, progress: Progress
    ) -> TransferResult | None:
        """Decide on a destination that exists: a result when it is our file already, None when it may be replaced."""
        kind = self.config.checksum_type
        if target.is_file() and not target.is_symlink() and target.stat().st_size == size:
            _, there = file_checksums(target, (kind,), token, progress)
            _, here = self._sums(transfer, source, size, token, progress)
            if same_checksum(there[kind], here[kind]):
                if self.kind_out == "mv":
                    os.unlink(source)
                return self._result(transfer, target, size, here)
        # told to overwrite, it does so in the storage only: the pilot's own directory holds its data base
        ours = transfer.overwrite if self.config.final_destination else transfer.lfn in self._delivered
        if (ours or self.config.output_dir is not None) and not target.is_dir():
            return None
        raise TransferFailure(
            f"{target} exists already with another content; remove it, choose another --output-dir, or let storage be "
            "overwritten (transfers.overwrite)",
            code=1221,
            state="FILE_EXISTS",
        )

    def _sums(
        self, transfer: Transfer, source: Path, size: int, token: CancelToken, progress: Progress
    ) -> tuple[int, dict[str, str]]:
        """Return size and checksum of the local file; known ones are believed while the size is still the same."""
        kind = self.config.checksum_type
        known = transfer.checksum.get(kind)
        if known and transfer.size == size:
            return size, {kind: known}
        return file_checksums(source, (kind,), token, progress)

    def _copy_out(
        self, transfer: Transfer, source: Path, target: Path, size: int, token: CancelToken, progress: Progress
    ) -> tuple[int, dict[str, str]]:
        kind = self.config.checksum_type
        known = transfer.checksum.get(kind)
        wanted = () if known and transfer.size == size else (kind,)
        with placed(target) as part:
            done, sums = copy_with_checksum(
                source, part, wanted, token, progress, chunk=self.config.chunk, fsync=self.config.fsync
            )
            _check_complete(transfer, done, size, source)
            _check_complete(transfer, os.stat(part).st_size, size, part)
        return done, sums or {kind: str(known)}

    def _result(self, transfer: Transfer, target: Path, size: int, sums: dict[str, str]) -> TransferResult:
        """The server is told the storage's URL when ARC takes the file there, else where the file lies."""
        place = f"file://localhost{os.path.abspath(target)}"
        url = transfer.url if transfer.url and self.config.output_dir is None else place
        return TransferResult(size, sums, url, transfer.endpoint)

    def finish(self, done: Sequence[tuple[Transfer, TransferResult]]) -> None:
        """Add the stored outputs to ``output.list`` (not with ``--output-dir``: nobody takes them further)."""
        lines = {
            transfer.lfn: _output_line(transfer.lfn, result)
            for transfer, result in done
            if transfer.direction is Direction.OUT
        }
        if not lines or self.config.output_dir is not None:
            return
        path = self.config.pilot_home / OUTPUT_LIST
        try:
            with _output_list_lock:
                old = {lfn: line for lfn, line in _read_output_list(path).items() if lfn not in lines}
                with placed(path) as part:
                    text = "".join(f"{line}\n" for line in [*old.values(), *lines.values()])
                    part.write_text(text, encoding="utf-8", errors="surrogateescape")
        except OSError as exc:
            raise TransferFailure(f"cannot write {path}: {exc.strerror or exc}", code=1137) from exc


def _renamed(source: Path, target: Path) -> bool:
    """Rename where that is possible; False between two bind mounts of one file system, as containers have them."""
    try:
        os.replace(source, target)
    except OSError as exc:
        if exc.errno != errno.EXDEV:
            raise
        return False
    return True


def path_of_url(url: str) -> Path:
    """Return the path of a ``file://`` URL (``file://localhost/a/b``, ``file:///a/b``, ``file:/a/b``).

    Raises:
        TransferFailure: 1341, another scheme or host: this tool reaches mounted file systems only.
    """
    scheme, _, rest = url.partition(":")
    if rest.startswith("//"):
        host, _, path = rest[2:].partition("/")
        rest = f"/{path}" if host in ("", "localhost") else ""
    if scheme == "file" and rest.startswith("/") and ".." not in rest.split("/"):
        return Path("/" + rest.lstrip("/"))
    raise TransferFailure(f"bad queue configuration - mv cannot reach {url!r}, it needs a file:// URL", code=1341)


def _check_complete(transfer: Transfer, copied: int, size: int, where: Path) -> None:
    """A source that shrinks or grows while it is copied is not a finished file."""
    if copied != size:
        raise TransferFailure(
            f"{where} changed while it was copied: {size} B at first, {copied} B copied",
            code=1366,
            state="CHECKSUMCALCULATIONFAILURE",
        )


def _output_line(lfn: str, result: TransferResult) -> str:
    url = result.url
    if url.startswith("s3://"):
        url = (
            "rucio://rucio-lb-prod.cern.ch;failureallowed=yes/objectstores/"
            f"s3+rucio{url[len('s3') :]}/{result.endpoint}/write"
        )
    for kind, value in result.checksum.items():
        url += f":checksumtype={kind}:checksumvalue={value}"
    return f"{lfn} {url}"


def _read_output_list(path: Path) -> dict[str, str]:
    """Return ``{lfn: line}``; an absent file, or what is none (it will be replaced), is an empty list."""
    try:
        with open(open_regular(path), encoding="utf-8", errors="surrogateescape") as stream:
            text = stream.read()
    except FileNotFoundError:
        return {}
    except OSError as exc:
        logger.warning("%s is not used: %s", path, exc.strerror)
        return {}
    return {line.split(" ", 1)[0]: line for line in text.split("\n") if line.strip()}
