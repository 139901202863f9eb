"""Transfer scripts as ALRB (ATLASLocalRootBase on CVMFS) runs them: for the plug-ins of experiments that have it.

::

    class Atlas(Experiment):
        def middleware_command(self, task):
            return alrb_middleware_command(task)

Source of the texts: data management document 12, payload document 7.5.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Mapping

from pilot.info.middleware import INSIDE, MiddlewareCommand, MiddlewareTask
from pilot.user.containers import container_command, script_name

LOCAL_SETUP = "source ${ATLAS_LOCAL_ROOT_BASE}/user/atlasLocalSetup.sh"
FALLBACK = "el9"
"""Image when the one of the settings is not there."""
VERSIONS = ("ALRB_asetupVersion", "ALRB_xrootdVersion", "ALRB_davixVersion", "ALRB_rucioVersion")
"""Variables by which ALRB takes other versions than its own."""
UNPACKED = "ALRB_CONT_UNPACKEDDIR"
RUCIO_VERSION = "ATLAS_LOCAL_RUCIOCLIENTS_VERSION"


def alrb_middleware_command(task: MiddlewareTask) -> MiddlewareCommand:
    """Return the command of either mode; with setting ``container.setup_type`` other than ALRB a container is started
    without it.

    Raises:
        PilotException: see ``container_command``.
    """
    if task.mode == "bash":
        return MiddlewareCommand(["/bin/bash", "-c", bash_line(task)])
    if task.container.setup_type != "ALRB":
        return container_command(task)
    name = script_name(task)
    return MiddlewareCommand(["/bin/bash", "-c", container_line(task, name)], {name: inner_script(task)}, INSIDE)


def alrb_export(task: MiddlewareTask) -> str:
    """Return the export of ALRB's place: below ``$ATLAS_SW_BASE`` or /cvmfs; testing versions in front of it."""
    base = task.environ.get("ATLAS_SW_BASE") or "/cvmfs"
    place = shlex.quote(f"{base}/atlas.cern.ch/repo/ATLASLocalRootBase")
    return f"{version_exports(task.environ)}export ATLAS_LOCAL_ROOT_BASE={place};"


def version_exports(environ: Mapping[str, str]) -> str:
    """Return the exports of the versions that the job or the queue wants (``testing``), for ``lsetup``."""
    return "".join(f"export {name}={shlex.quote(environ[name])};" for name in VERSIONS if environ.get(name))


def bash_line(task: MiddlewareTask) -> str:
    """Return what runs without a container: ALRB's set-up, then the script with whatever Python that gives."""
    script = shlex.join([str(task.workdir / task.script), *task.options])
    return f"export ALRB_LOCAL_PY3=YES; {alrb_export(task)}{LOCAL_SETUP} --quiet;{script}\nexit $?"


def container_line(task: MiddlewareTask, script: str) -> str:
    """Return the line that starts ALRB's container with ``script`` of the job's directory."""
    proxy = task.environ.get("X509_USER_PROXY", "")
    unpacked = task.environ.get(UNPACKED, "")
    parts = [
        f"cd {shlex.quote(str(task.workdir))};",
        f"export X509_USER_PROXY={shlex.quote(proxy)};" if proxy else "",
        f'export ALRB_CONT_RUNPAYLOAD="source {INSIDE}/{script}";',
        f"export {UNPACKED}={shlex.quote(unpacked)};" if unpacked else "",
        alrb_export(task),
        f"{LOCAL_SETUP} -c {shlex.quote(image(task))}",
    ]
    options = " ".join([task.queue.container_options.replace("${workdir}", str(task.workdir)),
                        *(f"-B {path}:{path}" for path in task.binds)]).strip()
    if options:
        parts.append(f" -e {_double_quoted(options)}")
    return "".join(parts)


def inner_script(task: MiddlewareTask) -> str:
    """Return the text of ``stagein.sh``/``stageout.sh``: middleware by lsetup, then the launcher."""
    site = shlex.quote(task.environ.get("PILOT_RUCIO_SITENAME", "unknown"))
    command = f"python3 {shlex.join([f'./{task.script}', *task.options])}"
    if "rucio" in image(task):
        version = task.environ.get(RUCIO_VERSION, "")
        pinned = f"export {RUCIO_VERSION}={shlex.quote(version)}; " if version else ""
        line = f'export PILOT_RUCIO_SITENAME={site}; {pinned}lsetup "python pilot-default";{command} '
    else:
        line = (f"export ALRB_LOCAL_PY3=YES; export PILOT_RUCIO_SITENAME={site}; "
                f"lsetup rucio davix xrootd; {command} ")
    return f"{version_exports(task.environ)}{line}\nexit $?\n"


def image(task: MiddlewareTask) -> str:
    """Return the container of the settings: a name of ALRB, a path that is there, or one in the unpacked directory."""
    if task.environ.get(UNPACKED):
        return task.container.middleware_container_no_path
    name = task.container.middleware_container
    return FALLBACK if name.startswith("/") and not os.path.exists(Path(name)) else name


def _double_quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("`", "\\`").replace("$", "\\$")
    return f'"{escaped}"'
