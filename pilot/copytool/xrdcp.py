"""xrdcp: files of XRootD servers, through the client library in a helper process, or the commands where there is none.

Uploads are not 'persist on successful close' (--posc): a server keeps such a file for ten minutes after a lost
connection and then removes whatever has its name, so the good file of the next attempt too.
"""

from __future__ import annotations

import shutil
from typing import Any

from pilot.common.exception import MiddlewareImportFailure
from pilot.copytool.base import Features
from pilot.copytool.remote import Copy, RemoteTool
from pilot.copytool.worker.xrootd import XRD_DEFAULTS
from pilot.util.cancel import CancelToken
from pilot.util.helper import HelperFailure


class XrdcpTool(RemoteTool):
    """Copies from and to ``root://`` URLs."""

    name = "xrdcp"
    summary = "XRootD servers (root://)"
    library = "`xrootd` (Python bindings), or the command `xrdcp`"
    worker = "xrootd"
    environ_defaults = XRD_DEFAULTS
    refuses = {"?": "in XRootD's URLs it begins the options"}

    @property
    def features(self) -> Features:
        """Progress is told by the library, not by the command."""
        return Features(
            schemes=("root", "xroot", "roots", "xroots"),
            needs_replicas=True,
            needs_proxy=True,
            needs_token=True,
            reports_progress=not self._command,
            third_party=self._command,
        )

    def _find_commands(self, problem: str) -> None:
        if not shutil.which("xrdcp", path=self._env.get("PATH")):
            raise MiddlewareImportFailure(
                f"copytool xrdcp: neither the Python bindings nor the command xrdcp are here ({problem}); "
                "install panda-pilot[xrootd] or set up the site's XRootD client"
            )

    def _command_line(self, copy: Copy) -> list[str]:
        line = ["xrdcp", "--nopbar", "--retry", "0"]
        if copy.upward:
            return [*line, "--path", "--cksum", copy.checksum, "--rm-bad-cksum", str(copy.local), copy.transfer.url]
        return [*line, copy.transfer.url, str(copy.local)]

    def _ask_by_command(self, op: str, url: str, token: CancelToken, limit: float, kind: str) -> dict[str, Any]:
        door, path = _door(url)
        verbs = {"stat": ["stat", path], "checksum": ["query", "checksum", f"{path}?cks.type={kind}"],
                 "remove": ["rm", path]}
        done = self.run(["xrdfs", door, *verbs[op]], token, lambda _count: None, limit)
        if done.code or done.timed_out:
            text = done.output or ("no answer" if done.timed_out else f"exit code {done.code}")
            raise HelperFailure({"text": f"{op}: {text}", "missing": "[3011]" in done.output})
        if op == "stat":
            sizes = [line.split(":")[1] for line in done.stdout.splitlines() if line.startswith("Size")]
            return {"size": int(sizes[0]) if sizes else -1}
        name, _, value = done.stdout.strip().partition(" ")
        return {name: value.strip()} if op == "checksum" else {}


def _door(url: str) -> tuple[str, str]:
    scheme, _, rest = url.partition("://")
    host, _, path = rest.partition("/")
    return f"{scheme}://{host}", f"/{path.lstrip('/')}" if path else "/"
