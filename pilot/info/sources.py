"""Where queue and storage descriptions come from: pre-placed files, PanDA server, CVMFS, CRIC, and their cache files.

A source that is missing or broken falls to the next one with a one-line reason. Cache files are replaced atomically and
only by content that was understood, so a failed download never costs a good copy. Source of names, ages and order:
information service document, section 2.
"""

from __future__ import annotations

import json
import logging
import os
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Generic, NamedTuple, Optional, Sequence, TypeVar

from pilot.util.cancel import CancelToken
from pilot.util.fetch import Fetcher, FetchError, is_local

if TYPE_CHECKING:
    from pilot.info.config import SourceConfig

logger = logging.getLogger(__name__)

T = TypeVar("T")

THREE_HOURS = 3 * 3600.0
_CVMFS_AGE = 60.0
_DOWNLOAD_TRIES = 3
_RETRY_CAP = 15.0


class ContentError(Exception):
    """A document was read but is of no use.

    ``invalid`` is True when it is malformed or not what it should be, False when it merely lacks what is wanted.
    """

    def __init__(self, reason: str, *, invalid: bool = True) -> None:
        super().__init__(reason)
        self.invalid = invalid


class SourceFailure(Exception):
    """Why one source gave nothing: one line, and whether a later try makes sense."""

    def __init__(self, source: str, reason: str, transient: bool, invalid: bool) -> None:
        super().__init__(f"{source}: {reason}")
        self.source = source
        self.transient = transient
        self.invalid = invalid


class AllSourcesFailed(Exception):
    """No source gave anything usable."""

    def __init__(self, failures: Sequence[SourceFailure]) -> None:
        super().__init__("; ".join(str(failure) for failure in failures) or "no source is configured")
        self.failures = tuple(failures)


@dataclass(frozen=True)
class Loaded(Generic[T]):
    """What was found, and where."""

    value: T
    source: str
    origin: str
    """URL or path of the source; for a value from a cache file the URL that the file stands for."""


# --- cache files ------------------------------------------------------------------------------------------------------
class CacheFile(NamedTuple):
    """A cached document; a hidden file beside it (``.<name>.origin``) says what was downloaded from where.

    ``shared``: the name is also that of a file which people place by hand (``queuedata.json``); then only content that
    the pilot itself put there, as the origin file proves by its checksum, counts as cached.
    """

    path: Path
    shared: bool = False

    @property
    def _origin_path(self) -> Path:
        return self.path.with_name(f".{self.path.name}.origin")

    def read(self) -> bytes:
        """Return the content, empty when there is none."""
        try:
            return self.path.read_bytes()
        except OSError:
            return b""

    def age(self) -> float:
        """Return the age in s; infinite when there is no file or its time lies in the future.

        The age counts across processes, so it is the wall clock's.
        """
        try:
            age = time.time() - self.path.stat().st_mtime
        except OSError:
            return float("inf")
        return age if age > -60.0 else float("inf")

    def origin(self) -> str | None:
        """Return the URL that the content was downloaded from, None when it is not the pilot's own download."""
        try:
            note = json.loads(self._origin_path.read_text(encoding="utf-8"))
            return str(note["url"]) if zlib.crc32(self.read()) in note["crc32"] else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def belongs_to(self, urls: Sequence[str]) -> bool:
        """Return True when the content may stand for one of ``urls``."""
        origin = self.origin()
        return not self.shared if origin is None else origin in urls

    def write(self, content: bytes, url: str) -> None:
        """Replace the content; a disk that is full or read-only costs a warning only."""
        try:
            old = self.read()
            if self.shared and old and self.origin() is None:
                aside = self.path.with_name(f"{self.path.name}.rejected")
                logger.warning("%s cannot be used and is moved to %s", self.path, aside.name)
                os.replace(self.path, aside)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # the note names the new and the old content, so that it is right on either side of a crash
            note = {"url": url, "crc32": [zlib.crc32(content), zlib.crc32(old)]}
            _replace(self._origin_path, json.dumps(note).encode())
            _replace(self.path, content)
        except OSError as error:
            logger.warning("cannot keep %s: %s", self.path, error.strerror or error)


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


# --- one source -------------------------------------------------------------------------------------------------------
class Source(NamedTuple):
    """One place to look at: URLs or paths in the order to try, and the cache file for what they give."""

    name: str
    urls: tuple[str, ...]
    cache: Optional[CacheFile] = None
    max_age: float = 0.0
    """s that the cache file is used without asking; 0 = always ask first."""
    tries: int = 1
    awaited: frozenset[str] = frozenset()
    """URLs of servers without which the pilot can do nothing: one that nobody listens at is waited for."""
    missing: str = "nothing there"
    """Reason to give when there is no URL at all."""


class Loader:
    """Reads sources in order until one gives something usable.

    Args:
        fetcher: reads one URL.
        token: interrupts waits and fetches.
        budget: s that retries may take altogether, if no source gives anything.
        timeout: s for one fetch.
        retry_base: s before the first retry; doubles each time, with jitter.
        retry_cap: s, the longest of these pauses (before jitter).
    """

    def __init__(
        self,
        fetcher: Fetcher,
        token: CancelToken,
        *,
        budget: float,
        timeout: float = 20.0,
        retry_base: float = 1.0,
        retry_cap: float = _RETRY_CAP,
    ) -> None:
        self._fetcher = fetcher
        self._token = token
        self._budget = budget
        self._timeout = timeout
        self._retry_base = retry_base
        self._retry_cap = retry_cap

    def first(
        self,
        sources: Sequence[Source],
        accept: Callable[[object], T],
        *,
        render: Callable[[T], bytes] | None = None,
        rounds: bool = True,
    ) -> Loaded[T]:
        """Return the first usable content.

        Args:
            sources: in order of preference.
            accept: turns parsed JSON into a value, or raises ContentError.
            render: what to keep in the cache file; default is the content as it came.
            rounds: if no source gives anything and one of the failures was of the kind that passes (time-out, HTTP 5xx,
                reset, an awaited server that is down), ask those again until the budget is used up.

        Raises:
            AllSourcesFailed: with one reason per source.
            CancelledError: the token was cancelled.
        """
        deadline = time.monotonic() + self._budget
        failures: dict[str, SourceFailure] = {}
        pending = list(sources)
        turn = 0
        while True:
            turn += 1
            for source in pending:
                try:
                    return self._load(source, accept, render, deadline)
                except SourceFailure as failure:
                    level = logging.INFO if source.name == "LOCAL" and not failure.invalid else logging.WARNING
                    # later rounds have one line each, at their end
                    logger.log(level if turn == 1 else logging.DEBUG, "%s", failure)
                    failures[source.name] = failure
            pending = [source for source in pending if failures[source.name].transient]
            why = "; ".join(str(failures[source.name]) for source in pending)
            if not pending or not rounds or not self._pause(turn, deadline, why):
                break
        raise AllSourcesFailed(tuple(failures.values()))

    def _load(
        self, source: Source, accept: Callable[[object], T], render: Callable[[T], bytes] | None, deadline: float
    ) -> Loaded[T]:
        cache = source.cache if source.cache is not None and source.cache.belongs_to(source.urls) else None
        if cache is not None and source.urls and cache.age() < source.max_age:
            try:
                return Loaded(accept(parse_object(cache.read())), source.name, cache.origin() or source.urls[0])
            except ContentError as error:
                logger.debug("%s: cache file %s: %s", source.name, cache.path, error)
        reasons: list[str] = []
        transient = invalid = False
        for url in source.urls:
            try:
                content = self._download(source, url, deadline)
                value = accept(parse_object(content))
            except FetchError as error:
                reasons.append(str(error.detail))
                transient = transient or error.transient or (error.unreachable and url in source.awaited)
            except ContentError as error:
                reasons.append(f"{url}: {error}")
                invalid = invalid or error.invalid
            else:
                if source.cache is not None:
                    source.cache.write(render(value) if render else content, url)
                return Loaded(value, source.name, url)
        if cache is not None and source.urls:
            try:
                value = accept(parse_object(cache.read()))
            except ContentError as error:
                logger.debug("%s: cache file %s: %s", source.name, cache.path, error)
            else:
                logger.warning(
                    "%s: %s; using %s, %.0f s old", source.name, "; ".join(reasons), cache.path, cache.age()
                )
                return Loaded(value, source.name, cache.origin() or source.urls[0])
        raise SourceFailure(source.name, "; ".join(reasons) or source.missing, transient, invalid)

    def _download(self, source: Source, url: str, deadline: float) -> bytes:
        """Fetch ``url``; a broken answer is asked for again, a time-out is not: the next source is the better use."""
        for attempt in range(1, source.tries + 1):
            timeout = min(self._timeout, max(1.0, deadline - time.monotonic()))
            try:
                return self._fetcher(url, timeout=timeout, token=self._token)
            except FetchError as error:
                last = not error.transient or error.timed_out or attempt == source.tries
                if last or not self._pause(attempt, deadline):
                    raise
        raise FetchError(url, "was not tried")

    def _pause(self, attempt: int, deadline: float, why: str = "") -> bool:
        """Wait before a retry: exponential with jitter; False when the deadline would pass before."""
        jitter = 0.5 + int.from_bytes(os.urandom(2), "big") / 65536.0
        seconds = min(self._retry_cap, self._retry_base * 2.0 ** min(attempt - 1, 10)) * jitter
        left = deadline - time.monotonic()
        if seconds >= left:
            return False
        if why:
            logger.warning("round %d: %s; next round in %.1f s, %.0f s of patience left", attempt, why, seconds, left)
        self._token.wait(seconds)
        self._token.check()
        return True


def parse_object(content: bytes) -> dict[str, Any]:
    """Return the JSON object in ``content``; raises ContentError when it is empty, no JSON, no object or an error."""
    if not content.strip():
        raise ContentError("empty")
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        start = " ".join(content[:40].decode("utf-8", "replace").split())
        raise ContentError(f'not JSON, it starts with "{start}"') from None
    if not isinstance(data, dict):
        raise ContentError(f"not a JSON object but a {type(data).__name__}")
    if not data:
        raise ContentError("no data", invalid=False)
    if data.get("error"):
        raise ContentError(f"error {str(data['error'])[:80]}")
    return data


def pick_queue(data: object, queue: str) -> dict[str, Any]:
    """Return the record of ``queue`` out of a flat object (PanDA server, pre-placed file) or a map (CVMFS, CRIC).

    Which of the two it is shows in the content, so no source can leak its form into the next one.
    """
    if not isinstance(data, dict):
        raise ContentError("not a JSON object")
    if data.get("nickname") and isinstance(data["nickname"], str):
        names = [data.get(key) for key in ("nickname", "siteid", "name", "panda_resource")]
        if queue not in names:
            raise ContentError(f"describes queue {data['nickname']}, not {queue}")
        return data
    record = data.get(queue)
    if isinstance(record, dict):
        return record if record.get("nickname") else {**record, "nickname": queue}
    if data and all(isinstance(item, dict) for item in data.values()):
        raise ContentError(f"has no queue {queue}", invalid=False)
    raise ContentError("no queue description: key nickname is missing")


# --- the lists of sources ---------------------------------------------------------------------------------------------
def queue_sources(config: SourceConfig, queue: str, *, cached: bool = True) -> list[Source]:
    """Return the sources of queuedata: LOCAL, PANDA, CVMFS, CRIC, and a local schedconfig file if there is one.

    Args:
        config: URLs and directories.
        queue: PanDA queue.
        cached: False leaves ``queuedata.json`` alone (another queue than the pilot's own).
    """
    cache = CacheFile(config.cache_dir / config.queuedata_cache, shared=True) if cached else None
    local = _preplaced(config, config.queuedata_cache)
    panda = config.queuedata_urls(queue)
    from_file = all(is_local(url) for url in panda)
    awaited = frozenset(config.awaited_urls(queue))
    return [
        Source("LOCAL", local, missing=f"no {config.queuedata_cache} was pre-placed"),
        # a file is as cheap to read as its cached copy, and may have been edited
        Source("PANDA", panda, cache, 0.0 if from_file else THREE_HOURS, _DOWNLOAD_TRIES, awaited,
               "no URL is configured"),
        *_remote_queue_sources(config, queue, config.queuedata_cvmfs),
        *_local_schedconf(config, queue),
    ]


def schedconf_sources(config: SourceConfig, queue: str, *, remote: bool) -> list[Source]:
    """Return the sources of the base layer: LOCAL, and with ``remote`` CVMFS and CRIC."""
    return [
        *_local_schedconf(config, queue),
        *(_remote_queue_sources(config, queue, config.queues_cvmfs) if remote else []),
    ]


def storage_sources(config: SourceConfig) -> list[Source]:
    """Return the sources of endpoints: USER (only if asked for), LOCAL, CVMFS, CRIC."""
    everything = CacheFile(config.cache_dir / "agis_ddmendpoints.agis.ALL.json")
    local = Source(
        "LOCAL", _preplaced(config, config.storages_cache), missing=f"no {config.storages_cache} was pre-placed"
    )
    if config.storages_local_only:
        return [local]
    user = config.storages_option_url
    cvmfs = config.expand_cvmfs(config.storages_cvmfs, "cric_ddmendpoints.json")
    sources = [Source("USER", (user,), everything, THREE_HOURS, _DOWNLOAD_TRIES)] if user else []
    sources += [
        local,
        Source("CVMFS", (cvmfs,), CacheFile(config.cache_dir / config.storages_cache, shared=True), _CVMFS_AGE),
    ]
    if config.storages_url:
        sources.append(Source("CRIC", (config.storages_url,), everything, THREE_HOURS, _DOWNLOAD_TRIES))
    return sources


def _remote_queue_sources(config: SourceConfig, queue: str, cvmfs_setting: str) -> list[Source]:
    cvmfs = config.expand_cvmfs(cvmfs_setting, "cric_pandaqueues.json")
    sources = [Source("CVMFS", (cvmfs,), CacheFile(config.cache_dir / "agis_schedconf.cvmfs.json"), _CVMFS_AGE)]
    if config.queues_url:
        cache = CacheFile(config.cache_dir / f"agis_schedconf.agis.{queue.replace('/', '_')}.json")
        urls = (config.fill(config.queues_url, queue),)
        sources.append(Source("CRIC", urls, cache, THREE_HOURS, _DOWNLOAD_TRIES))
    return sources


def _local_schedconf(config: SourceConfig, queue: str) -> list[Source]:
    """``$LOCAL_AGIS_SCHEDCONF`` (file or URL), else pre-placed ``cric_pandaqueues.json``; none costs nothing."""
    if config.local_schedconf:
        cache = CacheFile(config.cache_dir / config.queues_cache, shared=True)
        url = config.fill(config.local_schedconf, queue)
        return [Source("LOCAL schedconfig", (url,), cache, 0.0 if is_local(url) else THREE_HOURS)]
    files = _preplaced(config, config.queues_cache)
    return [Source("LOCAL schedconfig", files)] if files else []


def _preplaced(config: SourceConfig, name: str) -> tuple[str, ...]:
    """Return the files of that name that somebody put there: not those which the pilot downloaded itself."""
    paths = dict.fromkeys(Path(os.path.abspath(directory)) / name for directory in config.local_dirs)
    return tuple(str(path) for path in paths if path.exists() and CacheFile(path, shared=True).origin() is None)
