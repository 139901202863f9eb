"""Copytools whose outcomes a test writes down, and a Rucio catalogue of a few lines: for tests of the planner."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import Any, Callable, ClassVar, Iterator, Mapping, Optional, Sequence

from pilot.common.exception import PilotException
from pilot.copytool.base import CopyTool, Features, Outcome, Transfer, TransferFailure, TransferResult
from pilot.util.cancel import CancelToken
from pilot.util.checksum import Progress

KINDS = ("first", "second", "bulky", "linker", "fetcher", "builder")
PLUGINS = {name: f"{__name__}:{name.capitalize()}" for name in KINDS}


class Script:
    """What the tools do: outcomes by (tool, LFN, URL), each used once and the last one for ever; all calls are kept."""

    def __init__(self) -> None:
        self.outcomes: dict[tuple[str, str, str], list[Any]] = {}
        self.orders: list[tuple[str, Transfer]] = []
        self.finished: list[str] = []
        self.prepare: Optional[PilotException] = None
        self.finish: Optional[PilotException] = None
        self.environ: dict[str, Mapping[str, str]] = {}
        self.options: dict[str, Mapping[str, object]] = {}
        self.lock = threading.Lock()

    def on(self, *outcomes: Any, tool: str = "", lfn: str = "", url: str = "") -> None:
        """Add outcomes: an exception, a callable (order, token, progress), or None for success."""
        self.outcomes[tool, lfn, url] = list(outcomes)

    def next(self, tool: str, order: Transfer) -> Any:
        with self.lock:
            self.orders.append((tool, order))
            for key in ((tool, order.lfn, order.url), (tool, order.lfn, ""), (tool, "", order.url), ("", order.lfn, ""),
                        ("", "", order.url), (tool, "", ""), ("", "", "")):
                if key in self.outcomes:
                    waiting = self.outcomes[key]
                    return waiting.pop(0) if len(waiting) > 1 else waiting[0]
        return None

    @property
    def tried(self) -> list[tuple[str, str, str]]:
        """(tool, LFN, URL) of each copy that was begun."""
        return [(tool, order.lfn, order.url) for tool, order in self.orders]


class First(CopyTool):
    """One file per call, replicas from the catalogue."""

    name = "first"
    script: ClassVar[Script] = Script()
    described = Features(schemes=("root", "davs"), needs_replicas=True, needs_protocols_out=False)

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.script.environ[self.name] = config.environ
        self.script.options[self.name] = config.options

    @property
    def features(self) -> Features:
        return self.described

    def prepare(self, transfers: Sequence[Transfer]) -> None:
        if self.script.prepare is not None:
            raise self.script.prepare

    def _do(self, transfer: Transfer, token: CancelToken, progress: Progress) -> TransferResult:
        outcome = self.script.next(self.name, transfer)
        if callable(outcome):
            outcome = outcome(transfer, token, progress)
        if isinstance(outcome, Exception):
            raise outcome
        if isinstance(outcome, TransferResult):
            return outcome
        return TransferResult(transfer.size, dict(transfer.checksum) or {"adler32": "00000001"}, transfer.url,
                              transfer.endpoint)

    copy_in = copy_out = _do

    def finish(self, done: Sequence[tuple[Transfer, TransferResult]]) -> None:
        self.script.finished += [transfer.lfn for transfer, _ in done]
        if self.script.finish is not None:
            raise self.script.finish


class Second(First):
    """The same, other schemes."""

    name = "second"
    described = Features(schemes=("https", "davs"), needs_replicas=True, needs_protocols_out=True)


class Bulky(First):
    """Several files per call."""

    name = "bulky"
    described = Features(bulk=True, needs_replicas=True, needs_protocols_out=False)

    def copy_many(self, transfers: Sequence[Transfer], token: CancelToken, progress: Progress,
                  done: Callable[[Transfer, Outcome], None]) -> None:
        for transfer in transfers:
            try:
                done(transfer, self._do(transfer, token, progress))
            except PilotException as exc:
                done(transfer, exc)


class Fetcher(First):
    """Never leaves an input remote."""

    name = "fetcher"
    described = Features(schemes=("root",), needs_replicas=True, direct_access=False)


class Builder(First):
    """Builds URLs of inputs from the endpoint's protocols."""

    name = "builder"
    described = Features(schemes=("https", "davs"), needs_protocols_in=True)


class Linker(First):
    """Takes no local space, needs no replicas."""

    name = "linker"
    described = Features(writes_locally=False, needs_endpoint=False, needs_protocols_out=False)


def failure(code: int = 1099, text: str = "no luck", **kw: Any) -> TransferFailure:
    return TransferFailure(text, code=code, **kw)


class Rucio:
    """In the place of the helper processes: answers ``list_replicas``, keeps all calls."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.calls: list[tuple[str, Mapping[str, Any]]] = []
        self.problem: Optional[Exception] = None

    def add(self, name: str, *pfns: tuple[str, str], scope: str = "mc23", **row: Any) -> None:
        """A file with replicas (RSE, URL), best first."""
        found = {url: {"rse": rse, "type": "DISK", "priority": place, "domain": "wan"}
                 for place, (rse, url) in enumerate(pfns, 1)}
        known = {"bytes": None, "adler32": None, "md5": None, **row}
        self.rows[name] = {"scope": scope, "name": name, "pfns": found, **known}

    def call(self, library: str, op: str, args: Mapping[str, Any], *, env: Mapping[str, str], token: CancelToken,
             on_event: object = None) -> dict[str, Any]:
        self.calls.append((op, args))
        if self.problem is not None:
            raise self.problem
        if op != "list_replicas":
            return {}
        wanted = [did["name"] for did in args["dids"]]
        return {"replicas": [row for name, row in self.rows.items() if name in wanted]}

    def missing(self, library: str, env: Mapping[str, str]) -> str:
        return ""

    @contextmanager
    def session(self) -> Iterator[Rucio]:
        yield self
