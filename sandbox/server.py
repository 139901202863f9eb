"""The HTTP server: one event loop that feeds both dialects, the static files, the admin interface and the faults."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Awaitable, Callable, Deque, Dict, List, Optional, Tuple

from aiohttp import web

from sandbox import legacy, v1
from sandbox.faults import Fault, Faults, distort, raw_replacement, replacement
from sandbox.identity import TokenError
from sandbox.state import State
from sandbox.wire import BodyError, Decoded, RawRequest, RecordedRequest, Reply, error, forbidden, redact

# Allow RFC 3820 proxy certificates of clients (X509_V_FLAG_ALLOW_PROXY_CERTS of OpenSSL).
ALLOW_PROXY_CERTS = 0x40
REASONS = {500: "INTERNAL SERVER ERROR"}  # as recorded
RING = 50_000


@dataclass(frozen=True)
class TLSFiles:
    """Server certificate, its key and the CA certificates (PEM file) that client certificates are checked with."""

    cert: Path
    key: Path
    ca: Optional[Path] = None

    def context(self) -> ssl.SSLContext:
        """TLS >= 1.2, client certificate optional, proxies allowed."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(str(self.cert), str(self.key))
        if self.ca is not None:
            context.load_verify_locations(str(self.ca))
            context.verify_mode = ssl.CERT_OPTIONAL
            context.verify_flags |= ALLOW_PROXY_CERTS
        return context


@dataclass
class Options:
    """What is served. trf_dir, queues_dir: directories behind /trf/ and /cache/schedconfig/."""

    v1: bool = True
    legacy: bool = True
    trf_dir: Optional[Path] = None
    queues_dir: Optional[Path] = None
    admin_from_anywhere: bool = False


Admin = Callable[[web.BaseRequest, bytes], Awaitable[web.StreamResponse]]


@dataclass
class HttpServer:
    """Listens, records, injects faults, answers. All methods run in the event loop."""

    state: State
    options: Options
    faults: Faults
    on_request: Callable[[], None]
    admin: Optional[Admin] = None
    requests: Deque[RecordedRequest] = field(default_factory=lambda: deque(maxlen=RING))
    listeners: List[Tuple[str, int, Optional[ssl.SSLContext]]] = field(default_factory=list)
    _runner: Optional[web.ServerRunner] = None

    # -- listening --------------------------------------------------------------------------------------------------

    async def up(self) -> List[int]:
        """Listen; returns the ports (those asked as 0 are chosen by the kernel and then kept)."""
        server = web.Server(self.handle, auto_decompress=False, access_log=None, keepalive_timeout=600.0)
        self._runner = web.ServerRunner(server)
        await self._runner.setup()
        bound: List[Tuple[str, int, Optional[ssl.SSLContext]]] = []
        for host, port, context in self.listeners:
            sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
            await web.SockSite(self._runner, sock, ssl_context=context, backlog=1024).start()
            bound.append((host, sock.getsockname()[1], context))
        self.listeners = bound
        return [port for _, port, _ in bound]

    async def down(self) -> None:
        """Stop listening and drop every connection, as a machine that died."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        for site in list(runner.sites):
            await site.stop()
        if runner.server is not None:
            for connection in list(runner.server.connections):
                if connection.transport is not None:
                    connection.transport.abort()
            runner.server.pre_shutdown()
            await runner.server.shutdown(0.01)
        await runner.cleanup()

    # -- one request ------------------------------------------------------------------------------------------------

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        try:
            body = await request.content.read()
        except Exception as exc:  # whatever aiohttp makes of it: ClientPayloadError, a lost connection, ...
            # The connection ended before Content-Length was reached: the real server kills its worker (2.1).
            self.state.workers_killed += 1
            self._record(request, "none", Decoded("short_body", ""), status=None).fault = str(exc) or "short body"
            self.on_request()
            raise
        path = request.path
        if path.startswith("/sandbox") or path in ("/", "/favicon.ico"):
            return web.Response(status=404) if self.admin is None else await self.admin(request, body)
        raw = self._raw(request, body)
        dialect, module, enabled = self._dialect(path)
        if module is None:
            return await self._static(request, path)
        try:
            decoded = module.decode(raw) if enabled else Decoded("disabled", path.rpartition("/")[2])
        except BodyError as exc:
            self.state.workers_killed += int(exc.kills)
            decoded = Decoded("unreadable", path.rpartition("/")[2], failure=error(500, str(exc)))
        if not enabled:
            decoded.failure = forbidden(decoded.name)
        record = self._record(request, dialect, decoded)
        response = await self._answer(request, raw, dialect, module, decoded, record)
        self.on_request()
        return response

    def _dialect(self, path: str) -> Tuple[str, Any, bool]:
        if path.startswith(("/api/v1/", "/api/latest/")) or path in ("/api", "/api/v1"):
            return "v1", v1, self.options.v1
        if path.startswith("/server/panda"):
            return "legacy", legacy, self.options.legacy
        return "static", None, True

    def _raw(self, request: web.BaseRequest, body: bytes) -> RawRequest:
        tls = request.transport is not None and request.transport.get_extra_info("sslcontext") is not None
        peercert = request.transport.get_extra_info("peercert") if tls and request.transport is not None else None
        return RawRequest(request.method, request.path, request.query_string, request.headers, body, tls, peercert,
                          _family(request))

    def _record(self, request: web.BaseRequest, dialect: str, decoded: Decoded,
                status: Optional[int] = None) -> RecordedRequest:
        headers, params = redact(request.headers, decoded.params)
        tls = request.transport is not None and request.transport.get_extra_info("sslcontext") is not None
        record = RecordedRequest(
            path=request.path, method=request.method, params=params, headers=headers, time=time.time(),
            dialect=dialect, operation=decoded.operation, name=decoded.name, family=_family(request), tls=tls,
            status=status)
        self.requests.append(record)
        return record

    async def _answer(self, request: web.BaseRequest, raw: RawRequest, dialect: str, module: Any, decoded: Decoded,
                      record: RecordedRequest) -> web.StreamResponse:
        fault = self.faults.take(decoded.operation, decoded.name, decoded.params)
        json_wanted = module.wants_json(raw.headers)
        if fault is not None:
            record.fault = fault.kind
            self.on_request()
            if not fault.after_processing:
                early = await self._fault(request, fault, dialect, json_wanted, decoded)
                if early is not None:
                    return early
        reply = self._process(raw, module, decoded, record)
        record.status = reply.status
        if fault is not None and fault.after_processing:
            self.on_request()
            late = await self._fault(request, fault, dialect, json_wanted, decoded)
            if late is not None:
                return late
            reply = distort(fault, reply)
            if fault.kind in ("truncate", "drip"):
                return await self._slow(request, reply, fault)
        return _response(request, reply)

    def _process(self, raw: RawRequest, module: Any, decoded: Decoded, record: RecordedRequest) -> Reply:
        try:
            identity = self.state.auth.identify(raw.headers, raw.peercert, raw.tls)
        except TokenError as exc:
            return error(403, f"ERROR : Token authentication failed. {exc}")
        record.dn = identity.dn
        if decoded.failure is not None:
            return decoded.failure
        if self.state.auth.banned.get(identity.name):
            return error(403, f"ERROR : {identity.name} is banned")
        reply: Reply = module.answer(decoded, identity, raw, self.state)
        return reply

    # -- faults -----------------------------------------------------------------------------------------------------

    async def _fault(self, request: web.BaseRequest, fault: Fault, dialect: str, json_wanted: bool,
                     decoded: Decoded) -> Optional[web.StreamResponse]:
        """The answer of a fault, None when the real answer follows."""
        if fault.kind in ("delay", "hang"):
            await asyncio.sleep(fault.seconds if fault.kind == "delay" else 86400)
            return None
        if fault.kind in ("reset", "processed_then_reset"):
            return _cut(request, reset=True)
        if fault.kind in ("close_before_answer", "processed_then_close"):
            return _cut(request, reset=False)
        body = raw_replacement(fault)
        if body is not None:
            kind = "text/html" if fault.kind == "html" else "text/plain"
            return web.Response(body=body, headers={"Content-Type": kind})
        instead = replacement(fault, dialect, json_wanted, decoded.operation)
        return None if instead is None else _response(request, instead)

    async def _slow(self, request: web.BaseRequest, reply: Reply, fault: Fault) -> web.StreamResponse:
        """Half of the answer, or the answer byte by byte."""
        body = reply.render()
        response = web.StreamResponse(status=reply.status, headers={"Content-Type": reply.content_type})
        response.content_length = len(body)
        await response.prepare(request)
        if fault.kind == "truncate":
            await response.write(body[: len(body) // 2])
            if request.transport is not None:
                request.transport.close()
            return response
        for index in range(len(body)):
            await response.write(body[index: index + 1])
            await asyncio.sleep(fault.seconds)
        await response.write_eof()
        return response

    # -- files ------------------------------------------------------------------------------------------------------

    async def _static(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        """/cache/schedconfig/<queue>.all.json, /trf/..., /cache/... of the options' directories."""
        operation = "queuedata" if path.startswith("/cache/schedconfig/") else "trf"
        decoded = Decoded(operation, path.rpartition("/")[2])
        record = self._record(request, "static", decoded)
        fault = self.faults.take(operation, decoded.name, {})
        if fault is not None:
            record.fault = fault.kind
            early = await self._fault(request, fault, "static", True, decoded)
            if early is not None:
                self.on_request()
                return early
        found = self._file(path)
        record.status = 404 if found is None else 200
        self.on_request()
        if isinstance(found, bytes):
            reply = Reply(found.decode(), content_type="application/json")
            if fault is not None:
                reply = distort(fault, reply)
                if fault.kind in ("truncate", "drip"):
                    return await self._slow(request, reply, fault)
            return _response(request, reply)
        if found is None:
            return web.Response(status=404, text="not found")
        return web.FileResponse(found)

    def _file(self, path: str) -> Any:
        """A queue document as bytes, a file's path, or None."""
        prefix, _, name = path.lstrip("/").partition("/")
        if prefix == "cache" and name.startswith("schedconfig/"):
            document = name[len("schedconfig/"):]
            for suffix in (".all.json", ".pilot.json", ".json"):
                queue = self.state.core.queues.get(document[: -len(suffix)]) if document.endswith(suffix) else None
                if queue is not None:
                    return json.dumps(queue, indent=4, sort_keys=True).encode()
            return _below(self.options.queues_dir, document)
        if prefix == "trf":
            return _below(self.options.trf_dir, name)
        if prefix in ("cache", "cric"):
            inner = name[len("trf/"):] if name.startswith("trf/") else name
            return _below(self.options.trf_dir, inner) or _below(self.options.queues_dir, inner)
        return None


def _below(directory: Optional[Path], name: str) -> Optional[Path]:
    """The file of that name below the directory, None when there is none or it leads out of it."""
    if directory is None:
        return None
    path = (directory / name).resolve()
    return path if path.is_file() and directory.resolve() in path.parents else None


def _family(request: web.BaseRequest) -> str:
    sock = request.transport.get_extra_info("socket") if request.transport is not None else None
    return "inet6" if sock is not None and sock.family == socket.AF_INET6 else "inet"


def _response(request: web.BaseRequest, reply: Reply) -> web.Response:
    response = web.Response(body=reply.render(), status=reply.status, reason=REASONS.get(reply.status),
                            headers={"Content-Type": reply.content_type})
    if request.version >= (1, 1):
        response.enable_chunked_encoding()  # as recorded
    return response


def _cut(request: web.BaseRequest, reset: bool) -> web.StreamResponse:
    """End the connection without an answer: with a TCP reset, or orderly."""
    transport = request.transport
    if transport is not None:
        sock = transport.get_extra_info("socket")
        if reset and sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return web.Response()


def counters(server: HttpServer) -> Dict[str, Any]:
    """Numbers about the server itself."""
    return {"requests": len(server.requests), "workers_killed": server.state.workers_killed,
            "fault_hits": server.faults.hits}
