"""Software on the node: Python, its packages, copytools of the queue, container run-times."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Optional

from pilot.common.exception import PilotException
from pilot.workflow.checks.base import Finding, Scene, fail, ok, skip, warn

if TYPE_CHECKING:
    from pilot.info.queuedata import QueueData

_CODES = {"apptainer": 1372, "singularity": 1325, "podman": 1384}
_NEEDED = ("requests", "psutil", "yaml")


def python(_scene: Scene) -> Iterator[Finding]:
    """The interpreter."""
    found = f"{sys.version.split()[0]} ({sys.executable})"
    yield ok("python", found) if sys.version_info >= (3, 9) else (
        fail("python", 1342, found, "start the pilot with Python 3.9 or newer"))


def packages(scene: Scene) -> Iterator[Finding]:
    """What the pilot always needs, and the experiment's plug-in."""
    versions, missing = [], []
    for name in _NEEDED:
        try:
            versions.append(f"{name} {getattr(importlib.import_module(name), '__version__', '')}".strip())
        except Exception as exc:  # noqa: BLE001 - a broken package may raise anything
            missing.append(f"{name} ({type(exc).__name__}: {exc})")
    if missing:
        yield fail("packages", 1342, f"cannot be imported: {', '.join(missing)}",
                   f"{sys.executable} -m pip install requests psutil PyYAML, or set up a Python that has them")
    else:
        yield ok("packages", ", ".join(versions))
    if scene.experiment_trouble:
        yield fail("experiment", 1342, scene.experiment_trouble, "look at --pilot-user")


# --- copytools --------------------------------------------------------------------------------------------------------


def copytools(scene: Scene) -> Iterator[Finding]:
    """Each tool that the queue names is made, which looks for its library or command."""
    queue = scene.queue() if scene.options.queue else None
    if queue is None:
        yield skip("copytools", "the queue is not known")
        return
    tools = queue.all_copytools() or ["rucio"]
    for name in tools:
        trouble = _trouble_of(scene, queue, name)
        if trouble is None:
            yield ok(f"copytool {name}", "can be used here")
        elif len(tools) > 1:  # another tool may do it; a queue with one tool has nothing else
            yield warn(f"copytool {name}", trouble.detail, "install it, or take it out of the queue in CRIC")
        else:
            yield fail(f"copytool {name}", trouble.code, trouble.detail,
                       "install what is missing, or set up the middleware before the pilot is started")


def _trouble_of(scene: Scene, queue: QueueData, name: str) -> Optional[PilotException]:
    from pilot.copytool.base import ToolConfig
    from pilot.copytool.registry import canonical_name, load_tool
    from pilot.util.helper import HelperPool

    options = queue.copytool_settings(name, canonical_name(name))
    setup = str(options.get("setup") or "")
    if setup and not os.path.isfile(setup):
        return PilotException(f"its set-up {setup} does not exist", code=1341)
    pythons = tuple(filter(None, [scene.settings.transfers.helper_python]))
    environ = dict(scene.environ)
    if path := scene.credentials.proxy():
        environ["X509_USER_PROXY"] = path
    with TemporaryDirectory(prefix="pilot-check-") as place:
        pool = HelperPool(Path(place), pythons)
        config = ToolConfig(options=options, pilot_home=Path(place), launch_dir=scene.here, workdir=Path(place),
                            environ=environ, helpers=pool, queue=queue.name)
        try:
            load_tool(name, config, scene.settings.plugins.copytools, queue=queue.name)
        except PilotException as exc:
            return exc
        finally:
            pool.close(at_once=True)
    if canonical_name(name) == "lsm" and not setup and not shutil.which("lsm-get", path=environ.get("PATH")):
        return PilotException("the command lsm-get is not in PATH", code=1342)
    return None


# --- containers -------------------------------------------------------------------------------------------------------


def containers(scene: Scene) -> Iterator[Finding]:
    """The run-time that the queue (or the setting) asks for is in PATH and works; user namespaces."""
    name = "containers"
    queue = scene.queue() if scene.options.queue else None
    if queue is None:
        yield skip(name, "the queue is not known")
        return
    wanted = _runtimes(scene, queue)
    if not wanted:
        yield skip(name, f"queue {queue.name} asks for none (container_type)")
        return
    path = scene.environ.get("PATH") or os.defpath
    found = next((word for word in wanted if shutil.which(word, path=path)), "")
    if not found:
        if _has_alrb(scene):
            yield ok(name, f"no {' or '.join(wanted)} in PATH; ALRB brings apptainer along")
            return
        yield fail(name, _CODES[wanted[0]], f"no {' or '.join(wanted)} in PATH ({path})",
                   f"install the package {wanted[0]}, or change the queue's container_type in CRIC")
        return
    yield _works(scene, found)
    yield _namespaces(scene)


def _runtimes(scene: Scene, queue: QueueData) -> tuple[str, ...]:
    """Return the commands that would do, best first; empty = the queue's jobs run in no container of the pilot."""
    setup = scene.settings.container.setup_type.lower()
    kinds = [kind.lower() for user, kind in queue.container_type.items() if user in ("pilot", "middleware")
             and kind.lower() != "bash"]
    if not kinds:
        return ()
    if setup in _CODES:
        return (setup,)
    table: Mapping[str, tuple[str, ...]] = {
        "apptainer": ("apptainer", "singularity"), "singularity": ("singularity", "apptainer"), "podman": ("podman",)}
    return table.get(kinds[0], ("apptainer", "singularity", "podman"))


def _has_alrb(scene: Scene) -> bool:
    if scene.settings.container.setup_type.lower() != "alrb":
        return False
    base = scene.environ.get("ATLAS_SW_BASE") or "/cvmfs"
    return os.path.isdir(f"{base}/atlas.cern.ch/repo/ATLASLocalRootBase")


def _works(scene: Scene, runtime: str) -> Finding:
    from pilot.util.command import run_command

    cure = f"run '{runtime} --version' by hand as the pilot's user; install the package anew"
    try:
        done = run_command([runtime, "--version"], env=scene.environ, cwd=Path("/"), token=scene.token,
                           timeout=scene.limit * 0.8)
    except OSError as exc:
        return fail("containers", _CODES[runtime], f"{runtime} cannot be started: {exc.strerror}", cure)
    said = " ".join(done.output.split())[:100]
    if done.timed_out:
        return fail("containers", _CODES[runtime], f"{runtime} --version has not ended: {said}", cure)
    if done.code:
        return fail("containers", _CODES[runtime], f"{runtime} --version ends with {done.code}: {said}", cure)
    return ok("containers", f"{shutil.which(runtime, path=scene.environ.get('PATH') or os.defpath)}: {said}")


def _namespaces(scene: Scene) -> Finding:
    """User namespaces: without them only a run-time with a set-uid starter works."""
    name = "user namespaces"
    cure = "as root: sysctl user.max_user_namespaces=15000 (and kernel.unprivileged_userns_clone=1 on Debian)"
    for path in ("proc/sys/user/max_user_namespaces", "proc/sys/kernel/unprivileged_userns_clone"):
        try:
            value = (scene.root / path).read_text("ascii", "replace").strip()
        except OSError:
            continue
        if value == "0":
            return warn(name, f"/{path} is 0: only a set-uid apptainer works", cure)
    if not (scene.root / "proc/self/ns/user").exists():
        return warn(name, "this kernel has none: only a set-uid apptainer works", "another kernel")
    return ok(name, "allowed")
