"""The admin interface under /sandbox/: JSON for the CLI and scripts, HTML for a browser."""

from __future__ import annotations

import ipaddress
import json
from typing import TYPE_CHECKING, Any, Mapping

from aiohttp import web

from sandbox import page
from sandbox.server import counters

if TYPE_CHECKING:
    from sandbox.api import Sandbox


class AdminInterface:
    """Answers /sandbox/...; only for clients on this machine unless told otherwise.

    A change needs the header Content-Type application/json, so that no foreign web page can make a browser send it.
    """

    def __init__(self, sandbox: "Sandbox", from_anywhere: bool) -> None:
        self.sandbox, self.from_anywhere = sandbox, from_anywhere

    async def handle(self, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
        """Answer one request."""
        if not self.from_anywhere and not _is_local(request):
            return web.Response(status=403, text="the admin interface answers this machine only")
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

    def _html(self, parts: "list[str]") -> web.Response:
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

    def _call(self, method: str, parts: "list[str]", data: Mapping[str, Any]) -> Any:
        """One call; the table of the interface."""
        box = self.sandbox
        key = (method, *parts[:1], *(["*"] if len(parts) > 1 else []), *parts[2:])
        if key == ("GET", "status"):
            return {"jobs": box.counters(), "url": box.url, **counters(box.server)}
        if key == ("GET", "jobs"):
            return box.jobs()
        if key == ("POST", "jobs"):
            job_id = box.submit(data["definition"], raw=bool(data.get("raw")), site=data.get("site"))
            return {"PandaID": job_id}
        if key == ("GET", "jobs", "*"):
            return box.job(int(parts[1]))
        if key == ("POST", "jobs", "*", "kill"):
            return {"done": box.kill(int(parts[1]))}
        if key == ("POST", "jobs", "*", "command"):
            return {"done": box.command(int(parts[1]), str(data["command"]))}
        if key == ("POST", "jobs", "*", "debug"):
            return {"done": box.debug(int(parts[1]), bool(data.get("on", True)))}
        if key == ("POST", "jobs", "*", "state"):
            return {"done": box.set_state(int(parts[1]), str(data["state"])) is None}
        if key == ("GET", "faults"):
            return [fault.public() for fault in box.faults.planned]
        if key == ("POST", "faults"):
            return box.faults.add(**data).public()
        if key == ("DELETE", "faults"):
            box.faults.clear()
            return {"done": True}
        if key == ("POST", "adder"):
            return {"jobs": box.run_adder()}
        if key == ("POST", "clock"):
            box.advance_clock(float(data["seconds"]))
            return {"now": box.core.now()}
        if key == ("POST", "expire"):
            return {"jobs": box.expire()}
        if key == ("GET", "requests"):
            return [record.public() for record in box.requests]
        if key == ("POST", "queues", "*"):
            box.add_queue(parts[1], data)
            return {"done": True}
        raise LookupError(f"{method} {'/'.join(parts)}")


def _is_local(request: web.BaseRequest) -> bool:
    try:
        return request.remote is not None and ipaddress.ip_address(request.remote).is_loopback
    except ValueError:
        return False
