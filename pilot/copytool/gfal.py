"""gfal: storages of any protocol that gfal2 knows, through its library in a helper process, or ``gfal-copy``."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import lru_cache
from typing import Any, Optional

from pilot.common.exception import MiddlewareImportFailure
from pilot.copytool.base import Features, ToolConfig, Transfer
from pilot.copytool.remote import Copy, RemoteTool
from pilot.copytool.worker.gfal import LONGEST, XROOTD, local_url, remote_url, scheme_of
from pilot.copytool.worker.xrootd import XRD_DEFAULTS
from pilot.util.cancel import CancelToken
from pilot.util.command import Finished
from pilot.util.helper import HelperFailure

_INSTALL = (
    "install gfal2 with its Python bindings (python3-gfal2 and the gfal2-plugin-* packages, or panda-pilot[gfal]), or "
    "gfal2-util for the command"
)
_SYSTEM_PYTHON = "/usr/bin/python3"


class GfalTool(RemoteTool):
    """Copies with gfal2."""

    name = "gfal"
    summary = "any storage that gfal2 has a plug-in for (https, davs, root, gsiftp, srm)"
    library = "`gfal2` (Python bindings), or the command `gfal-copy`"
    worker = "gfal"
    environ_defaults = XRD_DEFAULTS
    refuses = {"?": "in URLs it begins the query, and XRootD's web doors take even an encoded one for that"}

    def __init__(self, config: ToolConfig) -> None:
        """Decide between library and command, and find a Python for the command."""
        super().__init__(config)
        if self._command and not self._setup:
            self._find_commands("")

    @property
    def features(self) -> Features:
        """Progress is told by the library or the size of the file, not by the command."""
        return Features(
            schemes=("srm", "gsiftp", "https", "davs", "root", "http", "dav", "file"),
            needs_replicas=True,
            needs_proxy=True,
            needs_token=True,
            reports_progress=not self._command,
            third_party=self._command,
        )

    def _remote_url(self, transfer: Transfer) -> str:
        return remote_url(transfer.url, transfer.lfn)

    # --- the command -------------------------------------------------------------------------------------------------

    def _find_commands(self, problem: str) -> None:
        why = f" ({problem})" if problem else ""
        path = self._env.get("PATH", os.defpath)
        if not shutil.which("gfal-copy", path=path):
            raise MiddlewareImportFailure(f"copytool gfal: neither gfal2 nor gfal-copy is here{why}; {_INSTALL}")
        python = _python_for_gfal(path, self._env.get("GFAL_PYTHONBIN", ""), self._env.get("PYTHONPATH", ""),
                                  self._env.get("LD_LIBRARY_PATH", ""))
        if python is None:
            raise MiddlewareImportFailure(f"copytool gfal: gfal-copy finds no Python with gfal2{why}; {_INSTALL}")
        if python:
            self._env["GFAL_PYTHONBIN"] = python

    def _run_environ(self) -> dict[str, str]:
        """gfal2 takes a token from the variable only: give the file's content, which may be fresh."""
        env = dict(self._env)
        name = env.get("BEARER_TOKEN_FILE", "")
        if name and not env.get("BEARER_TOKEN"):
            try:
                with open(name, encoding="ascii") as file:
                    env["BEARER_TOKEN"] = file.read().strip()
            except (OSError, ValueError):  # the storage will say that there is no token
                return env
        return env

    def _command_line(self, copy: Copy) -> list[str]:
        transfer = copy.transfer
        limit = str(int(transfer.timeout) or LONGEST)
        url = self._remote_url(transfer)
        near = local_url(str(copy.local), url)
        line = ["gfal-copy", "-t", limit, "-T", limit, "-D", "HTTP PLUGIN:RETRIEVE_BEARER_TOKEN=false"]
        if scheme_of(url) in XROOTD:
            line.append("--just-copy")  # the command's own look at the local file knows no encoded names
        if copy.upward:
            return [*line, "-p", "-K", copy.checksum, "--checksum-mode", "target", near, url]
        return [*line, url, near]

    def _facts_of(self, done: Finished) -> dict[str, Any]:
        return {"errno": done.code if 0 < done.code < 126 else 0}

    def _ask_by_command(self, op: str, url: str, token: CancelToken, limit: float, kind: str) -> dict[str, Any]:
        command = {"stat": ["gfal-stat", url], "checksum": ["gfal-sum", url, kind.upper()], "remove": ["gfal-rm", url]}
        done = self.run(command[op], token, lambda _count: None, limit)
        if done.code or done.timed_out:
            text = done.output or ("no answer" if done.timed_out else f"exit code {done.code}")
            raise HelperFailure({"text": f"{op}: {text}", "missing": done.code == 2, **self._facts_of(done)})
        if op == "stat":
            sizes = [line.split()[1] for line in done.stdout.splitlines() if line.strip().startswith("Size:")]
            return {"size": int(sizes[0]) if sizes else -1}
        return {kind: done.stdout.split()[-1]} if op == "checksum" else {}


@lru_cache(maxsize=16)
def _python_for_gfal(path: str, given: str, python_path: str, libraries: str) -> Optional[str]:
    """Return what GFAL_PYTHONBIN has to be: an empty text = nothing; None = no Python here has gfal2.

    The command takes the first ``python`` or ``python3`` in PATH that has gfal2, else one that may not exist.
    """
    env = {"PATH": path, "PYTHONPATH": python_path, "LD_LIBRARY_PATH": libraries}
    env = {name: value for name, value in env.items() if value}
    for python in dict.fromkeys((given, _SYSTEM_PYTHON)):
        more = {"GFAL_PYTHONBIN": python} if python else {}
        try:
            done = subprocess.run(["gfal-copy", "--version"], env={**env, **more}, capture_output=True, timeout=60,
                                  stdin=subprocess.DEVNULL, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0:
            return python if python != given else ""
    return None
