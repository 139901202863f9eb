"""The admin interface under /sandbox/: JSON for the CLI and scripts, HTML for a browser."""

from __future__ import annotations

import ipaddress
import json
from typing import TYPE_CHECKING, Any, Callable, List, Mapping, Tuple

from aiohttp import web

from sandbox import page
from sandbox.server import counters

if TYPE_CHECKING:
    from sandbox.api import Sandbox


class AdminInterface:
    """Answers /sandbox/...; only for clients on this machine unless told otherwise.

    A change needs the header Content-Type application/json, so that no foreign web page can make a browser send it.
    """

    def __init__(self, sandbox: Sandbox, from_anywhere: bool) -> None:
        self.sandbox, self.from_anywhere = sandbox, from_anywhere

    async def handle(self, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
        """Answer one request."""
        if not self.from_anywhere and not _is_local(request):
            return web.Response(status=403, text="the admin interface answers this machine only")
        if request.path == "/favicon.ico":
            return web.Response(status=404)
        parts = [part for part in request.path.split("/") if part][1:]
        if not parts or parts[0] != "api":
            return self._html(parts)
        try:
            data: Mapping[str, Any] = {}
            if request.method != "GET":
                if request.content_type != "application/json":
                    return web.Response(status=415, text="Content-Type must be application/json")
                data = json.loads(body or b"{}")
            return web.json_response(self._call(request.method, parts[1:], data))
        except LookupError as exc:
            return web.json_response({"error": f"not found: {exc}"}, status=404)
        except (ValueError, TypeError) as exc:
            return web.json_response({"error": str(exc)}, status=400)

    def _html(self, parts: List[str]) -> web.Response:
        try:
            if len(parts) == 2 and parts[0] == "job":
                text = page.job_page(self.sandbox.job(int(parts[1])))
            elif not parts:
                text = page.index_page(self.sandbox.core.jobs(500), self.sandbox.counters(), self.sandbox.url,
                                       [fault.public() for fault in self.sandbox.faults.planned],
                                       self.sandbox.requests[-30:])
            else:
                raise KeyError("/".join(parts))
        except (KeyError, ValueError) as exc:
            return web.Response(status=404, text=f"not found: {exc}")
        return web.Response(text=text, content_type="text/html")

    def _call(self, method: str, parts: List[str], data: Mapping[str, Any]) -> Any:
        """One call: parts[1] is the id or name, where there is one."""
        pattern = "/".join([*parts[:1], *(["*"] if len(parts) > 1 else []), *parts[2:]])
        route = ROUTES.get((method, pattern))
        if route is None:
            raise LookupError(f"{method} {'/'.join(parts)}")
        return route(self.sandbox, parts[1] if len(parts) > 1 else "", data)


def _submit(box: Sandbox, name: str, data: Mapping[str, Any]) -> Any:
    return {"PandaID": box.submit(data["definition"], raw=bool(data.get("raw")), site=data.get("site"))}


def _done(result: Any = None) -> Any:
    return {"done": result is None or bool(result)}


def _clear_faults(box: Sandbox, name: str, data: Mapping[str, Any]) -> Any:
    box.faults.clear()
    return _done()


def _set_state(box: Sandbox, name: str, data: Mapping[str, Any]) -> Any:
    box.set_state(int(name), str(data["state"]))
    return _done()


def _advance_clock(box: Sandbox, name: str, data: Mapping[str, Any]) -> Any:
    box.advance_clock(float(data["seconds"]))
    return _done()


def _add_queue(box: Sandbox, name: str, data: Mapping[str, Any]) -> Any:
    box.add_queue(name, data)
    return _done()


Route = Callable[["Sandbox", str, Mapping[str, Any]], Any]
ROUTES: Mapping[Tuple[str, str], Route] = {
    ("GET", "status"): lambda box, name, data: {"jobs": box.counters(), "url": box.url, **counters(box.server)},
    ("GET", "jobs"): lambda box, name, data: box.jobs(),
    ("POST", "jobs"): _submit,
    ("GET", "jobs/*"): lambda box, name, data: box.job(int(name)),
    ("POST", "jobs/*/kill"): lambda box, name, data: _done(box.kill(int(name))),
    ("POST", "jobs/*/command"): lambda box, name, data: _done(box.command(int(name), str(data["command"]))),
    ("POST", "jobs/*/debug"): lambda box, name, data: _done(box.debug(int(name), bool(data.get("on", True)))),
    ("POST", "jobs/*/state"): _set_state,
    ("GET", "faults"): lambda box, name, data: [fault.public() for fault in box.faults.planned],
    ("POST", "faults"): lambda box, name, data: box.faults.add(**data).public(),
    ("DELETE", "faults"): _clear_faults,
    ("POST", "adder"): lambda box, name, data: {"jobs": box.run_adder()},
    ("POST", "clock"): _advance_clock,
    ("POST", "expire"): lambda box, name, data: {"jobs": box.expire()},
    ("GET", "requests"): lambda box, name, data: [record.public() for record in box.requests],
    ("POST", "queues/*"): _add_queue,
}


def _is_local(request: web.BaseRequest) -> bool:
    try:
        return request.remote is not None and ipaddress.ip_address(request.remote).is_loopback
    except ValueError:
        return False
